//! Checks that nothing a caller, a tool server or an operator sends makes a session unreadable: its turns end, and it
//! can be deleted.

use futures_executor::block_on;
use http::Method;

use super::*;
use crate::{
    agent::schedules::{NewSchedule, create},
    cron::Rule,
    platform::Store,
    session::schedule::{ScheduleId, ScheduleSource, Terms},
    time::Timestamp,
};

const SESSION_PATH: &str = "/v1/sessions/sess_";

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

/// A node that has read nothing of `store` yet.
fn fresh(store: &MemoryStore) -> Node<TestPlatform<MemoryStore, NumberingProvider>> {
    let platform = TestPlatform::with_http(store.clone(), NumberingProvider::default());
    Node::new(platform, Config::parse(CONFIG, "test", |_| None).unwrap())
}

/// `depth` nested arrays.
fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!([inner]))
}

/// Checks that a new node can read each due log, finds no open turn in it, and can delete it.
async fn check_readable_and_deletable(store: &MemoryStore, what: &str) {
    let node = fresh(store);
    node.tick().await.unwrap();
    for log in store.due(Timestamp(u64::MAX), 10).await.unwrap() {
        node.wake(log).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let (status, session) = call(&node, Method::GET, &format!("{SESSION_PATH}{log}"), Value::Null).await;
        assert_eq!((status, &session["open_turns"]), (200, &json!(0)), "{what}: {session}");
        let (status, body) = call(&node, Method::DELETE, &format!("{SESSION_PATH}{log}"), Value::Null).await;
        assert_eq!(status, 200, "{what}: {body}");
    }
}

#[test]
fn no_request_makes_its_session_unreadable() {
    let inputs = [
        (
            "a field of another item",
            json!({"input": [{"role": "user", "content": "x", "approval_request_id": 7}]}),
        ),
        (
            "an object there",
            json!({"input": [{"type": "reasoning", "summary": [], "approval_request_id": {"a": []}}]}),
        ),
        ("a deep field", json!({"input": "x", "text": nested(126)})),
        ("a deep item", json!({"input": [{"role": "user", "content": "x", "more": nested(124)}]})),
        (
            "deep metadata of a tool",
            json!({"input": "x", "tools": [{"type": "function", "name": "f", "parameters": {"x": nested(123)}}]}),
        ),
    ];
    for (what, request) in inputs {
        let store = MemoryStore::default();
        let status = block_on(call(&fresh(&store), Method::POST, "/v1/responses", request)).0;
        assert!([200, 400].contains(&status), "{what}: {status}");
        block_on(check_readable_and_deletable(&store, what));
    }
}

#[test]
fn a_deleted_session_with_a_schedule_can_be_read() {
    let store = MemoryStore::default();
    let id = ScheduleId { log: crate::entry::LogId([1; 16]), schedule: [2; 16] };
    block_on(async {
        let node = fresh(&store);
        let new = NewSchedule { owner: "", source: ScheduleSource::Api, joins: false };
        let terms = Terms::new("test", Rule::Every(86_400_000), "nobody may read this again");
        create(&node, id, &new, &terms).await.unwrap();
        node.platform().sleep(Duration::from_secs(86_401)).await;
        node.wake(id.log).await.unwrap();
        let path = format!("{SESSION_PATH}{}", id.log);
        assert_eq!(call(&node, Method::DELETE, &path, Value::Null).await.0, 200);
        let again = fresh(&store);
        again.wake(id.log).await.unwrap();
        let (status, body) = call(&again, Method::GET, "/v1/schedules", Value::Null).await;
        assert_eq!((status, &body["data"]), (200, &json!([])), "{body}");
    });
}

