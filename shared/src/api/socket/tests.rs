//! Tests connections against a scripted node: what requests it gets, and what the client receives.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use futures_executor::block_on;
use futures_util::{future::LocalBoxFuture, stream::LocalBoxStream};
use serde_json::{Value, json};

use super::*;
use crate::{
    api::tests::{KEYS, node},
    testing::{MemoryStore, TestPlatform},
};

/// The bodies of the requests that the node got.
type Requests = Rc<RefCell<Vec<Value>>>;

/// The node's next answers. Without one, it refuses a request.
type Answers = Rc<RefCell<VecDeque<Body>>>;

struct Client {
    messages: mpsc::UnboundedSender<ClientMessage>,
    received: LocalBoxStream<'static, ServerMessage>,
    requests: Requests,
    answers: Answers,
    /// A sleep that is pending and never polled again: it keeps the simulated clock from advancing.
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
        let (messages, client_messages) = mpsc::unbounded();
        let (requests, answers) = (Requests::default(), Answers::default());
        let (request_list, answer_queue) = (Rc::clone(&requests), Rc::clone(&answers));
        let handle = async move |request: Request<Body>| {
            assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/responses"));
            let Body::Full(body) = request.into_body() else { panic!("no body") };
            request_list.borrow_mut().push(serde_json::from_slice(&body).unwrap());
            let answer = answer_queue.borrow_mut().pop_front();
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
        let received = socket.serve(client_messages, handle).boxed_local();
        Self { messages, received, requests, answers, sleeper: Some(sleeper) }
    }

    /// Queues an answer of the node with this id and these items.
    fn queue_answer(&self, id: &str, output: Value) {
        self.answers.borrow_mut().push_back(Body::Full(events(id, output).into()));
    }

