//! Reads and writes the agent's conversation in chat completions: OpenAI's, or DeepSeek's for its tag.

use serde_json::{Value, json};

use super::{AgentAnswer, Part, string, text, texts};
use crate::upstream::answer::plain;

/// Whether the model of this tag shows its thoughts.
fn thinks(tag: &str) -> bool {
    tag.starts_with("deepseek")
}

pub(super) fn read(body: &Value, tag: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    for (at, message) in body["messages"].as_array().into_iter().flatten().enumerate() {
        let calls = message["tool_calls"].as_array();
        let reasoning = message.get("reasoning_content");
        if thinks(tag) && calls.is_some() && reasoning.is_none() {
            return Err("The `reasoning_content` in the thinking mode must be passed back to the API.".into());
        }
        if !thinks(tag) && reasoning.is_some() {
            return Err(format!("Unknown parameter: 'messages[{at}].reasoning_content'."));
        }
        match message["role"].as_str().unwrap_or_default() {
            "user" => parts.extend(texts(&message["content"]).into_iter().map(Part::User)),
            "tool" => {
                let id = string(&message["tool_call_id"]);
                parts.push(Part::Result { id, text: text(&message["content"]) });
            }
            "assistant" => {
                if calls.is_none() || !text(&message["content"]).is_empty() {
                    parts.push(Part::Assistant);
                }
                parts.extend(calls.into_iter().flatten().map(|call| Part::Call(string(&call["id"]))));
            }
            _ => {}
        }
    }
    Ok(parts)
}

pub(super) fn write(answer: &AgentAnswer, body: &Value) -> Vec<Vec<u8>> {
    let chunk = |choices: Value, usage: Option<Value>| {
        plain(&json!({
            "id": format!("chatcmpl-{}", answer.id), "object": "chat.completion.chunk", "created": 1_700_000_000,
            "model": answer.model, "choices": choices, "usage": usage,
        }))
    };
    let delta = |delta: Value| chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}]), None);
    let mut events = vec![delta(json!({"role": "assistant", "content": ""}))];
    let tag = answer.model.split_once(':').map_or("", |(_, tag)| tag);
    if thinks(tag) && !answer.thoughts.is_empty() {
        events.push(delta(json!({"reasoning_content": answer.thoughts})));
    }
    events.extend(answer.words.iter().map(|word| delta(json!({"content": word}))));
    for (index, call) in answer.calls.iter().enumerate() {
        let function = json!({"name": call.tool.name, "arguments": ""});
        let first = json!({"index": index, "id": call.id, "type": "function", "function": function});
        events.push(delta(json!({"tool_calls": [first]})));
        let second = json!({"index": index, "function": {"arguments": call.input}});
        events.push(delta(json!({"tool_calls": [second]})));
    }
    let reason = if answer.calls.is_empty() { "stop" } else { "tool_calls" };
    events.push(chunk(json!([{"index": 0, "delta": {}, "finish_reason": reason}]), None));
    if body["stream_options"]["include_usage"] == true {
        let usage = json!({"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12});
        events.push(chunk(json!([]), Some(usage)));
    }
    events.push(b"data: [DONE]\n\n".to_vec());
    events
}
