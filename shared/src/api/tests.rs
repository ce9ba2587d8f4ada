//! Tests routes, callers, limits and bodies through [`Node::handle`]. Resources with files of their own have tests
//! there.

use std::{cell::Cell, collections::VecDeque, pin::Pin, rc::Rc, time::Duration};

use futures_executor::block_on;
use http::HeaderMap;
use http_body::{Body as _, Frame};
use serde_json::{Value, json};

use super::*;
use crate::{
    Config,
    platform::{Http, HttpError},
    testing::{MemoryStore, TestPlatform},
};

/// Digests of the keys "admin", "user" and "both".
pub(super) const KEYS: &str = r#"
[[key]]
name = "admin"
sha256 = "8c6976e5b5410415bde908bd4dee15dfb167a9c873fc4bb8a81f6f2ab448a918"
scopes = ["admin"]
[[key]]
name = "user"
sha256 = "04f8996da763b7a969b1028ee3007569eaf3a635486ddab211d512c85b9df8fb"
scopes = ["inference"]
"#;

pub(super) fn node(config: &str) -> Node<TestPlatform<MemoryStore>> {
    let config = Config::parse(config, "test", |_| None).unwrap();
    Node::new(TestPlatform::new(MemoryStore::default()), config)
}

/// Sends a request; returns status, headers and body.
pub(super) fn send<P: Platform>(
    node: &Node<P>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
    loopback: bool,
) -> (u16, HeaderMap, String) {
    let request = Request::builder().method(method).uri(path).header("host", "localhost:8080");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let request = request.body(Body::from(body.into())).unwrap();
    let response = block_on(node.handle(request, Arrival { loopback, log: None }));
    let (head, mut body) = response.into_parts();
    let mut text = Vec::new();
    while let Some(frame) = block_on(std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx))) {
        text.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    (head.status.as_u16(), head.headers, String::from_utf8(text).unwrap())
}

pub(super) fn code(body: &str) -> Value {
    serde_json::from_str::<Value>(body).unwrap().pointer("/error/code").cloned().unwrap_or_default()
}

#[test]
fn every_route_needs_its_scope() {
    let node = node(KEYS);
    let id = "conv_00000000000000000000000000000000";
    let routes = [
        ("POST", "/v1/chat/completions".to_owned(), Some("user")),
        ("POST", "/v1/responses".into(), Some("user")),
        ("POST", "/v1/messages".into(), Some("user")),
        ("POST", "/v1/messages/count_tokens".into(), Some("user")),
        ("POST", "/v1/embeddings".into(), Some("user")),
        ("GET", "/v1/models".into(), Some("user")),
        ("GET", "/v1/models/default".into(), Some("user")),
        ("POST", "/v1/conversations".into(), Some("user")),
        ("GET", format!("/v1/conversations/{id}"), Some("user")),
        ("POST", format!("/v1/conversations/{id}"), Some("user")),
        ("GET", format!("/v1/conversations/{id}/items"), Some("user")),
        ("GET", format!("/v1/conversations/{id}/items/msg_0"), Some("user")),
        ("POST", format!("/v1/conversations/{id}/items"), Some("user")),
        ("GET", "/v1/sessions".into(), Some("admin")),
        ("GET", format!("/v1/sessions/{}", id.replace("conv", "sess")), Some("admin")),
        ("DELETE", format!("/v1/sessions/{}", id.replace("conv", "sess")), Some("admin")),
        ("GET", format!("/v1/sessions/{}/entries", id.replace("conv", "sess")), Some("admin")),
        ("POST", format!("/v1/sessions/{}/entries", id.replace("conv", "sess")), Some("admin")),
        ("GET", "/v1/status".into(), Some("admin")),
        ("GET", "/metrics".into(), Some("admin")),
        ("GET", "/".into(), None),
        ("GET", "/healthz".into(), None),
        ("GET", "/readyz".into(), None),
        ("GET", "/console".into(), None),
        ("GET", "/console/api.js".into(), None),
    ];
    for (method, path, key_with_scope) in routes {
        for key in [None, Some("wrong"), Some("user"), Some("admin")] {
            let bearer = key.map(|key| format!("Bearer {key}"));
            let headers: Vec<(&str, &str)> =
                bearer.iter().map(|value| ("authorization", value.as_str())).collect();
            let (status, ..) = send(&node, method, &path, &headers, "", true);
            let refused = match (key_with_scope, key) {
                (None, _) => None,
                (_, None | Some("wrong")) => Some(401),
                (Some(needed_key), Some(key)) => (needed_key != key).then_some(403),
            };
            match refused {
                Some(refused) => assert_eq!(status, refused, "{method} {path} with {key:?}"),
                None => assert!(![401, 403].contains(&status), "{method} {path} with {key:?}: {status}"),
            }
        }
        let (status, headers, body) = send(&node, "PATCH", &path, &[], "", true);
        assert_eq!((status, code(&body)), (405, json!("method_not_allowed")), "{path}");
        assert!(headers["allow"].to_str().unwrap().contains(method), "{path}");
    }
    assert_eq!(send(&node, "GET", "/v1/status", &[("x-api-key", "admin")], "", false).0, 200);
    assert_eq!(send(&node, "GET", "/v1/status", &[("authorization", "Basic admin")], "", false).0, 401);
    assert_eq!(send(&node, "GET", "/v1/nothing", &[], "", true).0, 404);
}

