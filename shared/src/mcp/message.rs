//! JSON-RPC 2.0, as MCP uses it: one message at a time, since no revision wants batches of a client that sends none.

use serde_json::{Map, Value, json};

use crate::{json, wire::sse};

/// What a server says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum RpcMessage {
    /// The answer to the request of this id; errors about a request that the server could not read have none.
    Answer(Option<u64>, Result<Map<String, Value>, RpcError>),
    /// It asks something itself, under an id of its own.
    Request(Value, String),
    /// It tells something that needs no answer.
    Notification,
}

/// A JSON-RPC error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RpcError {
    pub(super) code: i64,
    pub(super) message: String,
    /// The revisions that the server has, where the error is about them.
    pub(super) supported: Vec<String>,
}

/// More of an error's message is not kept: it is one sentence for a model or a log of the caller's.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Longer ids are not sent back.
const MAX_ID_BYTES: usize = 256;

pub(super) const UNSUPPORTED_VERSION: i64 = -32022;

/// Codes that say that nothing ran: JSON-RPC's own but the internal error, and MCP's: a header that contradicts the
/// body, a capability or a revision that is missing, and input that the user must give beforehand.
const BEFORE_IT_RAN: [i64; 8] = [-32700, -32600, -32601, -32602, -32020, -32021, UNSUPPORTED_VERSION, -32042];

/// Those of them that only servers without sessions know.
const MODERN_ONLY: [i64; 3] = [-32020, -32021, UNSUPPORTED_VERSION];

impl RpcError {
    /// Whether the error says that the request was not carried out.
    pub(super) fn is_before_it_ran(&self) -> bool {
        BEFORE_IT_RAN.contains(&self.code)
    }

    /// Whether only a server of the revisions without sessions would say this.
    pub(super) fn is_modern(&self) -> bool {
        MODERN_ONLY.contains(&self.code)
    }
}

/// A request of the client.
pub(super) fn request(id: u64, method: &str, params: &Map<String, Value>) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// Something that the client tells.
pub(super) fn notification(method: &str, params: &Map<String, Value>) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

/// What a server gets that asks something of the client; `None` where its id is none.
pub(super) fn answer(id: &Value, method: &str) -> Option<Value> {
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

/// Reads one message; the error says what is wrong with it.
pub(super) fn decode(bytes: &[u8]) -> Result<RpcMessage, &'static str> {
    if json::too_deep(bytes) {
        return Err("what nests too deep");
    }
    let Ok(Value::Object(mut message)) = serde_json::from_slice(bytes) else {
        return Err("what is not one JSON object");
    };
    if message.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err("what is not JSON-RPC 2.0");
    }
    let id = message.remove("id").filter(|id| !id.is_null());
    match (message.remove("method"), id) {
        (Some(Value::String(method)), Some(id)) => Ok(RpcMessage::Request(id, method)),
        (Some(Value::String(_)), None) => Ok(RpcMessage::Notification),
        (Some(_), _) => Err("a method that is not a string"),
        (None, id) => {
            let id = id.map(|id| id.as_u64().ok_or("an id that it was not given")).transpose()?;
            let outcome = match (message.remove("result"), message.remove("error")) {
                (Some(Value::Object(result)), None) => Ok(result),
                (None, Some(Value::Object(error))) => Err(refusal(&error)?),
                _ => return Err("neither a result nor an error"),
            };
            Ok(RpcMessage::Answer(id, outcome))
        }
    }
}

fn refusal(error: &Map<String, Value>) -> Result<RpcError, &'static str> {
    let code = error.get("code").and_then(Value::as_i64).ok_or("an error without a code")?;
    let message = error.get("message").and_then(Value::as_str).unwrap_or_default();
    let supported = error.get("data").and_then(|data| data.get("supported")).and_then(Value::as_array);
    let supported = supported.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    Ok(RpcError { code, message: cut(message, MAX_MESSAGE_BYTES).to_owned(), supported })
}

/// The first message in a body, whichever way it is written. For errors, where anything may be in there.
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

/// As much of `text` as fits into `limit` bytes.
pub(super) fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or_default()
}
