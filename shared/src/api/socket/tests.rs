use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use futures_executor::block_on;
use futures_util::{future::LocalBoxFuture, stream::LocalBoxStream};
use serde_json::{Value, json};

use super::*;
use crate::{
    api::tests::{KEYS, node},
    testing::{MemoryStore, TestPlatform},
};

/// What was asked of the node.
type Asked = Rc<RefCell<Vec<Value>>>;

/// Answers that were not given yet. What is sent to an answer is its body.
type Answers = Rc<RefCell<VecDeque<Body>>>;

struct Client {
    heard: mpsc::UnboundedSender<ClientMessage>,
    said: LocalBoxStream<'static, ServerMessage>,
    asked: Asked,
    answers: Answers,
    /// Somebody who is about to wake up and is never asked to: while there is one, time stands still.
    sleeper: Option<LocalBoxFuture<'static, ()>>,
}

fn handshake(headers: &[(&str, &str)]) -> request::Parts {
    let request = Request::get("/v1/responses").header("host", "localhost").header("upgrade", "WebSocket");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(()).unwrap().into_parts().0
}

fn socket(head: &request::Parts, config: &str) -> Result<Socket<TestPlatform<MemoryStore>>, u16> {
    let opened = open(&node(config), head, Arrival { loopback: true, log: None }).unwrap();
    opened.map_err(|response| response.status().as_u16())
}

impl Client {
    fn new() -> Self {
        let (heard, messages) = mpsc::unbounded();
        let (asked, answers) = (Asked::default(), Answers::default());
        let (seen, given) = (Rc::clone(&asked), Rc::clone(&answers));
        let ask = async move |request: Request<Body>| {
            assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/responses"));
            let Body::Full(body) = request.into_body() else { panic!("no body") };
            seen.borrow_mut().push(serde_json::from_slice(&body).unwrap());
            let answer = given.borrow_mut().pop_front();
            let Some(answer) = answer else {
                let refused =
                    json!({"error": {"message": "no", "type": "invalid_request_error", "code": "nope"}});
                let mut response = Response::new(Body::Full(refused.to_string().into()));
                *response.status_mut() = http::StatusCode::BAD_REQUEST;
                response.headers_mut().insert("retry-after", HeaderValue::from_static("2"));
                return response;
            };
            Response::new(answer)
        };
        let socket = socket(&handshake(&[]), "").unwrap();
        let node = socket.node.clone();
        let mut sleeper = async move { node.platform().sleep(Duration::from_millis(1)).await }.boxed_local();
        assert!((&mut sleeper).now_or_never().is_none());
        let said = socket.serve(messages, ask).boxed_local();
        Self { heard, said, asked, answers, sleeper: Some(sleeper) }
    }

    /// The next answer of the node, with this id and these items.
    fn answers(&self, id: &str, output: Value) {
        self.answers.borrow_mut().push_back(Body::Full(events(id, output).into()));
    }

    /// The next answer of the node, as it is sent.
    fn answers_slowly(&self) -> mpsc::UnboundedSender<&'static str> {
        let (send, body) = mpsc::unbounded();
        self.answers.borrow_mut().push_back(Body::stream(body.map(|text: &str| Ok(Bytes::from(text)))));
        send
    }

    fn send(&self, message: Value) {
        self.heard.unbounded_send(ClientMessage::Text(message.to_string().into())).unwrap();
    }

    /// What is said next.
    fn hears(&mut self) -> Value {
        match block_on(self.said.next()) {
            Some(ServerMessage::Text(text)) => serde_json::from_slice(&text).unwrap(),
            Some(ServerMessage::Close(code, why)) => json!({"closed": code, "why": why}),
            None => json!("the end"),
        }
    }

    /// Asks, and gives the last event.
    fn asks(&mut self, mut message: Value) -> Value {
        message["type"] = "response.create".into();
        self.send(message);
        loop {
            let event = self.hears();
            if !matches!(event["type"].as_str(), Some("response.created" | "response.output_text.delta")) {
                return event;
            }
        }
    }
}

fn events(id: &str, output: Value) -> String {
    let response = json!({"id": id, "previous_response_id": null, "output": output});
    let delta = json!({"type": "response.output_text.delta", "delta": "é"});
    let end = json!({"type": "response.completed", "response": response});
    let created = json!({"type": "response.created", "response": {"id": id, "previous_response_id": null}});
    format!(
        "event: response.created\ndata: {created}\n\n: alive\n\ndata: {delta}\n\nevent: response.completed\ndata: {end}\n\n"
    )
}

