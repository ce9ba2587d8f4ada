//! Reads and writes the agent's conversation in OpenAI's responses.

use serde_json::{Value, json};

use super::{AgentAnswer, Part, string, text, texts};
use crate::upstream::answer::named;

pub(super) fn read(body: &Value) -> Result<Vec<Part>, String> {
    if let Value::String(text) = &body["input"] {
        return Ok(vec![Part::User(text.clone())]);
    }
    let mut parts = Vec::new();
    for (at, item) in body["input"].as_array().into_iter().flatten().enumerate() {
        let id = || string(&item["call_id"]);
        parts.push(match item["type"].as_str().unwrap_or("message") {
            "function_call" | "custom_tool_call" => Part::Call(id()),
            "function_call_output" | "custom_tool_call_output" => {
                Part::Result { id: id(), text: text(&item["output"]) }
            }
            "additional_tools" => continue,
            "message" if item["role"] == "user" => {
                parts.extend(texts(&item["content"]).into_iter().map(Part::User));
                continue;
            }
            "message" => Part::Assistant,
            kind => return Err(format!("Invalid value: '{kind}' in 'input[{at}].type'.")),
        });
    }
    Ok(parts)
}

pub(super) fn write(answer: &AgentAnswer) -> Vec<Vec<u8>> {
    let (mut events, mut output): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    let response = |status: &str, output: &[Value]| {
        let usage = json!({"input_tokens": 7, "output_tokens": 5, "total_tokens": 12});
        json!({
            "id": format!("resp_{}", answer.id), "object": "response", "created_at": 1_700_000_000, "status": status,
            "model": answer.model, "output": output, "usage": (status == "completed").then_some(usage),
        })
    };
    // The items in the order of real answers: reasoning, message, calls.
    events.push(json!({"type": "response.created", "response": response("in_progress", &[])}));
    if !answer.thoughts.is_empty() {
        let id = format!("rs_{}", answer.id);
        let item = |text: &[Value]| json!({"id": id, "type": "reasoning", "summary": text});
        let at = json!({"item_id": id, "output_index": 0, "summary_index": 0});
        let part = |text: &str| json!({"type": "summary_text", "text": text});
        events.push(json!({"type": "response.output_item.added", "output_index": 0, "item": item(&[])}));
        for (kind, name, value) in [
            ("response.reasoning_summary_part.added", "part", part("")),
            ("response.reasoning_summary_text.delta", "delta", json!(answer.thoughts)),
            ("response.reasoning_summary_text.done", "text", json!(answer.thoughts)),
            ("response.reasoning_summary_part.done", "part", part(&answer.thoughts)),
        ] {
            events.push(with(&at, kind, name, value));
        }
        let done = item(&[part(&answer.thoughts)]);
        events.push(json!({"type": "response.output_item.done", "output_index": 0, "item": done}));
        output.push(done);
    }
    if !answer.words.is_empty() {
        let (index, id) = (output.len(), format!("msg_{}", answer.id));
        let part =
            |text: &str| json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
        let item = |status: &str, content: &[Value]| json!({"id": id, "type": "message", "role": "assistant", "status": status, "content": content});
        let at = json!({"item_id": id, "output_index": index, "content_index": 0});
        let begun = item("in_progress", &[]);
        events.push(json!({"type": "response.output_item.added", "output_index": index, "item": begun}));
        events.push(with(&at, "response.content_part.added", "part", part("")));
        let deltas =
            answer.words.iter().map(|word| with(&at, "response.output_text.delta", "delta", json!(word)));
        events.extend(deltas);
        let whole = answer.words.concat();
        events.push(with(&at, "response.output_text.done", "text", json!(whole)));
        events.push(with(&at, "response.content_part.done", "part", part(&whole)));
        let done = item("completed", &[part(&whole)]);
        events.push(json!({"type": "response.output_item.done", "output_index": index, "item": done}));
        output.push(done);
    }
    for (number, call) in answer.calls.iter().enumerate() {
        let (index, id) = (output.len(), format!("fc_{}_{number}", answer.id));
        let (kind, input) = if call.tool.is_custom() {
            ("custom_tool_call", "input")
        } else {
            ("function_call", "arguments")
        };
        let event = if call.tool.is_custom() { "custom_tool_call_input" } else { "function_call_arguments" };
        let item = |status: &str, text: &str| {
            let mut item =
                json!({"id": id, "type": kind, "status": status, "call_id": call.id, "name": call.tool.name});
            item[input] = text.into();
            if let Some(namespace) = &call.tool.namespace {
                item["namespace"] = namespace.as_str().into();
            }
            item
        };
        let at = json!({"item_id": id, "output_index": index});
        let begun = item("in_progress", "");
        events.push(json!({"type": "response.output_item.added", "output_index": index, "item": begun}));
        for (kind, name) in [("delta", "delta"), ("done", input)] {
            events.push(with(&at, &format!("response.{event}.{kind}"), name, json!(call.input)));
        }
        let done = item("completed", &call.input);
        events.push(json!({"type": "response.output_item.done", "output_index": index, "item": done}));
        output.push(done);
    }
    events.push(json!({"type": "response.completed", "response": response("completed", &output)}));
    let numbered = events.into_iter().enumerate().map(|(number, mut event)| {
        event["sequence_number"] = json!(number);
        named(&event)
    });
    numbered.collect()
}

/// An event of the item at `at`, with one more field.
fn with(at: &Value, kind: &str, name: &str, value: Value) -> Value {
    let mut event = at.clone();
    event["type"] = json!(kind);
    event[name] = value;
    event
}
