//! A process may die between a deletion and what it deletes, before or after any call of the store.

use std::{
    cell::Cell,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_executor::block_on;
use http::{Method, Request};
use http_body::Body as _;
use serde_json::{Value, json};

use super::*;
use crate::{
    Arrival,
    body::Body,
    testing::{Call, Fault, Faulty, MemoryStore, TestPlatform},
};

/// Which call of the store the process dies at, of those that change something, and whether before it took effect.
type Death = Option<(u32, bool)>;

/// What may be in no body once it is deleted.
const WORDS: &str = "nobody may read this again";

/// A node over `store`, whose calls stand still for ever from `death` on. Gives how many calls there were, too.
fn node(store: &MemoryStore, agent: &str, death: Death) -> (Node<impl Platform>, Rc<Cell<u32>>) {
    let config = format!(
        "[agent]\nname = \"test\"\n{agent}\n[[provider]]\nname = \"p\"\nkind = \"compatible\"\n\
         base_url = \"https://p.test\"\n[[model]]\nname = \"default\"\ncandidates = [\"p/m\"]\n"
    );
    let calls = Rc::new(Cell::new(0));
    let (count, over) = (Rc::clone(&calls), Cell::new(false));
    let plan = async move |call: Call| {
        if over.get() {
            std::future::pending::<()>().await;
        }
        if call == Call::Read {
            return Fault::None;
        }
        count.set(count.get() + 1);
        match death {
            Some((at, before)) if at == count.get() => {
                over.set(true);
                if before {
                    std::future::pending::<()>().await;
                }
                Fault::None
            }
            _ => Fault::None,
        }
    };
    let platform = TestPlatform::new(Faulty::new(store.clone(), plan));
    (Node::new(platform, Config::parse(&config, "test", |_| None).unwrap()), calls)
}

async fn ask<P: Platform>(node: &Node<P>, method: Method, path: &str, body: Value) -> (u16, Value) {
    let key = format!("{method} {path} {body}").chars().take(100).collect::<String>();
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let request = request.header("idempotency-key", key).body(Body::from(Bytes::from(body.to_string())));
    let response = node.handle(request.unwrap(), Arrival { loopback: true, log: None }).await;
    let (status, mut body) = (response.status().as_u16(), response.into_body());
    let mut all = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        all.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    (status, serde_json::from_slice(&all).unwrap_or_default())
}

fn said(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

/// A conversation with items and a response, and a line of two responses. Nobody can be reached, so the responses fail;
/// what was asked is kept all the same. Gives their paths.
async fn fill<P: Platform>(node: &Node<P>) -> [String; 4] {
    let items = json!({"items": [said(WORDS), said(&WORDS.repeat(30_000)), said("this stays")]});
    let (_, made) = ask(node, Method::POST, "/v1/conversations", items).await;
    let id = made["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/conversations/{id}");
    let (_, items) = ask(node, Method::GET, &format!("{path}/items?order=asc"), Value::Null).await;
    let item = items["data"][1]["id"].as_str().unwrap();
    ask(node, Method::POST, "/v1/responses", json!({"conversation": id, "input": WORDS})).await;
    ask(node, Method::POST, "/v1/responses", json!({"input": WORDS, "background": true})).await;
    let line = node.platform().store().due(Timestamp(u64::MAX), 10).await.unwrap();
    let line = line.into_iter().find(|log| !id.ends_with(&log.to_string())).unwrap();
    let turns =
        node.read_session(line, |fold| fold.turns().open().map(|(turn, _)| *turn).collect::<Vec<_>>()).await;
    let turn = crate::session::turn::ResponseId { log: line, turn: *turns.unwrap().first().unwrap() };
    node.platform().sleep(Duration::from_secs(60)).await;
    let next =
        json!({"input": format!("{WORDS}!"), "background": true, "previous_response_id": turn.to_string()});
    let (_, next) = ask(node, Method::POST, "/v1/responses", next).await;
    node.platform().sleep(Duration::from_secs(60)).await;
    let response = |id: &str| format!("/v1/responses/{id}");
    [
        format!("{path}/items/{item}"),
        path,
        response(&turn.to_string()),
        response(next["id"].as_str().unwrap_or_default()),
    ]
}

/// Bodies in which the words are.
fn left(store: &MemoryStore) -> usize {
    let holds = |body: &[u8]| body.windows(WORDS.len()).any(|window| window == WORDS.as_bytes());
    store.entries().iter().filter(|entry| holds(entry.body())).count()
}

/// Deletes one after the other; the process dies while it is at it, and another one begins.
fn survive(death: Death) -> u32 {
    let store = MemoryStore::default();
    let paths = block_on(async { fill(&node(&store, "", None).0).await });
    let all = left(&store);
    assert!(all >= 5, "{all} bodies hold the words");
    let (first, calls) = node(&store, "", death);
    {
        let work = async {
            for path in &paths {
                ask(&first, Method::DELETE, path, Value::Null).await;
            }
        };
        let (mut work, mut cx) = (pin!(work), Context::from_waker(Waker::noop()));
        let mut polls = 1_000;
        while let Poll::Pending = work.as_mut().poll(&mut cx)
            && polls > 0
        {
            polls -= 1;
        }
    }
    drop(first);
    let (second, _) = node(&store, "", None);
    block_on(async {
        second.tick().await.unwrap();
        second.platform().sleep(Duration::from_secs(60)).await;
        // What was written down is done, though nobody asks again.
        for entry in store.entries().iter().filter(|entry| entry.header().kind == Kind::SESSION_DELETED) {
            let of_it = store.entries().into_iter().filter(|other| other.header().log == entry.header().log);
            let whole = of_it.filter(|other| other.header().body_len > 0 && !other.is_erased());
            let kinds: Vec<Kind> = whole.map(|entry| entry.header().kind).collect();
            assert_eq!(kinds, [Kind::SESSION_DELETED; 2], "{death:?}");
        }
        for path in &paths {
            let (status, body) = ask(&second, Method::DELETE, path, Value::Null).await;
            assert!([200, 404].contains(&status), "{death:?}: {path}: {body}");
            assert_eq!(ask(&second, Method::GET, path, Value::Null).await.0, 404, "{death:?}: {path}");
        }
        assert_eq!(left(&store), 0, "{death:?}");
        second.platform().sleep(Duration::from_secs(60)).await;
        second.tick().await.unwrap();
        second.platform().sleep(Duration::from_secs(60)).await;
        assert_eq!(store.due(Timestamp(u64::MAX), 10).await, Ok(vec![]), "{death:?}: nothing is left to do");
    });
    calls.get()
}

#[test]
fn whenever_the_process_dies_what_was_deleted_is_erased() {
    let calls = survive(None);
    assert!(calls >= 9, "{calls} calls are too few to mean anything");
    for at in 1..=calls {
        survive(Some((at, true)));
        survive(Some((at, false)));
    }
}

#[test]
fn a_response_that_others_continue_is_erased_with_the_last_of_them() {
    let store = MemoryStore::default();
    block_on(async {
        let (node, _) = node(&store, "", None);
        let [_, conversation, first, second] = fill(&node).await;
        ask(&node, Method::DELETE, &conversation, Value::Null).await;
        let all = left(&store);
        ask(&node, Method::DELETE, &first, Value::Null).await;
        assert_eq!(ask(&node, Method::GET, &first, Value::Null).await.0, 404);
        assert_eq!(ask(&node, Method::GET, &second, Value::Null).await.0, 200);
        assert_eq!(left(&store), all, "what it was asked after is needed");
        ask(&node, Method::DELETE, &second, Value::Null).await;
        assert_eq!(left(&store), 0);
        let (status, body) =
            ask(&node, Method::POST, "/v1/responses", json!({"input": WORDS, "background": true})).await;
        assert_eq!((status, body["error"]["code"].as_str()), (409, Some("already_deleted")));
        assert_eq!(left(&store), 0);
    });
}

/// Lets a minute pass, and ticks.
async fn tick<P: Platform>(node: &Node<P>, minutes: u64) {
    node.platform().sleep(Duration::from_secs(60 * minutes)).await;
    node.tick().await.unwrap();
    node.platform().sleep(Duration::from_secs(1)).await;
}

#[test]
fn a_session_that_nobody_uses_expires() {
    let store = MemoryStore::default();
    block_on(async {
        let (node, _) = node(&store, "retention = \"2h\"", None);
        tick(&node, 1).await;
        let [_, path, response, _] = fill(&node).await;
        tick(&node, 100).await;
        ask(&node, Method::POST, &format!("{path}/items"), json!({"items": [said("still here")]})).await;
        tick(&node, 30).await;
        assert_eq!(ask(&node, Method::GET, &path, Value::Null).await.0, 200, "it was used since");
        assert_eq!(ask(&node, Method::GET, &response, Value::Null).await.0, 404);
        tick(&node, 91).await;
        assert_eq!(ask(&node, Method::GET, &path, Value::Null).await.0, 404);
        assert_eq!(left(&store), 0);
        let whys = store.entries().into_iter().filter(|entry| entry.header().kind == Kind::SESSION_DELETED);
        let expired = whys.filter(|entry| entry.body().starts_with(br#"{"why":"expired""#)).count();
        assert_eq!(expired, 2, "both logs say why");
        assert_eq!(store.due(Timestamp(u64::MAX), 10).await, Ok(vec![]));
    });
}

#[test]
fn who_is_kept_for_longer_now_is_woken_once() {
    let store = MemoryStore::default();
    let path = block_on(async {
        let (node, _) = node(&store, "retention = \"1h\"", None);
        let (_, made) = ask(&node, Method::POST, "/v1/conversations", json!({"items": [said(WORDS)]})).await;
        format!("/v1/conversations/{}", made["id"].as_str().unwrap())
    });
    block_on(async {
        let (node, _) = node(&store, "retention = \"3h\"", None);
        tick(&node, 90).await;
        tick(&node, 1).await;
        let ticked = |entry: &&crate::entry::Entry| {
            entry.header().kind == Kind::TICKED && entry.header().log != node.log()
        };
        assert_eq!(store.entries().iter().filter(ticked).count(), 1);
        assert_eq!(ask(&node, Method::GET, &path, Value::Null).await.0, 200);
        tick(&node, 90).await;
        assert_eq!(ask(&node, Method::GET, &path, Value::Null).await.0, 404);
        assert_eq!(left(&store), 0);
    });
}