fn user(text: &str) -> Value {
    json!({"type": "message", "role": "user", "content": text})
}

fn code(event: &Value) -> &str {
    assert_eq!(event["type"], "error", "{event}");
    event["error"]["code"].as_str().unwrap()
}

#[test]
fn what_no_log_keeps_is_continued_on_its_connection_alone() {
    let mut client = Client::new();
    let said = json!({"type": "message", "id": "msg_1", "role": "assistant", "content": []});
    let call = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
    let thought = json!({"type": "reasoning", "id": "rs_1", "encrypted_content": null});
    let sealed = json!({"type": "reasoning", "id": "rs_2", "encrypted_content": "x"});
    let words =
        json!({"type": "reasoning", "id": "rs_3", "content": [{"type": "reasoning_text", "text": "?"}]});
    client.answers("one", json!([thought, sealed, said, words, call, words]));
    assert_eq!(client.asks(json!({"store": false, "input": "hi"}))["response"]["id"], "one");
    client.answers("two", json!([said]));
    let output = json!({"type": "function_call_output", "call_id": "c", "output": "4"});
    let next = json!({"store": false, "previous_response_id": "one", "input": [output], "model": "m"});
    let event = client.asks(next);
    assert_eq!(event["response"]["previous_response_id"], "one", "as the client asked");
    let inlined = json!([user("hi"), sealed, said, words, call, output]);
    assert_eq!(
        client.asked.borrow()[1],
        json!({"store": false, "input": inlined, "model": "m", "stream": true})
    );
    // The newest of its lane is all that is known.
    let event = client.asks(json!({"store": false, "previous_response_id": "one", "input": "again"}));
    assert_eq!((code(&event), &event["status"]), ("previous_response_not_found", &json!(400)));
    let mut other = Client::new();
    let event = other.asks(json!({"store": false, "previous_response_id": "two", "input": "?"}));
    assert_eq!(code(&event), "previous_response_not_found");
    assert_eq!((client.asked.borrow().len(), other.asked.borrow().len()), (2, 0), "nobody else is asked");
}

#[test]
fn what_a_log_keeps_is_continued_there() {
    let mut client = Client::new();
    let asks = [
        ("logged", json!({"input": "hi"}), json!({"input": "hi"})),
        (
            "also",
            json!({"previous_response_id": "logged", "input": "a"}),
            json!({"previous_response_id": "logged", "input": "a"}),
        ),
        (
            "not",
            json!({"store": false, "previous_response_id": "also", "input": "b"}),
            json!({"store": false, "previous_response_id": "also", "input": "b"}),
        ),
        (
            "nor",
            json!({"store": false, "previous_response_id": "not", "input": "c"}),
            json!({"store": false, "previous_response_id": "also", "input": [user("b"), user("not"), user("c")]}),
        ),
        (
            "again",
            json!({"previous_response_id": "nor", "input": "d"}),
            json!({"previous_response_id": "also",
                   "input": [user("b"), user("not"), user("c"), user("nor"), user("d")]}),
        ),
        // Anything else in a log is the node's to find, unless nothing is to be read there.
        ("last", json!({"previous_response_id": "old"}), json!({"previous_response_id": "old"})),
    ];
    for (id, ask, mut expected) in asks {
        client.answers(id, json!([user(id)]));
        let shown = ask["previous_response_id"].clone();
        let event = client.asks(ask);
        let says = if id == "nor" || id == "again" { shown } else { Value::Null };
        assert_eq!(event["response"]["previous_response_id"], says, "{id}");
        expected["stream"] = true.into();
        assert_eq!(client.asked.borrow().last(), Some(&expected), "{id}");
    }
    let event = client.asks(json!({"store": false, "previous_response_id": "logged", "input": "?"}));
    assert_eq!(code(&event), "previous_response_not_found");
}

