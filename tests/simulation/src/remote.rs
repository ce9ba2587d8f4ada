//! Answers as the remote MCP server, whose functions have effects, and applies its faults. Checks nothing.

use std::{pin::Pin, rc::Rc, time::Duration};

use futures_channel::oneshot;
use http::{Request, Response};
use http_body::Body as _;
use outlive::{body::Body, platform::HttpError};
use serde_json::{Value, json};

use crate::{
    machine::Clock,
    provider::AnswerBody,
    world::{OUTSIDE, World},
};

/// The server's host.
pub(crate) const HOST: &str = "mcp.test";

/// The server's section of the configuration.
pub(crate) const CONFIG_SECTION: &str = "[[tool]]\nname = \"t\"\nurl = \"https://mcp.test/mcp\"\npure = [\"lookup\"]\n\
    keyed = [\"charge\"]\nkey = [\"order\", \"target\"]\napprove = [\"guarded\"]\ntimeout = \"4s\"\n";

/// How a request fails. The names of the variants are part of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RemoteFault {
    /// No connection.
    Refused,
    /// 429, and nothing happens.
    Limited,
    /// 500, and nothing happens.
    Broken,
    /// Nothing happens, and no answer comes.
    Stall,
    /// The function does not take these arguments.
    Invalid,
    /// The function runs without an effect and reports an error.
    Declined,
    /// It happens after so many milliseconds, even if the node no longer waits.
    Late(u64),
    /// It happens, and then the connection breaks.
    Lost,
    /// It happens, and no answer comes.
    Silent,
    /// It happens, and the answer is 500.
    Torn,
    /// It happens, and the answer is JSON-RPC's internal error.
    Internal,
    /// It happens, and the answer has the id of another request.
    WrongId,
    /// It happens, and the answer is not JSON.
    NotJson,
    /// The request arrives twice, unless the function is exclusive.
    Doubled,
    /// The node crashes before it happens.
    Crash,
    /// The node crashes after it has happened.
    CrashAfter,
}

const FAULTS: [RemoteFault; 16] = [
    RemoteFault::Refused,
    RemoteFault::Limited,
    RemoteFault::Broken,
    RemoteFault::Stall,
    RemoteFault::Invalid,
    RemoteFault::Declined,
    RemoteFault::Late(0),
    RemoteFault::Lost,
    RemoteFault::Silent,
    RemoteFault::Torn,
    RemoteFault::Internal,
    RemoteFault::WrongId,
    RemoteFault::NotJson,
    RemoteFault::Doubled,
    RemoteFault::Crash,
    RemoteFault::CrashAfter,
];

impl RemoteFault {
    fn draw(world: &World) -> Option<Self> {
        let mut random = world.mcp_random.borrow_mut();
        let fails = world.faults_are_on() && random.chance(world.plan.remote);
        let fault = random.pick(&FAULTS, Self::Refused);
        let late = random.range(0..9_000);
        fails.then_some(if fault == Self::Late(0) { Self::Late(late) } else { fault })
    }
}

/// What the server sends.
enum RemoteAnswer {
    Status(u16),
    Json(Value),
    NotJson,
    /// A reset of the connection.
    Reset,
    /// Nothing, on an open connection.
    Stall,
}

