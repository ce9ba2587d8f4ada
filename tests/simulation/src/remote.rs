//! An MCP server whose functions have effects, and the ways in which it and the network before it fail.

use std::{pin::Pin, rc::Rc, time::Duration};

use futures_channel::oneshot;
use http::{Request, Response};
use http_body::Body as _;
use outlive::{body::Body, platform::HttpError};
use serde_json::{Value, json};

use crate::{
    machine::Clock,
    provider::Answer,
    world::{OUTSIDE, World},
};

/// Where it is.
pub(crate) const HOST: &str = "mcp.test";

/// The section of the configuration.
pub(crate) const SECTION: &str = "[[tool]]\nname = \"t\"\nurl = \"https://mcp.test/mcp\"\npure = [\"lookup\"]\n\
    keyed = [\"charge\"]\nkey = [\"order\", \"target\"]\napprove = [\"guarded\"]\ntimeout = \"4s\"\n";

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// No connection.
    Refused,
    /// 429, and nothing happens.
    Limited,
    /// 500, and nothing happens.
    Broken,
    /// Nothing happens, for ever.
    Stall,
    /// The function does not take these arguments.
    Invalid,
    /// The function runs, and says that it can't.
    Declined,
    /// It happens after so many milliseconds, whether anybody waits or not.
    Late(u64),
    /// It happens, and then the connection breaks.
    Lost,
    /// It happens, and then nothing comes.
    Silent,
    /// It happens, and then 500 comes.
    Torn,
    /// It happens, and then JSON-RPC's internal error comes.
    Internal,
    /// It happens, and the answer has the id of another request.
    WrongId,
    /// It happens, and the answer is no JSON.
    NotJson,
    /// It arrives twice, where the network may take it for harmless.
    Doubled,
    /// The node dies while it waits, before it happens.
    Crash,
    /// The node dies when it has happened.
    CrashAfter,
}

const FAULTS: [Fault; 16] = [
    Fault::Refused,
    Fault::Limited,
    Fault::Broken,
    Fault::Stall,
    Fault::Invalid,
    Fault::Declined,
    Fault::Late(0),
    Fault::Lost,
    Fault::Silent,
    Fault::Torn,
    Fault::Internal,
    Fault::WrongId,
    Fault::NotJson,
    Fault::Doubled,
    Fault::Crash,
    Fault::CrashAfter,
];

impl Fault {
    fn draw(world: &World) -> Option<Self> {
        let mut random = world.remote.borrow_mut();
        let fails = world.is_faulty() && random.chance(world.schedule.remote);
        let fault = random.pick(&FAULTS, Self::Refused);
        let late = random.range(0..9_000);
        fails.then_some(if fault == Self::Late(0) { Self::Late(late) } else { fault })
    }
}

/// What the server says.
enum Said {
    Status(u16),
    Json(Value),
    NotJson,
    /// The connection breaks.
    Nothing,
    /// It does not even do that.
    Silence,
}

