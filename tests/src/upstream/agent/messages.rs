//! The agent in Anthropic's messages.

use serde_json::{Value, json};

use super::{Said, Turn, digest, prefix, string, text};
use crate::upstream::answer::named;

/// Thoughts are its own, unchanged, and where they were; and in the older mode a round of calls begins with them.
pub(super) fn read(body: &Value) -> Result<Vec<Said>, String> {
    let mut said = Vec::new();
    let messages = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (at, message) in messages.iter().enumerate() {
        if at > 0 && messages[at - 1]["role"] == message["role"] {
            return Err(format!("messages.{at}: roles must alternate"));
        }
        if let Value::String(content) = &message["content"] {
            let user = message["role"] == "user";
            said.push(if user { Said::User(content.clone()) } else { Said::Assistant });
            continue;
        }
        for block in message["content"].as_array().into_iter().flatten() {
            said.push(match block["type"].as_str().unwrap_or_default() {
                "text" if text(&json!([block])).is_empty() => {
                    return Err("messages: text content blocks must be non-empty".into());
                }
                "text" if message["role"] == "user" => Said::User(string(&block["text"])),
                "thinking" => {
                    let (model, words) = (string(&body["model"]), string(&block["thinking"]));
                    if block["signature"] != digest(&[&model, &words, &prefix(body, at)]) {
                        return Err(format!(
                            "messages.{at}: Invalid `signature` in `thinking` block. The block is bound to a different \
                             conversation"
                        ));
                    }
                    Said::Assistant
                }
                "tool_use" => Said::Call(string(&block["id"])),
                "tool_result" => {
                    Said::Result { id: string(&block["tool_use_id"]), text: text(&block["content"]) }
                }
                _ => Said::Assistant,
            });
        }
    }
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
    Ok(said)
}

pub(super) fn write(turn: &Turn, body: &Value) -> Vec<Vec<u8>> {
    let usage = json!({"input_tokens": 7, "output_tokens": 1, "cache_read_input_tokens": 0});
    let message = json!({
        "id": format!("msg_{}", turn.id), "type": "message", "role": "assistant", "model": turn.model, "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": usage,
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
    if thinks && !turn.thoughts.is_empty() {
        let deltas = vec![
            json!({"type": "thinking_delta", "thinking": turn.thoughts}),
            json!({"type": "signature_delta", "signature": turn.proof}),
        ];
        block(json!({"type": "thinking", "thinking": "", "signature": ""}), deltas);
    }
    if !turn.words.is_empty() {
        let deltas = turn.words.iter().map(|word| json!({"type": "text_delta", "text": word}));
        block(json!({"type": "text", "text": ""}), deltas.collect());
    }
    for call in &turn.calls {
        let delta = |json: &str| json!({"type": "input_json_delta", "partial_json": json});
        let begun = json!({"type": "tool_use", "id": call.id, "name": call.name, "input": {}});
        block(begun, vec![delta(""), delta(&call.arguments)]);
    }
    let reason = if turn.calls.is_empty() { "end_turn" } else { "tool_use" };
    let delta = json!({"stop_reason": reason, "stop_sequence": null});
    events.push(named(&json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}})));
    events.push(named(&json!({"type": "message_stop"})));
    events
}
