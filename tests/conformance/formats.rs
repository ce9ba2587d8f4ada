//! Every wire format in, over a provider that speaks chat completions: the same answers, in the client's own shape.

use outlive_tests::upstream::WORDS;
use serde_json::{Value, json};

use crate::{
    client::{Answer, Request},
    suite::{FULL, Suite, only, via},
};

/// A format that a client may speak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Format {
    Chat,
    Messages,
    Responses,
}

pub(crate) fn run(suite: &Suite) {
    let mut cases = Vec::new();
    for format in [Format::Messages, Format::Responses] {
        for stream in [false, true] {
            for behaviour in ["good", "tools", "refusal"] {
                cases.push((format, stream, only(behaviour, stream), behaviour));
            }
            for behaviour in ["broken", "limited", "early", "error-first", "html-200"] {
                cases.push((format, stream, via(behaviour, stream), "good"));
            }
        }
    }
    suite
        .each(&cases, |(format, stream, model, expected)| answered(suite, *format, *stream, model, expected));
    suite.each(&[Format::Messages, Format::Responses], |format| {
        interrupted(suite, *format);
        refused(suite, *format);
    });
    other_routes(suite);
}

impl Format {
    fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Messages => "/v1/messages",
            Self::Responses => "/v1/responses",
        }
    }

    pub(crate) fn question(self, model: &str, stream: bool) -> Value {
        match self {
            Self::Chat => json!({
                "model": model, "stream": stream, "max_completion_tokens": 100,
                "stream_options": stream.then(|| json!({"include_usage": true})),
                "messages": [{"role": "user", "content": "How are you? é🙂"}],
            }),
            Self::Messages => json!({
                "model": model, "stream": stream, "max_tokens": 100,
                "messages": [{"role": "user", "content": "How are you? é🙂"}],
            }),
            Self::Responses => {
                json!({"model": model, "stream": stream, "store": false, "max_output_tokens": 100, "input": "How are you? é🙂"})
            }
        }
    }

    pub(crate) fn ask(self, suite: &Suite, body: &Value) -> Answer {
        suite.ask(Request::post(self.path(), body.to_string()))
    }
}

/// What a client understands of an answer.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Heard {
    pub(crate) text: String,
    pub(crate) refusal: String,
    /// Name and arguments.
    pub(crate) calls: Vec<(String, Value)>,
    pub(crate) stop: String,
    pub(crate) tokens: (u64, u64),
    pub(crate) ends: usize,
    pub(crate) errors: usize,
}

/// The calls of an answer with tools.
pub(crate) fn calls() -> Vec<(String, Value)> {
    vec![("weather".to_owned(), json!({"city": "Zürich"})), ("clock".to_owned(), json!({"zone": "CET"}))]
}

pub(crate) fn hear(format: Format, stream: bool, answer: &Answer) -> Heard {
    let mut heard = Heard::default();
    if !stream {
        heard.ends = 1;
        match format {
            Format::Chat => heard.completion(&answer.json()),
            Format::Messages => heard.message(&answer.json()),
            Format::Responses => heard.response(&answer.json()),
        }
        return heard;
    }
    for block in answer.text().split("\n\n").filter(|block| !block.is_empty()) {
        let data = block.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or_default();
        let event: Value = serde_json::from_str(data).unwrap_or_default();
        let name = block.lines().find_map(|line| line.strip_prefix("event: ")).unwrap_or_default();
        if data == "[DONE]" {
            heard.ends += 1;
            continue;
        }
        if format != Format::Chat && !block.starts_with(':') && event["type"] != name {
            // The name of an event says its type.
            heard.errors += 1;
        }
        match format {
            Format::Chat => heard.chunk(&event),
            Format::Messages => heard.message_event(&event),
            Format::Responses => heard.response_event(&event),
        }
    }
    heard
}

impl Heard {
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

    /// Arguments come as text.
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
                // Counts are cumulative, and what is left out stays.
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

fn answered(suite: &Suite, format: Format, stream: bool, model: &str, behaviour: &str) {
    let answer = format.ask(suite, &format.question(model, stream));
    let case = format!("{format:?} to {model}, stream {stream}");
    suite.checks.equal(&format!("{case}, status"), answer.status, 200);
    let (end, called) = match format {
        Format::Chat => ("stop", "tool_calls"),
        Format::Messages => ("end_turn", "tool_use"),
        Format::Responses => ("completed", "completed"),
    };
    let good = Heard { text: WORDS.concat(), stop: end.into(), tokens: (7, 5), ends: 1, ..Heard::default() };
    let expected = match (behaviour, format) {
        ("tools", _) => Heard { text: String::new(), calls: calls(), stop: called.into(), ..good },
        // Anthropic's format has no field for it.
        ("refusal", Format::Messages) => Heard { text: "I can't do that.".into(), ..good },
        ("refusal", _) => Heard { text: String::new(), refusal: "I can't do that.".into(), ..good },
        _ => good,
    };
    suite.checks.equal(&format!("{case}, the answer"), hear(format, stream, &answer), expected);
}

/// A stream that can't go on ends in the format's own error, exactly once.
fn interrupted(suite: &Suite, format: Format) {
    let model = only("halfway", true);
    let heard = hear(format, true, &format.ask(suite, &format.question(&model, true)));
    suite.checks.equal(&format!("{format:?}, a broken stream"), (heard.ends, heard.errors), (0, 1));
    let rescued = hear(format, true, &format.ask(suite, &format.question("rescued", true)));
    suite.checks.equal(&format!("{format:?}, a stream that is taken up again"), rescued.ends, 1);
}

fn refused(suite: &Suite, format: Format) {
    let mut wrong = format.question("plain", false);
    wrong["future"] = json!(1);
    let answer = format.ask(suite, &wrong);
    let message =
        answer.json().pointer("/error/message").and_then(Value::as_str).unwrap_or_default().to_owned();
    let case = format!("{format:?}, a field that can't be carried over");
    suite.checks.that(
        &case,
        answer.status == 400 && message.contains("'future'"),
        "400 that names it",
        &answer,
    );
    let unknown = format.ask(suite, &format.question("nothing", false));
    let error = unknown.json();
    let shape = match format {
        Format::Messages => (error["type"].clone(), error["error"]["type"].clone()),
        Format::Chat | Format::Responses => (error["error"]["code"].clone(), error["error"]["param"].clone()),
    };
    let expected = match format {
        Format::Messages => (json!("error"), json!("not_found_error")),
        Format::Chat | Format::Responses => (json!("model_not_found"), json!("model")),
    };
    suite.checks.equal(&format!("{format:?}, an unknown model"), (unknown.status, shape), (404, expected));
}

fn other_routes(suite: &Suite) {
    let body = json!({"model": "plain", "messages": [{"role": "user", "content": "How are you?"}]});
    let counted = suite.ask(Request::post("/v1/messages/count_tokens", body.to_string()));
    let tokens = counted.json()["input_tokens"].as_u64();
    suite.checks.that("a guess of tokens", counted.status == 200 && tokens > Some(0), "a number", &counted);
    suite.checks.equal("a guess says that it is one", counted.header("x-outlive-estimate"), "true");
    let models = suite
        .client
        .send(&Request::get("/v1/models").with("x-api-key", FULL).with("anthropic-version", "2023-06-01"));
    suite.checks.equal(
        "models in Anthropic's shape",
        models.json()["data"][0]["type"].clone(),
        json!("model"),
    );
}
