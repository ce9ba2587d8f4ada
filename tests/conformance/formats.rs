//! Checks the other formats of clients over a provider of chat completions: the same answers, in the client's format.

mod parsed_answer;

use serde_json::{Value, json};

use crate::{
    client::{Answer, Request},
    suite::{FULL, Suite, only, via},
};

pub(crate) use parsed_answer::{ParsedAnswer, calls, parse_answer};

/// A wire format of clients.
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
    suite.each(&cases, |(format, stream, model, expected)| {
        check_answer(suite, *format, *stream, model, expected)
    });
    suite.each(&[Format::Messages, Format::Responses], |format| {
        check_broken_stream(suite, *format);
        check_errors(suite, *format);
    });
    other_routes(suite);
}

impl Format {
    pub(crate) fn path(self) -> &'static str {
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

fn check_answer(suite: &Suite, format: Format, stream: bool, model: &str, behaviour: &str) {
    let answer = format.ask(suite, &format.question(model, stream));
    let case = format!("{format:?} to {model}, stream {stream}");
    suite.checks.equal(&format!("{case}: status"), answer.status, 200);
    let (end, called) = match format {
        Format::Chat => ("stop", "tool_calls"),
        Format::Messages => ("end_turn", "tool_use"),
        Format::Responses => ("completed", "completed"),
    };
    let good = ParsedAnswer::good(end);
    let expected = match (behaviour, format) {
        ("tools", _) => ParsedAnswer { text: String::new(), calls: calls(), stop: called.into(), ..good },
        // Anthropic's format has no field for a refusal.
        ("refusal", Format::Messages) => ParsedAnswer { text: "I can't do that.".into(), ..good },
        ("refusal", _) => ParsedAnswer { text: String::new(), refusal: "I can't do that.".into(), ..good },
        _ => good,
    };
    suite.checks.equal(
        &format!("{case}: content of the answer"),
        parse_answer(format, stream, &answer),
        expected,
    );
}

/// A stream that can't be continued ends with one error event of the format; one that can is rescued.
fn check_broken_stream(suite: &Suite, format: Format) {
    let model = only("halfway", true);
    let parsed = parse_answer(format, true, &format.ask(suite, &format.question(&model, true)));
    suite.checks.equal(
        &format!("{format:?}: terminal events and errors of a broken stream"),
        (parsed.ends, parsed.errors),
        (0, 1),
    );
    let rescued = parse_answer(format, true, &format.ask(suite, &format.question("rescued", true)));
    suite.checks.equal(&format!("{format:?}: terminal events of a rescued stream"), rescued.ends, 1);
}

fn check_errors(suite: &Suite, format: Format) {
    let mut unsupported = format.question("plain", false);
    unsupported["future"] = json!(1);
    let answer = format.ask(suite, &unsupported);
    let message =
        answer.json().pointer("/error/message").and_then(Value::as_str).unwrap_or_default().to_owned();
    let case = format!("{format:?}: error for a field that the provider's format lacks");
    suite.checks.that(
        &case,
        answer.status == 400 && message.contains("'future'"),
        "400 with the field's name",
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
    suite.checks.equal(
        &format!("{format:?}: error for an unknown model"),
        (unknown.status, shape),
        (404, expected),
    );
}

fn other_routes(suite: &Suite) {
    let body = json!({"model": "plain", "messages": [{"role": "user", "content": "How are you?"}]});
    let counted = suite.ask(Request::post("/v1/messages/count_tokens", body.to_string()));
    let tokens = counted.json()["input_tokens"].as_u64();
    suite.checks.that(
        "token count without a vendor",
        counted.status == 200 && tokens > Some(0),
        "a number",
        &counted,
    );
    suite.checks.equal(
        "token count without a vendor: x-outlive-estimate",
        counted.header("x-outlive-estimate"),
        "true",
    );
    let models = suite
        .client
        .send(&Request::get("/v1/models").with("x-api-key", FULL).with("anthropic-version", "2023-06-01"));
    suite.checks.equal(
        "list of models in Anthropic's format",
        models.json()["data"][0]["type"].clone(),
        json!("model"),
    );
}