#[test]
fn a_failed_continuation_is_forgotten() {
    for fails in ["an orphan", "a refusal", "a failed response", "an error", "a broken stream"] {
        let mut client = Client::new();
        client.answers("one", json!([]));
        client.asks(json!({"store": false, "input": "hi"}));
        let next = |input: Value| json!({"store": false, "previous_response_id": "one", "input": input});
        let body = match fails {
            "a failed response" => Some("data: {\"type\":\"response.failed\",\"response\":{}}\n\n"),
            "an error" => Some(
                "data: {\"type\":\"error\",\"code\":\"c\",\"message\":\"m\",\"param\":null,\"sequence_number\":7}\n\n",
            ),
            "a broken stream" => Some("data: {\"type\":\"response.created\"}\n\n"),
            _ => None,
        };
        client.answers.borrow_mut().extend(body.map(|body| Body::Full(body.into())));
        let input = match fails {
            "an orphan" => json!([{"type": "function_call_output", "call_id": "x", "output": ""}]),
            _ => json!("?"),
        };
        let event = client.asks(next(input));
        match fails {
            "an orphan" => {
                assert_eq!((code(&event), &event["error"]["param"]), ("invalid_value", &json!("input")))
            }
            "a refusal" => {
                let told = (&event["status"], &event["error"]["headers"]["retry-after"]);
                assert_eq!((code(&event), told), ("nope", (&json!(400), &json!("2"))));
            }
            "a failed response" => assert_eq!(event["type"], "response.failed"),
            "an error" => assert_eq!((code(&event), &event["sequence_number"]), ("c", &json!(7))),
            _ => assert_eq!(code(&event), "stream_interrupted"),
        }
        assert_eq!(code(&client.asks(next(json!("again")))), "previous_response_not_found", "after {fails}");
    }
}

#[test]
fn a_lane_answers_in_order_and_lanes_side_by_side() {
    let mut client = Client::new();
    let (first, second) = (client.answers_slowly(), client.answers_slowly());
    let create =
        |lane: &str, input: &str| json!({"type": "response.create", "stream_id": lane, "input": input});
    client.send(create("a", "a1"));
    client.send(create("a", "a2"));
    client.send(create("b", "b1"));
    second.unbounded_send("data: {\"type\":\"x\"}\n\n").unwrap();
    assert_eq!(client.hears(), json!({"stream_id": "b", "type": "x"}));
    let asked =
        |client: &Client| client.asked.borrow().iter().map(|a| a["input"].clone()).collect::<Vec<_>>();
    assert_eq!(asked(&client), ["a1", "b1"]);
    first.unbounded_send("data: {\"type\":\"response.completed\"}\n\n").unwrap();
    drop(first);
    client.answers("a2", json!([]));
    assert_eq!(client.hears()["stream_id"], "a");
    assert_eq!(client.hears()["response"]["id"], "a2");
    assert_eq!(asked(&client), ["a1", "b1", "a2"]);
    let mut client = Client::new();
    (0..32).for_each(|lane| client.send(json!({"type": "response.steer", "stream_id": format!("{lane}")})));
    (0..32).for_each(|_| assert_eq!(client.hears()["error"]["code"], "steering_not_supported"));
    for lane in 0..32 {
        client.asks(json!({"stream_id": format!("lane.{lane}"), "input": "?"}));
    }
    let event = client.asks(json!({"stream_id": "one-more", "input": "?"}));
    assert_eq!((code(&event), &event["stream_id"]), ("websocket_stream_limit_reached", &json!("one-more")));
    assert_eq!(code(&client.asks(json!({"stream_id": "lane.0", "input": "?"}))), "nope");
}

#[test]
fn what_waits_is_bounded() {
    let mut client = Client::new();
    let busy = client.answers_slowly();
    (0..66).for_each(|_| client.send(json!({"type": "response.create"})));
    assert_eq!(code(&client.hears()), "websocket_queue_full");
    drop(busy);
    assert_eq!(code(&client.hears()), "stream_interrupted");
    (0..64).for_each(|_| assert_eq!(code(&client.hears()), "nope"));
    let _busy = client.answers_slowly();
    client.send(json!({"type": "response.create"}));
    let large = "x".repeat(MAX_MESSAGE_BYTES / 2);
    (0..2).for_each(|_| client.send(json!({"type": "response.create", "input": large})));
    assert_eq!(code(&client.hears()), "websocket_queue_full");
}

