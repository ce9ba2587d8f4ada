//! Checks that a slow provider is waited for, and that one that only seems alive is given up. Time is simulated.

use futures_util::future::LocalBoxFuture;

use super::*;
use crate::error::{ErrorClass, ProviderError};

/// What a provider sends: each piece after a pause in seconds. After the last one it stays silent.
type Script = Vec<(u64, String)>;

/// A provider that answers every request with the same script.
#[derive(Clone, Default)]
struct PacedHttp {
    /// Set once the node exists: its clock is this provider's.
    node: Rc<RefCell<Option<PacedNode>>>,
    script: Rc<RefCell<Script>>,
}

type PacedNode = Node<TestPlatform<MemoryStore, PacedHttp>>;

struct PacedBody {
    http: PacedHttp,
    script: VecDeque<(u64, String)>,
    pause: Option<LocalBoxFuture<'static, ()>>,
}

impl Http for PacedHttp {
    type Body = PacedBody;

    async fn send(&self, request: Request<Body>, _: Duration) -> Result<Response<PacedBody>, HttpError> {
        let Body::Full(body) = request.into_body() else { panic!("no body") };
        let request: Value = serde_json::from_slice(&body).unwrap();
        let kind = if request["stream"] == true { "text/event-stream" } else { "application/json" };
        let script = self.script.borrow().clone().into();
        let mut response = Response::new(PacedBody { http: self.clone(), script, pause: None });
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(response)
    }
}

impl http_body::Body for PacedBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let Some((seconds, text)) = self.script.front().cloned() else { return Poll::Pending };
        let node = self.http.node.borrow().clone().unwrap();
        let pause = self.pause.get_or_insert_with(|| {
            Box::pin(async move { node.platform().sleep(Duration::from_secs(seconds)).await })
        });
        if pause.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        (self.pause, _) = (None, self.script.pop_front());
        // An empty piece ends the body.
        Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text.into()))))
    }
}

