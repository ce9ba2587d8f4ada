//! Writes the output items of a response: messages, reasoning, function calls and MCP calls. Their events are in
//! `answer`.

use serde_json::{Value, json};

use crate::wire::{
    delta::Block,
    prompt::{ClientTool, ClientToolKind, ClientTools, ToolCall},
    writer::arguments,
};

/// A tool call that the node makes itself. The client only sees it, as an MCP call in OpenAI's format.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeCall {
    /// The server that has the function.
    pub server: String,
    /// The function's name at the server.
    pub function: String,
    /// Whether the client must approve it first.
    pub approval: bool,
    /// The id of its approval request, if it had one.
    pub request: Option<String>,
    /// The result; `None` while the call is in flight.
    pub result: Option<CallResult>,
}

/// The result of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallResult {
    /// The function's output.
    Output(String),
    /// The call failed, for this reason.
    Failed(String),
    /// The outcome is unknown, for this reason: the call may have taken effect.
    Unknown(String),
}

/// The status of the item at `at` of `count` in an ended answer: only the last item of an incomplete answer is
/// incomplete.
pub fn item_status(at: usize, count: usize, is_complete: bool) -> &'static str {
    if is_complete || at + 1 < count { "completed" } else { "incomplete" }
}

/// The id of the item of the block at `at` in the response with the id `response`.
pub fn item_id(response: &str, block: &Block, at: usize) -> String {
    let prefix = match block {
        Block::Text(_) | Block::Refusal(_) => "msg",
        Block::Reasoning(_) => "rs",
        Block::Call(_) => "fc",
    };
    format!("{prefix}_{}_{at}", response.trim_start_matches("resp_"))
}

/// The id of the item of a call that the node makes, or of its approval request, for the block at `at`.
pub fn node_call_id(response: &str, at: usize, approval: bool) -> String {
    let prefix = if approval { "mcpr" } else { "mcp" };
    format!("{prefix}_{}_{at}", response.trim_start_matches("resp_"))
}

/// The item of a call that the node makes, with its arguments.
pub fn mcp_call(id: &str, json: &str, call: &NodeCall) -> Value {
    let (status, output, error) = match &call.result {
        None => ("in_progress", None, None),
        Some(CallResult::Output(text)) => ("completed", Some(text), None),
        Some(CallResult::Failed(why)) => ("failed", None, Some(why)),
        Some(CallResult::Unknown(why)) => ("incomplete", None, Some(why)),
    };
    let content = |why: &String| json!([{"type": "text", "text": why}]);
    let error = error.map(|why| json!({"type": "mcp_tool_execution_error", "content": content(why)}));
    json!({
        "type": "mcp_call", "id": id, "server_label": call.server, "name": call.function,
        "arguments": arguments(json), "approval_request_id": call.request, "output": output, "error": error,
        "status": status,
    })
}

/// The item that requests the client's approval of a call with these arguments.
pub fn approval_request(id: &str, json: &str, call: &NodeCall) -> Value {
    json!({
        "type": "mcp_approval_request", "id": id, "server_label": call.server, "name": call.function,
        "arguments": arguments(json),
    })
}

/// The item of a call as its client knows the tool. The arguments are left out of one in progress, except that
/// searches have none before they are complete.
pub(super) fn client_call(id: &str, status: &str, call: &ToolCall, tool: Option<&ClientTool>) -> Value {
    let is_complete = status != "in_progress";
    let kind = tool.map_or(ClientToolKind::Function, |tool| tool.kind);
    let name = tool.map_or(&call.name, |tool| &tool.name);
    let mut item = match kind {
        ClientToolKind::Function => {
            let json = if is_complete { arguments(&call.arguments) } else { "" };
            function_call(id, status, &call.id, name, json)
        }
        ClientToolKind::Custom => {
            let input = if is_complete { ClientTool::input(&call.arguments) } else { String::new() };
            json!({
                "type": "custom_tool_call", "id": id, "status": status, "call_id": call.id, "name": name,
                "input": input,
            })
        }
        ClientToolKind::Search => {
            let json = crate::json::inner_value(arguments(&call.arguments)).unwrap_or_else(|| json!({}));
            json!({
                "type": "tool_search_call", "id": id, "status": status, "call_id": call.id,
                "execution": "client", "arguments": json,
            })
        }
    };
    let group = tool.and_then(|tool| tool.group.as_deref());
    if let (Some(group), Some(item)) = (group, item.as_object_mut()) {
        item.insert("namespace".into(), group.into());
    }
    item
}

/// The item of a block of an answer whose client has `tools`.
pub(super) fn client_item(id: &str, block: &Block, status: &str, tools: &ClientTools) -> Value {
    match block {
        Block::Call(call) => client_call(id, status, call, tools.get(&call.name)),
        block => item(id, block, status),
    }
}

/// The item of a block.
pub fn item(id: &str, block: &Block, status: &str) -> Value {
    match block {
        Block::Text(text) => message(id, status, json!([text_part(text)])),
        Block::Refusal(text) => message(id, status, json!([{"type": "refusal", "refusal": text}])),
        Block::Reasoning(block) => reasoning(id, json!([{"type": "reasoning_text", "text": block.text}])),
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
