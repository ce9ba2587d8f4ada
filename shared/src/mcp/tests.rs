//! A server that says what the test wrote down.

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

/// What the server does about one request.
#[derive(Clone, Debug)]
struct Reply {
    status: u16,
    kind: &'static str,
    session: Option<&'static str>,
    body: Bytes,
    then: Then,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    End,
    Break,
    Stall,
    /// The last of the body comes again and again.
    Repeat,
    /// There is no connection at all.
    Refuse,
}

fn reply(status: u16, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    Reply { status, kind, session: None, body: body.into(), then: Then::End }
}

fn says(message: Value) -> Reply {
    reply(200, JSON, message.to_string())
}

fn answer(id: u64, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

fn error(id: Value, code: i64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": "because"}})
}

fn stream(events: &str, then: Then) -> Reply {
    Reply { then, ..reply(200, "text/event-stream", events.to_owned()) }
}

const JSON: &str = "application/json; charset=utf-8";

/// How the session begins with a server without sessions.
fn modern() -> Vec<Reply> {
    vec![says(answer(1, json!({"supportedVersions": [MODERN], "capabilities": {}})))]
}

/// How it begins with an older one.
fn older() -> Vec<Reply> {
    let begun = says(answer(2, json!({"protocolVersion": "2025-11-25", "capabilities": {}})));
    vec![reply(400, "", "Bad Request"), Reply { session: Some("s1"), ..begun }, reply(202, "", "")]
}

#[derive(Default)]
struct Scripted {
    replies: RefCell<VecDeque<Reply>>,
    seen: RefCell<Vec<Request<Value>>>,
}

impl Http for Scripted {
    type Body = Words;

    async fn send(&self, request: Request<Body>, _: Duration) -> Result<Response<Words>, HttpError> {
        let (head, mut body) = request.into_parts();
        let sent = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let sent = sent.map(|frame| frame.unwrap().into_data().unwrap()).unwrap_or_default();
        let sent = if sent.is_empty() { Value::Null } else { serde_json::from_slice(&sent).unwrap() };
        self.seen.borrow_mut().push(Request::from_parts(head, sent));
        let reply = self.replies.borrow_mut().pop_front();
        let reply = reply.filter(|reply| reply.then != Then::Refuse);
        let reply = reply.ok_or(HttpError::Connect("nobody is there".into()))?;
        let mut response = Response::builder().status(reply.status).header("content-type", reply.kind);
        if let Some(session) = reply.session {
            response = response.header("mcp-session-id", session);
        }
        // In two pieces, so that nothing depends on getting all at once.
        let mut first = reply.body;
        let second = first.split_off(first.len() / 2);
        Ok(response.body(Words { left: [second, first].into(), then: reply.then }).unwrap())
    }
}

struct Words {
    left: Vec<Bytes>,
    then: Then,
}

impl http_body::Body for Words {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if self.then == Then::Repeat && self.left.len() == 1 {
            return Poll::Ready(Some(Ok(Frame::data(self.left[0].clone()))));
        }
        match (self.left.pop(), self.then) {
            (Some(bytes), _) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            (None, Then::Break) => Poll::Ready(Some(Err(HttpError::Broken("reset".into())))),
            (None, Then::Stall) => Poll::Pending,
            (None, _) => Poll::Ready(None),
        }
    }
}

const TIME: Duration = Duration::from_secs(30);

type Machine = TestPlatform<MemoryStore, Scripted>;

fn machine(replies: impl IntoIterator<Item = Reply>) -> Machine {
    let http = Scripted { replies: RefCell::new(replies.into_iter().collect()), ..Scripted::default() };
    TestPlatform::with_http(MemoryStore::default(), http)
}

fn session(machine: &Machine) -> McpSession<'_, Machine> {
    let headers = vec![(HeaderName::from_static("authorization"), HeaderValue::from_static("Bearer hush"))];
    let url = "https://mcp.test/mcp?token=hush".parse().unwrap();
    let timeouts = McpTimeouts { connect: Duration::from_secs(5), call: TIME };
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
    (result, machine.http().seen.take())
}

fn list(replies: impl IntoIterator<Item = Reply>) -> Result<Vec<McpFunction>, McpError> {
    let machine = machine(modern().into_iter().chain(replies));
    block_on(session(&machine).list())
}

