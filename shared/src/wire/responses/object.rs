//! Writes a response as one JSON object, with the fields of the request that it repeats.

use serde_json::{Value, json};

use crate::{
    usage::Usage,
    wire::{
        delta::{Stop, Transcript},
        writer::{Frame, MARK},
    },
};

/// The `reason` of an incomplete response; `None` if the answer is complete.
pub(super) fn incomplete(answer: &Transcript) -> Option<&'static str> {
    match answer.stop {
        Some(Stop::Length) => Some("max_output_tokens"),
        Some(Stop::Filter | Stop::Refusal) => Some("content_filter"),
        _ => None,
    }
}

/// The response object. It repeats the request's fields, or their defaults.
pub(super) fn response(
    frame: &Frame,
    answer: &Transcript,
    usage: Option<Usage>,
    status: &str,
    output: Vec<Value>,
    error: Option<Value>,
) -> Value {
    let requested = |key: &str, default: Value| {
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
        "background": requested("background", json!(false)),
        "conversation": requested("conversation", Value::Null),
        "error": error,
        "incomplete_details": details,
        "instructions": requested("instructions", Value::Null),
        "max_output_tokens": requested("max_output_tokens", Value::Null),
        "max_tool_calls": requested("max_tool_calls", Value::Null),
        "metadata": requested("metadata", json!({})),
        "model": model,
        "output": output,
        "parallel_tool_calls": requested("parallel_tool_calls", json!(true)),
        "presence_penalty": requested("presence_penalty", json!(0.0)),
        "frequency_penalty": requested("frequency_penalty", json!(0.0)),
        "previous_response_id": requested("previous_response_id", Value::Null),
        "prompt_cache_key": requested("prompt_cache_key", Value::Null),
        "reasoning": with_defaults(requested("reasoning", json!({})), json!({"effort": null, "summary": null})),
        "safety_identifier": requested("safety_identifier", Value::Null),
        "service_tier": "default",
        "store": requested("store", json!(false)),
        "temperature": requested("temperature", json!(1.0)),
        "text": text(requested("text", json!({}))),
        "tool_choice": requested("tool_choice", json!("auto")),
        "tools": tools(requested("tools", json!([]))),
        "top_logprobs": requested("top_logprobs", json!(0)),
        "top_p": requested("top_p", json!(1.0)),
        "truncation": requested("truncation", json!("disabled")),
        "usage": usage.as_ref().map(usage_object),
        "user": requested("user", Value::Null),
    });
    if let (Some(about), Some(fields)) = (&frame.mark, response.as_object_mut()) {
        fields.insert(MARK.into(), about.clone());
    }
    response
}

/// Sets the fields of `defaults` that `value` lacks: clients expect each of them.
fn with_defaults(mut value: Value, defaults: Value) -> Value {
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

fn text(requested: Value) -> Value {
    let mut text = with_defaults(requested, json!({"format": {"type": "text"}}));
    if let Some(format) = text.get_mut("format").filter(|format| kind(format) == "json_schema") {
        *format = with_defaults(format.take(), json!({"description": null, "strict": false}));
    }
    text
}

fn tools(mut requested: Value) -> Value {
    for tool in requested.as_array_mut().into_iter().flatten().filter(|tool| kind(tool) == "function") {
        *tool = with_defaults(tool.take(), json!({"description": null, "parameters": null, "strict": null}));
    }
    requested
}

fn kind(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The usage object of a response.
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