#[test]
fn the_root_leads_a_browser_to_the_console_and_tells_others_what_this_is() {
    let node = node(KEYS);
    let (status, headers, body) = send(&node, "GET", "/", &[("accept", "*/*")], "", false);
    let index: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &headers["content-type"]), (200, &HeaderValue::from_static("application/json")));
    assert_eq!((&index["name"], &index["version"]), (&json!("outlive"), &json!(env!("CARGO_PKG_VERSION"))));
    let paths = index["endpoints"].as_object().unwrap().values().flat_map(|paths| paths.as_array().unwrap());
    for path in paths.chain([&index["console"]]) {
        assert!(Route::find(path.as_str().unwrap()).is_some(), "{path}");
    }
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let (status, headers, _) = send(&node, "GET", "/", &[("accept", browser)], "", false);
    assert_eq!((status, headers["location"].to_str().unwrap()), (302, "/console"));
    assert_eq!(headers["vary"], "accept", "a cache must keep both answers");
}

#[test]
fn without_keys_only_this_machine_is_served() {
    let node = node("");
    let status =
        |headers: &[(&str, &str)], loopback| send(&node, "GET", "/v1/models", headers, "", loopback).0;
    assert_eq!(status(&[], true), 200);
    assert_eq!(status(&[], false), 401);
    assert_eq!(status(&[("origin", "http://localhost:3000")], true), 200);
    assert_eq!(status(&[("origin", "http://localhost:8080")], true), 200, "the console");
    assert_eq!(status(&[("origin", "https://evil.example")], true), 401, "a page in the browser");
    assert_eq!(status(&[("origin", "null")], true), 401);
    assert_eq!(status(&[("x-forwarded-for", "1.2.3.4")], true), 401, "a proxy on this machine");
    let request =
        Request::builder().uri("/v1/models").header("host", "evil.example").body(Body::Empty).unwrap();
    let rebound = block_on(node.handle(request, Arrival { loopback: true, log: None }));
    assert_eq!(rebound.status(), 401, "a foreign name that resolves to this machine");
}

