//! Tests the client against a server that sends scripted replies.

use std::{
    cell::RefCell,
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_executor::block_on;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{Endpoint, MODERN, McpError, McpFunction, McpSession, McpTimeouts, ToolOutput};
use crate::{
    body::Body,
    platform::{Http, HttpError, Platform},
    testing::{MemoryStore, TestPlatform},
};

/// The server's reply to one request.
#[derive(Clone, Debug)]
struct Reply {
    status: u16,
    kind: &'static str,
    session: Option<&'static str>,
    body: Bytes,
    ending: Ending,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    End,
    Break,
    Stall,
    /// The last half of the body repeats for ever.
    Repeat,
    /// The connection is refused.
    Refuse,
}

fn reply(status: u16, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    Reply { status, kind, session: None, body: body.into(), ending: Ending::End }
}

fn json_reply(message: Value) -> Reply {
    reply(200, JSON, message.to_string())
}

fn answer(id: u64, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

fn error(id: Value, code: i64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": "because"}})
}

fn stream(events: &str, ending: Ending) -> Reply {
    Reply { ending, ..reply(200, "text/event-stream", events.to_owned()) }
}

const JSON: &str = "application/json; charset=utf-8";

/// The opening of a server of the revision without sessions.
fn modern_opening() -> Vec<Reply> {
    vec![json_reply(answer(1, json!({"supportedVersions": [MODERN], "capabilities": {}})))]
}

/// The opening of an older server.
fn older_opening() -> Vec<Reply> {
    let started = json_reply(answer(2, json!({"protocolVersion": "2025-11-25", "capabilities": {}})));
    vec![reply(400, "", "Bad Request"), Reply { session: Some("s1"), ..started }, reply(202, "", "")]
}

#[derive(Default)]
struct ScriptedServer {
    replies: RefCell<VecDeque<Reply>>,
    requests: RefCell<Vec<Request<Value>>>,
}

impl Http for ScriptedServer {
    type Body = ChunkedBody;

    async fn send(&self, request: Request<Body>, _: Duration) -> Result<Response<ChunkedBody>, HttpError> {
        let (head, mut body) = request.into_parts();
        let sent = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let sent = sent.map(|frame| frame.unwrap().into_data().unwrap()).unwrap_or_default();
        let sent = if sent.is_empty() { Value::Null } else { serde_json::from_slice(&sent).unwrap() };
        self.requests.borrow_mut().push(Request::from_parts(head, sent));
        let reply = self.replies.borrow_mut().pop_front();
        let reply = reply.filter(|reply| reply.ending != Ending::Refuse);
        let reply = reply.ok_or(HttpError::Connect("refused".into()))?;
        let mut response = Response::builder().status(reply.status).header("content-type", reply.kind);
        if let Some(session) = reply.session {
            response = response.header("mcp-session-id", session);
        }
        // In two chunks, so that no code relies on one.
        let mut first = reply.body;
        let second = first.split_off(first.len() / 2);
        Ok(response.body(ChunkedBody { left: [second, first].into(), ending: reply.ending }).unwrap())
    }
}

struct ChunkedBody {
    left: Vec<Bytes>,
    ending: Ending,
}

impl http_body::Body for ChunkedBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if self.ending == Ending::Repeat && self.left.len() == 1 {
            return Poll::Ready(Some(Ok(Frame::data(self.left[0].clone()))));
        }
        match (self.left.pop(), self.ending) {
            (Some(bytes), _) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            (None, Ending::Break) => Poll::Ready(Some(Err(HttpError::Broken("reset".into())))),
            (None, Ending::Stall) => Poll::Pending,
            (None, _) => Poll::Ready(None),
        }
    }
}

const CALL_TIMEOUT: Duration = Duration::from_secs(30);

type Machine = TestPlatform<MemoryStore, ScriptedServer>;

fn machine(replies: impl IntoIterator<Item = Reply>) -> Machine {
    let http =
        ScriptedServer { replies: RefCell::new(replies.into_iter().collect()), ..ScriptedServer::default() };
    TestPlatform::with_http(MemoryStore::default(), http)
}

fn session(machine: &Machine) -> McpSession<'_, Machine> {
    let headers = vec![(HeaderName::from_static("authorization"), HeaderValue::from_static("Bearer hush"))];
    let url = "https://mcp.test/mcp?token=hush".parse().unwrap();
    let timeouts = McpTimeouts { connect: Duration::from_secs(5), call: CALL_TIMEOUT };
    McpSession::new(machine, Endpoint { label: "files".into(), url, headers, timeouts })
}