/// A provider whose model requests one call per turn, and a tool server that counts its calls and sends the schema
/// given here, or a deep one if that is no JSON.
#[derive(Clone, Default)]
struct DeployHttp(Rc<Cell<u32>>, &'static str);

impl Http for DeployHttp {
    type Body = SlowBody;

    async fn send(&self, mut request: Request<Body>, _: Duration) -> Result<Response<SlowBody>, HttpError> {
        let is_server = request.uri().host() == Some("mcp.test");
        let body = std::future::poll_fn(|cx| Pin::new(request.body_mut()).poll_frame(cx)).await;
        let body = body.and_then(|frame| frame.unwrap().into_data().ok()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if !is_server {
            let done = body["messages"].as_array().unwrap().iter().any(|message| message["role"] == "tool");
            let function = json!({"name": "t__deploy", "arguments": "{}"});
            let call =
                json!({"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": function}]});
            let (delta, reason) =
                if done { (json!({"content": "Done."}), "stop") } else { (call, "tool_calls") };
            return Ok(streamed([delta].into_iter(), reason));
        }
        let result = match body["method"].as_str().unwrap() {
            "server/discover" => json!({"supportedVersions": ["2026-07-28"]}),
            "tools/list" => {
                let schema: Value =
                    serde_json::from_str(self.1).unwrap_or_else(|_| json!({"x": nested(122)}));
                json!({"tools": [{"name": "deploy", "inputSchema": schema}]})
            }
            _ => {
                self.0.set(self.0.get() + 1);
                json!({"content": [{"type": "text", "text": "deployed"}]})
            }
        };
        let answer = json!({"jsonrpc": "2.0", "id": body["id"], "result": result}).to_string();
        let response = Response::builder().header("content-type", "application/json");
        Ok(response.body(SlowBody { chunks: VecDeque::from([answer.into()]), polls: PENDING_POLLS }).unwrap())
    }
}

fn deploying(
    store: &MemoryStore,
    http: &DeployHttp,
    more: &str,
) -> Node<TestPlatform<MemoryStore, DeployHttp>> {
    let tool = "[[tool]]\nname = \"t\"\nurl = \"https://mcp.test/mcp\"\napprove = [\"*\"]\n";
    let config = format!("[agent]\nname = \"a\"\ntools = [\"t\"]\n{CONFIG}{tool}{more}");
    let platform = TestPlatform::with_http(store.clone(), http.clone());
    Node::new(platform, Config::parse(&config, "test", |_| None).unwrap())
}

#[test]
fn an_approval_counts_once_and_only_while_the_configuration_allows_the_call() {
    for (more, times) in [("", 1), ("functions = [\"look\"]\n", 0)] {
        let (store, http) = (MemoryStore::default(), DeployHttp(Rc::default(), "{}"));
        block_on(async {
            let node = deploying(&store, &http, "");
            let request = json!({"input": "Do it.", "background": false});
            let (status, made) = call(&node, Method::POST, "/v1/responses", request).await;
            let approval_request = &made["output"].as_array().unwrap().last().unwrap()["id"];
            assert_eq!(status, 200, "{made}");
            let approval = json!({
                "type": "mcp_approval_response", "approval_request_id": approval_request, "approve": true,
            });
            let approved = json!({"previous_response_id": made["id"], "input": vec![approval; 1000]});
            let node = deploying(&store, &http, more);
            let (status, made) = call(&node, Method::POST, "/v1/responses", approved.clone()).await;
            assert_eq!(status, 200, "{made}");
            let started = store.entries().into_iter().filter(|e| e.header().kind == Kind::CALLS_STARTED);
            assert!(
                started.map(|entry| entry.body().len()).max().unwrap() < 1_000,
                "one call, not a thousand"
            );
            assert_eq!(call(&node, Method::POST, "/v1/responses", approved).await.0, 400, "a second time");
        });
        assert_eq!(http.0.get(), times, "{more}");
    }
}

#[test]
fn no_tool_server_makes_a_conversation_unreadable() {
    let (store, http) = (MemoryStore::default(), DeployHttp(Rc::default(), ""));
    block_on(async {
        let node = deploying(&store, &http, "");
        let (_, made) = call(&node, Method::POST, "/v1/conversations", json!({})).await;
        let request = json!({"input": "Do it.", "conversation": made["id"]});
        let (status, body) = call(&node, Method::POST, "/v1/responses", request).await;
        assert!([200, 400].contains(&status), "{body}");
        let path = format!("/v1/conversations/{}", made["id"].as_str().unwrap());
        assert_eq!(call(&deploying(&store, &http, ""), Method::GET, &path, Value::Null).await.0, 200);
        assert_eq!(call(&node, Method::DELETE, &path, Value::Null).await.0, 200);
    });
}