/// Answers one request of the node.
pub(crate) async fn answer(
    world: &Rc<World>,
    clock: &Rc<Clock>,
    mut request: Request<Body>,
) -> Result<Response<AnswerBody>, HttpError> {
    let frame = std::future::poll_fn(|cx| Pin::new(request.body_mut()).poll_frame(cx)).await;
    let body = frame.and_then(Result::ok).and_then(|frame| frame.into_data().ok()).unwrap_or_default();
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let pause = world.mcp_random.borrow_mut().range(1..100);
    world.executor.sleep(Duration::from_millis(pause)).await;
    let fault = RemoteFault::draw(world);
    let method = message.get("method").and_then(Value::as_str).unwrap_or_default();
    world.trace(format_args!("{HOST} {method} {:?} {fault:?}", message.pointer("/params/arguments")));
    if fault == Some(RemoteFault::Refused) {
        return Err(HttpError::Connect("refused".into()));
    }
    let (sender, receiver) = oneshot::channel();
    let server = Rc::clone(world);
    // A task of its own, so that the server finishes even if the node crashes or stops waiting.
    world.executor.spawn(OUTSIDE, async move {
        if let Some(RemoteFault::Late(millis)) = fault {
            server.executor.sleep(Duration::from_millis(millis)).await;
        }
        let is_call = message.get("method") == Some(&"tools/call".into());
        if fault == Some(RemoteFault::Crash) && is_call {
            server.crash();
        }
        let answer = serve(&server, &message, fault);
        if fault == Some(RemoteFault::CrashAfter) && is_call {
            server.crash();
        }
        if sender.send(answer).is_err() {
            server.count("tool answers after the node stopped waiting");
        }
    });
    match receiver.await {
        Ok(RemoteAnswer::Status(status)) => Ok(AnswerBody::whole(world, clock, status, "")),
        Ok(RemoteAnswer::Json(json)) => Ok(AnswerBody::whole(world, clock, 200, &json.to_string())),
        Ok(RemoteAnswer::NotJson) => Ok(AnswerBody::whole(world, clock, 200, "<html>oops</html>")),
        Ok(RemoteAnswer::Reset) | Err(_) => Err(HttpError::Broken("reset".into())),
        Ok(RemoteAnswer::Stall) => std::future::pending().await,
    }
}

/// Decides the answer to a message and has the effects of a call.
fn serve(world: &World, message: &Value, fault: Option<RemoteFault>) -> RemoteAnswer {
    // First the faults that come before any effect, then the effect, then the faults that follow it.
    match fault {
        Some(RemoteFault::Limited) => return RemoteAnswer::Status(429),
        Some(RemoteFault::Broken) => return RemoteAnswer::Status(500),
        Some(RemoteFault::Stall) => return RemoteAnswer::Stall,
        _ => {}
    }
    let Some(id) = message.get("id") else { return RemoteAnswer::Status(202) };
    let error = |code: i64| {
        RemoteAnswer::Json(json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": "no"}}))
    };
    let result = match message.get("method").and_then(Value::as_str).unwrap_or_default() {
        "initialize" => json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                               "serverInfo": {"name": "t", "version": "1"}}),
        "tools/list" => {
            let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
            let tools = ["lookup", "charge", "deploy", "guarded"].map(tool);
            json!({ "tools": tools })
        }
        "tools/call" if fault == Some(RemoteFault::Invalid) => return error(-32602),
        "tools/call" => {
            let declines = fault == Some(RemoteFault::Declined);
            let succeeded = call(world, message, declines);
            if fault == Some(RemoteFault::Doubled) && !is_exclusive(message) {
                call(world, message, declines);
            }
            let text = if succeeded { "done" } else { "I can't" };
            json!({"content": [{"type": "text", "text": text}], "isError": !succeeded})
        }
        _ => return error(-32601),
    };
    match fault {
        Some(RemoteFault::Lost) => RemoteAnswer::Reset,
        Some(RemoteFault::Silent) => RemoteAnswer::Stall,
        Some(RemoteFault::Torn) => RemoteAnswer::Status(500),
        Some(RemoteFault::Internal) => error(-32603),
        Some(RemoteFault::NotJson) => RemoteAnswer::NotJson,
        Some(RemoteFault::WrongId) => {
            RemoteAnswer::Json(json!({"jsonrpc": "2.0", "id": 99_999, "result": result}))
        }
        _ => RemoteAnswer::Json(json!({"jsonrpc": "2.0", "id": id, "result": result})),
    }
}

fn is_exclusive(message: &Value) -> bool {
    let name = message.pointer("/params/name").and_then(Value::as_str);
    name.is_some_and(|name| ["deploy", "guarded"].contains(&name))
}

/// Runs a function. True if it succeeded.
fn call(world: &World, message: &Value, declines: bool) -> bool {
    let text = |path: &str| message.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let mut effects = world.effects.borrow_mut();
    match text("/params/name") {
        "lookup" => {
            world.count("pure calls");
            !declines
        }
        "charge" => {
            let key = message.pointer("/params/_meta").and_then(|meta| meta.get("outlive/key")?.as_str());
            let (succeeded, first) =
                effects.keyed(text("/params/arguments/order"), key.unwrap_or_default(), declines);
            world.count(if first { "keyed effects" } else { "keyed calls without a second effect" });
            succeeded
        }
        name => {
            if !declines {
                world.count("exclusive effects");
                effects.exclusive(name, text("/params/arguments/target"));
            }
            !declines
        }
    }
}