/// Calls a function after the replies in `opening`.
fn call(
    opening: Vec<Reply>,
    replies: impl IntoIterator<Item = Reply>,
) -> (Result<ToolOutput, McpError>, Vec<Request<Value>>) {
    let machine = machine(opening.into_iter().chain(replies));
    let arguments = Map::from_iter([("amount".to_owned(), json!(3))]);
    let result = block_on(session(&machine).call("charge", &arguments, "key-1"));
    (result, machine.http().requests.take())
}

fn list(replies: impl IntoIterator<Item = Reply>) -> Result<Vec<McpFunction>, McpError> {
    let machine = machine(modern_opening().into_iter().chain(replies));
    block_on(session(&machine).list())
}

fn output(text: &str) -> Result<ToolOutput, McpError> {
    Ok(ToolOutput { text: text.into(), failed: false, truncated: false })
}

fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

fn unknown(why: &str) -> Result<ToolOutput, McpError> {
    Err(McpError::Unknown(format!("the MCP server \"files\" {why}")))
}

fn not_sent(why: &str) -> Result<ToolOutput, McpError> {
    Err(McpError::NotSent(format!("the MCP server \"files\" {why}")))
}

fn refused(code: i64) -> Result<ToolOutput, McpError> {
    Err(McpError::Refused { code, message: "because".into() })
}

fn header<'a>(request: &'a Request<Value>, name: &str) -> &'a str {
    request.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[test]
fn requests_of_the_modern_revision_stand_alone() {
    let (result, requests) = call(modern_opening(), [json_reply(answer(2, text("charged")))]);
    assert_eq!(result, output("charged"));
    let [_, called] = &requests[..] else { panic!("{requests:?}") };
    let meta = json!({
        "outlive/key": "key-1",
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "outlive", "version": env!("CARGO_PKG_VERSION")},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({"name": "charge", "arguments": {"amount": 3}, "_meta": meta});
    let expected = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params});
    assert_eq!(called.body(), &expected);
    for (name, expected) in [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", "charge"),
        ("mcp-session-id", ""),
        ("idempotency-key", "key-1"),
        ("authorization", "Bearer hush"),
    ] {
        assert_eq!(header(called, name), expected, "{name}");
    }
    assert!(called.headers()["authorization"].is_sensitive());
}

#[test]
fn an_older_server_gets_a_session_and_replies_to_its_requests() {
    let events = format!(
        "id: 1\ndata:\n\ndata: {}\n\nevent: message\ndata: {}\n\ndata: {}\n\nevent: other\ndata: ?\n\ndata: {}\n\n",
        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {}}),
        json!({"jsonrpc": "2.0", "id": 7, "method": "ping"}),
        json!({"jsonrpc": "2.0", "id": "e", "method": "elicitation/create", "params": {}}),
        answer(3, text("charged")),
    );
    let accepted = || reply(202, "", "");
    let (result, requests) = call(older_opening(), [stream(&events, Ending::Stall), accepted(), accepted()]);
    assert_eq!(result, output("charged"));
    let bodies: Vec<&Value> = requests.iter().map(Request::body).collect();
    assert_eq!(bodies[1]["params"]["protocolVersion"], "2025-11-25");
    assert_eq!(bodies[2], &json!({"jsonrpc": "2.0", "method": "notifications/initialized", "params": {}}));
    assert_eq!(bodies[3]["params"]["_meta"], json!({"outlive/key": "key-1"}));
    assert_eq!(bodies[4], &json!({"jsonrpc": "2.0", "id": 7, "result": {}}));
    assert_eq!(bodies[5]["id"], "e");
    assert_eq!(bodies[5]["error"]["code"], -32601);
    let sessions: Vec<&str> = requests.iter().map(|request| header(request, "mcp-session-id")).collect();
    assert_eq!(sessions, ["", "", "s1", "s1", "s1", "s1"]);
    let revisions: Vec<&str> =
        requests.iter().map(|request| header(request, "mcp-protocol-version")).collect();
    assert_eq!(revisions, [MODERN, "", "2025-11-25", "2025-11-25", "2025-11-25", "2025-11-25"]);
}

