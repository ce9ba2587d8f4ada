//! Reads and writes JSON-RPC 2.0 messages, one at a time: no revision sends batches to a client that sends none. Knows
//! nothing of HTTP.

use serde_json::{Map, Value, json};

use crate::{json, wire::sse};

/// A message of the server.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum RpcMessage {
    /// The answer to the request with this id; an error about a request that the server could not parse has no id.
    Answer(Option<u64>, Result<Map<String, Value>, RpcError>),
    /// A request of the server: its id and method.
    Request(Value, String),
    /// A message that needs no answer.
    Notification,
}

/// A JSON-RPC error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RpcError {
    pub(super) code: i64,
    pub(super) message: String,
    /// The revisions that the server supports, if it rejected the client's.
    pub(super) supported: Vec<String>,
}

/// How much of an error's message is kept: a model and the caller's log need one sentence.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Longest id of a server's request that is answered, since the reply repeats it.
const MAX_ID_BYTES: usize = 256;

pub(super) const UNSUPPORTED_VERSION: i64 = -32022;

/// What a server sent, where an answer has another request's id.
pub(super) const WRONG_ID: &str = "an answer with the id of no open request";

/// Codes that rule out that a function ran: JSON-RPC's own except the internal error, and MCP's for a header that
/// contradicts the body, a missing capability or revision, and input that the user must give first.
const NOT_RUN_CODES: [i64; 8] = [-32700, -32600, -32601, -32602, -32020, -32021, UNSUPPORTED_VERSION, -32042];

/// Codes that only servers of the revision without sessions use.
const MODERN_ONLY: [i64; 3] = [-32020, -32021, UNSUPPORTED_VERSION];

impl RpcError {
    /// Whether the error proves that the function did not run.
    pub(super) fn rules_out_execution(&self) -> bool {
        NOT_RUN_CODES.contains(&self.code)
    }

    /// Whether only a server of the revision without sessions sends this error.
    pub(super) fn is_modern(&self) -> bool {
        MODERN_ONLY.contains(&self.code)
    }
}

/// A request of the client.
pub(super) fn request(id: u64, method: &str, params: &Map<String, Value>) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// A notification of the client.
pub(super) fn notification(method: &str, params: &Map<String, Value>) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

/// The reply to a request of the server; `None` if the request's id is invalid or too long.
pub(super) fn reply_to(id: &Value, method: &str) -> Option<Value> {
    let is_id = match id {
        Value::String(text) => text.len() <= MAX_ID_BYTES,
        Value::Number(_) => true,
        _ => false,
    };
    let answer = if method == "ping" {
        json!({"jsonrpc": "2.0", "id": id, "result": {}})
    } else {
        json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "method not found"}})
    };
    is_id.then_some(answer)
}

/// Reads one message. The error describes what the server sent instead, as the object of "it sent …".
pub(super) fn decode(bytes: &[u8]) -> Result<RpcMessage, &'static str> {
    if json::nests_too_deep(bytes) {
        return Err("JSON that is nested too deep");
    }
    let Ok(Value::Object(mut message)) = serde_json::from_slice(bytes) else {
        return Err("something other than one JSON object");
    };
    if message.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err("something other than JSON-RPC 2.0");
    }
    let id = message.remove("id").filter(|id| !id.is_null());
    match (message.remove("method"), id) {
        (Some(Value::String(method)), Some(id)) => Ok(RpcMessage::Request(id, method)),
        (Some(Value::String(_)), None) => Ok(RpcMessage::Notification),
        (Some(_), _) => Err("a method that is not a string"),
        (None, id) => {
            let id = id.map(|id| id.as_u64().ok_or(WRONG_ID)).transpose()?;
            let outcome = match (message.remove("result"), message.remove("error")) {
                (Some(Value::Object(result)), None) => Ok(result),
                (None, Some(Value::Object(error))) => Err(rpc_error(&error)?),
                _ => return Err("neither a result nor an error"),
            };
            Ok(RpcMessage::Answer(id, outcome))
        }
    }
}

fn rpc_error(error: &Map<String, Value>) -> Result<RpcError, &'static str> {
    let code = error.get("code").and_then(Value::as_i64).ok_or("an error without a code")?;
    let message = error.get("message").and_then(Value::as_str).unwrap_or_default();
    let supported = error.get("data").and_then(|data| data.get("supported")).and_then(Value::as_array);
    let supported = supported.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    Ok(RpcError { code, message: cut(message, MAX_MESSAGE_BYTES).to_owned(), supported })
}

/// The JSON-RPC error in the body of a response without success, as JSON or as the first event of a stream. `None` if
/// there is none, since proxies answer with anything.
pub(super) fn decode_error(body: bytes::Bytes) -> Option<RpcError> {
    let mut events = sse::SseDecoder::default();
    let message = decode(&body).ok().or_else(|| {
        events.push(body);
        match events.event() {
            Ok(Some(sse::SseEvent::Data { data, .. })) => decode(&data).ok(),
            _ => None,
        }
    });
    match message {
        Some(RpcMessage::Answer(_, Err(refusal))) => Some(refusal),
        _ => None,
    }
}

/// The longest prefix of `text` of at most `limit` bytes.
pub(super) fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or_default()
}
