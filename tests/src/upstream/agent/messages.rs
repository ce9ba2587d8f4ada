//! Reads and writes the agent's conversation in Anthropic's messages.

use serde_json::{Value, json};

use super::{AgentAnswer, Part, digest, prefix, string, text};
use crate::upstream::answer::named;

/// Refuses thoughts that are not the model's own, unchanged and in their place; and, in the older thinking mode, a
/// round of calls that does not begin with thoughts.
pub(super) fn read(body: &Value) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let messages = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (at, message) in messages.iter().enumerate() {
        // Instructions in the middle of a conversation, which newer models take.
        if message["role"] == "system" {
            continue;
        }
        let before = messages[..at].iter().rev().find(|before| before["role"] != "system");
        if before.is_some_and(|before| before["role"] == message["role"]) {
            return Err(format!("messages.{at}: roles must alternate"));
        }
        if let Value::String(content) = &message["content"] {
            let user = message["role"] == "user";
            parts.push(if user { Part::User(content.clone()) } else { Part::Assistant });
            continue;
        }
        for block in message["content"].as_array().into_iter().flatten() {
            parts.push(match block["type"].as_str().unwrap_or_default() {
                "text" if text(&json!([block])).is_empty() => {
                    return Err("messages: text content blocks must be non-empty".into());
                }
                "text" if message["role"] == "user" => Part::User(string(&block["text"])),
                "thinking" => {
                    let (model, words) = (string(&body["model"]), string(&block["thinking"]));
                    if block["signature"] != digest(&[&model, &words, &prefix(body, at)]) {
                        return Err(format!(
                            "messages.{at}: Invalid `signature` in `thinking` block. The block is bound to a different \
                             conversation"
                        ));
                    }
                    Part::Assistant
                }
                "tool_use" => Part::Call(string(&block["id"])),
                "tool_result" => {
                    Part::Result { id: string(&block["tool_use_id"]), text: text(&block["content"]) }
                }
                _ => Part::Assistant,
            });
        }
    }
    // Only the model's last message must begin with thoughts, and only in the older mode.
    let last = messages.iter().rposition(|message| message["role"] == "assistant");
    let calls = |at: &usize| {
        let mut blocks = messages[*at]["content"].as_array().into_iter().flatten();
        blocks.any(|block| block["type"] == "tool_use")
    };
    if let Some(at) = last.filter(calls)
        && body["thinking"]["type"] == "enabled"
        && messages[at]["content"][0]["type"] != "thinking"
    {
        return Err(format!(
            "messages.{at}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`. When \
             `thinking` is enabled, a final `assistant` message must start with a thinking block (preceeding the lastmost \
             set of `tool_use` and `tool_result` blocks)."
        ));
    }
    Ok(parts)
}

pub(super) fn write(answer: &AgentAnswer, body: &Value) -> Vec<Vec<u8>> {
    let usage = json!({"input_tokens": 7, "output_tokens": 1, "cache_read_input_tokens": 0});
    let message = json!({
        "id": format!("msg_{}", answer.id), "type": "message", "role": "assistant", "model": answer.model,
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage,
    });
    let mut events = vec![named(&json!({"type": "message_start", "message": message}))];
    let mut index = 0;
    let mut block = |block: Value, deltas: Vec<Value>| {
        events.push(named(&json!({"type": "content_block_start", "index": index, "content_block": block})));
        events.extend(
            deltas
                .into_iter()
                .map(|delta| named(&json!({"type": "content_block_delta", "index": index, "delta": delta}))),
        );
        events.push(named(&json!({"type": "content_block_stop", "index": index})));
        index += 1;
    };
    let thinks = ["enabled", "adaptive"].iter().any(|mode| body["thinking"]["type"] == *mode);
    if thinks && !answer.thoughts.is_empty() {
        let deltas = vec![
            json!({"type": "thinking_delta", "thinking": answer.thoughts}),
            json!({"type": "signature_delta", "signature": answer.signature}),
        ];
        block(json!({"type": "thinking", "thinking": "", "signature": ""}), deltas);
    }
    if !answer.words.is_empty() {
        let deltas = answer.words.iter().map(|word| json!({"type": "text_delta", "text": word}));
        block(json!({"type": "text", "text": ""}), deltas.collect());
    }
    for call in &answer.calls {
        let delta = |json: &str| json!({"type": "input_json_delta", "partial_json": json});
        let begun = json!({"type": "tool_use", "id": call.id, "name": call.tool.name, "input": {}});
        block(begun, vec![delta(""), delta(&call.input)]);
    }
    let reason = if answer.calls.is_empty() { "end_turn" } else { "tool_use" };
    let delta = json!({"stop_reason": reason, "stop_sequence": null});
    events.push(named(&json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}})));
    events.push(named(&json!({"type": "message_stop"})));
    events
}
