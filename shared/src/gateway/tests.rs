//! Checks that a client gets the whole answer or an error, with every recorded stream cut at every byte and stalled at
//! every event. Also hedges, probes, logged content and the choice of a candidate by size.

mod bills;
mod grants;
mod large;
mod liveness;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_executor::block_on;
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::{Body as _, Frame};
use serde_json::{Value, json};

use crate::{
    Arrival, Config, Node,
    body::Body,
    error::{ErrorClass, ProviderError},
    platform::{Http, HttpError, Platform as _},
    record::MAX_CONTENT_BYTES,
    routing::breaker::BreakerState,
    testing::{MemoryStore, TestPlatform},
    wire::{
        self, Block, Decoder, Delta, Format, Signal, Stop, Transcript, Writer,
        sse::{self, SseEvent},
        tests::{CLIENTS, STREAMS},
    },
};

/// A provider whose first answers break off, and which continues them as instructed.
struct BreakingHttp {
    format: Format,
    stream: &'static [u8],
    /// Bytes of the first answer before it breaks off.
    cut: usize,
    end: End,
    calls: Cell<u32>,
    /// How many of the first calls break off.
    broken_calls: u32,
    /// The whole answer.
    whole: Transcript,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Clean,
    Reset,
    Stall,
}

struct ScriptedBody(VecDeque<Bytes>, End);

impl Http for BreakingHttp {
    type Body = ScriptedBody;

    async fn send(&self, request: Request<Body>, _: Duration) -> Result<Response<ScriptedBody>, HttpError> {
        let Body::Full(body) = request.into_body() else { panic!("no body") };
        let request: Value = serde_json::from_slice(&body).unwrap();
        let call = self.calls.replace(self.calls.get() + 1);
        let answer = match partial_answer(&request) {
            _ if call == 0 => ScriptedBody([Bytes::from_static(&self.stream[..self.cut])].into(), self.end),
            Some(partial) if call < self.broken_calls => {
                // One more character, then the connection is reset.
                let length = partial.chars().count() + 1;
                let mut more = Transcript::default();
                more.apply(&Delta::Text(self.whole.text().chars().take(length).collect::<String>().into()));
                let rest = rest_of(self.format, &partial, &more);
                let end = rest.windows(13).position(|window| window == b"message_delta").unwrap() - 7;
                ScriptedBody([rest.slice(..end)].into(), End::Reset)
            }
            None => ScriptedBody([Bytes::from_static(self.stream)].into(), End::Clean),
            Some(partial) => ScriptedBody([rest_of(self.format, &partial, &self.whole)].into(), End::Clean),
        };
        let mut response = Response::new(answer);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        Ok(response)
    }
}

/// The partial answer that a request asks to continue.
fn partial_answer(request: &Value) -> Option<String> {
    let messages = request["messages"].as_array()?;
    let text = |message: &Value| message["content"].as_str().map(str::to_owned);
    match messages.as_slice() {
        [.., last] if last["role"] == "assistant" => text(last),
        [.., partial, instruction]
            if instruction["content"].as_str()?.starts_with("Your previous response was") =>
        {
            text(partial)
        }
        _ => None,
    }
}

/// The rest of an answer as a stream. An answer in the format of responses is continued in the chat format.
fn rest_of(format: Format, partial: &str, whole: &Transcript) -> Bytes {
    let format = if format == Format::Responses { Format::Chat } else { format };
    let (mut writer, mut out) = (Writer::new(format, wire::Frame::default()).unwrap(), Vec::new());
    let text = whole.text();
    let rest =
        text.strip_prefix(partial).unwrap_or_else(|| panic!("not the beginning of the answer: {partial:?}"));
    let mut deltas =
        vec![Delta::Start { id: "other".into(), model: "other".into() }, Delta::Text(rest.into())];
    for (index, call) in whole.calls().enumerate() {
        deltas.push(Delta::Call { index, id: (&call.id).into(), name: (&call.name).into() });
        deltas.push(Delta::Arguments { index, json: (&call.arguments).into() });
    }
    deltas.extend(whole.stop.clone().map(Delta::Stop));
    deltas
        .iter()
        .filter(|delta| **delta != Delta::Text("".into()))
        .for_each(|delta| writer.write(delta, &mut out));
    writer.finish(None, &mut out);
    out.into()
}

