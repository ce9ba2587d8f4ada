//! Checks that a turn survives a crash of its process at any append, before or after the append is durable.

mod hostile;
mod tools;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_executor::block_on;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use serde_json::{Value, json};

use crate::{
    Arrival, Config, Node,
    body::Body,
    entry::Kind,
    metrics::MetricsPage,
    platform::{Http, HttpError, Platform},
    testing::{CallKind, Fault, Faulty, MemoryStore, TestPlatform},
};

/// At which append the process crashes, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    Never,
    /// The append does not reach the store.
    Before(u32),
    /// The append is durable.
    After(u32),
}

/// What a process has done.
#[derive(Debug, Default)]
struct ProcessState {
    appends: Cell<u32>,
    crashed: Cell<bool>,
}

/// A slow provider that numbers its answers. Asked to continue an answer, it sends the rest of that one.
#[derive(Default)]
struct NumberingProvider(Cell<u32>);

/// Polls between two chunks at which a body is pending, so that tasks that sleep meanwhile wake up.
const PENDING_POLLS: u32 = 7;

impl Http for NumberingProvider {
    type Body = SlowBody;

    async fn send(&self, mut request: Request<Body>, _: Duration) -> Result<Response<SlowBody>, HttpError> {
        let body = std::future::poll_fn(|cx| Pin::new(request.body_mut()).poll_frame(cx)).await;
        let prompt = String::from_utf8(body.unwrap().unwrap().into_data().unwrap().to_vec()).unwrap();
        self.0.set(self.0.get() + 1);
        let whole = format!("[{}] one two three four five", self.0.get());
        let partial = prompt.split_once("was interrupted and ended with [");
        let partial = partial.and_then(|(_, text)| text.split_once("]. Continue")).map(|(text, _)| text);
        let rest = partial.map_or(whole.as_str(), |partial| {
            TAIL.split_once(partial.split_once("] ").map_or(partial, |(_, text)| text)).unwrap().1
        });
        Ok(streamed(rest.split_inclusive(' ').map(|word| json!({"content": word})), "stop"))
    }
}

/// A streamed chat completion.
fn streamed(deltas: impl Iterator<Item = Value>, reason: &str) -> Response<SlowBody> {
    streamed_with(deltas, reason, None)
}

/// A streamed chat completion that ends with its usage, if one is given.
pub(super) fn streamed_with(
    deltas: impl Iterator<Item = Value>,
    reason: &str,
    usage: Option<Value>,
) -> Response<SlowBody> {
    let chunk = |delta: Value, reason: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
        format!("data: {}\n\n", json!({"id": "x", "model": "m", "choices": [choice]}))
    };
    let usage = usage.map(|usage| {
        format!("data: {}\n\n", json!({"id": "x", "model": "m", "choices": [], "usage": usage}))
    });
    let chunks = deltas.map(|delta| chunk(delta, Value::Null)).chain([chunk(json!({}), reason.into())]);
    let chunks = chunks.chain(usage);
    let chunks = chunks.chain(["data: [DONE]\n\n".to_owned()]).map(Bytes::from).collect();
    let response = Response::builder().header("content-type", "text/event-stream");
    response.body(SlowBody { chunks, polls: PENDING_POLLS }).unwrap()
}

/// Every answer after its number.
const TAIL: &str = "one two three four five";

/// A body that is pending between its chunks.
pub(super) struct SlowBody {
    chunks: VecDeque<Bytes>,
    polls: u32,
}

impl http_body::Body for SlowBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.polls += 1;
        if self.polls < PENDING_POLLS && !self.chunks.is_empty() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.polls = 0;
        Poll::Ready(self.chunks.pop_front().map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// A node over `store` whose calls of the store never return from `crash` on.
fn node<H: Http + 'static>(
    store: &MemoryStore,
    crash: Crash,
    state: &Rc<ProcessState>,
    config: &str,
    http: H,
) -> Node<impl Platform> {
    let state = Rc::clone(state);
    let plan = async move |call: CallKind| {
        if state.crashed.get() {
            std::future::pending::<()>().await;
        }
        if call == CallKind::Append {
            state.appends.set(state.appends.get() + 1);
            state.crashed.set(
                [Crash::Before(state.appends.get()), Crash::After(state.appends.get())].contains(&crash),
            );
            if crash == Crash::Before(state.appends.get()) {
                std::future::pending::<()>().await;
            }
        }
        Fault::None
    };
    let platform = TestPlatform::with_http(Faulty::new(store.clone(), plan), http);
    Node::new(platform, Config::parse(config, "test", |_| None).unwrap())
}

const CONFIG: &str = "[[provider]]\nname = \"p\"\nkind = \"compatible\"\nbase_url = \"https://p.test\"\n\
                      [[model]]\nname = \"default\"\ncandidates = [\"p/m\"]\n";

