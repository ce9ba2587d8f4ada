//! A process may die at any append, before or after it is durable.

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
    testing::{Call, Fault, Faulty, MemoryStore, TestPlatform},
};

/// Where the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Never,
    Before(u32),
    After(u32),
}

/// How the process is.
#[derive(Debug, Default)]
struct Life {
    appends: Cell<u32>,
    over: Cell<bool>,
}

/// A provider that answers otherwise each time, unless it is told to go on; and takes its time.
#[derive(Default)]
struct Teller(Cell<u32>);

/// How often a body has nothing yet between two words, so that whoever sleeps meanwhile wakes up.
const HESITATION: u32 = 7;

impl Http for Teller {
    type Body = Words;

    async fn send(&self, mut request: Request<Body>, _: Duration) -> Result<Response<Words>, HttpError> {
        let body = std::future::poll_fn(|cx| Pin::new(request.body_mut()).poll_frame(cx)).await;
        let asked = String::from_utf8(body.unwrap().unwrap().into_data().unwrap().to_vec()).unwrap();
        self.0.set(self.0.get() + 1);
        let whole = format!("[{}] one two three four five", self.0.get());
        let told = asked.split_once("was interrupted and ended with [");
        let said = told.and_then(|(_, said)| said.split_once("]. Continue")).map(|(said, _)| said);
        let rest = said.map_or(whole.as_str(), |said| {
            TAIL.split_once(said.split_once("] ").map_or(said, |(_, said)| said)).unwrap().1
        });
        Ok(streamed(rest.split_inclusive(' ').map(|word| json!({"content": word})), "stop"))
    }
}

/// A streamed chat completion.
fn streamed(deltas: impl Iterator<Item = Value>, reason: &str) -> Response<Words> {
    streamed_with(deltas, reason, None)
}

/// The same, with what it took.
pub(super) fn streamed_with(
    deltas: impl Iterator<Item = Value>,
    reason: &str,
    usage: Option<Value>,
) -> Response<Words> {
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
    response.body(Words { chunks, waits: HESITATION }).unwrap()
}

const TAIL: &str = "one two three four five";

pub(super) struct Words {
    chunks: VecDeque<Bytes>,
    waits: u32,
}

