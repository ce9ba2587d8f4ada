//! Reads a stream of chat completions as a client does.

use outlive_tests::upstream::WORDS;
use serde_json::Value;

use crate::client::Answer;

/// The content of a stream.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ChatStream {
    pub(super) text: String,
    pub(super) refusal: String,
    /// Name and arguments, by index.
    pub(super) tools: Vec<(String, String)>,
    pub(super) finish: Vec<String>,
    pub(super) usages: usize,
    pub(super) errors: Vec<Value>,
    /// The last event: `[DONE]`, `error`, or empty for neither.
    pub(super) end: &'static str,
    /// Lines that do not belong to an event stream, and events after the last one.
    pub(super) unexpected: Vec<String>,
}

impl ChatStream {
    pub(super) fn read(answer: &Answer) -> Self {
        let mut stream = Self::default();
        let text = answer.text().replace("\r\n", "\n").replace('\r', "\n");
        for line in text.split('\n').filter(|line| !line.is_empty() && !line.starts_with(':')) {
            let Some(data) = line.strip_prefix("data:").map(str::trim) else {
                stream.unexpected.push(line.to_owned());
                continue;
            };
            if !stream.end.is_empty() {
                stream.unexpected.push(format!("after the end: {data}"));
            }
            match serde_json::from_str::<Value>(data) {
                _ if data == "[DONE]" => stream.end = "[DONE]",
                Ok(event) if !event["error"].is_null() => {
                    stream.end = "error";
                    stream.errors.push(event["error"].clone());
                }
                Ok(event) => stream.event(&event),
                Err(_) => stream.unexpected.push(data.to_owned()),
            }
        }
        stream
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

    /// A whole answer of `WORDS`.
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