fn said(text: &str) -> Result<ToolOutput, McpError> {
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
fn requests_without_sessions_say_all_about_themselves() {
    let (result, seen) = call(modern(), [says(answer(2, text("charged")))]);
    assert_eq!(result, said("charged"));
    let [_, called] = &seen[..] else { panic!("{seen:?}") };
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
fn an_older_server_gets_a_session_and_answers_to_what_it_asks() {
    let events = format!(
        "id: 1\ndata:\n\ndata: {}\n\nevent: message\ndata: {}\n\ndata: {}\n\nevent: other\ndata: ?\n\ndata: {}\n\n",
        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {}}),
        json!({"jsonrpc": "2.0", "id": 7, "method": "ping"}),
        json!({"jsonrpc": "2.0", "id": "e", "method": "elicitation/create", "params": {}}),
        answer(3, text("charged")),
    );
    let accepted = || reply(202, "", "");
    let (result, seen) = call(older(), [stream(&events, Then::Stall), accepted(), accepted()]);
    assert_eq!(result, said("charged"));
    let bodies: Vec<&Value> = seen.iter().map(Request::body).collect();
    assert_eq!(bodies[1]["params"]["protocolVersion"], "2025-11-25");
    assert_eq!(bodies[2], &json!({"jsonrpc": "2.0", "method": "notifications/initialized", "params": {}}));
    assert_eq!(bodies[3]["params"]["_meta"], json!({"outlive/key": "key-1"}));
    assert_eq!(bodies[4], &json!({"jsonrpc": "2.0", "id": 7, "result": {}}));
    assert_eq!(bodies[5]["id"], "e");
    assert_eq!(bodies[5]["error"]["code"], -32601);
    let sessions: Vec<&str> = seen.iter().map(|request| header(request, "mcp-session-id")).collect();
    assert_eq!(sessions, ["", "", "s1", "s1", "s1", "s1"]);
    let revisions: Vec<&str> = seen.iter().map(|request| header(request, "mcp-protocol-version")).collect();
    assert_eq!(revisions, [MODERN, "", "2025-11-25", "2025-11-25", "2025-11-25", "2025-11-25"]);
}

#[test]
fn a_revision_is_agreed_on() {
    let has = |versions: Value| says(answer(1, json!({"supportedVersions": versions})));
    let lacks = |versions: Value| {
        let data = json!({"supported": versions, "requested": MODERN});
        let error = json!({"code": -32022, "message": "no", "data": data});
        reply(400, JSON, json!({"jsonrpc": "2.0", "id": 1, "error": error}).to_string())
    };
    let begins = |version: &str| says(answer(2, json!({"protocolVersion": version})));
    let check = |replies: Vec<Reply>, expected: &str| {
        let (_, seen) = call(replies, []);
        let called = seen.iter().find(|request| request.body()["method"] == "tools/call");
        assert_eq!(called.map_or("", |request| header(request, "mcp-protocol-version")), expected);
    };
    let accepted = || reply(202, "", "");
    check(vec![has(json!(["2099-01-01", MODERN]))], MODERN);
    check(vec![has(json!(["2025-06-18"])), begins("2025-06-18"), accepted()], "2025-06-18");
    check(vec![lacks(json!(["2025-06-18"])), begins("2025-03-26"), accepted()], "2025-03-26");
    check(vec![says(error(json!(1), -32601)), begins("2025-11-25"), accepted()], "2025-11-25");
    check(vec![reply(500, "", ""), begins("2025-11-25"), reply(200, "", "")], "2025-11-25");
    check(vec![says(answer(1, json!({}))), begins("2025-11-25"), accepted()], "2025-11-25");
    check(vec![stream("", Then::Stall), begins("2025-11-25"), accepted()], "2025-11-25");
    // None in common, a later one than was asked for, one from before this transport, and none at all.
    check(vec![has(json!(["2099-01-01"])), begins("2025-11-25"), accepted()], "");
    check(vec![lacks(json!(["2099-01-01"])), begins("2025-11-25"), accepted()], "");
    check(vec![reply(404, "", ""), begins("2099-01-01"), accepted()], "");
    check(vec![reply(404, "", ""), begins("2024-11-05"), accepted()], "");
    check(vec![reply(404, "", ""), says(answer(2, json!({}))), accepted()], "");
    // A server that does not let anybody in is not asked twice.
    check(vec![reply(401, "", ""), begins("2025-11-25"), accepted()], "");
}

