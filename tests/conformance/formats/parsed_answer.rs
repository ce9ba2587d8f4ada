//! Parses an answer in each format, so that answers of different formats can be compared.

use outlive_tests::upstream::WORDS;
use serde_json::{Value, json};

use super::Format;
use crate::client::Answer;

/// The content of an answer, in any format.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ParsedAnswer {
    pub(crate) text: String,
    pub(crate) refusal: String,
    /// Name and arguments of each call.
    pub(crate) calls: Vec<(String, Value)>,
    pub(crate) stop: String,
    /// Tokens of input and of output.
    pub(crate) tokens: (u64, u64),
    /// How many terminal events without an error there are.
    pub(crate) ends: usize,
    pub(crate) errors: usize,
}

/// The calls of the scripted answer with tools.
pub(crate) fn calls() -> Vec<(String, Value)> {
    vec![("weather".to_owned(), json!({"city": "Zürich"})), ("clock".to_owned(), json!({"zone": "CET"}))]
}

/// Parses a whole answer, streamed or not.
pub(crate) fn parse_answer(format: Format, stream: bool, answer: &Answer) -> ParsedAnswer {
    let mut parsed = ParsedAnswer::default();
    if !stream {
        parsed.ends = 1;
        match format {
            Format::Chat => parsed.completion(&answer.json()),
            Format::Messages => parsed.message(&answer.json()),
            Format::Responses => parsed.response(&answer.json()),
        }
        return parsed;
    }
    for block in answer.text().split("\n\n").filter(|block| !block.is_empty()) {
        let data = block.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or_default();
        let event: Value = serde_json::from_str(data).unwrap_or_default();
        let name = block.lines().find_map(|line| line.strip_prefix("event: ")).unwrap_or_default();
        if data == "[DONE]" {
            parsed.ends += 1;
            continue;
        }
        if format != Format::Chat && !block.starts_with(':') && event["type"] != name {
            // An event must be named after its type.
            parsed.errors += 1;
        }
        match format {
            Format::Chat => parsed.chunk(&event),
            Format::Messages => parsed.message_event(&event),
            Format::Responses => parsed.response_event(&event),
        }
    }
    parsed
}

impl ParsedAnswer {
    /// The scripted answer without tools, which ends for the reason `stop`.
    pub(crate) fn good(stop: &str) -> Self {
        Self { text: WORDS.concat(), stop: stop.into(), tokens: (7, 5), ends: 1, ..Self::default() }
    }

    fn completion(&mut self, completion: &Value) {
        let choice = &completion["choices"][0];
        let text = |name: &str| choice["message"][name].as_str().unwrap_or_default().to_owned();
        (self.text, self.refusal) = (text("content"), text("refusal"));
        for call in choice["message"]["tool_calls"].as_array().into_iter().flatten() {
            self.call(&call["function"]);
        }
        self.stop = choice["finish_reason"].as_str().unwrap_or_default().to_owned();
        self.tokens = chat_tokens(&completion["usage"]);
        self.parse();
    }

