//! Writes scripted answers in OpenAI's chat completions.

use serde_json::{Value, json};

use super::{Pieces, Question, REFUSAL, THOUGHTS, USAGE, plain};
use crate::upstream::Behaviour;

/// The fragments of two interleaved calls: index, id and name (in the first fragment only), arguments.
const TOOL_FRAGMENTS: [(u64, &str, &str, &str); 6] = [
    (0, "call_1", "weather", ""),
    (0, "", "", "{\"city\":"),
    (1, "call_2", "clock", ""),
    (0, "", "", " \"Zürich\"}"),
    (1, "", "", "{\"zone\": "),
    (1, "", "", "\"CET\"}"),
];

fn usage((input, output): (u64, u64)) -> Value {
    json!({
        "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    })
}

pub(super) fn whole(behaviour: Behaviour, question: &Question) -> Value {
    let mut message = json!({"role": "assistant", "content": question.words().concat(), "refusal": null, "annotations": []});
    let mut reason = if question.is_truncated() { "length" } else { "stop" };
    match behaviour {
        Behaviour::Tools => {
            message["content"] = Value::Null;
            message["tool_calls"] = json!([
                {"id": "call_1", "type": "function",
                 "function": {"name": "weather", "arguments": "{\"city\": \"Zürich\"}"}},
                {"id": "call_2", "type": "function",
                 "function": {"name": "clock", "arguments": "{\"zone\": \"CET\"}"}},
            ]);
            reason = "tool_calls";
        }
        Behaviour::Refusal => {
            reason = "stop";
            message["content"] = Value::Null;
            message["refusal"] = json!(REFUSAL.concat());
        }
        _ if question.effort => message["reasoning_content"] = json!(THOUGHTS.concat()),
        _ => {}
    }
    json!({
        "id": "chatcmpl-C0nf0rm", "object": "chat.completion", "created": 1_700_000_000, "model": question.model,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": reason}],
        "usage": usage(USAGE), "service_tier": "default", "system_fingerprint": "fp_0",
    })
}

/// Writes the events of one stream.
struct ChatEvents<'a> {
    model: &'a str,
}

impl ChatEvents<'_> {
    fn delta(&self, delta: Value) -> Vec<u8> {
        self.chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}]), None)
    }

    fn chunk(&self, choices: Value, tokens: Option<(u64, u64)>) -> Vec<u8> {
        plain(&json!({
            "id": "chatcmpl-C0nf0rm", "object": "chat.completion.chunk", "created": 1_700_000_000,
            "model": self.model, "service_tier": "default", "system_fingerprint": "fp_0",
            "choices": choices, "usage": tokens.map(usage),
        }))
    }
}

pub(super) fn pieces(question: &Question) -> Pieces {
    let events = ChatEvents { model: &question.model };
    let usage = question.stream_options.as_ref().is_some_and(|options| options.include_usage);
    let end = |reason: &str| {
        let mut end = vec![events.chunk(json!([{"index": 0, "delta": {}, "finish_reason": reason}]), None)];
        if usage {
            end.push(events.chunk(json!([]), Some(USAGE)));
        }
        end.push(b"data: [DONE]\n\n".to_vec());
        end
    };
    let tools = TOOL_FRAGMENTS.iter().map(|(index, id, name, arguments)| {
        let mut call = json!({"index": index, "function": {"arguments": arguments}});
        if !id.is_empty() {
            call["id"] = json!(id);
            call["type"] = json!("function");
            call["function"]["name"] = json!(name);
        }
        events.delta(json!({"tool_calls": [call]}))
    });
    let thoughts = THOUGHTS.iter().filter(|_| question.effort);
    Pieces {
        opening: events.delta(json!({"role": "assistant", "content": "", "refusal": null})),
        thoughts: thoughts.map(|word| events.delta(json!({"reasoning_content": word}))).collect(),
        words: question.words().iter().map(|word| events.delta(json!({"content": word}))).collect(),
        tools: tools.collect(),
        refusal: REFUSAL.map(|word| events.delta(json!({"refusal": word}))).to_vec(),
        end: end(if question.is_truncated() { "length" } else { "stop" }),
        end_of_tools: end("tool_calls"),
        end_of_refusal: end("stop"),
        error: plain(&in_band()),
    }
}

/// An error with status 200.
pub(super) fn in_band() -> Value {
    json!({"error": {"message": "The server had an error.", "type": "server_error", "param": null, "code": null}})
}

pub(super) fn error(kind: &str, code: &str, param: Option<&str>) -> Value {
    let message = "the scripted upstream refuses";
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}