/// How a request ended: its status, its text, whether its end is clean, and the seconds that it took.
type End = (u16, &'static str, bool, u64);

/// Sends `request` to a model of these candidates, which answer with `script`.
fn check(model: &str, request: &Value, script: Script, expected: End) {
    let mut text = String::new();
    for kind in ["anthropic", "openai", "compatible"] {
        text += &format!("[[provider]]\nname = \"{kind}\"\nkind = \"{kind}\"\napi_key = {{ env = \"K\" }}\n");
        text += &format!("base_url = \"https://{kind}.test\"\n");
    }
    text += &format!("[[model]]\nname = \"default\"\nrescue = \"error\"\n{model}\n");
    let config = Config::parse(&text, "test", |_| Some("k".into())).unwrap();
    let http = PacedHttp::default();
    http.script.replace(script);
    let node = Node::new(TestPlatform::with_http(MemoryStore::default(), http.clone()), config);
    http.node.replace(Some(node.clone()));
    let mut body =
        json!({"model": "default", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
    let path = if body["max_tokens"].is_null() { "/v1/chat/completions" } else { "/v1/messages" };
    let request = Request::post(path).header("host", "localhost");
    let request = request.body(Body::from(Bytes::from(body.to_string()))).unwrap();
    let start = node.platform().now();
    let (status, bytes) = block_on(async {
        let response = node.handle(request, Arrival { loopback: true, log: None }).await;
        let (status, mut body, mut bytes) = (response.status(), response.into_body(), Vec::new());
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            bytes.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        (status.as_u16(), bytes)
    });
    let took = node.platform().now().since(start).as_secs();
    let answer = String::from_utf8(bytes).unwrap();
    let (text, is_clean) = match body["stream"] == true && status == 200 {
        true => {
            let format = if path == "/v1/messages" { Format::Messages } else { Format::Chat };
            let view = super::read(format, answer.clone().into());
            (view.transcript.text(), view.errors == 0)
        }
        false => {
            let whole: Value = serde_json::from_str(&answer).unwrap();
            (whole["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned(), status == 200)
        }
    };
    assert_eq!((status, text.as_str(), is_clean, took), expected, "{model}: {answer}");
}

const OPUS: &str = "candidates = [\"anthropic/claude-opus-4-8\"]";
const HAIKU: &str = "candidates = [\"anthropic/claude-haiku-4-5\"]";

fn event(pause: u64, data: &Value) -> (u64, String) {
    (pause, format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap()))
}

fn opening() -> Script {
    let message = json!({"id": "m", "model": "claude", "usage": {"input_tokens": 1}});
    let block = json!({"type": "thinking", "thinking": "", "signature": ""});
    vec![
        event(0, &json!({"type": "message_start", "message": message})),
        event(0, &json!({"type": "content_block_start", "index": 0, "content_block": block})),
    ]
}

fn pings(count: usize, every: u64) -> Script {
    vec![event(every, &json!({"type": "ping"})); count]
}

fn text(text: &str) -> Script {
    let signature = json!({"type": "signature_delta", "signature": "c2ln"});
    let text = json!({"type": "text_delta", "text": text});
    vec![
        event(0, &json!({"type": "content_block_delta", "index": 0, "delta": signature})),
        event(0, &json!({"type": "content_block_stop", "index": 0})),
        event(
            0,
            &json!({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}),
        ),
        event(0, &json!({"type": "content_block_delta", "index": 1, "delta": text})),
        event(0, &json!({"type": "content_block_stop", "index": 1})),
    ]
}

fn end() -> Script {
    vec![
        event(
            0,
            &json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}),
        ),
        event(0, &json!({"type": "message_stop"})),
    ]
}

#[test]
fn a_model_that_thinks_unseen_is_waited_for_while_it_is_alive() {
    let request = json!({"max_tokens": 100});
    let thinks = json!({"max_tokens": 100, "thinking": {"type": "enabled", "budget_tokens": 1024}});
    // More events than a head usually has.
    let slow = [opening(), pings(200, 1), text("Hello."), end()].concat();
    check(OPUS, &request, slow.clone(), (200, "Hello.", true, 200));
    check(HAIKU, &thinks, slow.clone(), (200, "Hello.", true, 200));
    check(HAIKU, &request, slow.clone(), (504, "", false, 30));
    check(&format!("{OPUS}\nthinks = false"), &request, slow.clone(), (504, "", false, 30));
    check(&format!("{HAIKU}\nthinks = true"), &request, slow, (200, "Hello.", true, 200));
    // After the first content, a model may think again.
    let again = [opening(), text("Hello."), pings(20, 10), end()].concat();
    check(OPUS, &request, again.clone(), (200, "Hello.", true, 200));
    check(HAIKU, &request, again, (200, "Hello.", false, 60));
}

#[test]
fn a_provider_that_only_seems_alive_is_given_up() {
    let request = json!({"max_tokens": 100});
    check(OPUS, &request, [opening(), pings(9_999, 10)].concat(), (504, "", false, 300));
    check(OPUS, &request, opening(), (504, "", false, 30));
    check(
        OPUS,
        &request,
        [opening(), text("Hello."), pings(9_999, 10)].concat(),
        (200, "Hello.", false, 300),
    );
    check(
        &format!("{OPUS}\ntimeouts = {{ total = \"100s\" }}"),
        &request,
        [opening(), pings(9_999, 10)].concat(),
        (504, "", false, 100),
    );
    // The events before the first content are bounded in bytes, and there is no second candidate.
    let flood = vec![event(0, &json!({"type": "ping", "filler": "x".repeat(100_000)})); 100];
    check(&format!("{OPUS}\nattempts = 1"), &request, [opening(), flood].concat(), (502, "", false, 0));
}

#[test]
fn an_answer_that_is_not_streamed_may_take_the_time_to_think() {
    let answer = r#"{"id":"x","model":"m","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}"#;
    let late = vec![(250, answer.to_owned()), (0, String::new())];
    let request = json!({"stream": false});
    let candidates =
        |model: &str| format!("candidates = [\"openai/{model}\", \"compatible/a\", \"compatible/b\"]");
    check(&candidates("gpt-5-mini"), &request, late.clone(), (200, "hi", true, 250));
    // Each of three candidates is idle for a minute.
    check(&candidates("gpt-4o"), &request, late, (504, "", false, 180));
}

#[test]
fn a_probe_whose_answer_goes_on_holds_no_request_off() {
    let config = "[[provider]]\nname = \"a\"\nkind = \"compatible\"\nbase_url = \"https://a.test\"\n\
                  [[model]]\nname = \"default\"\ncandidates = [\"a/m\"]\n";
    let http = PacedHttp::default();
    let chunk = |text: &str| format!("data: {}\n\n", json!({"choices": [{"delta": {"content": text}}]}));
    let mut script = vec![(0, chunk("Hello."))];
    script.extend(vec![(5, chunk(".")); 20]);
    http.script.replace(script);
    let config = Config::parse(config, "test", |_| None).unwrap();
    let candidate = config.models[0].candidates[0].clone();
    let node = Node::new(TestPlatform::with_http(MemoryStore::default(), http.clone()), config);
    http.node.replace(Some(node.clone()));
    let start = node.platform().now();
    for _ in 0..3 {
        let error = ProviderError::new(ErrorClass::Server, "");
        node.health().borrow_mut().record_failure(&candidate, &error, false, start, 0);
    }
    let body = json!({"model": "default", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    let ask = || {
        let request = Request::post("/v1/chat/completions").header("host", "localhost");
        let request = request.body(Body::from(Bytes::from(body.to_string()))).unwrap();
        block_on(node.handle(request, Arrival { loopback: true, log: None }))
    };
    // No client reads on, and no answer ends.
    let answers = [ask(), ask(), ask(), ask()];
    assert_eq!(answers.map(|answer| answer.status().as_u16()), [200; 4]);
    assert!(node.platform().now().since(start) < Duration::from_millis(100));
    assert_eq!(
        node.candidate_health(&candidate).breaker.state(start),
        BreakerState::Closed,
        "after two probes"
    );
}
