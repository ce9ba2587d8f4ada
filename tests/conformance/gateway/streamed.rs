//! What a client reads in a stream.

use outlive_tests::upstream::WORDS;
use serde_json::Value;

use crate::client::Answer;

/// What the client reads in a stream.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Streamed {
    pub(super) text: String,
    pub(super) refusal: String,
    /// Name and arguments, by index.
    pub(super) tools: Vec<(String, String)>,
    pub(super) finish: Vec<String>,
    pub(super) usages: usize,
    pub(super) errors: Vec<Value>,
    /// How the stream ends: with `[DONE]`, an error, or neither.
    pub(super) end: &'static str,
    /// Lines that are not part of an event stream, and events after the end.
    pub(super) strange: Vec<String>,
}

impl Streamed {
    pub(super) fn read(answer: &Answer) -> Self {
        let mut seen = Self::default();
        let text = answer.text().replace("\r\n", "\n").replace('\r', "\n");
        for line in text.split('\n').filter(|line| !line.is_empty() && !line.starts_with(':')) {
            let Some(data) = line.strip_prefix("data:").map(str::trim) else {
                seen.strange.push(line.to_owned());
                continue;
            };
            if !seen.end.is_empty() {
                seen.strange.push(format!("after the end: {data}"));
            }
            match serde_json::from_str::<Value>(data) {
                _ if data == "[DONE]" => seen.end = "[DONE]",
                Ok(event) if !event["error"].is_null() => {
                    seen.end = "error";
                    seen.errors.push(event["error"].clone());
                }
                Ok(event) => seen.event(&event),
                Err(_) => seen.strange.push(data.to_owned()),
            }
        }
        seen
    }

    fn event(&mut self, event: &Value) {
        self.usages += usize::from(event["usage"]["total_tokens"].is_u64());
        for choice in event["choices"].as_array().into_iter().flatten() {
            let delta = &choice["delta"];
            self.text += delta["content"].as_str().unwrap_or_default();
            self.refusal += delta["refusal"].as_str().unwrap_or_default();
            for call in delta["tool_calls"].as_array().into_iter().flatten() {
                let index = call["index"].as_u64().unwrap_or_default() as usize;
                self.tools.resize(self.tools.len().max(index + 1), Default::default());
                self.tools[index].0 += call["function"]["name"].as_str().unwrap_or_default();
                self.tools[index].1 += call["function"]["arguments"].as_str().unwrap_or_default();
            }
            self.finish.extend(choice["finish_reason"].as_str().map(str::to_owned));
        }
    }

    /// A good answer of `WORDS`.
    pub(super) fn good() -> Self {
        Self {
            text: WORDS.concat(),
            finish: vec!["stop".into()],
            usages: 1,
            end: "[DONE]",
            ..Self::default()
        }
    }
}
