//! Runs a client: chat requests, turns, and items of a shared conversation. Some requests disconnect early.

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
    invariants::{self, ChatOutcome},
    provider::{PRICED, THINKER},
    turns, work,
    world::World,
};

/// The part of a response that reached the client.
#[derive(Debug)]
pub(crate) struct PartialResponse {
    pub(crate) head: Option<Parts>,
    pub(crate) body: Vec<u8>,
    pub(crate) end: ResponseEnd,
}

/// How a response ended for its client. The names of the variants are part of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseEnd {
    /// At the end of its body.
    Clean,
    /// The connection broke: the node crashed.
    Cut,
    /// No connection: the node was down.
    Down,
    /// The client disconnected.
    Left,
}

/// Sends the requests of the client `number`, one after the other.
pub(crate) async fn run(world: Rc<World>, number: u64) {
    let conversation = SharedConversation::open(&world).await;
    let mut context = work::TurnContext::default();
    for request in 0..world.plan.requests {
        let (kind, pause) = {
            let mut choices = world.client_random.borrow_mut();
            (choices.range(0..100), choices.range(0..4_000))
        };
        world.executor.sleep(Duration::from_millis(pause)).await;
        let name = &format!("{number}-{request}");
        match (kind, &conversation) {
            (0..20, _) => turns::run(&world, name, &mut context.previous_response).await,
            (20..30, _) => work::run(&world, number, name, &mut context).await,
            (30..70, _) => chat_request(&world, name).await,
            (_, Some(id)) => {
                SharedConversation::add(&world, id, number, request).await;
                SharedConversation::check(&world, id).await;
            }
            (_, None) => {}
        }
    }
}

/// Sends and checks a chat request whose model, kind and disconnect are drawn.
async fn chat_request(world: &Rc<World>, content: &str) {
    let (stream, model, disconnect_after) = {
        let mut choices = world.client_random.borrow_mut();
        let disconnects = choices.chance(world.plan.disconnect_percent);
        let disconnect_after = disconnects.then(|| Duration::from_millis(choices.range(0..3_000)));
        (
            choices.chance(60),
            choices.pick(&["all", "all", "alone", "faulty", PRICED, THINKER], "all"),
            disconnect_after,
        )
    };
    checked_chat(world, model, content, stream, disconnect_after).await;
}

/// Sends many requests at once to one model, which may fail.
pub(crate) async fn burst(world: Rc<World>, at: u64, count: u64) {
    world.executor.sleep(Duration::from_millis(at)).await;
    let model = world.client_random.borrow_mut().pick(&["all", "alone", "faulty"], "all");
    let requests = (0..count).map(|number| {
        let (world, stream) = (&world, number % 2 == 0);
        async move { checked_chat(world, model, &format!("burst-{number}"), stream, None).await }
    });
    join_all(requests).await;
}

async fn checked_chat(
    world: &Rc<World>,
    model: &str,
    name: &str,
    stream: bool,
    disconnect_after: Option<Duration>,
) {
    let (sent_at, content) = (world.elapsed(), &format!("{model} {name}"));
    let outcome = chat(world, model, content, stream, disconnect_after).await;
    invariants::bounded::in_time(world, content, sent_at, &outcome);
    invariants::one_end(world, content, stream, &outcome);
    invariants::available(world, content, model, sent_at, &outcome);
}

/// Sends a chat request and returns its outcome.
pub(crate) async fn chat(
    world: &Rc<World>,
    model: &str,
    content: &str,
    stream: bool,
    disconnect_after: Option<Duration>,
) -> ChatOutcome {
    let most = (model == PRICED).then_some(20);
    world.calls.borrow_mut().request_sent();
    let messages = json!([{"role": "user", "content": content}]);
    let body = json!({"model": model, "stream": stream, "max_tokens": most, "messages": messages});
    let received =
        send(world, Method::POST, "/v1/chat/completions", None, body.to_string(), disconnect_after).await;
    let outcome = ChatOutcome::of(received, stream);
    world.trace(format_args!("client {content} {model} stream={stream}: {outcome}"));
    outcome
}

/// The conversation that all clients of a run share.
pub(crate) struct SharedConversation;

impl SharedConversation {
    /// Creates it with the same idempotency key in every client, so all must get the same one.
    async fn open(world: &Rc<World>) -> Option<String> {
        let body =
            post_until_acknowledged(world, "/v1/conversations", "shared", json!({"metadata": {"run": "1"}}))
                .await?;
        let id = body.get("id")?.as_str()?.to_owned();
        world.acknowledged.borrow_mut().conversation(&id).unwrap_or_else(|why| world.violation(why));
        Some(id)
    }

    /// Adds one to three items, with or without an idempotency key.
    async fn add(world: &Rc<World>, id: &str, client: u64, request: u64) {
        let name = &format!("{client}-{request}");
        let count = world.client_random.borrow_mut().range(1..4);
        let texts: Vec<String> = (0..count).map(|n| format!("item {name}.{n}")).collect();
        let items: Vec<Value> = texts.iter().map(|text| json!({"role": "user", "content": text})).collect();
        world.acknowledged.borrow_mut().sent(&texts);
        let path = format!("/v1/conversations/{id}/items");
        let body = json!({"items": items});
        let keyed = world.client_random.borrow_mut().chance(70);
        let body = if keyed {
            post_until_acknowledged(world, &path, name, body).await
        } else {
            post_once(world, &path, body).await
        };
        world.trace(format_args!("items {name}: {}", if body.is_some() { "added" } else { "unknown" }));
        if body.is_some() {
            world.acknowledged.borrow_mut().acknowledged(client, &texts);
        }
    }