#[test]
fn faults_say_whether_the_call_may_have_run() {
    let check = |replied: Reply, expected: Result<ToolOutput, McpError>| {
        let (result, seen) = call(modern(), [replied.clone()]);
        assert_eq!(result, expected, "{replied:?}");
        assert_eq!(seen.len(), 2, "{replied:?}: nothing is sent twice");
        assert!(!format!("{result:?}").contains("hush"), "{result:?}");
    };
    let no_answer = |why: &str| unknown(&format!("gave no answer: it sent {why}"));
    let ends = |then| Reply { then, ..reply(200, JSON, "{") };
    check(ends(Then::Refuse), not_sent("gave no answer: no connection: nobody is there"));
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
    check(says(error(json!(2), -32602)), refused(-32602));
    check(says(error(json!(2), -32603)), unknown("answered with code -32603"));
    check(says(error(json!(2), 17)), unknown("answered with code 17"));
    check(says(error(Value::Null, -32700)), refused(-32700));
    check(says(error(json!(9), -32602)), no_answer("an id that it was not given"));
    check(says(answer(9, text("hush"))), no_answer("an id that it was not given"));
    check(says(json!({"jsonrpc": "2.0", "id": "2", "result": {}})), no_answer("an id that it was not given"));
    check(says(json!({"jsonrpc": "2.0", "result": {}})), no_answer("an id that it was not given"));
    check(says(json!([answer(2, text("hush"))])), no_answer("what is not one JSON object"));
    check(says(json!({"id": 2, "result": {}})), no_answer("what is not JSON-RPC 2.0"));
    check(says(json!({"jsonrpc": "2.0", "id": 2, "result": []})), no_answer("neither a result nor an error"));
    check(says(json!({"jsonrpc": "2.0", "id": 2})), no_answer("neither a result nor an error"));
    check(says(json!({"jsonrpc": "2.0", "method": "x"})), no_answer("another message"));
    check(reply(200, "text/html", "<p>"), no_answer("neither JSON nor an event stream"));
    check(ends(Then::End), no_answer("what is not one JSON object"));
    check(ends(Then::Break), unknown("gave no answer: the connection broke: reset"));
    check(ends(Then::Stall), unknown("gave no answer in time"));
    check(stream("", Then::End), no_answer("a stream that ends before it"));
    check(stream("id: 1\ndata:\n\n", Then::Break), unknown("gave no answer: the connection broke: reset"));
    check(stream("data: x\n\n", Then::End), no_answer("what is not one JSON object"));
    check(stream(": still here\n\n", Then::Repeat), no_answer("more than is read"));
    check(reply(200, JSON, vec![b' '; super::MAX_ANSWER_BYTES + 1]), no_answer("more than is read"));
    let wants = json!({"resultType": "input_required", "inputRequests": {}});
    check(says(answer(2, wants)), unknown("sent a question instead of a result"));
    check(says(answer(2, json!({"content": "hush"}))), unknown("sent a result without content"));
    check(says(answer(2, json!({"content": [1]}))), unknown("sent content that is not an object"));
    check(
        says(answer(2, json!({"content": [], "isError": "no"}))),
        unknown("sent an `isError` that is not a boolean"),
    );
}

#[test]
fn a_forgotten_session_begins_again_once() {
    let forgotten = || reply(404, JSON, error(Value::Null, -32600).to_string());
    let again = || {
        let begun = says(answer(5, json!({"protocolVersion": "2025-11-25"})));
        [reply(400, "", ""), Reply { session: Some("s2"), ..begun }, reply(202, "", "")]
    };
    let replies = [forgotten()].into_iter().chain(again());
    let (result, seen) = call(older(), replies.clone().chain([says(answer(6, text("charged")))]));
    assert_eq!(result, said("charged"));
    assert_eq!(seen.last().map(|request| header(request, "mcp-session-id")), Some("s2"));
    let (result, seen) = call(older(), replies.chain([forgotten()]));
    assert_eq!((result, seen.len()), (refused(-32600), 8));
}

#[test]
fn a_broken_stream_is_taken_up_again() {
    let events = |id: u32| format!("id: {id}\nretry: 10000\ndata:\n\n");
    let whole = format!("data: {}\n\n", answer(3, text("charged")));
    let replies = [stream(&events(1), Then::Break), stream(&events(2), Then::End), stream(&whole, Then::End)];
    let (result, seen) = call(older(), replies);
    assert_eq!(result, said("charged"));
    let resumed: Vec<_> = seen.iter().filter(|request| request.method() == "GET").collect();
    let last: Vec<&str> = resumed.iter().map(|request| header(request, "last-event-id")).collect();
    assert_eq!(last, ["1", "2"]);
    assert!(resumed.iter().all(|request| header(request, "mcp-session-id") == "s1"));
    // The third try would come after the time that the caller has.
    let replies = [events(1), events(1), events(1)].map(|events| stream(&events, Then::End));
    let (result, _) = call(older(), replies.into_iter().chain([stream(&whole, Then::End)]));
    assert_eq!(result, unknown("gave no answer in time"));
    // A server that does nothing but close.
    let (result, seen) = call(older(), vec![stream("id: 1\nretry: 0\ndata:\n\n", Then::End); 20]);
    assert_eq!(result, unknown("gave no answer: it sent a stream that ends before it"));
    assert_eq!(seen.len(), 3 + 1 + 8);
}