impl http_body::Body for ScriptedBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match (self.0.pop_front(), self.1) {
            (Some(bytes), _) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            (None, End::Clean) => Poll::Ready(None),
            (None, End::Reset) => Poll::Ready(Some(Err(HttpError::Broken("reset".into())))),
            (None, End::Stall) => Poll::Pending,
        }
    }
}

/// What the client received.
struct ClientView {
    transcript: Transcript,
    /// Terminal events without an error.
    done: usize,
    /// Terminal events with an error.
    errors: usize,
    /// Whether the last event says that the answer was rescued.
    marked: bool,
}

fn config(kind: &str) -> Config {
    let config = format!(
        "[[provider]]\nname = \"p\"\nkind = \"{kind}\"\nbase_url = \"https://p.test\"\napi_key = {{ env = \"K\" }}\n\
         [[model]]\nname = \"default\"\ncandidates = [\"p/claude-haiku-4-5\", \"p/claude-3-5-haiku\"]\n"
    );
    Config::parse(&config, "test", |_| Some("k".into())).unwrap()
}

/// Sends a streamed request. Returns what the client received and the log lines.
fn ask(config: Config, format: Format, http: BreakingHttp, client: Format) -> (ClientView, Vec<String>) {
    ask_with_limit(config, format, http, client, 1000)
}

/// As [`ask`], with a limit of the answer's tokens.
fn ask_with_limit(
    config: Config,
    format: Format,
    http: BreakingHttp,
    client: Format,
    limit: u64,
) -> (ClientView, Vec<String>) {
    let node = Node::new(TestPlatform::with_http(MemoryStore::default(), http), config);
    let user = json!([{"role": "user", "content": "How are you?"}]);
    let (path, body) = match client {
        Format::Chat => (
            "/v1/chat/completions",
            json!({"model": "default", "stream": true, "messages": user, "max_completion_tokens": limit}),
        ),
        Format::Responses => (
            "/v1/responses",
            json!({"model": "default", "stream": true, "store": false, "input": user, "max_output_tokens": limit}),
        ),
        _ => (
            "/v1/messages",
            json!({"model": "default", "stream": true, "messages": user, "max_tokens": limit}),
        ),
    };
    let request =
        Request::post(path).header("host", "localhost").body(Body::from(Bytes::from(body.to_string())));
    let bytes = block_on(async {
        let response = node.handle(request.unwrap(), Arrival { loopback: true, log: None }).await;
        let (status, mut body, mut bytes) = (response.status(), response.into_body(), Vec::new());
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            bytes.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        assert_eq!(status, 200, "{format:?}: {}", String::from_utf8_lossy(&bytes));
        bytes
    });
    (read(client, bytes), node.platform().lines())
}

/// Decodes an answer in the client's format, and checks that it has one beginning and nothing after its end.
fn read(client: Format, bytes: Vec<u8>) -> ClientView {
    let marked = String::from_utf8(bytes.clone()).unwrap().contains("\"x-outlive\":{\"rescued\":");
    let (mut events, mut decoder) = (sse::SseDecoder::default(), Decoder::new(client));
    let mut view = ClientView { transcript: Transcript::default(), done: 0, errors: 0, marked };
    let mut starts = 0;
    events.push(bytes.into());
    while let Some(event) = events.event().unwrap() {
        let SseEvent::Data { data, .. } = event else { continue };
        assert_eq!(view.done + view.errors, 0, "after the end: {data:?}");
        let signal = decoder.decode(&data, &mut |delta| {
            starts += usize::from(matches!(delta, Delta::Start { .. }));
            view.transcript.apply(&delta);
        });
        view.done += usize::from(signal == Signal::Done);
        view.errors += usize::from(matches!(signal, Signal::Error(_)));
    }
    assert!(events.finish().unwrap().is_none(), "half an event");
    assert_eq!(starts, 1, "one answer begins once");
    view
}

/// The kind of provider that sends a stream.
fn kind(name: &str) -> &'static str {
    match name.split('_').next() {
        Some("azure") => "azure",
        Some("deepseek") => "deepseek",
        Some("compatible" | "mistral" | "openrouter" | "vllm" | "interleaved") => "compatible",
        Some("anthropic") => "anthropic",
        _ => "openai",
    }
}

