//! Checks what a call reserves and what it is billed for, however it ends.

use super::*;

/// One provider at `p.test`, which answers with this script, and the bodies that it got.
#[derive(Clone)]
pub(super) struct Script {
    status: u16,
    answer: &'static str,
    end: End,
    sent: Rc<RefCell<Vec<Value>>>,
}

impl Script {
    pub(super) fn new(answer: &'static str, end: End) -> Self {
        Self { status: 200, answer, end, sent: Rc::default() }
    }

    /// The bodies that it got so far.
    pub(super) fn sent(&self) -> Vec<Value> {
        self.sent.borrow().clone()
    }
}

impl Http for Script {
    type Body = ScriptedBody;

    async fn send(&self, request: Request<Body>, _: Duration) -> Result<Response<ScriptedBody>, HttpError> {
        let body = request.into_body().into_bytes().unwrap();
        self.sent.borrow_mut().push(serde_json::from_slice(&body).unwrap());
        let mut response =
            Response::new(ScriptedBody([Bytes::from_static(self.answer.as_bytes())].into(), self.end));
        *response.status_mut() = http::StatusCode::from_u16(self.status).unwrap();
        let kind = if self.answer.starts_with('{') { "application/json" } else { "text/event-stream" };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(response)
    }
}

/// A dollar for a million tokens of input, and ten for a million tokens of output.
const PRICE: &str = "[[price]]\ncandidate = \"p/m\"\ninput = \"1\"\noutput = \"10\"\n";

pub(super) type TestNode = Node<TestPlatform<MemoryStore, Script>>;

pub(super) fn node(kind: &str, model: &str, more: &str, store: MemoryStore, script: Script) -> TestNode {
    let text = format!(
        "{more}[[provider]]\nname = \"p\"\nkind = \"{kind}\"\nbase_url = \"https://p.test\"\napi_key = {{ env = \"KEY\" }}\n\
         [[model]]\nname = \"default\"\ncandidates = [\"p/{model}\"]\n\
         rescue = \"error\"\n"
    );
    let config = Config::parse(&text, "test", |_| Some("secret".into())).unwrap();
    Node::new(TestPlatform::with_http(store, script), config)
}

/// Sends `body`, and reads the answer to its end or only to its first content.
pub(super) fn send(node: &TestNode, path: &str, body: &Value, leaves: bool) -> u16 {
    receive(node, path, body, leaves).0
}

/// As [`send`]; also returns the answer's body as far as it was read.
fn receive(node: &TestNode, path: &str, body: &Value, leaves: bool) -> (u16, String) {
    let request = Request::post(path).header("host", "localhost");
    let request = request.body(Body::from(Bytes::from(body.to_string()))).unwrap();
    let response = block_on(node.handle(request, Arrival { loopback: true, log: None }));
    let (head, mut body) = response.into_parts();
    let mut received = Vec::new();
    while let Some(Ok(frame)) = block_on(std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx))) {
        received.extend_from_slice(&frame.into_data().unwrap_or_default());
        if leaves {
            break;
        }
    }
    (head.status.as_u16(), String::from_utf8(received).unwrap())
}

const TEXT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"twenty characters...\"}}]}\n\n";

