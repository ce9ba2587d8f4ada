//! What an answer is made of, as items.

use serde_json::{Value, json};

use crate::wire::{delta::Block, writer::arguments};

/// A call that the node makes and the client only sees, as OpenAI shows calls of MCP servers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Served {
    /// The server that has the function.
    pub server: String,
    /// What the function is called there.
    pub function: String,
    /// Whether somebody must approve of it first.
    pub approval: bool,
    /// The approved request, if there was one.
    pub request: Option<String>,
    /// What came of it; nothing yet, while it goes on.
    pub result: Option<CallResult>,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallResult {
    /// The function answered.
    Output(String),
    /// It failed.
    Failed(String),
    /// It may have taken effect, and nobody knows.
    Unknown(String),
}

/// How the item at `at` of `count` ended: what cut an answer cut its last item.
pub fn item_status(at: usize, count: usize, whole: bool) -> &'static str {
    if whole || at + 1 < count { "completed" } else { "incomplete" }
}

/// The id of the item that the block at `at` of the response `response` makes.
pub fn item_id(response: &str, block: &Block, at: usize) -> String {
    let prefix = match block {
        Block::Text(_) | Block::Refusal(_) => "msg",
        Block::Reasoning(_) => "rs",
        Block::Call(_) => "fc",
    };
    format!("{prefix}_{}_{at}", response.trim_start_matches("resp_"))
}

/// The id of the item that a call of the node's own makes, which the block at `at` asks for.
pub fn served_id(response: &str, at: usize, approval: bool) -> String {
    let prefix = if approval { "mcpr" } else { "mcp" };
    format!("{prefix}_{}_{at}", response.trim_start_matches("resp_"))
}

/// The item of a call that the node makes.
pub fn mcp_call(id: &str, call: &str, served: &Served) -> Value {
    let (status, output, error) = match &served.result {
        None => ("in_progress", None, None),
        Some(CallResult::Output(text)) => ("completed", Some(text), None),
        Some(CallResult::Failed(why)) => ("failed", None, Some(why)),
        Some(CallResult::Unknown(why)) => ("incomplete", None, Some(why)),
    };
    let content = |why: &String| json!([{"type": "text", "text": why}]);
    let error = error.map(|why| json!({"type": "mcp_tool_execution_error", "content": content(why)}));
    json!({
        "type": "mcp_call", "id": id, "server_label": served.server, "name": served.function,
        "arguments": arguments(call), "approval_request_id": served.request, "output": output, "error": error,
        "status": status,
    })
}

/// The item that asks for an approval.
pub fn approval_request(id: &str, call: &str, served: &Served) -> Value {
    json!({
        "type": "mcp_approval_request", "id": id, "server_label": served.server, "name": served.function,
        "arguments": arguments(call),
    })
}

/// The item that a block makes.
pub fn item(id: &str, block: &Block, status: &str) -> Value {
    match block {
        Block::Text(text) => message(id, status, json!([text_part(text)])),
        Block::Refusal(text) => message(id, status, json!([{"type": "refusal", "refusal": text}])),
        Block::Reasoning(thought) => reasoning(id, json!([{"type": "reasoning_text", "text": thought.text}])),
        Block::Call(call) => function_call(id, status, &call.id, &call.name, arguments(&call.arguments)),
    }
}

pub(super) fn message(id: &str, status: &str, content: Value) -> Value {
    json!({"type": "message", "id": id, "status": status, "role": "assistant", "content": content})
}

pub(super) fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

pub(super) fn reasoning(id: &str, content: Value) -> Value {
    json!({"type": "reasoning", "id": id, "summary": [], "content": content})
}

pub(super) fn function_call(id: &str, status: &str, call: &str, name: &str, arguments: &str) -> Value {
    json!({
        "type": "function_call", "id": id, "status": status, "call_id": call, "name": name, "arguments": arguments,
    })
}