#[test]
fn what_takes_too_long_is_cancelled_and_ends_by_the_clock() {
    let machine = machine(
        older()
            .into_iter()
            .chain([stream("", Then::Stall), Reply { then: Then::Stall, ..reply(200, "", "") }]),
    );
    let begun = machine.now();
    let result = block_on(session(&machine).call("charge", &Map::new(), "k"));
    assert_eq!(result, unknown("gave no answer in time"));
    assert_eq!(machine.now().since(begun), TIME);
    let seen = machine.http().seen.take();
    let told = seen.last().unwrap().body();
    assert_eq!(
        (&told["method"], &told["params"]["requestId"]),
        (&json!("notifications/cancelled"), &json!(3))
    );
}

#[test]
fn what_comes_before_the_call_takes_of_its_time() {
    let silent = || stream("", Then::Stall);
    let machine = machine([silent(), silent()]);
    let begun = machine.now();
    let result = block_on(session(&machine).call("charge", &Map::new(), "k"));
    assert_eq!(result, not_sent("gave no answer in time"));
    assert_eq!(machine.now().since(begun), TIME);
}

#[test]
fn nobody_is_made_to_send_many_answers() {
    let ask = json!({"jsonrpc": "2.0", "id": 7, "method": "ping"});
    let events =
        format!("data: {ask}\n\n").repeat(1000) + &format!("data: {}\n\n", answer(3, text("charged")));
    let (result, seen) = call(older(), [stream(&events, Then::End)]);
    assert_eq!(result, said("charged"));
    assert_eq!(seen.len(), 3 + 1 + 16);
}

#[test]
fn the_session_is_ended() {
    let machine = machine(older().into_iter().chain([says(answer(3, text("charged")))]));
    let session = session(&machine);
    block_on(session.call("charge", &Map::new(), "k")).unwrap();
    block_on(session.close());
    let seen = machine.http().seen.take();
    let last = seen.last().unwrap();
    assert_eq!((last.method().as_str(), header(last, "mcp-session-id")), ("DELETE", "s1"));
}

#[test]
fn all_content_becomes_text() {
    let check = |result: Value, expected: &str| {
        assert_eq!(call(modern(), [says(answer(2, result.clone()))]).0, said(expected), "{result}");
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
    let output = call(modern(), [says(answer(2, result))]).0.unwrap();
    assert_eq!((output.text.len(), output.failed, output.truncated), (64 * 1024, true, true));
}

#[test]
fn lists_have_pages_and_leave_out_what_cant_be_called() {
    let schema = || json!({"type": "object"});
    let tool = |name: &str| json!({"name": name, "inputSchema": schema()});
    let page = |id, tools: Value, next: Value| says(answer(id, json!({"tools": tools, "nextCursor": next})));
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
fn what_no_header_can_hold_is_not_sent() {
    let machine = machine([]);
    let session = session(&machine);
    for (function, key) in [("a b", "k"), ("", "k"), ("a\nb", "k"), ("a", "k\n")] {
        let result = block_on(session.call(function, &Map::new(), key));
        assert!(matches!(result, Err(McpError::NotSent(_))), "{result:?}");
    }
    assert!(machine.http().seen.borrow().is_empty());
}

/// Replies that are partly right, so that the wrong ones come at every step.
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
    let then = prop::sample::select(vec![Then::End, Then::Break, Then::Stall, Then::Repeat, Then::Refuse]);
    let session = prop::option::of(Just("s"));
    let one = (status, kind, session, body, then).prop_map(|(status, kind, session, body, then)| Reply {
        status,
        kind,
        session,
        body: body.into(),
        then,
    });
    prop::collection::vec(one, 0..8)
}

proptest! {
    #[test]
    fn whatever_comes_there_is_an_end(replies in replies()) {
        let machine = machine(replies);
        let session = session(&machine);
        let begun = machine.now();
        if let Ok(functions) = block_on(session.list()) {
            prop_assert!(functions.len() <= 128);
        }
        match block_on(session.call("charge", &Map::new(), "k")) {
            Ok(output) => prop_assert!(output.text.len() <= 64 * 1024),
            Err(error) => prop_assert!(!error.to_string().contains("hush")),
        }
        block_on(session.close());
        // Two limits, a cancellation after each, and a farewell.
        prop_assert!(machine.now().since(begun) <= TIME * 2 + Duration::from_secs(6));
    }
}