/// Sends a request with an idempotency key made from its body, and writes the answer to `received` while it arrives.
/// Returns the status.
async fn ask<P: Platform>(node: &Node<P>, request: &Value, received: &RefCell<Vec<u8>>) -> u16 {
    let key = crate::entry::Hash::of(request.to_string().as_bytes()).to_string();
    let body = request.to_string();
    let request = Request::post("/v1/responses").header("host", "localhost").header("idempotency-key", key);
    let request = request.body(Body::from(Bytes::from(body))).unwrap();
    let response = node.handle(request, Arrival { loopback: true, log: None }).await;
    let (status, mut body) = (response.status(), response.into_body());
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        received.borrow_mut().extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    status.as_u16()
}

/// The complete events in `stream`.
fn events(stream: &RefCell<Vec<u8>>) -> Vec<Value> {
    let text = String::from_utf8(stream.borrow().clone()).unwrap();
    let whole = text.split_inclusive("\n\n").filter(|event| event.ends_with("\n\n"));
    let data = whole.filter_map(|event| event.lines().find_map(|line| line.strip_prefix("data: ")));
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// Opens a turn, lets the process crash, starts another one on the same store, and repeats the request. Returns the
/// events that the client received from either process, and the appends of the first one.
fn survive<H: Http + 'static>(
    store: &MemoryStore,
    crash: Crash,
    config: &str,
    request: &Value,
    http: [H; 2],
) -> (Vec<Value>, Vec<Value>, u32) {
    let state = Rc::new(ProcessState::default());
    let (before, after) = (RefCell::default(), RefCell::default());
    let [http, other] = http;
    let first = node(store, crash, &state, config, http);
    {
        let mut pending = std::pin::pin!(ask(&first, request, &before));
        let mut cx = Context::from_waker(Waker::noop());
        // After the crash it is polled a hundred times more, until all other tasks have stopped as well.
        let mut left = 100;
        while let Poll::Pending = pending.as_mut().poll(&mut cx)
            && left > 0
        {
            left -= u32::from(state.crashed.get());
        }
    }
    drop(first);
    let appends = state.appends.get();
    let second = node(store, Crash::Never, &Rc::default(), config, other);
    let status = block_on(async {
        second.tick().await.unwrap();
        ask(&second, request, &after).await
    });
    assert_eq!(status, 200, "{crash:?}: {:?}", String::from_utf8(after.borrow().clone()));
    let of_kind = |kind| store.entries().iter().filter(|entry| entry.header().kind == kind).count();
    assert_eq!(of_kind(Kind::TURN_CLOSED), of_kind(Kind::TURN_OPENED), "{crash:?}");
    let (before, after) = (events(&before), events(&after));
    assert_eq!(
        before,
        after[..before.len().min(after.len())],
        "{crash:?}: events that a client has received do not change"
    );
    let numbers: Vec<u64> = after.iter().map(|e| e["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..after.len() as u64).collect::<Vec<_>>(), "{crash:?}");
    (before, after, appends)
}

/// The text of the completed response.
fn text(events: &[Value]) -> String {
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.completed", "{last}");
    last["response"]["output"][0]["content"][0]["text"].as_str().unwrap().to_owned()
}

/// Whether `text` is one answer from its first word to its last.
fn is_one_answer(text: &str) -> bool {
    text.split_once("] ").is_some_and(|(_, rest)| rest == TAIL)
}

#[test]
fn a_turn_survives_a_crash_at_any_append() {
    let mut crashes = 0;
    for background in [false, true] {
        let request = json!({"input": "Well?", "stream": true, "background": background});
        let survive = |crash| {
            // The second process gets answers with other numbers.
            let providers = [0, 100].map(|n| NumberingProvider(Cell::new(n)));
            survive(&MemoryStore::default(), crash, CONFIG, &request, providers)
        };
        let (before, after, appends) = survive(Crash::Never);
        assert_eq!(before, after);
        assert!(appends >= 3, "{appends} appends are too few to mean anything");
        for at in 1..=appends {
            for crash in [Crash::Before(at), Crash::After(at)] {
                let (_, after, _) = survive(crash);
                let text = text(&after);
                assert!(is_one_answer(&text), "{crash:?}: {text}");
                let deltas = after.iter().filter(|event| event["type"] == "response.output_text.delta");
                let streamed: String = deltas.map(|event| event["delta"].as_str().unwrap()).collect();
                assert_eq!(streamed, text, "{crash:?}");
                crashes += 1;
            }
        }
    }
    assert!(crashes >= 20, "{crashes} crashes are too few to mean anything");
}

#[test]
fn appends_are_counted_in_the_metrics() {
    let (store, state) = (MemoryStore::default(), Rc::<ProcessState>::default());
    let node = node(&store, Crash::Never, &state, CONFIG, NumberingProvider::default());
    assert_eq!(block_on(ask(&node, &json!({"input": "Well?", "stream": true}), &RefCell::default())), 200);
    let mut page = MetricsPage::default();
    node.metrics().borrow().write(&mut page);
    let (page, entries) = (page.into_text(), store.entries().len());
    for line in [
        format!("outlive_appends_total {}", state.appends.get()),
        format!("outlive_append_entries_total {entries}"),
    ] {
        assert!(page.lines().any(|other| other == line), "{line} is not in\n{page}");
    }
}