impl http_body::Body for Words {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.waits += 1;
        if self.waits < HESITATION && !self.chunks.is_empty() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.waits = 0;
        Poll::Ready(self.chunks.pop_front().map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// A node over `store`, whose calls of the store stand still for ever from `death` on.
fn node<H: Http + 'static>(
    store: &MemoryStore,
    death: Death,
    life: &Rc<Life>,
    config: &str,
    http: H,
) -> Node<impl Platform> {
    let life = Rc::clone(life);
    let plan = async move |call: Call| {
        if life.over.get() {
            std::future::pending::<()>().await;
        }
        if call == Call::Append {
            life.appends.set(life.appends.get() + 1);
            life.over
                .set([Death::Before(life.appends.get()), Death::After(life.appends.get())].contains(&death));
            if death == Death::Before(life.appends.get()) {
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

/// Asks for a turn under the same key each time. What comes of it is in `seen` as soon as it is there.
async fn ask<P: Platform>(node: &Node<P>, asked: &Value, seen: &RefCell<Vec<u8>>) -> u16 {
    let key = crate::entry::Hash::of(asked.to_string().as_bytes()).to_string();
    let asked = asked.to_string();
    let request = Request::post("/v1/responses").header("host", "localhost").header("idempotency-key", key);
    let request = request.body(Body::from(Bytes::from(asked))).unwrap();
    let response = node.handle(request, Arrival { loopback: true, log: None }).await;
    let (status, mut body) = (response.status(), response.into_body());
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        seen.borrow_mut().extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    status.as_u16()
}

/// The whole events in `stream`.
fn events(stream: &RefCell<Vec<u8>>) -> Vec<Value> {
    let text = String::from_utf8(stream.borrow().clone()).unwrap();
    let whole = text.split_inclusive("\n\n").filter(|event| event.ends_with("\n\n"));
    let data = whole.filter_map(|event| event.lines().find_map(|line| line.strip_prefix("data: ")));
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// Opens a turn, lets the process die, starts another one on the same store, and asks again. Gives what the client saw
/// before and after, and how many appends there had been.
fn survive<H: Http + 'static>(
    store: &MemoryStore,
    death: Death,
    config: &str,
    asked: &Value,
    http: [H; 2],
) -> (Vec<Value>, Vec<Value>, u32) {
    let life = Rc::new(Life::default());
    let (before, after) = (RefCell::default(), RefCell::default());
    let [http, other] = http;
    let first = node(store, death, &life, config, http);
    {
        let mut asking = std::pin::pin!(ask(&first, asked, &before));
        let mut cx = Context::from_waker(Waker::noop());
        // Once it stands still it is left alone for as long as everything else needs to stand still, too.
        let mut left = 100;
        while let Poll::Pending = asking.as_mut().poll(&mut cx)
            && left > 0
        {
            left -= u32::from(life.over.get());
        }
    }
    drop(first);
    let appends = life.appends.get();
    let second = node(store, Death::Never, &Rc::default(), config, other);
    let status = block_on(async {
        second.tick().await.unwrap();
        ask(&second, asked, &after).await
    });
    assert_eq!(status, 200, "{death:?}: {:?}", String::from_utf8(after.borrow().clone()));
    let of_kind = |kind| store.entries().iter().filter(|entry| entry.header().kind == kind).count();
    assert_eq!(of_kind(Kind::TURN_CLOSED), of_kind(Kind::TURN_OPENED), "{death:?}");
    let (before, after) = (events(&before), events(&after));
    assert_eq!(before, after[..before.len().min(after.len())], "{death:?}: what was seen stays");
    let numbers: Vec<u64> = after.iter().map(|e| e["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..after.len() as u64).collect::<Vec<_>>(), "{death:?}");
    (before, after, appends)
}

fn text(events: &[Value]) -> String {
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.completed", "{last}");
    last["response"]["output"][0]["content"][0]["text"].as_str().unwrap().to_owned()
}

/// What follows the number of the answer, if it is one answer from its first word to its last.
fn checked(text: &str) -> Option<&str> {
    text.split_once("] ").map(|(_, rest)| rest).filter(|rest| *rest == TAIL)
}

#[test]
fn whenever_the_process_dies_the_turn_goes_on() {
    let mut deaths = 0;
    for background in [false, true] {
        let asked = json!({"input": "Well?", "stream": true, "background": background});
        let survive = |death| {
            // Another process is told otherwise.
            let tellers = [0, 100].map(|n| Teller(Cell::new(n)));
            survive(&MemoryStore::default(), death, CONFIG, &asked, tellers)
        };
        let (whole, again, appends) = survive(Death::Never);
        assert_eq!(whole, again);
        assert!(appends >= 3, "{appends} appends are too few to mean anything");
        for at in 1..=appends {
            for death in [Death::Before(at), Death::After(at)] {
                let (_, after, _) = survive(death);
                let text = text(&after);
                assert!(checked(&text).is_some(), "{death:?}: {text}");
                let deltas = after.iter().filter(|event| event["type"] == "response.output_text.delta");
                let said: String = deltas.map(|event| event["delta"].as_str().unwrap()).collect();
                assert_eq!(said, text, "{death:?}");
                deaths += 1;
            }
        }
    }
    assert!(deaths >= 20, "{deaths} deaths are too few to mean anything");
}

#[test]
fn appends_are_counted() {
    let (store, life) = (MemoryStore::default(), Rc::<Life>::default());
    let node = node(&store, Death::Never, &life, CONFIG, Teller::default());
    assert_eq!(block_on(ask(&node, &json!({"input": "Well?", "stream": true}), &RefCell::default())), 200);
    let mut page = MetricsPage::default();
    node.metrics().borrow().write(&mut page);
    let (page, entries) = (page.into_text(), store.entries().len());
    for line in [
        format!("outlive_appends_total {}", life.appends.get()),
        format!("outlive_append_entries_total {entries}"),
    ] {
        assert!(page.lines().any(|seen| seen == line), "{line} is not in\n{page}");
    }
}