    /// Queues an answer of the node whose body is sent through the returned channel.
    fn queue_slow_answer(&self) -> mpsc::UnboundedSender<&'static str> {
        let (send, body) = mpsc::unbounded();
        self.answers.borrow_mut().push_back(Body::stream(body.map(|text: &str| Ok(Bytes::from(text)))));
        send
    }

    fn send(&self, message: Value) {
        self.messages.unbounded_send(ClientMessage::Text(message.to_string().into())).unwrap();
    }

    /// Receives the next message.
    fn receive(&mut self) -> Value {
        match block_on(self.received.next()) {
            Some(ServerMessage::Text(text)) => serde_json::from_slice(&text).unwrap(),
            Some(ServerMessage::Close(code, why)) => json!({"closed": code, "why": why}),
            None => json!("the end"),
        }
    }

    /// Requests a response, and returns its last event.
    fn create(&mut self, mut message: Value) -> Value {
        message["type"] = "response.create".into();
        self.send(message);
        loop {
            let event = self.receive();
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
fn an_unstored_response_is_continued_only_on_its_connection() {
    let mut client = Client::new();
    let message = json!({"type": "message", "id": "msg_1", "role": "assistant", "content": []});
    let call = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
    let empty_reasoning = json!({"type": "reasoning", "id": "rs_1", "encrypted_content": null});
    let encrypted = json!({"type": "reasoning", "id": "rs_2", "encrypted_content": "x"});
    let plain =
        json!({"type": "reasoning", "id": "rs_3", "content": [{"type": "reasoning_text", "text": "?"}]});
    client.queue_answer("one", json!([empty_reasoning, encrypted, message, plain, call, plain]));
    assert_eq!(client.create(json!({"store": false, "input": "hi"}))["response"]["id"], "one");
    client.queue_answer("two", json!([message]));
    let output = json!({"type": "function_call_output", "call_id": "c", "output": "4"});
    let next = json!({"store": false, "previous_response_id": "one", "input": [output], "model": "m"});
    let event = client.create(next);
    assert_eq!(event["response"]["previous_response_id"], "one", "as the client asked");
    let inlined = json!([user("hi"), encrypted, message, plain, call, output]);
    assert_eq!(
        client.requests.borrow()[1],
        json!({"store": false, "input": inlined, "model": "m", "stream": true})
    );
    // Only the newest response of a lane is remembered.
    let event = client.create(json!({"store": false, "previous_response_id": "one", "input": "again"}));
    assert_eq!((code(&event), &event["status"]), ("previous_response_not_found", &json!(400)));
    let mut other = Client::new();
    let event = other.create(json!({"store": false, "previous_response_id": "two", "input": "?"}));
    assert_eq!(code(&event), "previous_response_not_found");
    assert_eq!(
        (client.requests.borrow().len(), other.requests.borrow().len()),
        (2, 0),
        "the node gets no request"
    );
}

#[test]
fn a_stored_response_is_continued_by_its_id() {
    let mut client = Client::new();
    let messages = [
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
        // An unknown id is passed on to the node, unless `store` is false.
        ("last", json!({"previous_response_id": "old"}), json!({"previous_response_id": "old"})),
    ];
    for (id, message, mut expected) in messages {
        client.queue_answer(id, json!([user(id)]));
        let previous = message["previous_response_id"].clone();
        let event = client.create(message);
        let shown = if id == "nor" || id == "again" { previous } else { Value::Null };
        assert_eq!(event["response"]["previous_response_id"], shown, "{id}");
        expected["stream"] = true.into();
        assert_eq!(client.requests.borrow().last(), Some(&expected), "{id}");
    }
    let event = client.create(json!({"store": false, "previous_response_id": "logged", "input": "?"}));
    assert_eq!(code(&event), "previous_response_not_found");
}

#[test]
fn a_response_whose_continuation_failed_is_forgotten() {
    for failure in ["an unmatched output", "a refusal", "a failed response", "an error", "a broken stream"] {
        let mut client = Client::new();
        client.queue_answer("one", json!([]));
        client.create(json!({"store": false, "input": "hi"}));
        let next = |input: Value| json!({"store": false, "previous_response_id": "one", "input": input});
        let body = match failure {
            "a failed response" => Some("data: {\"type\":\"response.failed\",\"response\":{}}\n\n"),
            "an error" => Some(
                "data: {\"type\":\"error\",\"code\":\"c\",\"message\":\"m\",\"param\":null,\"sequence_number\":7}\n\n",
            ),
            "a broken stream" => Some("data: {\"type\":\"response.created\"}\n\n"),
            _ => None,
        };
        client.answers.borrow_mut().extend(body.map(|body| Body::Full(body.into())));
        let input = match failure {
            "an unmatched output" => json!([{"type": "function_call_output", "call_id": "x", "output": ""}]),
            _ => json!("?"),
        };
        let event = client.create(next(input));
        match failure {
            "an unmatched output" => {
                assert_eq!((code(&event), &event["error"]["param"]), ("invalid_value", &json!("input")))
            }
            "a refusal" => {
                let forwarded = (&event["status"], &event["error"]["headers"]["retry-after"]);
                assert_eq!((code(&event), forwarded), ("nope", (&json!(400), &json!("2"))));
            }
            "a failed response" => assert_eq!(event["type"], "response.failed"),
            "an error" => assert_eq!((code(&event), &event["sequence_number"]), ("c", &json!(7))),
            _ => assert_eq!(code(&event), "stream_interrupted"),
        }
        assert_eq!(
            code(&client.create(next(json!("again")))),
            "previous_response_not_found",
            "after {failure}"
        );
    }
}

#[test]
fn a_lane_runs_in_order_and_lanes_run_concurrently() {
    let mut client = Client::new();
    let (first, second) = (client.queue_slow_answer(), client.queue_slow_answer());
    let create =
        |lane: &str, input: &str| json!({"type": "response.create", "stream_id": lane, "input": input});
    client.send(create("a", "a1"));
    client.send(create("a", "a2"));
    client.send(create("b", "b1"));
    second.unbounded_send("data: {\"type\":\"x\"}\n\n").unwrap();
    assert_eq!(client.receive(), json!({"stream_id": "b", "type": "x"}));
    let inputs = |client: &Client| {
        client.requests.borrow().iter().map(|request| request["input"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(inputs(&client), ["a1", "b1"]);
    first.unbounded_send("data: {\"type\":\"response.completed\"}\n\n").unwrap();
    drop(first);
    client.queue_answer("a2", json!([]));
    assert_eq!(client.receive()["stream_id"], "a");
    assert_eq!(client.receive()["response"]["id"], "a2");
    assert_eq!(inputs(&client), ["a1", "b1", "a2"]);
    let mut client = Client::new();
    (0..32).for_each(|lane| client.send(json!({"type": "response.steer", "stream_id": format!("{lane}")})));
    (0..32).for_each(|_| assert_eq!(client.receive()["error"]["code"], "steering_not_supported"));
    for lane in 0..32 {
        client.create(json!({"stream_id": format!("lane.{lane}"), "input": "?"}));
    }
    let event = client.create(json!({"stream_id": "one-more", "input": "?"}));
    assert_eq!((code(&event), &event["stream_id"]), ("websocket_stream_limit_reached", &json!("one-more")));
    assert_eq!(code(&client.create(json!({"stream_id": "lane.0", "input": "?"}))), "nope");
}

#[test]
fn the_queue_is_bounded() {
    let mut client = Client::new();
    let busy = client.queue_slow_answer();
    (0..66).for_each(|_| client.send(json!({"type": "response.create"})));
    assert_eq!(code(&client.receive()), "websocket_queue_full");
    drop(busy);
    assert_eq!(code(&client.receive()), "stream_interrupted");
    (0..64).for_each(|_| assert_eq!(code(&client.receive()), "nope"));
    let _busy = client.queue_slow_answer();
    client.send(json!({"type": "response.create"}));
    let large = "x".repeat(MAX_MESSAGE_BYTES / 2);
    (0..2).for_each(|_| client.send(json!({"type": "response.create", "input": large})));
    assert_eq!(code(&client.receive()), "websocket_queue_full");
}

#[test]
fn invalid_messages_are_refused() {
    let mut client = Client::new();
    client.messages.unbounded_send(ClientMessage::Binary).unwrap();
    assert_eq!(client.receive()["error"]["param"], "message");
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
        client.messages.unbounded_send(ClientMessage::Text(message.to_owned().into())).unwrap();
        let event = client.receive();
        let shown: String = message.chars().take(80).collect();
        assert_eq!(
            (event["error"]["code"].as_str(), event["error"]["param"].as_str()),
            (Some(code), param),
            "{shown}"
        );
        assert_eq!((&event["type"], &event["status"]), (&json!("error"), &json!(400)), "{shown}");
    }
    assert!(client.requests.borrow().is_empty(), "the node gets no request");
}

#[test]
fn a_response_that_generates_nothing_is_empty_and_continued() {
    let mut client = Client::new();
    client.send(json!({"type": "response.create", "generate": false, "model": "nobody", "input": "hi"}));
    assert_eq!(code(&client.receive()), "model_not_found");
    client.send(json!({
        "type": "response.create", "generate": false, "model": "default", "input": "hi", "instructions": "i"
    }));
    let kinds: Vec<Value> = (0..3).map(|_| client.receive()["type"].clone()).collect();
    assert_eq!(kinds, ["response.created", "response.in_progress", "response.completed"]);
    client.send(json!({"type": "response.create", "generate": false, "model": "default", "input": "hi"}));
    for _ in 0..2 {
        client.receive();
    }
    let response = &client.receive()["response"];
    assert_eq!(
        (&response["status"], &response["output"], &response["store"]),
        (&json!("completed"), &json!([]), &json!(false))
    );
    client.queue_answer("two", json!([]));
    client.create(json!({"previous_response_id": response["id"], "input": "go on"}));
    assert_eq!(client.requests.borrow()[0]["input"], json!([user("hi"), user("go on")]));
    assert_eq!(client.requests.borrow().len(), 1, "the others called no model");
}

#[test]
fn a_connection_closes_when_its_running_responses_have_ended() {
    let mut client = Client::new();
    client.sleeper = None;
    assert_eq!(code(&client.receive()), "websocket_connection_limit_reached");
    assert_eq!(client.receive(), json!({"closed": 1000, "why": "it is 60 minutes old"}));
    assert_eq!(client.receive(), "the end");

    let mut client = Client::new();
    let slow = client.queue_slow_answer();
    client.send(json!({"type": "response.create", "input": "goes on"}));
    client.send(json!({"type": "response.create", "input": "waits"}));
    slow.unbounded_send("data: {\"type\":\"x\"}\n\n").unwrap();
    assert_eq!(client.receive()["type"], "x");
    client.messages.unbounded_send(ClientMessage::Stopping).unwrap();
    assert_eq!(code(&client.receive()), "websocket_connection_limit_reached", "what waits");
    slow.unbounded_send("data: {\"type\":\"response.completed\"}\n\n").unwrap();
    assert_eq!(client.receive()["type"], "response.completed");
    drop(slow);
    assert_eq!(code(&client.receive()), "websocket_connection_limit_reached");
    assert_eq!(client.receive()["closed"], 1001);
    assert_eq!(client.requests.borrow().len(), 1);

    for (message, code) in
        [(ClientMessage::TooLarge, 1009), (ClientMessage::Malformed, 1002), (ClientMessage::NotUtf8, 1007)]
    {
        let mut client = Client::new();
        let slow = client.queue_slow_answer();
        client.send(json!({"type": "response.create"}));
        slow.unbounded_send("data: {\"type\":\"x\"}\n\n").unwrap();
        client.receive();
        client.messages.unbounded_send(message.clone()).unwrap();
        if message == ClientMessage::TooLarge {
            assert_eq!(client.receive()["status"], 413);
        }
        assert_eq!(client.receive()["closed"], code);
        assert_eq!(client.receive(), "the end");
        assert!(slow.is_closed(), "the response is cancelled, since a disconnect would go unnoticed");
    }
}

#[test]
fn a_disconnect_cancels_running_responses() {
    let mut client = Client::new();
    let slow = client.queue_slow_answer();
    client.send(json!({"type": "response.create"}));
    slow.unbounded_send("data: {\"type\":\"x\"}\n\n").unwrap();
    client.receive();
    client.messages.close_channel();
    assert_eq!(client.receive(), "the end");
    assert!(slow.is_closed(), "the answer is cancelled");
}

#[test]
fn a_connection_needs_a_key() {
    assert!(
        open(&node(""), &Request::get("/v1/responses").body(()).unwrap().into_parts().0, Arrival::default())
            .is_none()
    );
    let open_with = |headers: &[(&str, &str)]| socket(&handshake(headers), KEYS).map(|socket| socket.head);
    assert_eq!(open_with(&[]).err(), Some(401));
    assert_eq!(open_with(&[("authorization", "Bearer admin")]).err(), Some(403));
    let head =
        open_with(&[("authorization", "Bearer user"), ("idempotency-key", "k"), ("sec-websocket-key", "k")])
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
    // A host without WebSockets.
    let request = Request::from_parts(handshake(&[]), Body::Empty);
    let answer = block_on(node("").handle(request, Arrival { loopback: true, log: None }));
    assert_eq!(answer.status().as_u16(), 501);
}

#[test]
fn contexts_are_bounded() {
    let mut contexts = Contexts::default();
    let context = |bytes| {
        let mut context = context::Context::stored(Some("base".into()));
        let item = serde_json::value::to_raw_value(&"x".repeat(bytes)).unwrap();
        context.push([&*item]).unwrap();
        context
    };
    let lane = |name: &str| Some(name.to_owned());
    contexts.insert(&None, "0".into(), context(9 << 20));
    contexts.insert(&lane("a"), "1".into(), context(6 << 20));
    assert!(contexts.find("0").is_some() && contexts.find("1").is_some());
    contexts.insert(&lane("b"), "2".into(), context(2 << 20));
    assert!(contexts.find("0").is_none() && contexts.find("1").is_some(), "the oldest goes first");
    contexts.insert(&lane("a"), "3".into(), context(17 << 20));
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
    assert!(open().is_ok(), "a disconnect makes room");
}

#[test]
fn a_stream_id_of_the_provider_is_replaced() {
    let mut client = Client::new();
    let slow = client.queue_slow_answer();
    client.send(json!({"type": "response.create", "stream_id": "mine"}));
    slow.unbounded_send(
        "data: {\"type\":\"x\",\"stream_id\":\"other\"}\n\ndata: [1]\n\ndata: {\"type\":\"y\"}\n\n",
    )
    .unwrap();
    assert_eq!(client.receive(), json!({"stream_id": "mine", "type": "x"}));
    assert_eq!(client.receive(), json!({"stream_id": "mine", "type": "y"}));
}