#[test]
fn the_newest_common_revision_is_used() {
    let has = |versions: Value| json_reply(answer(1, json!({"supportedVersions": versions})));
    let lacks = |versions: Value| {
        let data = json!({"supported": versions, "requested": MODERN});
        let error = json!({"code": -32022, "message": "no", "data": data});
        reply(400, JSON, json!({"jsonrpc": "2.0", "id": 1, "error": error}).to_string())
    };
    let begins = |version: &str| json_reply(answer(2, json!({"protocolVersion": version})));
    let check = |replies: Vec<Reply>, expected: &str| {
        let (_, requests) = call(replies, []);
        let called = requests.iter().find(|request| request.body()["method"] == "tools/call");
        assert_eq!(called.map_or("", |request| header(request, "mcp-protocol-version")), expected);
    };
    let accepted = || reply(202, "", "");
    check(vec![has(json!(["2099-01-01", MODERN]))], MODERN);
    check(vec![has(json!(["2025-06-18"])), begins("2025-06-18"), accepted()], "2025-06-18");
    check(vec![lacks(json!(["2025-06-18"])), begins("2025-03-26"), accepted()], "2025-03-26");
    check(vec![json_reply(error(json!(1), -32601)), begins("2025-11-25"), accepted()], "2025-11-25");
    check(vec![reply(500, "", ""), begins("2025-11-25"), reply(200, "", "")], "2025-11-25");
    check(vec![json_reply(answer(1, json!({}))), begins("2025-11-25"), accepted()], "2025-11-25");
    check(vec![stream("", Ending::Stall), begins("2025-11-25"), accepted()], "2025-11-25");
    // No common revision, one newer than requested, one from before this transport, and none at all.
    check(vec![has(json!(["2099-01-01"])), begins("2025-11-25"), accepted()], "");
    check(vec![lacks(json!(["2099-01-01"])), begins("2025-11-25"), accepted()], "");
    check(vec![reply(404, "", ""), begins("2099-01-01"), accepted()], "");
    check(vec![reply(404, "", ""), begins("2024-11-05"), accepted()], "");
    check(vec![reply(404, "", ""), json_reply(answer(2, json!({}))), accepted()], "");
    // A server that refuses access is not called twice.
    check(vec![reply(401, "", ""), begins("2025-11-25"), accepted()], "");
}

#[test]
fn errors_tell_whether_the_call_may_have_run() {
    let check = |replied: Reply, expected: Result<ToolOutput, McpError>| {
        let (result, requests) = call(modern_opening(), [replied.clone()]);
        assert_eq!(result, expected, "{replied:?}");
        assert_eq!(requests.len(), 2, "{replied:?}: nothing is sent twice");
        assert!(!format!("{result:?}").contains("hush"), "{result:?}");
    };
    let no_answer = |why: &str| unknown(&format!("gave no answer: it sent {why}"));
    let ends = |ending| Reply { ending, ..reply(200, JSON, "{") };
    check(ends(Ending::Refuse), not_sent("gave no answer: no connection: refused"));
    for status in [400, 401, 404, 429, 307] {
        check(reply(status, JSON, "hush"), not_sent(&format!("answered with status {status}")));
    }
    for status in [303, 408, 409, 500, 503, 202] {
        check(reply(status, JSON, "hush"), unknown(&format!("answered with status {status}")));
    }
    check(reply(400, JSON, error(json!(2), -32602).to_string()), refused(-32602));
    check(reply(404, JSON, error(Value::Null, -32601).to_string()), refused(-32601));
    check(
        reply(500, JSON, error(json!(2), -32603).to_string()),
        unknown("answered with status 500 and code -32603"),
    );
    check(json_reply(error(json!(2), -32602)), refused(-32602));
    check(json_reply(error(json!(2), -32603)), unknown("answered with code -32603"));
    check(json_reply(error(json!(2), 17)), unknown("answered with code 17"));
    check(json_reply(error(Value::Null, -32700)), refused(-32700));
    check(json_reply(error(json!(9), -32602)), no_answer(super::message::WRONG_ID));
    check(json_reply(answer(9, text("hush"))), no_answer(super::message::WRONG_ID));
    check(
        json_reply(json!({"jsonrpc": "2.0", "id": "2", "result": {}})),
        no_answer(super::message::WRONG_ID),
    );
    check(json_reply(json!({"jsonrpc": "2.0", "result": {}})), no_answer(super::message::WRONG_ID));
    check(json_reply(json!([answer(2, text("hush"))])), no_answer("something other than one JSON object"));
    check(json_reply(json!({"id": 2, "result": {}})), no_answer("something other than JSON-RPC 2.0"));
    check(
        json_reply(json!({"jsonrpc": "2.0", "id": 2, "result": []})),
        no_answer("neither a result nor an error"),
    );
    check(json_reply(json!({"jsonrpc": "2.0", "id": 2})), no_answer("neither a result nor an error"));
    check(json_reply(json!({"jsonrpc": "2.0", "method": "x"})), no_answer("another message"));
    check(reply(200, "text/html", "<p>"), no_answer("neither JSON nor an event stream"));
    check(ends(Ending::End), no_answer("something other than one JSON object"));
    check(ends(Ending::Break), unknown("gave no answer: the connection broke: reset"));
    check(ends(Ending::Stall), unknown("gave no answer in time"));
    check(stream("", Ending::End), no_answer("a stream that ends before it"));
    check(stream("id: 1\ndata:\n\n", Ending::Break), unknown("gave no answer: the connection broke: reset"));
    check(stream("data: x\n\n", Ending::End), no_answer("something other than one JSON object"));
    check(stream(": still here\n\n", Ending::Repeat), no_answer("a longer answer than the client reads"));
    check(
        reply(200, JSON, vec![b' '; super::MAX_ANSWER_BYTES + 1]),
        no_answer("a longer answer than the client reads"),
    );
    let wants = json!({"resultType": "input_required", "inputRequests": {}});
    check(json_reply(answer(2, wants)), unknown("sent a question instead of a result"));
    check(json_reply(answer(2, json!({"content": "hush"}))), unknown("sent a result without content"));
    check(json_reply(answer(2, json!({"content": [1]}))), unknown("sent content that is not an object"));
    check(
        json_reply(answer(2, json!({"content": [], "isError": "no"}))),
        unknown("sent an `isError` that is not a boolean"),
    );
}