#[test]
fn every_end_of_a_call_has_its_bill() {
    const STOP: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";
    let leak = |parts: &[&str]| &*Box::leak(parts.concat().into_boxed_str());
    let (whole, unreported) = (leak(&[TEXT, STOP, USAGE, DONE]), leak(&[TEXT, STOP, DONE]));
    let chat = json!({
        "model": "default", "stream": true, "max_tokens": 1000,
        "messages": [{"role": "user", "content": "x".repeat(4000)}],
    });
    let run = |script: Script, path: &str, body: &Value, leaves: bool| {
        let node = node("compatible", "m", PRICE, MemoryStore::default(), script);
        send(&node, path, body, leaves);
        let line: Value = serde_json::from_str(node.platform().lines().last().unwrap()).unwrap();
        let sent =
            node.platform().http().sent.borrow().last().map_or(0, |body| body.to_string().len()) as u64;
        let number = |name: &str| line[name].as_u64().unwrap();
        let source = line["usage_source"].as_str().unwrap().to_owned();
        (number("input_tokens"), number("output_tokens"), source, sent)
    };
    let check = |script: Script, leaves: bool, input: fn(u64) -> u64, output: u64, expected: &str| {
        let (billed_input, billed_output, source, sent) = run(script, "/v1/chat/completions", &chat, leaves);
        assert_eq!((billed_output, source.as_str()), (output, expected));
        // The recorded body is written anew, so it may differ in white space.
        assert!(billed_input.abs_diff(input(sent)) < 5, "{billed_input} for {sent} bytes");
    };
    // A token has about four bytes; in the worst case it has one, and the vendor adds a thousand.
    let estimated = |sent: u64| sent / 4;
    let worst = |sent: u64| sent + 1_000;
    check(Script::new(whole, End::Clean), false, |_| 7, 5, "provider");
    check(Script::new(unreported, End::Clean), false, estimated, 5, "estimated");
    check(Script::new(whole, End::Clean), true, worst, 1_000, "estimated");
    check(Script::new(TEXT, End::Stall), false, worst, 1_000, "estimated");
    check(Script::new("", End::Stall), false, worst, 1_000, "estimated");
    check(Script { status: 400, ..Script::new("{}", End::Clean) }, false, |_| 0, 0, "provider");
    // What the provider broke off is billed as what came, and some tokens that may have been on their way.
    check(Script::new(TEXT, End::Reset), false, worst, 20 + 64, "estimated");

    let embeddings = json!({"model": "default", "input": "x"});
    let answer = "{\"data\":[{\"embedding\":[0.5]}],\"usage\":{\"prompt_tokens\":3}}";
    let (input, output, source, _) =
        run(Script::new(answer, End::Clean), "/v1/embeddings", &embeddings, false);
    assert_eq!((input, output, source.as_str()), (3, 0, "provider"));
}

#[test]
fn a_client_of_another_format_gets_an_estimate_of_tokens_that_nobody_counted() {
    let whole =
        "{\"choices\":[{\"message\":{\"content\":\"twenty characters...\"},\"finish_reason\":\"stop\"}]}";
    let streamed = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"twenty characters...\"}}]}\n\n\
                    data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    for (answer, stream) in [(whole, false), (streamed, true)] {
        let node = node("compatible", "m", "", MemoryStore::default(), Script::new(answer, End::Clean));
        let messages = json!([{"role": "user", "content": "hi"}]);
        let body = json!({"model": "default", "max_tokens": 9, "messages": messages, "stream": stream});
        let (_, answer) = receive(&node, "/v1/messages", &body, false);
        assert!(answer.contains("\"output_tokens\":5"), "{answer}");
        let body = json!({"model": "default", "input": "hi", "stream": stream, "store": false});
        let (_, answer) = receive(&node, "/v1/responses", &body, false);
        assert!(answer.contains("\"output_tokens\":5"), "{answer}");
    }
}

#[test]
fn an_error_repeats_no_key_and_tells_anthropics_clients_of_threads() {
    let run = |kind: &str, script: Script, more: &Value| {
        let node = node(kind, "m", "", MemoryStore::default(), script);
        let mut body = json!({
            "model": "default", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}],
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        receive(&node, "/v1/messages", &body, false)
    };
    let echo = "{\"error\":{\"message\":\"bad key secret\",\"param\":\"secret\",\"code\":\"secret\"}}";
    let refused = |answer, status| Script { status, ..Script::new(answer, End::Clean) };
    let (status, answer) = run("anthropic", refused(echo, 400), &json!({}));
    assert_eq!((status, answer.contains("bad key")), (400, true), "{answer}");
    assert!(!answer.contains("secret"), "{answer}");

    let thread = json!({"thread": {"type": "create"}});
    let expired = "{\"type\":\"error\",\"error\":{\"type\":\"not_found_error\",\"message\":\"gone\",\
                    \"details\":{\"error_code\":\"thread_not_found\"}}}";
    for (kind, script, status, code) in [
        ("anthropic", refused(expired, 404), 404, "thread_not_found"),
        ("compatible", Script::new("{}", End::Clean), 400, "thread_unsupported_request"),
    ] {
        let (got, answer) = run(kind, script, &thread);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!((got, &answer["error"]["details"]), (status, &json!({"error_code": code})), "{answer}");
    }
}

#[test]
fn counting_tokens_and_refused_requests_cost_nothing() {
    let script = Script::new("{\"input_tokens\": 25000}", End::Clean);
    let budget = "[budget]\nlimit_usd = \"0.001\"\nper = \"hour\"\n";
    let node = node("anthropic", "claude-haiku-4-5", budget, MemoryStore::default(), script);
    let body = json!({
        "model": "default", "max_tokens": 1000,
        "messages": [{"role": "user", "content": "x".repeat(100_000)}],
    });
    for (path, status) in [("/v1/messages/count_tokens", 200), ("/v1/messages", 429)] {
        assert_eq!(send(&node, path, &body, false), status, "{path}");
        let line: Value = serde_json::from_str(node.platform().lines().last().unwrap()).unwrap();
        assert_eq!((&line["cost_usd"], &line["input_tokens"]), (&json!("0.00"), &json!(0)), "{line}");
    }
}