pub(crate) async fn answer(
    world: &Rc<World>,
    clock: &Rc<Clock>,
    mut request: Request<Body>,
) -> Result<Response<Answer>, HttpError> {
    let frame = std::future::poll_fn(|cx| Pin::new(request.body_mut()).poll_frame(cx)).await;
    let body = frame.and_then(Result::ok).and_then(|frame| frame.into_data().ok()).unwrap_or_default();
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let pause = world.remote.borrow_mut().range(1..100);
    world.executor.sleep(Duration::from_millis(pause)).await;
    let fault = Fault::draw(world);
    let method = asked.get("method").and_then(Value::as_str).unwrap_or_default();
    world.note(format_args!("{HOST} {method} {:?} {fault:?}", asked.pointer("/params/arguments")));
    if fault == Some(Fault::Refused) {
        return Err(HttpError::Connect("refused".into()));
    }
    let (sender, receiver) = oneshot::channel();
    let server = Rc::clone(world);
    // The server works on, whatever becomes of who asked.
    world.executor.spawn(OUTSIDE, async move {
        if let Some(Fault::Late(millis)) = fault {
            server.executor.sleep(Duration::from_millis(millis)).await;
        }
        let is_call = asked.get("method") == Some(&"tools/call".into());
        if fault == Some(Fault::Crash) && is_call {
            server.crash();
        }
        let said = serve(&server, &asked, fault);
        if fault == Some(Fault::CrashAfter) && is_call {
            server.crash();
        }
        if sender.send(said).is_err() {
            server.saw("answers of tools that nobody waited for");
        }
    });
    match receiver.await {
        Ok(Said::Status(status)) => Ok(Answer::whole(world, clock, status, "")),
        Ok(Said::Json(json)) => Ok(Answer::whole(world, clock, 200, &json.to_string())),
        Ok(Said::NotJson) => Ok(Answer::whole(world, clock, 200, "<html>oops</html>")),
        Ok(Said::Nothing) | Err(_) => Err(HttpError::Broken("reset".into())),
        Ok(Said::Silence) => std::future::pending().await,
    }
}

fn serve(world: &World, asked: &Value, fault: Option<Fault>) -> Said {
    match fault {
        Some(Fault::Limited) => return Said::Status(429),
        Some(Fault::Broken) => return Said::Status(500),
        Some(Fault::Stall) => return Said::Silence,
        _ => {}
    }
    let Some(id) = asked.get("id") else { return Said::Status(202) };
    let error =
        |code: i64| Said::Json(json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": "no"}}));
    let result = match asked.get("method").and_then(Value::as_str).unwrap_or_default() {
        "initialize" => json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                               "serverInfo": {"name": "t", "version": "1"}}),
        "tools/list" => {
            let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
            let tools = ["lookup", "charge", "deploy", "guarded"].map(tool);
            json!({ "tools": tools })
        }
        "tools/call" if fault == Some(Fault::Invalid) => return error(-32602),
        "tools/call" => {
            let declines = fault == Some(Fault::Declined);
            let done = call(world, asked, declines);
            if fault == Some(Fault::Doubled) && !is_exclusive(asked) {
                call(world, asked, declines);
            }
            json!({"content": [{"type": "text", "text": if done { "done" } else { "I can't" }}], "isError": !done})
        }
        _ => return error(-32601),
    };
    match fault {
        Some(Fault::Lost) => Said::Nothing,
        Some(Fault::Silent) => Said::Silence,
        Some(Fault::Torn) => Said::Status(500),
        Some(Fault::Internal) => error(-32603),
        Some(Fault::NotJson) => Said::NotJson,
        Some(Fault::WrongId) => Said::Json(json!({"jsonrpc": "2.0", "id": 99_999, "result": result})),
        _ => Said::Json(json!({"jsonrpc": "2.0", "id": id, "result": result})),
    }
}

fn is_exclusive(asked: &Value) -> bool {
    let name = asked.pointer("/params/name").and_then(Value::as_str);
    name.is_some_and(|name| ["deploy", "guarded"].contains(&name))
}

/// A function is called. Says whether it did what it is for.
fn call(world: &World, asked: &Value, declines: bool) -> bool {
    let text = |path: &str| asked.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let mut effects = world.effects.borrow_mut();
    match text("/params/name") {
        "lookup" => {
            world.saw("looks");
            !declines
        }
        "charge" => {
            let key = asked.pointer("/params/_meta").and_then(|meta| meta.get("outlive/key")?.as_str());
            let (done, first) =
                effects.keyed(text("/params/arguments/order"), key.unwrap_or_default(), declines);
            world.saw(if first { "keyed effects" } else { "keyed effects that were known again" });
            done
        }
        name => {
            if !declines {
                world.saw("exclusive effects");
                effects.exclusive(name, text("/params/arguments/target"));
            }
            !declines
        }
    }
}
