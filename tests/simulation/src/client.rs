//! Clients: they ask, they keep conversations, and some leave early.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use futures_channel::{mpsc, oneshot};
use futures_util::{
    SinkExt, StreamExt,
    future::{Either, join_all, select},
};
use http::{Method, Request, response::Parts};
use http_body::Body as _;
use outlive::{Arrival, body::Body};
use serde_json::{Value, json};

use crate::{
    invariants::{self, Outcome},
    provider::PAID,
    turns, work,
    world::World,
};

/// What a client saw of an answer.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) head: Option<Parts>,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As HTTP says.
    Clean,
    /// The connection broke.
    Cut,
    /// There was no connection.
    Down,
    /// The client left.
    Left,
}

pub(crate) async fn run(world: Rc<World>, number: u64) {
    let conversation = Conversation::open(&world).await;
    let mut place = work::Place::default();
    for request in 0..world.schedule.requests {
        let (kind, pause) = {
            let mut choices = world.choices.borrow_mut();
            (choices.range(0..100), choices.range(0..4_000))
        };
        world.executor.sleep(Duration::from_millis(pause)).await;
        let name = &format!("{number}-{request}");
        match (kind, &conversation) {
            (0..20, _) => turns::run(&world, name, &mut place.previous).await,
            (20..30, _) => work::run(&world, number, name, &mut place).await,
            (30..70, _) => ask(&world, name).await,
            (_, Some(id)) => {
                Conversation::add(&world, id, number, request).await;
                Conversation::check(&world, id).await;
            }
            (_, None) => {}
        }
    }
}

/// One chat request, streamed or not.
async fn ask(world: &Rc<World>, content: &str) {
    let (stream, model, leave) = {
        let mut choices = world.choices.borrow_mut();
        let leaves = choices.chance(world.schedule.leavers);
        let leave = leaves.then(|| Duration::from_millis(choices.range(0..3_000)));
        (choices.chance(60), choices.pick(&["all", "all", "alone", "faulty", PAID], "all"), leave)
    };
    ask_model(world, model, content, stream, leave).await;
}

/// Many requests at once, of a model that may fail.
pub(crate) async fn burst(world: Rc<World>, at: u64, count: u64) {
    world.executor.sleep(Duration::from_millis(at)).await;
    let model = world.choices.borrow_mut().pick(&["all", "alone", "faulty"], "all");
    let requests = (0..count).map(|number| {
        let (world, stream) = (&world, number % 2 == 0);
        async move { ask_model(world, model, &format!("burst-{number}"), stream, None).await }
    });
    join_all(requests).await;
}

async fn ask_model(world: &Rc<World>, model: &str, name: &str, stream: bool, leave: Option<Duration>) {
    let (asked, content) = (world.elapsed(), &format!("{model} {name}"));
    let outcome = chat(world, model, content, stream, leave).await;
    invariants::bounded::in_time(world, content, asked, &outcome);
    invariants::one_end(world, content, stream, &outcome);
    invariants::available(world, content, model, asked, &outcome);
}

/// Sends a chat request and says what came of it.
pub(crate) async fn chat(
    world: &Rc<World>,
    model: &str,
    content: &str,
    stream: bool,
    leave: Option<Duration>,
) -> Outcome {
    let most = (model == PAID).then_some(20);
    world.calls.borrow_mut().asked();
    let messages = json!([{"role": "user", "content": content}]);
    let body = json!({"model": model, "stream": stream, "max_tokens": most, "messages": messages});
    let seen = send(world, Method::POST, "/v1/chat/completions", None, body.to_string(), leave).await;
    let outcome = Outcome::of(seen, stream);
    world.note(format_args!("client {content} {model} stream={stream}: {outcome}"));
    outcome
}

/// A conversation that all clients of a run share.
pub(crate) struct Conversation;

impl Conversation {
    /// Every client makes it under the same key, so all must get the same one.
    async fn open(world: &Rc<World>) -> Option<String> {
        let body =
            Self::retry(world, "/v1/conversations", "shared", json!({"metadata": {"run": "1"}})).await?;
        let id = body.get("id")?.as_str()?.to_owned();
        world.acknowledged.borrow_mut().conversation(&id).unwrap_or_else(|why| world.violation(why));
        Some(id)
    }

    async fn add(world: &Rc<World>, id: &str, client: u64, request: u64) {
        let name = &format!("{client}-{request}");
        let count = world.choices.borrow_mut().range(1..4);
        let texts: Vec<String> = (0..count).map(|n| format!("item {name}.{n}")).collect();
        let items: Vec<Value> = texts.iter().map(|text| json!({"role": "user", "content": text})).collect();
        world.acknowledged.borrow_mut().sent(&texts);
        let path = format!("/v1/conversations/{id}/items");
        let body = json!({"items": items});
        let keyed = world.choices.borrow_mut().chance(70);
        let body = if keyed {
            Self::retry(world, &path, name, body).await
        } else {
            Self::once(world, &path, body).await
        };
        world.note(format_args!("items {name}: {}", if body.is_some() { "added" } else { "unknown" }));
        if body.is_some() {
            world.acknowledged.borrow_mut().acknowledged(client, &texts);
        }
    }