#[test]
fn what_is_sent_is_what_was_reserved() {
    let answer = "{\"type\":\"message\",\"content\":[{\"type\":\"text\",\"text\":\"hi\"}],\"stop_reason\":\"end_turn\",\
                  \"usage\":{\"input_tokens\":1,\"output_tokens\":1}}";
    let sent = |limit_usd: &str| {
        let script = Script::new(answer, End::Clean);
        let budget = format!("[budget]\nlimit_usd = \"{limit_usd}\"\nper = \"hour\"\n");
        let node = node("anthropic", "claude-haiku-4-5", &budget, MemoryStore::default(), script.clone());
        let body = json!({
            "model": "default", "max_completion_tokens": 100, "reasoning_effort": "high",
            "messages": [{"role": "user", "content": "hi"}],
        });
        assert_eq!(send(&node, "/v1/chat/completions", &body, false), 200);
        let body = script.sent.borrow()[0].clone();
        (body["max_tokens"].as_u64().unwrap(), body["thinking"]["budget_tokens"].as_u64())
    };
    // Five dollars for a million tokens of output. A budget for thinking counts as output, and is lowered to what the
    // money budget pays for.
    assert_eq!(sent("1"), (16_484, Some(16_384)));
    let (max_tokens, thinking) = sent("0.05");
    assert_eq!((max_tokens, thinking), (8_292, Some(8_192)));
    assert!(max_tokens * 5 <= 50_000, "micro-dollars");
    assert_eq!(sent("0.004"), (100, None));
}

#[test]
fn the_cost_that_openrouter_reports_is_billed() {
    let cost = |kind: &str, model: &str, more: &str, usage: &str| {
        let answer = format!(
            "{{\"choices\":[{{\"message\":{{\"content\":\"hi\"}},\"finish_reason\":\"stop\"}}],\"usage\":{usage}}}"
        );
        let script = Script::new(answer.leak(), End::Clean);
        let node = node(kind, model, more, MemoryStore::default(), script);
        let chat =
            json!({"model": "default", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]});
        let status = send(&node, "/v1/chat/completions", &chat, false);
        let line: Value = serde_json::from_str(node.platform().lines().last().unwrap()).unwrap();
        let sent = node.platform().http().sent.borrow().last().map(|body| body["provider"].clone());
        (status, line["cost_usd"].as_str().unwrap().to_owned(), sent)
    };
    const BUDGET: &str = "[budget]\nlimit_usd = \"5\"\nper = \"day\"\n";
    const PAID: &str = r#"{"prompt_tokens":7,"completion_tokens":5,"cost":0.25,"is_byok":false,"cost_details":{"upstream_inference_cost":0.25}}"#;
    const OWN: &str = r#"{"prompt_tokens":7,"completion_tokens":5,"cost":0.0125,"is_byok":true,"cost_details":{"upstream_inference_cost":2.85e-06}}"#;
    let check =
        |(status, cost, sent): (u16, String, Option<Value>), expected: &str, provider: Option<Value>| {
            assert_eq!((status, cost.as_str(), sent), (200, expected, provider));
        };
    let (no_field, mini) = (Some(Value::Null), "openai/gpt-5-mini");
    check(cost("openrouter", mini, "", PAID), "0.25", no_field.clone());
    check(cost("openrouter", "maker/unknown", "", PAID), "0.25", no_field.clone());
    check(cost("openrouter", mini, "", OWN), "0.01250285", no_field.clone());
    // Without the cost, and at a provider whose number may mean anything, the price counts.
    check(
        cost("openrouter", mini, "", r#"{"prompt_tokens":7,"completion_tokens":5}"#),
        "0.00001175",
        no_field.clone(),
    );
    check(cost("compatible", "m", PRICE, PAID), "0.000057", no_field);
    // Under a budget, providers that are dearer than what is reserved are excluded.
    let max_price = json!({"max_price": {"prompt": 0.25, "completion": 2.0}});
    check(cost("openrouter", mini, BUDGET, PAID), "0.25", Some(max_price));
    let (status, _, sent) = cost("openrouter", "maker/unknown", BUDGET, PAID);
    assert_eq!((status, sent), (400, None), "nothing bounds the cost");
}