#[test]
fn a_forgotten_session_is_reopened_once() {
    let forgotten = || reply(404, JSON, error(Value::Null, -32600).to_string());
    let again = || {
        let started = json_reply(answer(5, json!({"protocolVersion": "2025-11-25"})));
        [reply(400, "", ""), Reply { session: Some("s2"), ..started }, reply(202, "", "")]
    };
    let replies = [forgotten()].into_iter().chain(again());
    let (result, requests) =
        call(older_opening(), replies.clone().chain([json_reply(answer(6, text("charged")))]));
    assert_eq!(result, output("charged"));
    assert_eq!(requests.last().map(|request| header(request, "mcp-session-id")), Some("s2"));
    let (result, requests) = call(older_opening(), replies.chain([forgotten()]));
    assert_eq!((result, requests.len()), (refused(-32600), 8));
}

#[test]
fn a_broken_stream_is_resumed() {
    let events = |id: u32| format!("id: {id}\nretry: 10000\ndata:\n\n");
    let whole = format!("data: {}\n\n", answer(3, text("charged")));
    let replies =
        [stream(&events(1), Ending::Break), stream(&events(2), Ending::End), stream(&whole, Ending::End)];
    let (result, requests) = call(older_opening(), replies);
    assert_eq!(result, output("charged"));
    let resumed: Vec<_> = requests.iter().filter(|request| request.method() == "GET").collect();
    let last: Vec<&str> = resumed.iter().map(|request| header(request, "last-event-id")).collect();
    assert_eq!(last, ["1", "2"]);
    assert!(resumed.iter().all(|request| header(request, "mcp-session-id") == "s1"));
    // The third attempt would start after the deadline.
    let replies = [events(1), events(1), events(1)].map(|events| stream(&events, Ending::End));
    let (result, _) = call(older_opening(), replies.into_iter().chain([stream(&whole, Ending::End)]));
    assert_eq!(result, unknown("gave no answer in time"));
    // A server that closes every stream without an answer.
    let (result, requests) =
        call(older_opening(), vec![stream("id: 1\nretry: 0\ndata:\n\n", Ending::End); 20]);
    assert_eq!(result, unknown("gave no answer: it sent a stream that ends before it"));
    assert_eq!(requests.len(), 3 + 1 + 8);
}

