//! Writes scripted answers in Anthropic's messages.

use serde_json::{Value, json};

use super::{CALLS, Pieces, Question, REFUSAL, USAGE, named};
use crate::upstream::Behaviour;

pub(super) fn pieces(question: &Question) -> Pieces {
    let usage = json!({"input_tokens": USAGE.0, "output_tokens": 1, "cache_read_input_tokens": 0});
    let message = json!({
        "id": "msg_01", "type": "message", "role": "assistant", "model": question.model, "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": usage,
    });
    let opening =
        [named(&json!({"type": "message_start", "message": message})), named(&json!({"type": "ping"}))];
    let tools = CALLS.iter().enumerate().flat_map(|(index, (id, name, pieces))| {
        let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
        let json = |text: &str| delta(index, json!({"type": "input_json_delta", "partial_json": text}));
        let mut events = vec![start(index, block), json("")];
        events.extend(pieces.iter().map(|piece| json(piece)));
        events.push(stop(index));
        events
    });
    Pieces {
        opening: opening.concat(),
        thoughts: Vec::new(),
        words: text(question.words()),
        tools: tools.collect(),
        refusal: text(&REFUSAL),
        end: [vec![stop(0)], end(reason(question))].concat(),
        end_of_tools: end("tool_use"),
        end_of_refusal: [vec![stop(0)], end("refusal")].concat(),
        error: named(&in_band()),
    }
}

/// The stop reason of a good answer.
fn reason(question: &Question) -> &'static str {
    if question.is_truncated() { "max_tokens" } else { "end_turn" }
}

fn start(index: usize, block: Value) -> Vec<u8> {
    named(&json!({"type": "content_block_start", "index": index, "content_block": block}))
}

fn delta(index: usize, delta: Value) -> Vec<u8> {
    named(&json!({"type": "content_block_delta", "index": index, "delta": delta}))
}

fn stop(index: usize) -> Vec<u8> {
    named(&json!({"type": "content_block_stop", "index": index}))
}

fn end(reason: &str) -> Vec<Vec<u8>> {
    let delta = json!({"stop_reason": reason, "stop_sequence": null});
    let usage = json!({"output_tokens": USAGE.1});
    vec![
        named(&json!({"type": "message_delta", "delta": delta, "usage": usage})),
        named(&json!({"type": "message_stop"})),
    ]
}

/// A block of text, whose start is sent with the first word.
fn text(words: &[&str]) -> Vec<Vec<u8>> {
    let words = words.iter().enumerate().map(|(at, word)| {
        let first = (at == 0).then(|| start(0, json!({"type": "text", "text": ""})));
        [first.unwrap_or_default(), delta(0, json!({"type": "text_delta", "text": word}))].concat()
    });
    words.collect()
}

pub(super) fn whole(behaviour: Behaviour, question: &Question) -> Value {
    let (content, reason) = match behaviour {
        Behaviour::Tools => {
            let calls = CALLS.iter().map(|(id, name, pieces)| {
                let input: Value = serde_json::from_str(&pieces.concat()).unwrap_or_default();
                json!({"type": "tool_use", "id": id, "name": name, "input": input})
            });
            (calls.collect::<Vec<_>>(), "tool_use")
        }
        Behaviour::Refusal => (vec![json!({"type": "text", "text": REFUSAL.concat()})], "refusal"),
        _ => (vec![json!({"type": "text", "text": question.words().concat()})], reason(question)),
    };
    json!({
        "id": "msg_01", "type": "message", "role": "assistant", "model": question.model, "content": content,
        "stop_reason": reason, "stop_sequence": null,
        "usage": {"input_tokens": USAGE.0, "output_tokens": USAGE.1, "cache_read_input_tokens": 0},
    })
}

pub(super) fn in_band() -> Value {
    json!({"type": "error", "error": {"type": "api_error", "message": "Internal server error"}})
}

pub(super) fn error(status: u16, code: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        402 => "billing_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        400 => "invalid_request_error",
        _ => "api_error",
    };
    let message = match code {
        "context_length_exceeded" => "prompt is too long: 210000 tokens > 200000 maximum",
        _ => "the scripted upstream refuses",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_01"})
}