#[test]
fn a_conversation_belongs_to_its_key() {
    let node = node(&KEYS.replace("[\"admin\"]", "[\"admin\", \"inference\"]"));
    let post = |key: &str, path: &str, idempotency: &str, body: &str| {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", idempotency)];
        send(&node, "POST", path, &headers, body.to_owned(), false)
    };
    let id = |body: &str| serde_json::from_str::<Value>(body).unwrap()["id"].as_str().unwrap().to_owned();
    let (status, _, created) = post("user", "/v1/conversations", "k", "");
    assert_eq!(status, 200);
    assert_eq!(id(&post("user", "/v1/conversations", "k", "{}").2), id(&created));
    assert_ne!(id(&post("admin", "/v1/conversations", "k", "").2), id(&created), "a key of another caller");
    let (status, _, body) = post("user", "/v1/conversations", "k", r#"{"metadata":{"a":"b"}}"#);
    assert_eq!((status, code(&body)), (409, json!("idempotency_key_reused")));
    let items = format!("/v1/conversations/{}/items", id(&created));
    let (status, _, body) = post("admin", &items, "i", r#"{"items":[{"role":"user","content":"x"}]}"#);
    assert_eq!((status, code(&body)), (404, json!("conversation_not_found")));
    assert_eq!(post("user", &items, "i", r#"{"items":[{"role":"user","content":"x"}]}"#).0, 200);
}

/// A provider that sends its answer in pieces, and records when the answer is dropped before its end.
struct Pieces {
    pieces: Vec<&'static str>,
    dropped: Rc<Cell<bool>>,
}

impl Http for Pieces {
    type Body = PiecesBody;

    async fn send(&self, _: Request<Body>, _: Duration) -> Result<Response<PiecesBody>, HttpError> {
        let pieces = self.pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect();
        Ok(Response::new(PiecesBody { pieces, dropped: Rc::clone(&self.dropped) }))
    }
}

struct PiecesBody {
    pieces: VecDeque<Bytes>,
    dropped: Rc<Cell<bool>>,
}

impl http_body::Body for PiecesBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        std::task::Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

impl Drop for PiecesBody {
    fn drop(&mut self) {
        self.dropped.set(!self.pieces.is_empty());
    }
}

const GATEWAY: &str = "[[provider]]\nname = \"p\"\nkind = \"compatible\"\nbase_url = \"https://p.test\"\n\
                       [[model]]\nname = \"default\"\ncandidates = [\"p/m\"]\n";

fn gateway(pieces: &[&'static str], dropped: &Rc<Cell<bool>>) -> Node<TestPlatform<MemoryStore, Pieces>> {
    let http = Pieces { pieces: pieces.to_vec(), dropped: Rc::clone(dropped) };
    let config = Config::parse(GATEWAY, "test", |_| None).unwrap();
    Node::new(TestPlatform::with_http(MemoryStore::default(), http), config)
}

const ASK: &str = r#"{"model":"default","stream":true,"messages":[{"role":"user","content":"x"}]}"#;
const CONTENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
const FINISH: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";

#[test]
fn a_stream_is_forwarded_unchanged() {
    let whole = [CONTENT, CONTENT, FINISH, "data: [DONE]\n\n"];
    let node = gateway(&whole, &Rc::default());
    let (status, headers, body) = send(&node, "POST", "/v1/chat/completions", &[], ASK, true);
    assert_eq!((status, body), (200, whole.concat()));
    assert_eq!(headers["x-outlive-attempts"], "1");
    // Multi-line data, other line ends, comments and a missing last event are normalised.
    let odd = [
        "data: {\"choices\":[{\"index\":0,\ndata: \"delta\":{\"content\":\"a\"}}]}\r\n\r\n",
        ": x\r\r",
        FINISH,
    ];
    let (_, _, body) = send(&gateway(&odd, &Rc::default()), "POST", "/v1/chat/completions", &[], ASK, true);
    let first = "data: {\"choices\":[{\"index\":0,\ndata: \"delta\":{\"content\":\"a\"}}]}\n\n";
    assert_eq!(body, format!("{first}: keep-alive\n\n{FINISH}data: [DONE]\n\n"));
}

#[test]
fn a_disconnect_cancels_the_call_to_the_provider() {
    let dropped = Rc::default();
    let node = gateway(&[CONTENT, CONTENT, CONTENT], &dropped);
    let request = Request::builder().method("POST").uri("/v1/chat/completions").header("host", "localhost");
    let request = request.body(Body::from(Bytes::from_static(ASK.as_bytes()))).unwrap();
    let mut response = block_on(node.handle(request, Arrival { loopback: true, log: None }));
    block_on(std::future::poll_fn(|cx| Pin::new(response.body_mut()).poll_frame(cx)));
    assert!(!dropped.get());
    drop(response);
    assert!(dropped.get());
}

/// A provider that accepts calls and never answers.
struct Silent;

impl Http for Silent {
    type Body = PiecesBody;

    async fn send(&self, _: Request<Body>, _: Duration) -> Result<Response<PiecesBody>, HttpError> {
        std::future::pending().await
    }
}

#[test]
fn a_stored_stream_begins_at_most_two_seconds_late_and_with_the_response_id() {
    let config = Config::parse(GATEWAY, "test", |_| None).unwrap();
    let node = Node::new(TestPlatform::with_http(MemoryStore::default(), Silent), config);
    let start = node.platform().now();
    let request = Request::builder().method("POST").uri("/v1/responses").header("host", "localhost:8080");
    let request = request.body(Body::from(Bytes::from_static(br#"{"input":"x","stream":true}"#))).unwrap();
    let mut response = block_on(node.handle(request, Arrival { loopback: true, log: None }));
    assert_eq!(node.platform().now().since(start), Duration::from_secs(2));
    assert_eq!((response.status().as_u16(), response.headers().get("x-outlive-provider")), (200, None));
    let frame = block_on(std::future::poll_fn(|cx| Pin::new(response.body_mut()).poll_frame(cx)));
    let frame = frame.unwrap().unwrap().into_data().unwrap();
    let text = std::str::from_utf8(&frame).unwrap();
    assert!(text.starts_with("event: response.created\n") && text.contains("\"id\":\"resp_"), "{text}");
    assert_eq!(node.platform().now().since(start), Duration::from_secs(2));
}

#[test]
fn the_limits_of_a_key_are_reported_and_enforced() {
    let limits = "limits = { requests_per_minute = 2, tokens_per_minute = 1000 }\n";
    let node = node(&format!("{KEYS}{limits}"));
    let ask = |path: &str, body: Value| {
        send(&node, "POST", path, &[("x-api-key", "user")], body.to_string(), false)
    };
    let chat =
        || json!({"model": "default", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100});
    let (status, headers, _) = ask("/v1/chat/completions", chat());
    assert_eq!((status, &headers["x-ratelimit-remaining-requests"]), (200, &HeaderValue::from_static("1")));
    assert_eq!(headers["x-ratelimit-limit-tokens"], "1000");
    let (status, headers, _) = ask("/v1/messages", chat());
    assert_eq!(
        (status, &headers["anthropic-ratelimit-requests-remaining"]),
        (200, &HeaderValue::from_static("0"))
    );
    let (status, headers, body) = ask("/v1/messages", chat());
    assert_eq!((status, &headers["retry-after"]), (429, &HeaderValue::from_static("30")));
    let error: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!("rate_limit_error")));
}

#[test]
fn a_request_that_the_whole_budget_does_not_pay_for_is_refused_with_its_amounts() {
    let budget = "budget = { limit_usd = \"0.001\", per = \"hour\" }\n";
    let price = "[[price]]\ncandidate = \"demo/demo\"\ninput = \"1\"\noutput = \"100\"\n";
    let model = "[[provider]]\nname = \"demo\"\nkind = \"demo\"\n\
                 [[model]]\nname = \"default\"\ncandidates = [\"demo/demo\"]\n";
    let node = node(&format!("{KEYS}{budget}{model}{price}"));
    let body = json!({"model": "default", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}]});
    let ask =
        || send(&node, "POST", "/v1/chat/completions", &[("x-api-key", "user")], body.to_string(), false);
    let (status, headers, body) = ask();
    assert_eq!((status, code(&body)), (429, json!("budget_exceeded")), "{body}");
    assert!(body.contains("can cost 0.0026"), "{body}");
    assert!(body.contains("the whole budget of the key user is 0.001 USD per hour"), "{body}");
    assert_eq!(headers.get("retry-after"), None, "waiting does not help");
    let (_, _, status) = send(&node, "GET", "/v1/status", &[("x-api-key", "admin")], "", false);
    let status: Value = serde_json::from_str(&status).unwrap();
    let of = |key: &str| crate::money::NanoUsd::parse(status["budgets"][0][key].as_str().unwrap()).unwrap().0;
    assert!(of("spent_usd") + of("reserved_usd") + of("free_usd") <= of("limit_usd"), "{status}");
    assert!(of("granted_usd") <= of("limit_usd") && of("granted_usd") > 0, "{status}");
}

#[test]
fn a_request_without_a_price_is_refused_only_under_a_budget() {
    let price =
        "[[price]]\ncandidate = \"demo/demo\"\ninput = \"1\"\noutput = \"1\"\ncontext_tokens = 1000000\n";
    let model = "[[provider]]\nname = \"demo\"\nkind = \"demo\"\n\
                 [[model]]\nname = \"default\"\ncandidates = [\"demo/demo\"]\n";
    let budgeted = node(&format!("{KEYS}budget = {{ limit_usd = \"0.5\", per = \"hour\" }}\n{model}{price}"));
    let free = node(&format!("{KEYS}{model}{price}"));
    let ask = |node: &Node<TestPlatform<MemoryStore>>, more: Value, content: Value| {
        let mut body = json!({"model": "default", "max_tokens": 20});
        body["messages"] = json!([{"role": "user", "content": content}]);
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer =
            send(node, "POST", "/v1/chat/completions", &[("x-api-key", "user")], body.to_string(), false);
        (answer.0, answer.2)
    };
    let unpriced = || (json!({"search_parameters": {"mode": "on"}}), json!("hi"));
    assert_eq!(ask(&free, unpriced().0, unpriced().1).0, 200);
    let (status, body) = ask(&budgeted, unpriced().0, unpriced().1);
    assert_eq!((status, code(&body)), (400, json!("unsupported_parameter")), "{body}");
    assert!(body.contains("'search_parameters'") && body.contains("the key user"), "{body}");
    assert_eq!(ask(&budgeted, json!({}), json!("hi")).0, 200);
    // An image reserves the cost of a large one, and a document the cost of the whole context.
    let part = |kind: &str| json!([{"type": kind, kind: {"url": "https://x.test/a.png"}}]);
    assert_eq!(ask(&budgeted, json!({}), part("image_url")).0, 200);
    let (status, body) = ask(&budgeted, json!({}), part("file"));
    assert_eq!((status, code(&body)), (429, json!("budget_exceeded")), "{body}");
}

#[test]
fn tokens_are_estimated_if_no_candidate_counts_them() {
    let body = json!({"model": "default", "messages": [{"role": "user", "content": "How are you?"}]});
    let (status, headers, body) =
        send(&node(""), "POST", "/v1/messages/count_tokens", &[], body.to_string(), true);
    assert_eq!((status, &headers["x-outlive-estimate"]), (200, &HeaderValue::from_static("true")));
    assert!(serde_json::from_str::<Value>(&body).unwrap()["input_tokens"].as_u64() > Some(10), "{body}");
}

/// A body that sends a byte after each pause and never ends.
struct SlowBody {
    node: Node<TestPlatform<MemoryStore>>,
    pause: Duration,
    next: Option<futures_util::future::LocalBoxFuture<'static, ()>>,
}

impl http_body::Body for SlowBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let (node, pause) = (self.node.clone(), self.pause);
        let next =
            self.next.get_or_insert_with(|| Box::pin(async move { node.platform().sleep(pause).await }));
        std::task::ready!(next.as_mut().poll(cx));
        self.next = None;
        std::task::Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b" ")))))
    }
}