#[test]
fn a_call_ends_at_its_deadline_and_is_cancelled() {
    let machine = machine(
        older_opening()
            .into_iter()
            .chain([stream("", Ending::Stall), Reply { ending: Ending::Stall, ..reply(200, "", "") }]),
    );
    let started = machine.now();
    let result = block_on(session(&machine).call("charge", &Map::new(), "k"));
    assert_eq!(result, unknown("gave no answer in time"));
    assert_eq!(machine.now().since(started), CALL_TIMEOUT);
    let requests = machine.http().requests.take();
    let last_message = requests.last().unwrap().body();
    assert_eq!(
        (&last_message["method"], &last_message["params"]["requestId"]),
        (&json!("notifications/cancelled"), &json!(3))
    );
}

#[test]
fn the_opening_counts_towards_the_deadline_of_the_call() {
    let silent = || stream("", Ending::Stall);
    let machine = machine([silent(), silent()]);
    let started = machine.now();
    let result = block_on(session(&machine).call("charge", &Map::new(), "k"));
    assert_eq!(result, not_sent("gave no answer in time"));
    assert_eq!(machine.now().since(started), CALL_TIMEOUT);
}

#[test]
fn replies_to_one_server_are_bounded() {
    let ask = json!({"jsonrpc": "2.0", "id": 7, "method": "ping"});
    let events =
        format!("data: {ask}\n\n").repeat(1000) + &format!("data: {}\n\n", answer(3, text("charged")));
    let (result, requests) = call(older_opening(), [stream(&events, Ending::End)]);
    assert_eq!(result, output("charged"));
    assert_eq!(requests.len(), 3 + 1 + 16);
}

#[test]
fn close_ends_the_session() {
    let machine = machine(older_opening().into_iter().chain([json_reply(answer(3, text("charged")))]));
    let session = session(&machine);
    block_on(session.call("charge", &Map::new(), "k")).unwrap();
    block_on(session.close());
    let requests = machine.http().requests.take();
    let last = requests.last().unwrap();
    assert_eq!((last.method().as_str(), header(last, "mcp-session-id")), ("DELETE", "s1"));
}

#[test]
fn every_kind_of_content_becomes_text() {
    let check = |result: Value, expected: &str| {
        assert_eq!(
            call(modern_opening(), [json_reply(answer(2, result.clone()))]).0,
            output(expected),
            "{result}"
        );
    };
    check(json!({"content": []}), "");
    check(json!({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}), "a\nb");
    check(
        json!({"content": [{"type": "image", "mimeType": "image/png]\n", "data": "AAAAAA=="}]}),
        "[image image/png, 4 bytes]",
    );
    check(
        json!({"content": [{"type": "resource_link", "uri": "file:///a", "name": "a"}]}),
        "[link a file:///a]",
    );
    check(
        json!({"content": [{"type": "resource", "resource": {"uri": "file:///a", "text": "hi"}}]}),
        "[resource file:///a]\nhi",
    );
    check(
        json!({"content": [{"type": "resource", "resource": {"uri": "u", "mimeType": "m", "blob": "AAAA"}}]}),
        "[resource u m, 3 bytes]",
    );
    check(json!({"content": [{"type": "smell"}]}), "[smell]");
    check(json!({"content": [], "structuredContent": {"a": 1}}), "{\"a\":1}");
    check(json!({"structuredContent": [1]}), "[1]");
    check(json!({"content": [{"type": "text", "text": "a"}], "structuredContent": {"a": 1}}), "a");
    let result = json!({"content": [{"type": "text", "text": "é".repeat(40_000)}], "isError": true});
    let output = call(modern_opening(), [json_reply(answer(2, result))]).0.unwrap();
    assert_eq!((output.text.len(), output.failed, output.truncated), (64 * 1024, true, true));
}