    /// What was acknowledged is read back at once.
    async fn check(world: &Rc<World>, id: &str) {
        let before = world.acknowledged.borrow().clone();
        if let Some(texts) = read(world, id).await {
            before.check(&texts).unwrap_or_else(|why| world.violation(why));
        }
    }

    /// Sends once and without a key: without an acknowledgement it may be there or not, but never twice.
    async fn once(world: &Rc<World>, path: &str, body: Value) -> Option<Value> {
        let seen = send(world, Method::POST, path, None, body.to_string(), None).await;
        let acknowledged = seen.end == End::Clean && seen.head.is_some_and(|head| head.status == 200);
        acknowledged.then(|| serde_json::from_slice(&seen.body).ok()).flatten()
    }

    /// Sends until it is acknowledged, as clients with an idempotency key may.
    pub(crate) async fn retry(world: &Rc<World>, path: &str, key: &str, body: Value) -> Option<Value> {
        for attempt in 0..60 {
            let leave = (attempt < 3 && world.choices.borrow_mut().chance(world.schedule.leavers))
                .then(|| Duration::from_millis(5));
            let seen = send(world, Method::POST, path, Some(key), body.to_string(), leave).await;
            let status = seen.head.as_ref().map(|head| head.status.as_u16());
            match (status, seen.end) {
                (Some(200), End::Clean) => {
                    if attempt > 0 {
                        world.saw("acknowledged after a retry");
                    }
                    return serde_json::from_slice(&seen.body).ok();
                }
                (Some(503), _) | (None, _) | (_, End::Cut | End::Left) => {}
                (Some(status), End::Clean | End::Down) => {
                    world.violation(format_args!("{path}: {status} {}", String::from_utf8_lossy(&seen.body)));
                    return None;
                }
            }
            world.executor.sleep(Duration::from_millis(500)).await;
        }
        None
    }
}

/// All items of a conversation, oldest first, read page by page; `None` if the store fails.
pub(crate) async fn read(world: &Rc<World>, id: &str) -> Option<Vec<String>> {
    let (mut texts, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/conversations/{id}/items?order=asc&limit=7{after}");
        let seen = send(world, Method::GET, &path, None, String::new(), None).await;
        if seen.head?.status != 200 || seen.end != End::Clean {
            return None;
        }
        let page: Value = serde_json::from_slice(&seen.body).ok()?;
        let items = page.get("data")?.as_array()?;
        let text = |item: &Value| item.pointer("/content/0/text").and_then(Value::as_str).map(str::to_owned);
        texts.extend(items.iter().filter_map(text));
        if page.get("has_more") != Some(&Value::Bool(true)) {
            return Some(texts);
        }
        after = format!("&after={}", page.get("last_id")?.as_str()?);
    }
}

/// Sends one request to the node and takes its answer in. `leave` is when the client goes away.
pub(crate) async fn send(
    world: &Rc<World>,
    method: Method,
    path: &str,
    key: Option<&str>,
    body: String,
    leave: Option<Duration>,
) -> Seen {
    let mut seen = Seen { head: None, body: Vec::new(), end: End::Down };
    let Some((node, group)) = world.node() else { return seen };
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let Ok(request) = request.body(Body::from(Bytes::from(body))) else { return seen };
    let (mut head_sender, head) = oneshot::channel();
    let (mut body_sender, mut pieces) = mpsc::channel::<Option<Bytes>>(1);
    world.executor.spawn(group, async move {
        let arrival = Arrival { loopback: true, log: None };
        let response = {
            let handled = std::pin::pin!(node.handle(request, arrival));
            match select(handled, head_sender.cancellation()).await {
                Either::Left((response, _)) => response,
                // The connection is gone, so the work is dropped.
                Either::Right(_) => return,
            }
        };
        let (parts, mut body) = response.into_parts();
        if head_sender.send(parts).is_err() {
            return;
        }
        loop {
            let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await;
            let piece = match frame {
                Some(Ok(frame)) => frame.into_data().ok(),
                Some(Err(_)) => return,
                None => None,
            };
            let last = piece.is_none();
            if body_sender.send(piece).await.is_err() || last {
                return;
            }
        }
    });
    seen.end = End::Cut;
    let listening = async {
        seen.head = Some(head.await.ok()?);
        while let Some(piece) = pieces.next().await {
            match piece {
                Some(bytes) => seen.body.extend_from_slice(&bytes),
                None => return Some(()),
            }
        }
        None
    };
    let leaving = async {
        match leave {
            Some(after) => world.executor.sleep(after).await,
            None => std::future::pending().await,
        }
    };
    let end = match select(std::pin::pin!(listening), std::pin::pin!(leaving)).await {
        Either::Left((Some(()), _)) => End::Clean,
        Either::Left((None, _)) => End::Cut,
        Either::Right(_) => End::Left,
    };
    seen.end = end;
    seen
}
