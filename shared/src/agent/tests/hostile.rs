//! What a caller, a server of tools or an operator may send must not shut a session: its turns end, and it can be deleted.

use futures_executor::block_on;
use http::Method;

use super::*;
use crate::{
    agent::schedules::{Maker, create},
    cron::Rule,
    platform::{Store, Timestamp},
    session::schedule::{ScheduleId, Source, Terms},
};

const ADMIN: &str = "/v1/sessions/sess_";

async fn call<P: Platform>(node: &Node<P>, method: Method, path: &str, body: Value) -> (u16, Value) {
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let request = request.body(Body::from(Bytes::from(body.to_string()))).unwrap();
    let response = node.handle(request, Arrival { loopback: true, log: None }).await;
    let (status, mut body) = (response.status().as_u16(), response.into_body());
    let mut all = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        all.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    (status, serde_json::from_slice(&all).unwrap_or_default())
}

fn fresh(store: &MemoryStore) -> Node<TestPlatform<MemoryStore, Teller>> {
    let platform = TestPlatform::with_http(store.clone(), Teller::default());
    Node::new(platform, Config::parse(CONFIG, "test", |_| None).unwrap())
}

/// `depth` arrays in each other.
fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!([inner]))
}

/// Whoever starts anew reads the whole log, finds nothing left to do, and can delete it.
async fn is_whole(store: &MemoryStore, what: &str) {
    let node = fresh(store);
    node.tick().await.unwrap();
    for log in store.due(Timestamp(u64::MAX), 10).await.unwrap() {
        node.wake(log).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let (status, session) = call(&node, Method::GET, &format!("{ADMIN}{log}"), Value::Null).await;
        assert_eq!((status, &session["open_turns"]), (200, &json!(0)), "{what}: {session}");
        let (status, body) = call(&node, Method::DELETE, &format!("{ADMIN}{log}"), Value::Null).await;
        assert_eq!(status, 200, "{what}: {body}");
    }
}

#[test]
fn no_request_shuts_its_session() {
    let inputs = [
        ("a field of another item", json!({"input": [{"role": "user", "content": "x", "approval_request_id": 7}]})),
        ("an object there", json!({"input": [{"type": "reasoning", "summary": [], "approval_request_id": {"a": []}}]})),
        ("a deep field", json!({"input": "x", "text": nested(126)})),
        ("a deep item", json!({"input": [{"role": "user", "content": "x", "more": nested(124)}]})),
        ("deep metadata of a tool", json!({"input": "x", "tools": [{"type": "function", "name": "f", "parameters": {"x": nested(123)}}]})),
    ];
    for (what, asked) in inputs {
        let store = MemoryStore::default();
        let status = block_on(call(&fresh(&store), Method::POST, "/v1/responses", asked)).0;
        assert!([200, 400].contains(&status), "{what}: {status}");
        block_on(is_whole(&store, what));
    }
}

#[test]
fn what_a_schedule_left_can_be_read_once_it_is_deleted() {
    let store = MemoryStore::default();
    let id = ScheduleId { log: crate::session::entry::LogId([1; 16]), schedule: [2; 16] };
    block_on(async {
        let node = fresh(&store);
        let maker = Maker { owner: "", source: Source::Api, joins: false };
        let terms = Terms::new("test", Rule::Every(60_000), "nobody may read this again");
        create(&node, id, &maker, &terms).await.unwrap();
        node.platform().sleep(Duration::from_secs(61)).await;
        node.wake(id.log).await.unwrap();
        let path = format!("{ADMIN}{}", id.log);
        assert_eq!(call(&node, Method::DELETE, &path, Value::Null).await.0, 200);
        let again = fresh(&store);
        again.wake(id.log).await.unwrap();
        let (status, body) = call(&again, Method::GET, "/v1/schedules", Value::Null).await;
        assert_eq!((status, &body["data"]), (200, &json!([])), "{body}");
    });
}