#[test]
fn lists_follow_pages_and_leave_out_functions_that_cant_be_called() {
    let schema = || json!({"type": "object"});
    let tool = |name: &str| json!({"name": name, "inputSchema": schema()});
    let page =
        |id, tools: Value, next: Value| json_reply(answer(id, json!({"tools": tools, "nextCursor": next})));
    let hidden = json!({"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": "A"}}});
    let first = json!([
        {"name": "a.b-c_D", "description": "x".repeat(9000), "inputSchema": schema(), "annotations": {"readOnlyHint": true}},
        tool("with space"), tool(""), tool(&"x".repeat(129)), tool("naïve"),
        {"name": "no_schema"}, {"name": "bad_schema", "inputSchema": true}, {"name": 1}, 7,
        {"name": "mirrored", "inputSchema": hidden},
        {"name": "large", "inputSchema": {"description": "x".repeat(33_000)}},
    ]);
    let functions =
        list([page(2, first, json!("next")), page(3, json!([tool("second"), tool("a.b-c_D")]), Value::Null)]);
    let function = |name: &str| McpFunction {
        name: name.into(),
        description: None,
        input_schema: schema(),
        annotations: Value::Null,
    };
    let described = McpFunction {
        description: Some("x".repeat(8192)),
        annotations: json!({"readOnlyHint": true}),
        ..function("a.b-c_D")
    };
    assert_eq!(functions, Ok(vec![described, function("second")]));
    let pages = (2..100).map(|id| page(id, json!([tool("a")]), json!("again")));
    let why = "the MCP server \"files\" lists its functions on more than 16 pages";
    assert_eq!(list(pages), Err(McpError::NotSent(why.into())));
    let many: Vec<Value> = (0..129).map(|n| tool(&format!("f{n}"))).collect();
    let why = "the MCP server \"files\" has more than 128 functions";
    assert_eq!(list([page(2, json!(many), Value::Null)]), Err(McpError::NotSent(why.into())));
    let why = "the MCP server \"files\" answered with status 500";
    assert_eq!(list([reply(500, "", "")]), Err(McpError::NotSent(why.into())));
}

#[test]
fn names_and_keys_that_no_header_holds_are_not_sent() {
    let machine = machine([]);
    let session = session(&machine);
    for (function, key) in [("a b", "k"), ("", "k"), ("a\nb", "k"), ("a", "k\n")] {
        let result = block_on(session.call(function, &Map::new(), key));
        assert!(matches!(result, Err(McpError::NotSent(_))), "{result:?}");
    }
    assert!(machine.http().requests.borrow().is_empty());
}

/// Replies of which some are valid, so that invalid ones occur at every step.
fn replies() -> impl Strategy<Value = Vec<Reply>> {
    let id = prop::sample::select(vec![1_u64, 2, 3, 4, 5]);
    let result = prop::sample::select(vec![
        json!({"supportedVersions": [MODERN]}),
        json!({"protocolVersion": "2025-06-18"}),
        json!({"tools": [{"name": "a", "inputSchema": {}}], "nextCursor": "n"}),
        text("charged"),
    ]);
    let right = (id, result).prop_map(|(id, result)| answer(id, result).to_string().into_bytes());
    let event =
        right.clone().prop_map(|json| [b"id: 1\nretry: 1\ndata: ", json.as_slice(), b"\n\n"].concat());
    let broken = (right.clone(), 0_usize..80, any::<u8>()).prop_map(|(mut json, at, byte)| {
        let at = at % json.len();
        json[at] = byte;
        json
    });
    let body = prop_oneof![right, event, broken, prop::collection::vec(any::<u8>(), 0..200)];
    let status = prop::sample::select(vec![200, 200, 200, 202, 307, 400, 404, 500]);
    let kind = prop::sample::select(vec![JSON, "text/event-stream", "text/html"]);
    let ending =
        prop::sample::select(vec![Ending::End, Ending::Break, Ending::Stall, Ending::Repeat, Ending::Refuse]);
    let session = prop::option::of(Just("s"));
    let one = (status, kind, session, body, ending).prop_map(|(status, kind, session, body, ending)| Reply {
        status,
        kind,
        session,
        body: body.into(),
        ending,
    });
    prop::collection::vec(one, 0..8)
}

proptest! {
    #[test]
    fn every_call_ends_within_its_bounds(replies in replies()) {
        let machine = machine(replies);
        let session = session(&machine);
        let started = machine.now();
        if let Ok(functions) = block_on(session.list()) {
            prop_assert!(functions.len() <= 128);
        }
        match block_on(session.call("charge", &Map::new(), "k")) {
            Ok(output) => prop_assert!(output.text.len() <= 64 * 1024),
            Err(error) => prop_assert!(!error.to_string().contains("hush")),
        }
        block_on(session.close());
        // Two calls, a cancellation after each, and the end of the session.
        prop_assert!(machine.now().since(started) <= CALL_TIMEOUT * 2 + Duration::from_secs(6));
    }
}
