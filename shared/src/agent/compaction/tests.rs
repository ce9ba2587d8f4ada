//! Checks long conversations: they open from their newest snapshot, and items that are left out of a prompt stay.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use futures_executor::block_on;
use http::{Method, Request, Response};

use super::*;
use crate::{
    Arrival,
    agent::tests::{SlowBody, streamed_with},
    body::Body,
    entry::{Entry, Kind},
    log::{Fold, View},
    platform::{Http, HttpError, Store},
    session::turn::ResponseId,
    testing::{CallKind, Fault, Faulty, MemoryStore, TestPlatform},
};

/// A provider that records its requests, reports usage by their size, and answers a request for a summary with one.
#[derive(Clone, Default)]
struct RecordingProvider(Rc<RefCell<Vec<Value>>>);

impl Http for RecordingProvider {
    type Body = SlowBody;

    async fn send(&self, mut request: Request<Body>, _: Duration) -> Result<Response<SlowBody>, HttpError> {
        let body = poll_fn(|cx| Pin::new(request.body_mut()).poll_frame(cx)).await;
        let body = body.unwrap().unwrap().into_data().unwrap();
        let request: Value = serde_json::from_slice(&body).unwrap();
        let summarises =
            request["messages"][0]["content"].as_str().is_some_and(|text| text.starts_with("You keep"));
        self.0.borrow_mut().push(request);
        let text = if summarises { "Ada likes tea." } else { "Yes." };
        let usage = json!({"prompt_tokens": body.len() / 4, "completion_tokens": 2});
        Ok(streamed_with([json!({"content": text})].into_iter(), "stop", Some(usage)))
    }
}

impl RecordingProvider {
    /// The messages of the newest request that ends with `text`.
    fn messages_before(&self, text: &str) -> String {
        let all = self.0.borrow();
        let messages = all.iter().map(|request| &request["messages"]);
        let ends = |messages: &&Value| messages.as_array().unwrap().last().unwrap()["content"] == text;
        messages.rev().find(ends).unwrap().to_string()
    }
}

type TestNode = Node<TestPlatform<MemoryStore, RecordingProvider>>;

fn node(store: &MemoryStore, provider: &RecordingProvider, context: u64) -> TestNode {
    node_over(store.clone(), provider, context)
}

fn node_over<S: Store + 'static>(
    store: S,
    provider: &RecordingProvider,
    context: u64,
) -> Node<TestPlatform<S, RecordingProvider>> {
    let config = format!(
        "[[provider]]\nname = \"p\"\nkind = \"compatible\"\nbase_url = \"https://p.test\"\n\
         [[model]]\nname = \"default\"\ncandidates = [\"p/m\"]\n\
         [[price]]\ncandidate = \"p/m\"\ninput = \"1\"\noutput = \"1\"\ncontext_tokens = {context}\n"
    );
    let platform = TestPlatform::with_http(store, provider.clone());
    Node::new(platform, Config::parse(&config, "test", |_| None).unwrap())
}

async fn ask(node: &Node<impl Platform>, method: Method, path: &str, body: Value) -> (u16, Value) {
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let request = request.body(Body::from(Bytes::from(text))).unwrap();
    let response = node.handle(request, Arrival { loopback: true, log: None }).await;
    let (status, mut body) = (response.status().as_u16(), response.into_body());
    let mut received = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        received.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    (status, serde_json::from_slice(&received).unwrap_or_default())
}

async fn conversation(node: &TestNode) -> (LogId, String) {
    let made = ask(node, Method::POST, "/v1/conversations", json!({"metadata": {"a": "b"}})).await.1;
    let id = made["id"].as_str().unwrap().to_owned();
    (LogId::parse(id.strip_prefix("conv_").unwrap()).unwrap(), id)
}

async fn turn(node: &TestNode, conversation: &str, text: &str) -> String {
    let request = json!({"conversation": conversation, "input": text});
    let (status, response) = ask(node, Method::POST, "/v1/responses", request).await;
    assert_eq!((status, &response["status"]), (200, &json!("completed")), "{response}");
    settle(node).await;
    response["id"].as_str().unwrap().to_owned()
}

/// Gives the node time for what it does after a turn.
async fn settle(node: &Node<impl Platform>) {
    for _ in 0..20 {
        node.platform().sleep(Duration::from_millis(10)).await;
    }
}

