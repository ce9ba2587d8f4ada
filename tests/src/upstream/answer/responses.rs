//! Writes scripted answers in OpenAI's responses.

use serde_json::{Map, Value, json};

use super::{CALLS, Pieces, Question, REFUSAL, USAGE, named};
use crate::upstream::Behaviour;

/// Writes the events of one stream, each with the next sequence number.
#[derive(Clone)]
struct ResponseEvents<'a> {
    model: &'a str,
    number: u64,
}

impl ResponseEvents<'_> {
    fn event(&mut self, kind: &str, fields: Value) -> Vec<u8> {
        let mut data = Map::new();
        data.insert("type".into(), kind.into());
        data.insert("sequence_number".into(), self.number.into());
        data.extend(fields.as_object().cloned().unwrap_or_default());
        self.number += 1;
        named(&Value::Object(data))
    }

    fn begin_item(&mut self, at: usize, item: Value) -> Vec<u8> {
        self.event("response.output_item.added", json!({"output_index": at, "item": item}))
    }

    fn end_item(&mut self, at: usize, item: Value) -> Vec<u8> {
        self.event("response.output_item.done", json!({"output_index": at, "item": item}))
    }

    /// The deltas of a message's only part, and the events after them.
    fn part(&mut self, kind: &str, words: &[&str], is_truncated: bool) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let key = if kind == "refusal" { "refusal" } else { "text" };
        let place = |name: &str, value: Value| {
            let mut fields = json!({"item_id": "msg_1", "output_index": 0, "content_index": 0, name: value});
            if kind == "output_text" && name != "part" {
                fields["logprobs"] = json!([]);
            }
            fields
        };
        let part = |text: &str| part(kind, text);
        let first = [
            self.begin_item(0, message("in_progress", json!([]))),
            self.event("response.content_part.added", place("part", part(""))),
        ];
        let mut pieces = Vec::new();
        for word in words {
            pieces.push(self.event(&format!("response.{kind}.delta"), place("delta", json!(word))));
        }
        pieces[0] = [first.concat(), pieces[0].clone()].concat();
        let (whole, status) = (words.concat(), if is_truncated { "incomplete" } else { "completed" });
        let item = message(status, json!([part(&whole)]));
        let mut end = vec![
            self.event(&format!("response.{kind}.done"), place(key, json!(whole))),
            self.event("response.content_part.done", place("part", part(&whole))),
            self.end_item(0, item.clone()),
        ];
        let response = response(self.model, status, vec![item]);
        end.push(self.event(&format!("response.{status}"), json!({"response": response})));
        (pieces, end)
    }
}

fn part(kind: &str, text: &str) -> Value {
    match kind {
        "refusal" => json!({"type": kind, "refusal": text}),
        _ => json!({"type": kind, "text": text, "annotations": [], "logprobs": []}),
    }
}

fn message(status: &str, content: Value) -> Value {
    json!({"id": "msg_1", "type": "message", "status": status, "role": "assistant", "content": content})
}

fn function_call(at: usize, status: &str, arguments: &str) -> Value {
    let (id, name, _) = CALLS[at];
    json!({
        "id": format!("fc_{at}"), "type": "function_call", "status": status, "call_id": id, "name": name,
        "arguments": arguments,
    })
}

fn calls() -> Vec<Value> {
    (0..CALLS.len()).map(|at| function_call(at, "completed", &CALLS[at].2.concat())).collect()
}

fn response(model: &str, status: &str, output: Vec<Value>) -> Value {
    let usage = json!({
        "input_tokens": USAGE.0, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": USAGE.1, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": USAGE.0 + USAGE.1,
    });
    json!({
        "id": "resp_1", "object": "response", "created_at": 1_700_000_000, "status": status, "model": model,
        "output": output, "error": null, "instructions": null, "metadata": {}, "parallel_tool_calls": true,
        "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0, "background": false,
        "completed_at": (status == "completed").then_some(1_700_000_001), "conversation": null,
        "frequency_penalty": 0.0, "presence_penalty": 0.0, "max_output_tokens": null, "max_tool_calls": null,
        "previous_response_id": null, "prompt_cache_key": null, "reasoning": {"effort": null, "summary": null},
        "safety_identifier": null, "service_tier": "default", "store": false, "text": {"format": {"type": "text"}},
        "top_logprobs": 0, "truncation": "disabled", "user": null,
        "incomplete_details": (status == "incomplete").then(|| json!({"reason": "max_output_tokens"})),
        "usage": (status != "in_progress").then_some(usage),
    })
}

pub(super) fn pieces(question: &Question) -> Pieces {
    let mut events = ResponseEvents { model: &question.model, number: 0 };
    let started = response(events.model, "in_progress", vec![]);
    let opening = [
        events.event("response.created", json!({"response": started})),
        events.event("response.in_progress", json!({"response": started})),
    ];
    let (words, end) = events.clone().part("output_text", question.words(), question.is_truncated());
    let (refusal, end_of_refusal) = events.clone().part("refusal", &REFUSAL, false);
    let (mut tools, mut call_events) = (Vec::new(), events.clone());
    for (at, (_, name, pieces)) in CALLS.iter().enumerate() {
        tools.push(call_events.begin_item(at, function_call(at, "in_progress", "")));
        let place =
            |key: &str, text: &str| json!({"item_id": format!("fc_{at}"), "output_index": at, key: text});
        for piece in pieces {
            tools.push(call_events.event("response.function_call_arguments.delta", place("delta", piece)));
        }
        let whole = pieces.concat();
        let mut done = place("arguments", &whole);
        done["name"] = json!(name);
        tools.push(call_events.event("response.function_call_arguments.done", done));
        tools.push(call_events.end_item(at, function_call(at, "completed", &whole)));
    }
    let response_with_calls = response(call_events.model, "completed", calls());
    let error = json!({"code": "server_error", "message": "The server had an error.", "param": null});
    Pieces {
        opening: opening.concat(),
        thoughts: Vec::new(),
        words,
        tools,
        refusal,
        end,
        end_of_tools: vec![call_events.event("response.completed", json!({"response": response_with_calls}))],
        end_of_refusal,
        error: events.event("error", error),
    }
}

pub(super) fn whole(behaviour: Behaviour, question: &Question) -> Value {
    let (mut status, one_message) = ("completed", |part: Value| vec![message("completed", json!([part]))]);
    let output = match behaviour {
        Behaviour::Tools => calls(),
        Behaviour::Refusal => one_message(part("refusal", &REFUSAL.concat())),
        _ if question.is_truncated() => {
            status = "incomplete";
            vec![message(status, json!([part("output_text", &question.words().concat())]))]
        }
        _ => one_message(part("output_text", &question.words().concat())),
    };
    response(&question.model, status, output)
}