#[test]
fn messages_that_can_not_be_answered() {
    let mut client = Client::new();
    client.heard.unbounded_send(ClientMessage::Binary).unwrap();
    assert_eq!(client.hears()["error"]["param"], "message");
    let long = "x".repeat(257);
    for (message, code, param) in [
        ("", "invalid_json", None),
        ("[]", "invalid_type", Some("body")),
        ("{}", "invalid_value", Some("type")),
        (r#"{"type":"response.cancel"}"#, "invalid_value", Some("type")),
        (r#"{"type":7}"#, "invalid_value", Some("type")),
        (r#"{"type":"response.create","stream_id":""}"#, "invalid_stream_id", Some("stream_id")),
        (r#"{"type":"response.create","stream_id":"a b"}"#, "invalid_stream_id", Some("stream_id")),
        (r#"{"type":"response.create","stream_id":null}"#, "invalid_stream_id", Some("stream_id")),
        (
            &format!(r#"{{"type":"response.create","stream_id":"{long}"}}"#),
            "invalid_stream_id",
            Some("stream_id"),
        ),
        (r#"{"type":"response.create","background":true}"#, "invalid_value", Some("background")),
        (r#"{"type":"response.create","generate":1}"#, "invalid_value", Some("generate")),
        (
            r#"{"type":"response.create","previous_response_id":5}"#,
            "invalid_value",
            Some("previous_response_id"),
        ),
        (
            r#"{"type":"response.create","generate":false,"conversation":"c"}"#,
            "invalid_value",
            Some("generate"),
        ),
        (r#"{"type":"response.create","generate":false}"#, "missing_required_parameter", Some("model")),
        (r#"{"type":"response.create","store":false,"input":7}"#, "invalid_value", Some("input")),
        (&format!("{}1{}", "[".repeat(200), "]".repeat(200)), "json_too_deep", None),
    ] {
        client.heard.unbounded_send(ClientMessage::Text(message.to_owned().into())).unwrap();
        let event = client.hears();
        let shown: String = message.chars().take(80).collect();
        assert_eq!(
            (event["error"]["code"].as_str(), event["error"]["param"].as_str()),
            (Some(code), param),
            "{shown}"
        );
        assert_eq!((&event["type"], &event["status"]), (&json!("error"), &json!(400)), "{shown}");
    }
    assert!(client.asked.borrow().is_empty(), "nobody is asked");
}

#[test]
fn a_warmed_response_says_nothing_and_is_continued() {
    let mut client = Client::new();
    let warm = json!({"generate": false, "model": "default", "input": "hi", "instructions": "i"});
    client.send(json!({"type": "response.create", "generate": false, "model": "nobody", "input": "hi"}));
    assert_eq!(code(&client.hears()), "model_not_found");
    let mut message = warm.clone();
    message["type"] = "response.create".into();
    client.send(message);
    let kinds: Vec<Value> = (0..3).map(|_| client.hears()["type"].clone()).collect();
    assert_eq!(kinds, ["response.created", "response.in_progress", "response.completed"]);
    client.send(json!({"type": "response.create", "generate": false, "model": "default", "input": "hi"}));
    for _ in 0..2 {
        client.hears();
    }
    let response = &client.hears()["response"];
    assert_eq!(
        (&response["status"], &response["output"], &response["store"]),
        (&json!("completed"), &json!([]), &json!(false))
    );
    client.answers("two", json!([]));
    client.asks(json!({"previous_response_id": response["id"], "input": "go on"}));
    assert_eq!(client.asked.borrow()[0]["input"], json!([user("hi"), user("go on")]));
    assert_eq!(client.asked.borrow().len(), 1, "no model was asked for the others");
}

#[test]
fn a_connection_ends_after_its_time_and_after_what_goes_on() {
    let mut client = Client::new();
    client.sleeper = None;
    assert_eq!(code(&client.hears()), "websocket_connection_limit_reached");
    assert_eq!(client.hears(), json!({"closed": 1000, "why": "it is 60 minutes old"}));
    assert_eq!(client.hears(), "the end");

    let mut client = Client::new();
    let slow = client.answers_slowly();
    client.send(json!({"type": "response.create", "input": "goes on"}));
    client.send(json!({"type": "response.create", "input": "waits"}));
    slow.unbounded_send("data: {\"type\":\"x\"}\n\n").unwrap();
    assert_eq!(client.hears()["type"], "x");
    client.heard.unbounded_send(ClientMessage::Stopping).unwrap();
    assert_eq!(code(&client.hears()), "websocket_connection_limit_reached", "what waits");
    slow.unbounded_send("data: {\"type\":\"response.completed\"}\n\n").unwrap();
    assert_eq!(client.hears()["type"], "response.completed");
    drop(slow);
    assert_eq!(code(&client.hears()), "websocket_connection_limit_reached");
    assert_eq!(client.hears()["closed"], 1001);
    assert_eq!(client.asked.borrow().len(), 1);

    for (heard, code) in
        [(ClientMessage::TooLarge, 1009), (ClientMessage::Malformed, 1002), (ClientMessage::NotUtf8, 1007)]
    {
        let mut client = Client::new();
        let slow = client.answers_slowly();
        client.send(json!({"type": "response.create"}));
        slow.unbounded_send("data: {\"type\":\"x\"}\n\n").unwrap();
        client.hears();
        client.heard.unbounded_send(heard.clone()).unwrap();
        if heard == ClientMessage::TooLarge {
            assert_eq!(client.hears()["status"], 413);
        }
        assert_eq!(client.hears()["closed"], code);
        assert_eq!(client.hears(), "the end");
        assert!(slow.is_closed(), "nobody would notice its client leaving");
    }
}

#[test]
fn who_leaves_is_not_answered_to_the_end() {
    let mut client = Client::new();
    let slow = client.answers_slowly();
    client.send(json!({"type": "response.create"}));
    slow.unbounded_send("data: {\"type\":\"x\"}\n\n").unwrap();
    client.hears();
    client.heard.close_channel();
    assert_eq!(client.hears(), "the end");
    assert!(slow.is_closed(), "the answer is given up");
}

#[test]
fn a_connection_needs_a_key() {
    assert!(
        open(&node(""), &Request::get("/v1/responses").body(()).unwrap().into_parts().0, Arrival::default())
            .is_none()
    );
    let opened = |headers: &[(&str, &str)]| socket(&handshake(headers), KEYS).map(|socket| socket.head);
    assert_eq!(opened(&[]).err(), Some(401));
    assert_eq!(opened(&[("authorization", "Bearer admin")]).err(), Some(403));
    let head =
        opened(&[("authorization", "Bearer user"), ("idempotency-key", "k"), ("sec-websocket-key", "k")])
            .unwrap();
    let names: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(
        names,
        ["host", "authorization", "content-type"],
        "each request has the caller's key, and no more"
    );
    assert_eq!(
        socket(&handshake(&[("origin", "https://evil.example")]), "").err(),
        Some(401),
        "a page in the browser"
    );
    // Where no WebSockets are spoken.
    let request = Request::from_parts(handshake(&[]), Body::Empty);
    let answer = block_on(node("").handle(request, Arrival { loopback: true, log: None }));
    assert_eq!(answer.status().as_u16(), 501);
}

#[test]
fn what_is_known_of_a_connection_is_bounded() {
    let mut contexts = Contexts::default();
    let context = |bytes| {
        let mut context = context::Context::logged(Some("base".into()));
        let item = serde_json::value::to_raw_value(&"x".repeat(bytes)).unwrap();
        context.push([&*item]).unwrap();
        context
    };
    let lane = |name: &str| Some(name.to_owned());
    contexts.keep(&None, "0".into(), context(9 << 20));
    contexts.keep(&lane("a"), "1".into(), context(6 << 20));
    assert!(contexts.find("0").is_some() && contexts.find("1").is_some());
    contexts.keep(&lane("b"), "2".into(), context(2 << 20));
    assert!(contexts.find("0").is_none() && contexts.find("1").is_some(), "the oldest goes first");
    contexts.keep(&lane("a"), "3".into(), context(17 << 20));
    assert!(["1", "2", "3"].iter().all(|id| contexts.find(id).is_none()), "and what is too large by itself");
}

#[test]
fn connections_are_bounded() {
    let node = node(KEYS);
    let head = handshake(&[("authorization", "Bearer user")]);
    let open =
        || open(&node, &head, Arrival::default()).unwrap().map_err(|refused| refused.status().as_u16());
    let sockets: Vec<_> = (0..512).map(|_| open().unwrap()).collect();
    assert_eq!(open().err(), Some(429));
    drop(sockets);
    assert!(open().is_ok(), "who leaves makes room");
}

#[test]
fn lanes_are_the_clients_alone() {
    let mut client = Client::new();
    let slow = client.answers_slowly();
    client.send(json!({"type": "response.create", "stream_id": "mine"}));
    slow.unbounded_send(
        "data: {\"type\":\"x\",\"stream_id\":\"other\"}\n\ndata: [1]\n\ndata: {\"type\":\"y\"}\n\n",
    )
    .unwrap();
    assert_eq!(client.hears(), json!({"stream_id": "mine", "type": "x"}));
    assert_eq!(client.hears(), json!({"stream_id": "mine", "type": "y"}));
}
