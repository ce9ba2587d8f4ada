//! Answers as the demo provider: without a key or a network, with a fixed text.
//!
//! The answer has OpenAI's format and is decoded like any other, so that a demo passes through the whole gateway.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use crate::{
    provider::{Address, Facts, Vendor, unsupported},
    time::Timestamp,
    wire::{Format, Request, sse},
};

/// The demo provider.
pub const VENDOR: Vendor = Vendor {
    kind: "demo",
    address: Address::BuiltIn,
    needs_key: false,
    environment: None,
    options: &[],
    facts: |_| Some(Facts::FREE),
    reports_cost: false,
    plan: |_| Err(unsupported("it is built in")),
    image_tokens: super::image_tokens,
    takes_prefill: |_, _| false,
};

/// The pause between two words: short enough not to bore, long enough to show that the answer streams.
pub const PAUSE: Duration = Duration::from_millis(20);

const TEXT: &str = "This is Outlive's demo provider: no model was called. Set OPENAI_API_KEY, or name a provider in \
                    agent.toml, and ask again.";

/// The answer as one body.
pub fn answer(id: &str, model: &str, now: Timestamp) -> Bytes {
    let message = json!({"role": "assistant", "content": TEXT, "refusal": null});
    let body = json!({
        "id": format!("chatcmpl-{id}"),
        "object": "chat.completion",
        "created": now.unix_seconds(),
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}],
        "usage": usage(),
    });
    body.to_string().into()
}

/// The answer as server-sent events, to be sent with a [`PAUSE`] between them.
pub fn events(request: &Request, id: &str, model: &str, now: Timestamp) -> std::vec::IntoIter<Bytes> {
    let chunk = |choices: serde_json::Value, usage: Option<serde_json::Value>| {
        let mut chunk = json!({
            "id": format!("chatcmpl-{id}"),
            "object": "chat.completion.chunk",
            "created": now.unix_seconds(),
            "model": model,
            "choices": choices,
        });
        if let (Some(usage), Some(object)) = (usage, chunk.as_object_mut()) {
            object.insert("usage".into(), usage);
        }
        sse::encode(None, chunk.to_string().as_bytes())
    };
    let delta = |delta: serde_json::Value, finish: Option<&str>| {
        chunk(json!([{"index": 0, "delta": delta, "finish_reason": finish}]), None)
    };
    let mut events = vec![delta(json!({"role": "assistant", "content": ""}), None)];
    events.extend(TEXT.split_inclusive(' ').map(|word| delta(json!({"content": word}), None)));
    events.push(delta(json!({}), Some("stop")));
    if request.wants_usage || request.format != Format::Chat {
        events.push(chunk(json!([]), Some(usage())));
    }
    events.push(sse::encode(None, b"[DONE]"));
    events.into_iter()
}

/// Zero tokens, since no model was called.
fn usage() -> serde_json::Value {
    json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})
}