#[test]
fn a_slow_body_is_refused_at_its_deadline() {
    for (pause, after) in [(30, 20), (15, 300)] {
        let node = node("");
        let start = node.platform().now();
        let request =
            Request::builder().method("POST").uri("/v1/chat/completions").header("host", "localhost");
        let body = SlowBody { node: node.clone(), pause: Duration::from_secs(pause), next: None };
        let arrival = Arrival { loopback: true, log: None };
        let response = block_on(node.handle(request.body(body).unwrap(), arrival));
        assert_eq!(response.status(), 408);
        assert_eq!(node.platform().now().since(start), Duration::from_secs(after));
    }
}

#[test]
fn the_console_needs_no_key_and_loads_only_its_own_files() {
    let node = node(KEYS);
    let ask = |path: &str, headers: &[(&str, &str)]| send(&node, "GET", path, headers, "", false);
    let (status, headers, page) = ask("/console", &[]);
    assert_eq!(
        (status, &headers["content-type"]),
        (200, &HeaderValue::from_static("text/html; charset=utf-8"))
    );
    assert!(
        headers["content-security-policy"]
            .to_str()
            .unwrap()
            .starts_with("default-src 'none'; script-src 'self'")
    );
    assert_eq!(ask("/console/", &[]).2, page);
    let known = ask("/console", &[("if-none-match", headers["etag"].to_str().unwrap())]);
    assert_eq!((known.0, known.2.as_str()), (304, ""));
    assert_eq!(ask("/console", &[("if-none-match", "\"another\"")]).0, 200);
    for path in ["/console/nothing.js", "/console/../agent.toml", "/consoles", "/console//api.js"] {
        assert_eq!(ask(path, &[]).0, 404, "{path}");
    }
    // Every file that the page or a module names is served, and every file is named.
    let mut named = vec![page];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(text) = named.pop() {
        for end in [".js\"", ".css\""] {
            for (at, _) in text.match_indices(end) {
                let name = text[..at + end.len() - 1].rsplit(['"', '/']).next().unwrap();
                if seen.insert(name.to_owned()) {
                    let (status, _, text) = ask(&format!("/console/{name}"), &[]);
                    assert_eq!(status, 200, "{name}");
                    named.push(text);
                }
            }
        }
    }
    assert_eq!(seen.len(), console::FILES.len() - 1, "{seen:?}");
}
