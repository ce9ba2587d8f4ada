//! Checks that deleted content is erased although the process crashes between a deletion and its erasures, before or
//! after any call of the store.

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
    testing::{CallKind, Fault, Faulty, MemoryStore, TestPlatform},
};

/// The writing call of the store at which the process crashes, counted from 1, and whether before the call takes
/// effect.
type CrashPoint = Option<(u32, bool)>;

/// A text that may be in no body once it is deleted.
const DELETED_TEXT: &str = "nobody may read this again";

/// A node over `store` whose calls of the store never return from `crash` on, and the count of its writing calls.
fn node(store: &MemoryStore, agent: &str, crash: CrashPoint) -> (Node<impl Platform>, Rc<Cell<u32>>) {
    let config = format!(
        "[agent]\nname = \"test\"\n{agent}\n[[provider]]\nname = \"p\"\nkind = \"compatible\"\n\
         base_url = \"https://p.test\"\n[[model]]\nname = \"default\"\ncandidates = [\"p/m\"]\n"
    );
    let calls = Rc::new(Cell::new(0));
    let (count, crashed) = (Rc::clone(&calls), Cell::new(false));
    let plan = async move |call: CallKind| {
        if crashed.get() {
            std::future::pending::<()>().await;
        }
        if call == CallKind::Read {
            return Fault::None;
        }
        count.set(count.get() + 1);
        match crash {
            Some((at, before)) if at == count.get() => {
                crashed.set(true);
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

fn user_item(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

/// Creates a conversation with items and a response, and a chain of two responses. No provider can be reached, so the
/// responses fail; their input is stored all the same. Returns the paths of an item, the conversation and the two
/// responses.
async fn fill<P: Platform>(node: &Node<P>) -> [String; 4] {
    let long = DELETED_TEXT.repeat(30_000);
    let items = json!({"items": [user_item(DELETED_TEXT), user_item(&long), user_item("this stays")]});
    let (_, made) = ask(node, Method::POST, "/v1/conversations", items).await;
    let id = made["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/conversations/{id}");
    let (_, items) = ask(node, Method::GET, &format!("{path}/items?order=asc"), Value::Null).await;
    let item = items["data"][1]["id"].as_str().unwrap();
    ask(node, Method::POST, "/v1/responses", json!({"conversation": id, "input": DELETED_TEXT})).await;
    ask(node, Method::POST, "/v1/responses", json!({"input": DELETED_TEXT, "background": true})).await;
    let chain_log = node.platform().store().due(Timestamp(u64::MAX), 10).await.unwrap();
    let chain_log = chain_log.into_iter().find(|log| !id.ends_with(&log.to_string())).unwrap();
    let turns = node
        .read_session(chain_log, |session| session.turns().open().map(|(turn, _)| *turn).collect::<Vec<_>>())
        .await;
    let turn = crate::session::turn::ResponseId { log: chain_log, turn: *turns.unwrap().first().unwrap() };
    node.platform().sleep(Duration::from_secs(60)).await;
    let input = format!("{DELETED_TEXT}!");
    let next = json!({"input": input, "background": true, "previous_response_id": turn.to_string()});
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

/// How many bodies hold the deleted text.
fn bodies_left(store: &MemoryStore) -> usize {
    let holds =
        |body: &[u8]| body.windows(DELETED_TEXT.len()).any(|window| window == DELETED_TEXT.as_bytes());
    store.entries().iter().filter(|entry| holds(entry.body())).count()
}

/// Deletes everything; the process crashes meanwhile, and a second one continues. Returns the writing calls of the
/// first one.
fn survive(crash: CrashPoint) -> u32 {
    let store = MemoryStore::default();
    let paths = block_on(async { fill(&node(&store, "", None).0).await });
    let all = bodies_left(&store);
    assert!(all >= 5, "{all} bodies hold the text");
    let (first, calls) = node(&store, "", crash);
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
        // A recorded deletion is carried out although no client repeats the request.
        for entry in store.entries().iter().filter(|entry| entry.header().kind == Kind::SESSION_DELETED) {
            let of_it = store.entries().into_iter().filter(|other| other.header().log == entry.header().log);
            let whole = of_it.filter(|other| other.header().body_len > 0 && !other.is_erased());
            let kinds: Vec<Kind> = whole.map(|entry| entry.header().kind).collect();
            assert_eq!(kinds, [Kind::SESSION_DELETED; 2], "{crash:?}");
        }
        for path in &paths {
            let (status, body) = ask(&second, Method::DELETE, path, Value::Null).await;
            assert!([200, 404].contains(&status), "{crash:?}: {path}: {body}");
            assert_eq!(ask(&second, Method::GET, path, Value::Null).await.0, 404, "{crash:?}: {path}");
        }
        assert_eq!(bodies_left(&store), 0, "{crash:?}");
        second.platform().sleep(Duration::from_secs(60)).await;
        second.tick().await.unwrap();
        second.platform().sleep(Duration::from_secs(60)).await;
        assert_eq!(store.due(Timestamp(u64::MAX), 10).await, Ok(vec![]), "{crash:?}: nothing is left to do");
    });
    calls.get()
}

#[test]
fn deleted_content_is_erased_after_a_crash_at_any_call() {
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
        let all = bodies_left(&store);
        ask(&node, Method::DELETE, &first, Value::Null).await;
        assert_eq!(ask(&node, Method::GET, &first, Value::Null).await.0, 404);
        assert_eq!(ask(&node, Method::GET, &second, Value::Null).await.0, 200);
        assert_eq!(bodies_left(&store), all, "the response that continues it needs it");
        ask(&node, Method::DELETE, &second, Value::Null).await;
        assert_eq!(bodies_left(&store), 0);
        let (status, body) =
            ask(&node, Method::POST, "/v1/responses", json!({"input": DELETED_TEXT, "background": true}))
                .await;
        assert_eq!((status, body["error"]["code"].as_str()), (409, Some("already_deleted")));
        assert_eq!(bodies_left(&store), 0);
    });
}

/// Lets `minutes` pass, and ticks.
async fn tick<P: Platform>(node: &Node<P>, minutes: u64) {
    node.platform().sleep(Duration::from_secs(60 * minutes)).await;
    node.tick().await.unwrap();
    node.platform().sleep(Duration::from_secs(1)).await;
}

#[test]
fn an_inactive_session_expires() {
    let store = MemoryStore::default();
    block_on(async {
        let (node, _) = node(&store, "retention = \"2h\"", None);
        tick(&node, 1).await;
        let [_, path, response, _] = fill(&node).await;
        tick(&node, 100).await;
        ask(&node, Method::POST, &format!("{path}/items"), json!({"items": [user_item("still here")]})).await;
        tick(&node, 30).await;
        assert_eq!(ask(&node, Method::GET, &path, Value::Null).await.0, 200, "it was used since");
        assert_eq!(ask(&node, Method::GET, &response, Value::Null).await.0, 404);
        tick(&node, 91).await;
        assert_eq!(ask(&node, Method::GET, &path, Value::Null).await.0, 404);
        assert_eq!(bodies_left(&store), 0);
        let reasons =
            store.entries().into_iter().filter(|entry| entry.header().kind == Kind::SESSION_DELETED);
        let expired = reasons.filter(|entry| entry.body().starts_with(br#"{"why":"expired""#)).count();
        assert_eq!(expired, 2, "both logs say why");
        assert_eq!(store.due(Timestamp(u64::MAX), 10).await, Ok(vec![]));
    });
}

#[test]
fn a_session_whose_retention_was_lengthened_is_woken_early_once() {
    let store = MemoryStore::default();
    let path = block_on(async {
        let (node, _) = node(&store, "retention = \"1h\"", None);
        let (_, made) =
            ask(&node, Method::POST, "/v1/conversations", json!({"items": [user_item(DELETED_TEXT)]})).await;
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
        assert_eq!(bodies_left(&store), 0);
    });
}