fn entries(store: &MemoryStore, log: LogId) -> Vec<Entry> {
    let mut entries = store.entries();
    entries.retain(|entry| entry.header().log == log);
    entries
}

fn count(store: &MemoryStore, log: LogId, kind: Kind) -> usize {
    entries(store, log).iter().filter(|entry| entry.header().kind == kind).count()
}

#[test]
fn a_long_conversation_opens_from_its_newest_snapshot() {
    const TURNS: usize = 200;
    let (store, provider) = (MemoryStore::default(), RecordingProvider::default());
    block_on(async {
        let first = node(&store, &provider, 10_000_000);
        let (log, id) = conversation(&first).await;
        let mut responses = Vec::new();
        for n in 0..TURNS {
            responses.push(turn(&first, &id, &format!("word {n}")).await);
            if n == 20 {
                let path = format!("/v1/responses/{}", responses[3]);
                assert_eq!(ask(&first, Method::DELETE, &path, Value::Null).await.0, 200);
            }
        }
        assert_eq!(count(&store, log, Kind::SNAPSHOT), TURNS / 64);

        // Only the newest snapshot and what was written after it are read.
        let mut view = View::<Session>::default();
        view.catch_up(&store, log).await.unwrap();
        let (items, turns) = view.fold.counts();
        assert_eq!((items, turns), (2 * TURNS, TURNS));
        assert!(
            view.fold.items().count() <= 2 * 128,
            "more than that was read: {}",
            view.fold.items().count()
        );

        // Restored from all snapshots, it equals the fold of all entries.
        let fresh = node(&store, &provider, 10_000_000);
        let whole = fresh
            .read_session_until(log, |session| session.older_snapshot().is_none(), Clone::clone)
            .await
            .unwrap();
        let mut folded = Session::default();
        entries(&store, log).iter().for_each(|entry| folded.apply(entry).unwrap());
        assert_eq!(whole, folded);

        let fresh = node(&store, &provider, 10_000_000);
        let path = format!("/v1/conversations/{id}/items?order=asc&limit=100");
        let page = ask(&fresh, Method::GET, &path, Value::Null).await.1;
        assert_eq!(page["data"][0]["content"][0]["text"], "word 0");
        let fresh = node(&store, &provider, 10_000_000);
        let old = ask(&fresh, Method::GET, &format!("/v1/responses/{}", responses[0]), Value::Null).await;
        assert_eq!((old.0, &old.1["id"]), (200, &json!(responses[0])));
        let deleted = ask(&fresh, Method::GET, &format!("/v1/responses/{}", responses[3]), Value::Null).await;
        assert_eq!(deleted.0, 404, "it stays deleted");
        // The model is sent all of it, since it fits.
        let fresh = node(&store, &provider, 10_000_000);
        turn(&fresh, &id, "and now?").await;
        let request = provider.0.borrow().last().unwrap().clone();
        assert_eq!(request["messages"].as_array().unwrap().len(), 2 * TURNS + 1);
    });
}

/// Continues the response `previous` outside of any conversation; returns the id of the new one.
async fn next(node: &Node<impl Platform>, previous: &Value, text: &str, more: Value) -> Value {
    let mut request = json!({"input": text, "previous_response_id": previous});
    request.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let (status, response) = ask(node, Method::POST, "/v1/responses", request).await;
    assert_eq!((status, &response["status"]), (200, &json!("completed")), "{response}");
    settle(node).await;
    response["id"].clone()
}

/// Advances the node's random numbers, so that its ids differ from those of other nodes.
fn skip_random(node: &Node<impl Platform>, process: usize) {
    node.platform().random(&mut vec![0; 1_000_000 * process]);
}

