//! The agent in chat completions: OpenAI's, and DeepSeek's if the tag says so.

use serde_json::{Value, json};

use super::{Said, Turn, string, text};
use crate::upstream::answer::plain;

fn thinks(tag: &str) -> bool {
    tag.starts_with("deepseek")
}

pub(super) fn read(body: &Value, tag: &str) -> Result<Vec<Said>, String> {
    let mut said = Vec::new();
    for (at, message) in body["messages"].as_array().into_iter().flatten().enumerate() {
        let calls = message["tool_calls"].as_array();
        let thought = message.get("reasoning_content");
        if thinks(tag) && calls.is_some() && thought.is_none() {
            return Err("The `reasoning_content` in the thinking mode must be passed back to the API.".into());
        }
        if !thinks(tag) && thought.is_some() {
            return Err(format!("Unknown parameter: 'messages[{at}].reasoning_content'."));
        }
        match message["role"].as_str().unwrap_or_default() {
            "user" => said.push(Said::User(text(&message["content"]))),
            "tool" => {
                let id = string(&message["tool_call_id"]);
                said.push(Said::Result { id, text: text(&message["content"]) });
            }
            "assistant" => {
                if calls.is_none() || !text(&message["content"]).is_empty() {
                    said.push(Said::Assistant);
                }
                said.extend(calls.into_iter().flatten().map(|call| Said::Call(string(&call["id"]))));
            }
            _ => {}
        }
    }
    Ok(said)
}

pub(super) fn write(turn: &Turn, body: &Value) -> Vec<Vec<u8>> {
    let chunk = |choices: Value, usage: Option<Value>| {
        plain(&json!({
            "id": format!("chatcmpl-{}", turn.id), "object": "chat.completion.chunk", "created": 1_700_000_000,
            "model": turn.model, "choices": choices, "usage": usage,
        }))
    };
    let delta = |delta: Value| chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}]), None);
    let mut events = vec![delta(json!({"role": "assistant", "content": ""}))];
    let tag = turn.model.split_once(':').map_or("", |(_, tag)| tag);
    if thinks(tag) && !turn.thoughts.is_empty() {
        events.push(delta(json!({"reasoning_content": turn.thoughts})));
    }
    events.extend(turn.words.iter().map(|word| delta(json!({"content": word}))));
    for (index, call) in turn.calls.iter().enumerate() {
        let function = json!({"name": call.name, "arguments": ""});
        let begun = json!({"index": index, "id": call.id, "type": "function", "function": function});
        events.push(delta(json!({"tool_calls": [begun]})));
        let rest = json!({"index": index, "function": {"arguments": call.arguments}});
        events.push(delta(json!({"tool_calls": [rest]})));
    }
    let reason = if turn.calls.is_empty() { "stop" } else { "tool_calls" };
    events.push(chunk(json!([{"index": 0, "delta": {}, "finish_reason": reason}]), None));
    if body["stream_options"]["include_usage"] == true {
        let usage = json!({"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12});
        events.push(chunk(json!([]), Some(usage)));
    }
    events.push(b"data: [DONE]\n\n".to_vec());
    events
}