/// The content of a recorded stream.
fn answer(format: Format, stream: &str) -> Transcript {
    let (mut events, mut decoder, mut transcript) =
        (sse::SseDecoder::default(), Decoder::new(format), Transcript::default());
    events.push(Bytes::copy_from_slice(stream.as_bytes()));
    while let Some(event) = events.event().unwrap() {
        if let SseEvent::Data { data, .. } = event {
            decoder.decode(&data, &mut |delta| transcript.apply(&delta));
        }
    }
    transcript
}

/// Breaks the stream at `cut`, checks what the client receives, and returns whether the answer was rescued.
fn check(
    config: &Config,
    name: &str,
    format: Format,
    stream: &'static str,
    client: Format,
    cut: usize,
    end: End,
) -> bool {
    let case = format!("{name} for {client:?}, {end:?} after {cut} bytes");
    let whole = answer(format, stream);
    let http = BreakingHttp {
        format,
        stream: stream.as_bytes(),
        cut,
        end,
        calls: Cell::new(0),
        broken_calls: 1,
        whole: whole.clone(),
    };
    let (view, _) = ask(config.clone(), format, http, client);
    assert_eq!(view.done + view.errors, 1, "{case}: {:?}", view.transcript);
    let calls = |transcript: &Transcript| {
        transcript.calls().map(|call| (call.id.clone(), call.name.clone())).collect::<Vec<_>>()
    };
    let thinks = matches!(whole.blocks.first(), Some(Block::Reasoning(_)));
    if view.done == 1 {
        assert_eq!(view.transcript.text(), whole.text(), "{case}");
        assert_eq!(calls(&view.transcript), calls(&whole), "{case}");
    } else {
        // Half a call can't be revoked, even if the client has no more than its id, nor half a thought that clients must
        // send back whole.
        let has_id =
            client == format && stream.get(..cut).is_some_and(|sent| sent.contains(r#""id":"call_"#));
        let has_call = has_id || !view.transcript.calls().collect::<Vec<_>>().is_empty();
        assert!(has_call || thinks, "{case}: not continued");
        assert!(whole.text().starts_with(&view.transcript.text()), "{case}");
    }
    view.marked
}

/// The clients that a stream of this vendor in this format is tested with: the provider's format follows from the
/// client's.
fn clients(kind: &'static str, format: Format) -> impl Iterator<Item = Format> {
    // OpenAI and Azure are asked by chat completions for chat only.
    let by_responses = matches!(kind, "openai" | "azure");
    CLIENTS.into_iter().filter(move |client| match format {
        Format::Responses => *client != Format::Chat,
        Format::Chat if by_responses => *client == Format::Chat,
        _ => true,
    })
}

#[test]
fn a_cut_anywhere_is_rescued_or_reported() {
    let (mut cuts, mut rescued) = (0, 0);
    for (name, format, stream) in STREAMS {
        let config = config(kind(name));
        for client in clients(kind(name), format) {
            for cut in 0..stream.len() {
                // Resets cover every byte; clean ends are checked at every third to save time.
                let ends: &[End] = if cut % 3 == 0 { &[End::Reset, End::Clean] } else { &[End::Reset] };
                for end in ends {
                    cuts += 1;
                    rescued += usize::from(check(&config, name, format, stream, client, cut, *end));
                }
            }
        }
    }
    println!("{cuts} cuts, {rescued} rescued");
    assert!(rescued > 1000, "{rescued} of {cuts}");
}

#[test]
fn a_stall_at_any_event_is_rescued_or_reported() {
    let (mut stalls, mut rescued) = (0, 0);
    for (name, format, stream) in STREAMS {
        let config = config(kind(name));
        for client in clients(kind(name), format) {
            let ends = stream.match_indices("\n\n").map(|(at, _)| at + 2).chain([0]);
            for cut in ends.chain(stream.match_indices("\r\n\r\n").map(|(at, _)| at + 4)) {
                stalls += 1;
                rescued += usize::from(check(&config, name, format, stream, client, cut, End::Stall));
            }
        }
    }
    println!("{stalls} stalls, {rescued} rescued");
    assert!(rescued > 20, "{rescued} of {stalls}");
}

#[test]
fn usage_and_log_count_every_call_of_an_answer_that_breaks_twice() {
    let (_, format, stream) = STREAMS.into_iter().find(|(name, ..)| *name == "anthropic_text").unwrap();
    let whole = answer(format, stream);
    let words = stream.find("All is").unwrap();
    let cut = words + stream[words..].find("\n\n").unwrap() + 2;
    let run = |broken_calls, text: Transcript| {
        let http = BreakingHttp {
            format,
            stream: stream.as_bytes(),
            cut,
            end: End::Reset,
            calls: Cell::new(0),
            broken_calls,
            whole: text,
        };
        let (view, lines) = ask(config("anthropic"), format, http, Format::Messages);
        let line: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
        (view, line)
    };
    let (view, line) = run(2, whole.clone());
    assert_eq!((view.transcript.text(), view.marked), (whole.text(), true));
    // The first call reports 12 tokens of input, each of the two others 1.
    assert_eq!(view.transcript.usage.unwrap().input, 12 + 1 + 1);
    assert_eq!((&line["rescues"], &line["outcome"]), (&json!(2), &json!("answered")));
    assert_eq!(line["attempts"].as_array().unwrap().len(), 3, "{line}");
    // If every call breaks off, the client gets one error, and the log line has one attempt more than rescues.
    let (view, line) = run(u32::MAX, whole.clone());
    assert_eq!((view.errors, &line["outcome"]), (1, &json!("interrupted")));
    assert_eq!(
        line["attempts"].as_array().unwrap().len() as u64,
        line["rescues"].as_u64().unwrap() + 1,
        "{line}"
    );
}

#[test]
fn what_a_provider_refuses_in_its_stream_is_answered_by_no_other() {
    let start = r#"data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"All is"}}]}"#;
    let ends_after = |error: &str| {
        let stream = format!("{start}\n\ndata: {error}\n\n").leak();
        let mut whole = Transcript::default();
        whole.apply(&Delta::Text("All is well.".into()));
        whole.apply(&Delta::Stop(Stop::End));
        let (calls, broken_calls) = (Cell::new(0), 1);
        let (format, cut) = (Format::Chat, stream.len());
        let http = BreakingHttp {
            format,
            stream: stream.as_bytes(),
            cut,
            end: End::Clean,
            calls,
            broken_calls,
            whole,
        };
        let (view, _) = ask(config("compatible"), format, http, Format::Chat);
        (view.transcript.text(), view.done, view.errors)
    };
    let refused = ("All is".to_owned(), 0, 1);
    let rescued = ("All is well.".to_owned(), 1, 0);
    assert_eq!(ends_after(r#"{"error":{"code":"content_filter","message":"no"}}"#), refused);
    assert_eq!(ends_after(r#"{"error":{"type":"invalid_request_error","message":"no"}}"#), refused);
    assert_eq!(
        ends_after(
            r#"{"error":{"code":502,"message":"gone"},"choices":[{"delta":{},"finish_reason":"error"}]}"#
        ),
        rescued
    );
    assert_eq!(ends_after(r#"{"choices":[{"delta":{},"finish_reason":"abort"}]}"#), rescued);
    // Half a call is no end, whatever the finish reason says, and can't be continued.
    let call = r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\":"}}"#;
    let half = format!(
        "{{\"choices\":[{{\"delta\":{{\"tool_calls\":[{call}]}},\"finish_reason\":\"tool_calls\"}}]}}"
    );
    assert_eq!(ends_after(&format!("{half}\n\ndata: [DONE]")), refused);
    assert_eq!(ends_after(&half.replace("tool_calls\"}", "length\"}")), ("All is".to_owned(), 1, 0));
}

/// Two providers, of which `a.test` never answers while the flag is set.
#[derive(Default)]
struct HangingHttp(Rc<Cell<bool>>);

impl Http for HangingHttp {
    type Body = ScriptedBody;

    async fn send(&self, request: Request<Body>, _: Duration) -> Result<Response<ScriptedBody>, HttpError> {
        if self.0.get() && request.uri().host() == Some("a.test") {
            std::future::pending::<()>().await;
        }
        let body =
            r#"{"id":"x","model":"m","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}"#;
        Ok(Response::new(ScriptedBody([Bytes::from_static(body.as_bytes())].into(), End::Clean)))
    }
}

fn post(node: &Node<TestPlatform<MemoryStore, HangingHttp>>, body: String) -> Response<Body> {
    let request = Request::post("/v1/chat/completions").header("host", "localhost");
    let request = request.body(Body::from(Bytes::from(body))).unwrap();
    block_on(node.handle(request, Arrival { loopback: true, log: None }))
}

#[test]
fn a_hedge_overtakes_a_slow_candidate() {
    let provider = |name: &str| {
        format!(
            "[[provider]]\nname = \"{name}\"\nkind = \"compatible\"\nbase_url = \"https://{name}.test\"\n"
        )
    };
    let text = provider("a")
        + &provider("b")
        + "[[model]]\nname = \"default\"\ncandidates = [\"a/m\", \"b/m\"]\nhedge = true\n"
        + "[[model]]\nname = \"b\"\ncandidates = [\"b/m\"]\n";
    let slow = Rc::new(Cell::new(false));
    let config = Config::parse(&text, "test", |_| None).unwrap();
    let http = HangingHttp(Rc::clone(&slow));
    let node = Node::new(TestPlatform::with_http(MemoryStore::default(), http), config);
    let ask = |model: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]}).to_string();
        let response = post(&node, body);
        assert_eq!(response.status(), 200);
        response.headers()["x-outlive-provider"].to_str().unwrap().to_owned()
    };
    assert_eq!(ask("b"), "b");
    for _ in 0..60 {
        assert_eq!(ask("default"), "a");
    }
    slow.set(true);
    assert_eq!(ask("default"), "b");
    assert_eq!(
        node.health().borrow().candidate(&node.config().models[0].candidates[0]).in_flight,
        0,
        "the slow call is cancelled"
    );
    let line: Value = serde_json::from_str(node.platform().lines().last().unwrap()).unwrap();
    let calls = line["attempts"].as_array().unwrap().iter();
    let calls: Vec<_> = calls.map(|call| [&call["candidate"], &call["outcome"]]).collect();
    assert_eq!(json!(calls), json!([["a/m", "cancelled"], ["b/m", "ok"]]));
}

#[test]
fn a_session_stays_where_its_prompt_is_cached() {
    let provider = |name| {
        format!(
            "[[provider]]\nname = \"{name}\"\nkind = \"compatible\"\nbase_url = \"https://{name}.test\"\n"
        )
    };
    let model = |prefer| {
        format!("[[model]]\nname = \"{prefer}\"\ncandidates = [\"a/m\", \"b/m\"]\nprefer = \"{prefer}\"\n")
    };
    let agent = "[agent]\nname = \"x\"\nmodel = \"order\"\n";
    let text = [agent, &provider("a"), &provider("b"), &model("order"), &model("weight")].concat();
    let config = Config::parse(&text, "test", |_| None).unwrap();
    let http = HangingHttp(Rc::new(Cell::new(false)));
    let node = Node::new(TestPlatform::with_http(MemoryStore::default(), http), config);
    let ask = |model: &str, session: &str, turns: usize| {
        let mut messages = vec![json!({"role": "user", "content": session})];
        for turn in 0..turns {
            messages.push(json!({"role": "assistant", "content": "yes"}));
            messages.push(json!({"role": "user", "content": format!("and {turn}?")}));
        }
        let response = post(&node, json!({"model": model, "messages": messages}).to_string());
        response.headers()["x-outlive-provider"].to_str().unwrap().to_owned()
    };
    let (first, now) = (&node.config().models[0].candidates[0], node.platform().now());
    let limited = ProviderError::new(ErrorClass::RateLimited, "");
    node.health().borrow_mut().record_failure(first, &limited, false, now, 0);
    assert_eq!([ask("order", "old", 0), ask("weight", "old", 0)], ["b", "b"]);
    block_on(node.platform().sleep(Duration::from_secs(10)));
    // The platform's random numbers are small, so that weights choose the first candidate.
    assert_eq!([ask("weight", "new", 0), ask("weight", "old", 1), ask("weight", "old", 2)], ["a", "b", "b"]);
    assert_eq!(ask("order", "old", 1), "a", "a fallback is never held");
}

#[test]
fn logs_content_only_if_configured() {
    let log = |telemetry: &str| {
        let text = "[[provider]]\nname = \"a\"\nkind = \"compatible\"\nbase_url = \"https://a.test\"\n\
                    [[model]]\nname = \"default\"\ncandidates = [\"a/m\"]\n";
        let config = Config::parse(&(telemetry.to_owned() + text), "test", |_| None).unwrap();
        let node =
            Node::new(TestPlatform::with_http(MemoryStore::default(), HangingHttp(Rc::default())), config);
        let long = "é".repeat(MAX_CONTENT_BYTES);
        let messages = json!([{"role": "user", "content": "Who am I?"}, {"role": "user", "content": long}]);
        let response = post(&node, json!({"model": "default", "messages": messages}).to_string());
        assert_eq!(response.status(), 200);
        let line: Value = serde_json::from_str(node.platform().lines().last().unwrap()).unwrap();
        line
    };
    assert_eq!(log("").get("content"), None);
    let content = log("[telemetry]\nlog_content = true\n")["content"].take();
    assert_eq!(content["answer"], "hi");
    let request = content["request"].as_str().unwrap();
    assert!(request.contains("Who am I?") && request.len() <= MAX_CONTENT_BYTES, "{}", request.len());
}

#[test]
fn probes_of_the_tick_close_a_breaker() {
    let text = "[[provider]]\nname = \"a\"\nkind = \"compatible\"\nbase_url = \"https://a.test\"\n\
                [[model]]\nname = \"default\"\ncandidates = [\"a/m\"]\n";
    let slow = Rc::new(Cell::new(true));
    let http = HangingHttp(Rc::clone(&slow));
    let config = Config::parse(text, "test", |_| None).unwrap();
    let node = Node::new(TestPlatform::with_http(MemoryStore::default(), http), config);
    let state = || {
        let (health, now) =
            (node.health().borrow().candidate(&node.config().models[0].candidates[0]), node.platform().now());
        health.breaker.state(now)
    };
    for _ in 0..3 {
        let body = json!({"model": "default", "messages": [{"role": "user", "content": "hi"}]}).to_string();
        let response = post(&node, body);
        assert_eq!(response.status(), 504);
    }
    assert_ne!(state(), BreakerState::Closed);
    slow.set(false);
    for _ in 0..3 {
        block_on(node.platform().sleep(Duration::from_secs(60)));
        block_on(node.tick()).unwrap();
    }
    assert_eq!(state(), BreakerState::Closed, "two probes succeeded");
    let spend =
        node.ledger().borrow().spend().keys().map(|spend_key| spend_key.key.clone()).collect::<Vec<_>>();
    assert!(spend.contains(&String::new()), "the cost of probes is counted: {spend:?}");
}

/// Providers that answer every request, and the hosts and bodies of these requests.
#[derive(Clone, Default)]
struct RecordingHttp(Rc<RefCell<Vec<(String, Value)>>>);

impl Http for RecordingHttp {
    type Body = ScriptedBody;

    async fn send(&self, request: Request<Body>, _: Duration) -> Result<Response<ScriptedBody>, HttpError> {
        let host = request.uri().host().unwrap().to_owned();
        let body = request.into_body().into_bytes().unwrap();
        self.0.borrow_mut().push((host, serde_json::from_slice(&body).unwrap()));
        HangingHttp::default().send(Request::new(Body::Empty), Duration::ZERO).await
    }
}

#[test]
fn a_request_goes_to_a_model_that_has_room_for_it() {
    let mut text = String::new();
    for (name, context, output) in [("small", 1_000, 50), ("large", 100_000, 500)] {
        text += &format!(
            "[[provider]]\nname = \"{name}\"\nkind = \"compatible\"\nbase_url = \"https://{name}.test\"\n\
             [[price]]\ncandidate = \"{name}/m\"\ninput = \"1\"\noutput = \"1\"\n\
             context_tokens = {context}\noutput_tokens = {output}\n"
        );
    }
    text += "[[model]]\nname = \"default\"\ncandidates = [\"small/m\", \"large/m\"]\n";
    let recorder = RecordingHttp::default();
    let http = TestPlatform::with_http(MemoryStore::default(), recorder.clone());
    let node = Node::new(http, Config::parse(&text, "test", |_| None).unwrap());
    let sent = |words: usize, limit: Option<u64>| {
        let mut body =
            json!({"model": "default", "messages": [{"role": "user", "content": "hi ".repeat(words)}]});
        if let Some(limit) = limit {
            body["max_completion_tokens"] = json!(limit);
        }
        let request = Request::post("/v1/chat/completions").header("host", "localhost");
        let request = request.body(Body::from(Bytes::from(body.to_string()))).unwrap();
        assert_eq!(block_on(node.handle(request, Arrival { loopback: true, log: None })).status(), 200);
        let (host, body) = recorder.0.borrow().last().unwrap().clone();
        (host, body["max_tokens"].clone())
    };
    assert_eq!(sent(1, None), ("small.test".into(), Value::Null));
    assert_eq!(sent(1, Some(20)), ("small.test".into(), json!(20)));
    assert_eq!(
        sent(1, Some(1_000_000)),
        ("small.test".into(), json!(50)),
        "lowered to the model's own limit"
    );
    assert_eq!(sent(10_000, Some(20)), ("large.test".into(), json!(20)), "only the larger context has room");
    // A request that fits no model is sent anyway, so that the vendor refuses it.
    assert_eq!(sent(1_000_000, Some(20)).0, "small.test");
}

#[test]
fn an_answer_that_broke_off_at_the_clients_limit_has_ended_there() {
    const HALF: &str = "data: {\"id\":\"1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\
                        \"content\":\"forty characters, which are ten tokens..\"}}]}\n\n";
    let run = |client: Format, limit: u64| {
        let config = config("compatible");
        let http = BreakingHttp {
            format: Format::Chat,
            stream: HALF.as_bytes(),
            cut: HALF.len(),
            end: End::Reset,
            calls: Cell::new(0),
            broken_calls: 1,
            whole: answer(Format::Chat, HALF),
        };
        ask_with_limit(config, Format::Chat, http, client, limit)
    };
    for client in [Format::Chat, Format::Messages] {
        let (view, lines) = run(client, 25);
        assert_eq!((view.done, view.errors), (1, 0), "{client:?}");
        assert_eq!(view.transcript.stop, Some(wire::Stop::Length), "{client:?}");
        let line: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
        // The provider broke it off, so it is billed and counted as a failure.
        assert_eq!(line["attempts"].as_array().map(Vec::len), Some(1), "{client:?}: {line}");
        assert_eq!(line["usage_source"], "estimated", "{line}");
    }
}

#[test]
fn a_request_that_cannot_be_translated_goes_to_a_provider_of_its_format() {
    let provider = |name: &str, kind: &str| {
        format!(
            "[[provider]]\nname = \"{name}\"\nkind = \"{kind}\"\nbase_url = \"https://{name}.test\"\n\
             api_key = {{ env = \"K\" }}\n"
        )
    };
    let ask = |candidates: &str| {
        let text = provider("claude", "anthropic")
            + &provider("native", "compatible")
            + &format!("[[model]]\nname = \"default\"\ncandidates = [{candidates}]\n");
        let recorder = RecordingHttp::default();
        let http = TestPlatform::with_http(MemoryStore::default(), recorder.clone());
        let node = Node::new(http, Config::parse(&text, "test", |_| Some("k".into())).unwrap());
        let message = json!({"role": "user", "content": [{"type": "image_url", "image_url": 7}]});
        let body = json!({"model": "default", "messages": [message]});
        let request = Request::post("/v1/chat/completions").header("host", "localhost");
        let request = request.body(Body::from(Bytes::from(body.to_string()))).unwrap();
        let response = block_on(node.handle(request, Arrival { loopback: true, log: None }));
        let (status, Body::Full(body)) = (response.status().as_u16(), response.into_body()) else { panic!() };
        let hosts: Vec<String> = recorder.0.borrow().iter().map(|(host, _)| host.clone()).collect();
        (status, serde_json::from_slice::<Value>(&body).unwrap(), hosts)
    };
    let (status, _, hosts) = ask(r#""claude/claude-haiku-4-5", "native/m""#);
    assert_eq!((status, hosts), (200, vec!["native.test".to_owned()]));
    let (status, body, hosts) = ask(r#""claude/claude-haiku-4-5""#);
    assert_eq!((status, hosts.len()), (400, 0));
    assert_eq!(body["error"]["param"], "messages[0].content[0].image_url", "{body}");
}