    fn chunk(&mut self, chunk: &Value) {
        self.errors += usize::from(!chunk["error"].is_null());
        if !chunk["usage"].is_null() {
            self.tokens = chat_tokens(&chunk["usage"]);
        }
        let choice = &chunk["choices"][0];
        self.text += choice["delta"]["content"].as_str().unwrap_or_default();
        self.refusal += choice["delta"]["refusal"].as_str().unwrap_or_default();
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap_or_default() as usize;
            match self.calls.get_mut(index) {
                None => self.call(&call["function"]),
                Some((_, arguments)) => {
                    let more = call["function"]["arguments"].as_str().unwrap_or_default();
                    *arguments = json!(arguments.as_str().unwrap_or_default().to_owned() + more);
                }
            }
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.stop = reason.to_owned();
            self.parse();
        }
    }

    fn call(&mut self, function: &Value) {
        self.calls
            .push((function["name"].as_str().unwrap_or_default().to_owned(), function["arguments"].clone()));
    }

    /// Parses the arguments, which are collected as text.
    fn parse(&mut self) {
        for (_, arguments) in &mut self.calls {
            let text = arguments.as_str().unwrap_or_default().to_owned();
            *arguments = serde_json::from_str(&text).unwrap_or_default();
        }
    }

    fn message(&mut self, message: &Value) {
        for block in message["content"].as_array().into_iter().flatten() {
            match block["type"].as_str() {
                Some("text") => self.text += block["text"].as_str().unwrap_or_default(),
                Some("tool_use") => {
                    let name = block["name"].as_str().unwrap_or_default().to_owned();
                    self.calls.push((name, block["input"].clone()));
                }
                _ => {}
            }
        }
        self.stop = message["stop_reason"].as_str().unwrap_or_default().to_owned();
        self.tokens = tokens(&message["usage"]);
    }

    fn message_event(&mut self, event: &Value) {
        let delta = &event["delta"];
        match event["type"].as_str().unwrap_or_default() {
            "content_block_start" if event["content_block"]["type"] == "tool_use" => {
                let name = event["content_block"]["name"].as_str().unwrap_or_default();
                self.calls.push((name.to_owned(), json!("")));
            }
            "content_block_delta" if delta["type"] == "text_delta" => {
                self.text += delta["text"].as_str().unwrap_or_default();
            }
            "content_block_delta" => {
                if let Some((_, arguments)) = self.calls.last_mut() {
                    let more = delta["partial_json"].as_str().unwrap_or_default();
                    *arguments = json!(arguments.as_str().unwrap_or_default().to_owned() + more);
                }
            }
            "content_block_stop" => {
                if let Some((_, arguments)) = self.calls.last_mut()
                    && let Some(text) = arguments.as_str()
                {
                    *arguments = serde_json::from_str(text).unwrap_or_default();
                }
            }
            "message_delta" => {
                self.stop = delta["stop_reason"].as_str().unwrap_or_default().to_owned();
                // The counts are cumulative, and a missing one keeps its value.
                let (input, output) = tokens(&event["usage"]);
                let counted = event["usage"]["input_tokens"].is_u64();
                self.tokens = (if counted { input } else { self.tokens.0 }, output);
            }
            "message_start" => self.tokens = tokens(&event["message"]["usage"]),
            "message_stop" => self.ends += 1,
            "error" => self.errors += 1,
            _ => {}
        }
    }

    fn response(&mut self, response: &Value) {
        for item in response["output"].as_array().into_iter().flatten() {
            for part in item["content"].as_array().into_iter().flatten() {
                self.text += part["text"].as_str().unwrap_or_default();
                self.refusal += part["refusal"].as_str().unwrap_or_default();
            }
            if item["type"] == "function_call" {
                let name = item["name"].as_str().unwrap_or_default().to_owned();
                let arguments = item["arguments"].as_str().unwrap_or_default();
                self.calls.push((name, serde_json::from_str(arguments).unwrap_or_default()));
            }
        }
        self.stop = response["status"].as_str().unwrap_or_default().to_owned();
        self.tokens = tokens(&response["usage"]);
    }

    fn response_event(&mut self, event: &Value) {
        match event["type"].as_str().unwrap_or_default() {
            "response.completed" | "response.incomplete" => {
                self.ends += 1;
                self.response(&event["response"]);
            }
            "response.failed" | "error" => self.errors += 1,
            _ => {}
        }
    }
}

fn chat_tokens(usage: &Value) -> (u64, u64) {
    let count = |key: &str| usage[key].as_u64().unwrap_or_default();
    (count("prompt_tokens"), count("completion_tokens"))
}

fn tokens(usage: &Value) -> (u64, u64) {
    let count = |key: &str| usage[key].as_u64().unwrap_or_default();
    (count("input_tokens"), count("output_tokens"))
}