#[test]
fn a_long_chain_of_responses_opens_from_its_newest_snapshot() {
    const TURNS: usize = 200;
    let (store, provider) = (MemoryStore::default(), RecordingProvider::default());
    let nodes = Cell::new(0);
    let fresh = |context| {
        let fresh = node(&store, &provider, context);
        skip_random(&fresh, nodes.replace(nodes.get() + 1));
        fresh
    };
    block_on(async {
        let first = fresh(10_000_000);
        let mut chain = vec![next(&first, &Value::Null, "word 0", json!({})).await];
        for n in 1..TURNS {
            let id = next(&first, &chain[n - 1], &format!("word {n}"), json!({})).await;
            chain.push(id);
        }
        let log = ResponseId::parse(chain[0].as_str().unwrap()).unwrap().log;
        assert_eq!(count(&store, log, Kind::SNAPSHOT), TURNS / 64);
        let path = |n: usize| format!("/v1/responses/{}", chain[n].as_str().unwrap());
        for n in [3, TURNS / 2, TURNS - 1] {
            let (status, response) = ask(&fresh(10_000_000), Method::GET, &path(n), Value::Null).await;
            assert_eq!((status, &response["id"]), (200, &chain[n]));
        }

        // The model is sent all of it, although it is read in parts.
        let whole = fresh(10_000_000);
        next(&whole, &chain[TURNS - 1], "and now?", json!({})).await;
        let messages = provider.0.borrow().last().unwrap()["messages"].clone();
        let words: Vec<&str> =
            messages.as_array().unwrap().iter().map(|m| m["content"].as_str().unwrap()).collect();
        let mut expected: Vec<String> =
            (0..TURNS).flat_map(|n| [format!("word {n}"), "Yes.".to_owned()]).collect();
        expected.push("and now?".into());
        assert_eq!(words, expected);

        // A truncated beginning is not even read.
        let reads = Rc::new(Cell::new(0));
        let counted = Rc::clone(&reads);
        let counting = Faulty::new(store.clone(), async move |call| {
            counted.set(counted.get() + usize::from(call == CallKind::Read));
            Fault::None
        });
        let brief = node_over(counting, &provider, 1_000);
        skip_random(&brief, 99);
        next(&brief, &chain[TURNS - 1], "briefly?", json!({"truncation": "auto"})).await;
        let prompt = provider.messages_before("briefly?");
        assert!(
            prompt.contains("left out here") && prompt.contains("word 199") && !prompt.contains("word 9\""),
            "{prompt}"
        );
        assert!(reads.get() < 20, "{} reads of the store", reads.get());

        // A response that others continue is hidden at once and erased with the last of them.
        assert_eq!(ask(&brief, Method::DELETE, &path(5), Value::Null).await.0, 200);
        let last = fresh(10_000_000);
        assert_eq!(ask(&last, Method::GET, &path(5), Value::Null).await.0, 404);
        next(&last, &chain[TURNS - 1], "again?", json!({})).await;
        assert!(
            provider.messages_before("again?").contains("word 5\""),
            "a response that others continue is still sent"
        );
    });
}

#[test]
fn items_that_do_not_fit_are_summarised_and_stay() {
    let (store, provider) = (MemoryStore::default(), RecordingProvider::default());
    block_on(async {
        let node = node(&store, &provider, 1_000);
        let (log, id) = conversation(&node).await;
        let words = "and so on ".repeat(10);
        let mut turns = 0;
        while count(&store, log, Kind::SUMMARISED) == 0 {
            turn(&node, &id, &format!("<{turns}> {words}")).await;
            turns += 1;
            assert!(turns < 50, "it is never summarised");
        }
        turn(&node, &id, "and now?").await;
        let prompt = provider.messages_before("and now?");
        assert!(prompt.contains("Ada likes tea.") && prompt.contains("and now?"), "{prompt}");
        assert!(!prompt.contains("<0> and so on"), "{prompt}");
        assert!(
            prompt.contains(&format!("<{}> and so on", turns - 1)),
            "the newest item is sent word for word: {prompt}"
        );
        for request in provider.0.borrow().iter() {
            assert!(request.to_string().len() / 4 < 1_000, "the model's context is respected");
        }
        let path = format!("/v1/conversations/{id}/items?order=asc&limit=100");
        let items = ask(&node, Method::GET, &path, Value::Null).await.1["data"].clone();
        assert_eq!(items.as_array().unwrap().len(), 2 * (turns + 1), "nothing is lost");

        // A removed item does not survive in a summary.
        let item = items[0]["id"].as_str().unwrap();
        let path = format!("/v1/conversations/{id}/items/{item}");
        assert_eq!(ask(&node, Method::DELETE, &path, Value::Null).await.0, 200);
        let summaries = entries(&store, log);
        let mut summaries = summaries.iter().filter(|entry| entry.header().kind == Kind::SUMMARISED);
        assert!(summaries.all(Entry::is_erased));
        turn(&node, &id, "still there?").await;
        let prompt = provider.messages_before("still there?");
        assert!(!prompt.contains("<0> and so on") && prompt.contains("<1> and so on"), "{prompt}");
    });
}