    /// Reads all items and checks those that were acknowledged before.
    async fn check(world: &Rc<World>, id: &str) {
        let before = world.acknowledged.borrow().clone();
        if let Some(texts) = read_items(world, id).await {
            before.check(&texts).unwrap_or_else(|why| world.violation(why));
        }
    }
}

/// Posts once and without a key. Without an acknowledgement the write may have happened, but never twice.
async fn post_once(world: &Rc<World>, path: &str, body: Value) -> Option<Value> {
    let received = send(world, Method::POST, path, None, body.to_string(), None).await;
    let acknowledged =
        received.end == ResponseEnd::Clean && received.head.is_some_and(|head| head.status == 200);
    acknowledged.then(|| serde_json::from_slice(&received.body).ok()).flatten()
}

/// Posts until the write is acknowledged, which the idempotency key allows. `None` after 60 attempts.
pub(crate) async fn post_until_acknowledged(
    world: &Rc<World>,
    path: &str,
    key: &str,
    body: Value,
) -> Option<Value> {
    for attempt in 0..60 {
        let disconnect_after = (attempt < 3
            && world.client_random.borrow_mut().chance(world.plan.disconnect_percent))
        .then(|| Duration::from_millis(5));
        let received = send(world, Method::POST, path, Some(key), body.to_string(), disconnect_after).await;
        let status = received.head.as_ref().map(|head| head.status.as_u16());
        match (status, received.end) {
            (Some(200), ResponseEnd::Clean) => {
                if attempt > 0 {
                    world.count("writes acknowledged after a retry");
                }
                return serde_json::from_slice(&received.body).ok();
            }
            (Some(503), _) | (None, _) | (_, ResponseEnd::Cut | ResponseEnd::Left) => {}
            (Some(status), ResponseEnd::Clean | ResponseEnd::Down) => {
                world.violation(format_args!("{path}: {status} {}", String::from_utf8_lossy(&received.body)));
                return None;
            }
        }
        world.executor.sleep(Duration::from_millis(500)).await;
    }
    None
}

/// All items of a conversation, oldest first, read page by page; `None` if the store fails.
pub(crate) async fn read_items(world: &Rc<World>, id: &str) -> Option<Vec<String>> {
    let (mut texts, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/conversations/{id}/items?order=asc&limit=7{after}");
        let received = send(world, Method::GET, &path, None, String::new(), None).await;
        if received.head?.status != 200 || received.end != ResponseEnd::Clean {
            return None;
        }
        let page: Value = serde_json::from_slice(&received.body).ok()?;
        let items = page.get("data")?.as_array()?;
        let text = |item: &Value| item.pointer("/content/0/text").and_then(Value::as_str).map(str::to_owned);
        texts.extend(items.iter().filter_map(text));
        if page.get("has_more") != Some(&Value::Bool(true)) {
            return Some(texts);
        }
        after = format!("&after={}", page.get("last_id")?.as_str()?);
    }
}

/// Sends one request to the node and reads the response. The client disconnects after `disconnect_after`.
pub(crate) async fn send(
    world: &Rc<World>,
    method: Method,
    path: &str,
    key: Option<&str>,
    body: String,
    disconnect_after: Option<Duration>,
) -> PartialResponse {
    let mut received = PartialResponse { head: None, body: Vec::new(), end: ResponseEnd::Down };
    let Some((node, group)) = world.node() else { return received };
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let Ok(request) = request.body(Body::from(Bytes::from(body))) else { return received };
    let (mut head_sender, head) = oneshot::channel();
    let (mut piece_sender, mut pieces) = mpsc::channel::<Option<Bytes>>(1);
    // The node's side of the connection: a task of the node, so that a crash cuts it.
    world.executor.spawn(group, async move {
        let arrival = Arrival { loopback: true, log: None };
        node.platform().begin_event();
        let response = {
            let handled = std::pin::pin!(node.handle(request, arrival));
            match select(handled, head_sender.cancellation()).await {
                Either::Left((response, _)) => response,
                // The client has disconnected, so the host drops the request.
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
            if piece_sender.send(piece).await.is_err() || last {
                return;
            }
        }
    });
    // If the node's task is dropped, `receiving` sees closed channels and the response stays cut.
    received.end = ResponseEnd::Cut;
    let receiving = async {
        received.head = Some(head.await.ok()?);
        while let Some(piece) = pieces.next().await {
            match piece {
                Some(bytes) => received.body.extend_from_slice(&bytes),
                None => return Some(()),
            }
        }
        None
    };
    let disconnecting = async {
        match disconnect_after {
            Some(after) => world.executor.sleep(after).await,
            None => std::future::pending().await,
        }
    };
    let end = match select(std::pin::pin!(receiving), std::pin::pin!(disconnecting)).await {
        Either::Left((Some(()), _)) => ResponseEnd::Clean,
        Either::Left((None, _)) => ResponseEnd::Cut,
        Either::Right(_) => ResponseEnd::Left,
    };
    received.end = end;
    received
}
