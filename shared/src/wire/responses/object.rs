//! A response as one object.

use serde_json::{Value, json};

use crate::{
    usage::Usage,
    wire::{
        delta::{Stop, Transcript},
        writer::{Frame, MARK},
    },
};

/// Why an answer was cut.
pub(super) fn incomplete(answer: &Transcript) -> Option<&'static str> {
    match answer.stop {
        Some(Stop::Length) => Some("max_output_tokens"),
        Some(Stop::Filter | Stop::Refusal) => Some("content_filter"),
        _ => None,
    }
}

/// A response says again what was asked.
pub(super) fn response(
    frame: &Frame,
    answer: &Transcript,
    usage: Option<Usage>,
    status: &str,
    output: Vec<Value>,
    error: Option<Value>,
) -> Value {
    let asked = |key: &str, default: Value| {
        frame
            .request
            .as_ref()
            .and_then(|request| request.get(key))
            .filter(|v| !v.is_null())
            .cloned()
            .unwrap_or(default)
    };
    let model = if answer.model.is_empty() { &frame.model } else { &answer.model };
    let details =
        incomplete(answer).filter(|_| status == "incomplete").map(|reason| json!({"reason": reason}));
    let mut response = json!({
        "id": frame.id,
        "object": "response",
        "created_at": frame.created,
        "completed_at": frame.completed.filter(|_| status == "completed"),
        "status": status,
        "background": asked("background", json!(false)),
        "conversation": asked("conversation", Value::Null),
        "error": error,
        "incomplete_details": details,
        "instructions": asked("instructions", Value::Null),
        "max_output_tokens": asked("max_output_tokens", Value::Null),
        "max_tool_calls": asked("max_tool_calls", Value::Null),
        "metadata": asked("metadata", json!({})),
        "model": model,
        "output": output,
        "parallel_tool_calls": asked("parallel_tool_calls", json!(true)),
        "presence_penalty": asked("presence_penalty", json!(0.0)),
        "frequency_penalty": asked("frequency_penalty", json!(0.0)),
        "previous_response_id": asked("previous_response_id", Value::Null),
        "prompt_cache_key": asked("prompt_cache_key", Value::Null),
        "reasoning": filled(asked("reasoning", json!({})), json!({"effort": null, "summary": null})),
        "safety_identifier": asked("safety_identifier", Value::Null),
        "service_tier": "default",
        "store": asked("store", json!(false)),
        "temperature": asked("temperature", json!(1.0)),
        "text": text(asked("text", json!({}))),
        "tool_choice": asked("tool_choice", json!("auto")),
        "tools": tools(asked("tools", json!([]))),
        "top_logprobs": asked("top_logprobs", json!(0)),
        "top_p": asked("top_p", json!(1.0)),
        "truncation": asked("truncation", json!("disabled")),
        "usage": usage.as_ref().map(usage_object),
        "user": asked("user", Value::Null),
    });
    if let (Some(about), Some(fields)) = (&frame.about, response.as_object_mut()) {
        fields.insert(MARK.into(), about.clone());
    }
    response
}

/// The fields of an object that was sent, and those of `defaults` that were not: clients expect each of them.
fn filled(mut value: Value, defaults: Value) -> Value {
    if let (Value::Object(fields), Value::Object(defaults)) = (&mut value, defaults) {
        for (name, default) in defaults {
            let field = fields.entry(name).or_insert(Value::Null);
            if field.is_null() {
                *field = default;
            }
        }
    }
    value
}

fn text(asked: Value) -> Value {
    let mut text = filled(asked, json!({"format": {"type": "text"}}));
    if let Some(format) = text.get_mut("format").filter(|format| kind(format) == "json_schema") {
        *format = filled(format.take(), json!({"description": null, "strict": false}));
    }
    text
}

fn tools(mut asked: Value) -> Value {
    for tool in asked.as_array_mut().into_iter().flatten().filter(|tool| kind(tool) == "function") {
        *tool = filled(tool.take(), json!({"description": null, "parameters": null, "strict": null}));
    }
    asked
}

fn kind(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// What was used, as the API says it.
pub fn usage_object(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.total_input(),
        "input_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write.saturating_add(usage.cache_write_1h),
        },
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total(),
    })
}
