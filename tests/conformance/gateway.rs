//! Checks each answer and each failure of a provider of chat completions, as JSON and as a stream.

mod chat_stream;
mod early_failures;

use std::{
    thread,
    time::{Duration, Instant},
};

use outlive_tests::upstream::WORDS;
use serde_json::{Value, json};

use crate::{
    client::{Answer, Request},
    formats::Format,
    node::Host,
    suite::{CANARY, CHAT, FULL, INFERENCE, Suite, only, question, via},
};
use chat_stream::ChatStream;
use early_failures::{EARLY_FAILURES, check_early_failure};

pub(crate) fn run(suite: &Suite) {
    good_answers(suite);
    suite.each(&EARLY_FAILURES, |early_failure| check_early_failure(suite, early_failure));
    suite.each(&LATE_FAILURES, |name| check_late_failure(suite, name));
    models_that_think(suite);
    several_failures(suite);
    forwarded_request(suite);
    client_disconnects(suite);
}

/// The behaviours whose answer is passed on as a success.
const ACCEPTED: [&str; 8] =
    ["good", "tools", "refusal", "no-done", "done-then-open", "bytewise", "crlf", "cr"];

fn good_answers(suite: &Suite) {
    let names: Vec<&str> = ACCEPTED.into_iter().chain(["comments"]).collect();
    // Each behaviour three times: streamed without and with a second candidate, and as JSON.
    suite.each(&names, |name| {
        let expected = match *name {
            "tools" => ChatStream {
                text: String::new(),
                tools: vec![
                    ("weather".into(), "{\"city\": \"Zürich\"}".into()),
                    ("clock".into(), "{\"zone\": \"CET\"}".into()),
                ],
                finish: vec!["tool_calls".into()],
                ..ChatStream::good()
            },
            "refusal" => {
                ChatStream { text: String::new(), refusal: "I can't do that.".into(), ..ChatStream::good() }
            }
            _ => ChatStream::good(),
        };
        for model in [only(name, true), via(name, true)] {
            let start = Instant::now();
            let answer = suite.chat(&model, true);
            suite.checks.equal(&format!("{model}: status"), answer.status, 200);
            suite.checks.equal(
                &format!("{model}: content of the stream"),
                &ChatStream::read(&answer),
                &expected,
            );
            answered_by(suite, &model, &answer, "bad", 1);
            let kind = answer.header("content-type");
            suite.checks.that(
                &format!("{model}: content type"),
                kind.starts_with("text/event-stream"),
                "text/event-stream",
                kind,
            );
            suite.checks.that(
                &format!("{model}: the body ends as announced"),
                answer.whole,
                "a whole body",
                answer.text(),
            );
            // A provider that keeps its connection open after the last event must not delay the client.
            let took = start.elapsed();
            suite.checks.that(
                &format!("{model}: duration"),
                took < Duration::from_secs(10),
                "less than 10 s",
                took,
            );
        }
        let model = only(name, false);
        let answer = suite.chat(&model, false);
        let body = answer.json();
        let message = &body["choices"][0]["message"];
        let parsed = ChatStream {
            text: message["content"].as_str().unwrap_or_default().into(),
            refusal: message["refusal"].as_str().unwrap_or_default().into(),
            tools: message["tool_calls"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|call| &call["function"])
                .map(|call| {
                    (
                        call["name"].as_str().unwrap_or_default().into(),
                        call["arguments"].as_str().unwrap_or_default().into(),
                    )
                })
                .collect(),
            finish: body["choices"][0]["finish_reason"].as_str().map(str::to_owned).into_iter().collect(),
            usages: usize::from(body["usage"]["total_tokens"] == 12),
            end: if body["object"] == "chat.completion" { "[DONE]" } else { "" },
            ..ChatStream::default()
        };
        suite.checks.equal(&format!("{model}: status"), answer.status, 200);
        suite.checks.equal(&format!("{model}: content of the answer"), &parsed, &expected);
        suite.checks.equal(
            &format!("{model}: content type"),
            answer.header("content-type"),
            "application/json",
        );
        answered_by(suite, &model, &answer, "bad", 1);
    });
    let mut body = question("plain", true);
    body["stream_options"] = Value::Null;
    let answer = suite.ask(Request::post(CHAT, body.to_string()));
    suite.checks.equal(
        "plain: a stream has no usage unless the request asks for it",
        ChatStream::read(&answer),
        ChatStream { usages: 0, ..ChatStream::good() },
    );
}

/// Checks which provider answered, after how many attempts.
fn answered_by(suite: &Suite, case: &str, answer: &Answer, provider: &str, attempts: u32) {
    suite.checks.equal(&format!("{case}: x-outlive-provider"), answer.header("x-outlive-provider"), provider);
    suite.checks.that(
        &format!("{case}: x-outlive-model is set"),
        !answer.header("x-outlive-model").is_empty(),
        "x-outlive-model",
        answer,
    );
    suite.checks.equal(
        &format!("{case}: x-outlive-attempts"),
        answer.header("x-outlive-attempts"),
        attempts.to_string(),
    );
}

/// Failures after the first content: no other candidate can be tried, and the client must get an error.
const LATE_FAILURES: [&str; 7] = [
    "stall-middle",
    "keepalive-middle",
    "halfway",
    "eof-middle",
    "torn-middle",
    "endless-middle",
    "error-middle",
];

fn check_late_failure(suite: &Suite, name: &&str) {
    for model in [only(name, true), via(name, true)] {
        let answer = suite.chat(&model, true);
        let parsed = ChatStream::read(&answer);
        let codes: Vec<&str> = parsed.errors.iter().filter_map(|error| error["code"].as_str()).collect();
        let checks = &suite.checks;
        checks.equal(
            &format!("{model}: codes of the errors in the stream"),
            &codes,
            ["stream_interrupted"].as_slice(),
        );
        checks.equal(&format!("{model}: last event of the stream"), parsed.end, "error");
        checks.equal(&format!("{model}: text before the error"), parsed.text.as_str(), WORDS[..2].concat());
        checks.equal(
            &format!("{model}: unexpected lines in the stream"),
            parsed.unexpected.as_slice(),
            [""; 0].as_slice(),
        );
        let error = parsed.errors.first().cloned().unwrap_or_default();
        let shaped =
            error["message"].is_string() && error["type"].is_string() && error.get("param").is_some();
        checks.that(&format!("{model}: fields of the error"), shaped, "message, type, param", &error);
        checks.that(
            &format!("{model}: the body ends as announced"),
            answer.whole,
            "a whole body",
            answer.text(),
        );
    }
}

/// A model that may think is waited for while the provider is alive; another one is given up.
fn models_that_think(suite: &Suite) {
    let checks = &suite.checks;
    let answer = suite.chat("patient", true);
    checks.equal("patient: content of the stream", ChatStream::read(&answer), ChatStream::good());
    let answer = suite.chat("patient", false);
    let text = &answer.json()["choices"][0]["message"]["content"];
    checks.equal("patient: content of the answer", text.as_str(), Some(WORDS.concat().as_str()));
    let (status, code, _) = suite.chat("hasty", true).error();
    checks.equal("hasty: status and error code", (status, code.as_str()), (504, "upstream_timeout"));
}

fn several_failures(suite: &Suite) {
    let checks = &suite.checks;
    let answer = suite.chat("all-limited", false);
    checks.equal("all-limited: error", answer.error(), (429, "rate_limit_exceeded".to_owned(), None));
    let wait = answer.retry_after();
    checks.that("all-limited: retry-after", wait.is_some_and(|wait| (1..=7).contains(&wait)), "1 to 7", wait);
    let overloaded = only("overloaded-529", false);
    let answer = Format::Messages.ask(suite, &Format::Messages.question(&overloaded, false));
    let kind = answer.json()["error"]["type"].as_str().unwrap_or_default().to_owned();
    let expected = (529, "upstream_overloaded".to_owned(), None);
    checks.equal("overloaded: error for Anthropic's clients", answer.error(), expected);
    checks.equal("overloaded: type of the error for Anthropic's clients", kind.as_str(), "overloaded_error");
    let answer = suite.chat("all-down", false);
    checks.equal("all-down: error", answer.error(), (503, "all_candidates_unavailable".to_owned(), None));
    let body = answer.json();
    let attempts = body["error"]["attempts"].as_array().into_iter().flatten();
    let attempts: Vec<(&str, &str, u64)> = attempts
        .map(|attempt| {
            let text = |name: &str| attempt[name].as_str().unwrap_or_default();
            (text("model"), text("class"), attempt["status"].as_u64().unwrap_or_default())
        })
        .collect();
    // By default a request makes at most three calls.
    let expected =
        [("broken:all", "server", 500), ("limited:all", "rate_limited", 429), ("gone:all", "not_here", 404)];
    checks.equal("all-down: attempts in the error", attempts, expected.as_slice());
    let wait = answer.retry_after();
    checks.that("all-down: retry-after", wait.is_some_and(|wait| (1..=7).contains(&wait)), "1 to 7", wait);
    causes_of_failures(suite);
}

/// Each caller gets the cause of a failure in the node's words, and only an admin the provider's own text.
fn causes_of_failures(suite: &Suite) {
    let checks = &suite.checks;
    // The runtime of Workers does not tell why a connection failed.
    if suite.host != Host::Worker {
        let answer = suite.chat("only-dead", false);
        let message = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        let expected = "dead/good (the provider can't be reached: connection refused)";
        checks.that("only-dead: cause in the message", message.contains(expected), expected, message);
    }
    let model = only("bad-key", false);
    for (key, is_admin) in [(FULL, true), (INFERENCE, false)] {
        let answer = suite.client.send(&Request::post(CHAT, question(&model, false).to_string()).key(key));
        let attempt = answer.json()["error"]["attempts"][0].clone();
        let cause = "the key is rejected: the provider answered 401";
        checks.equal(&format!("{model} with {key}: cause"), attempt["cause"].as_str(), Some(cause));
        checks.equal(
            &format!("{model} with {key}: has the provider's text"),
            attempt["text"].is_string(),
            is_admin,
        );
    }
    let status = suite.ask(Request::get("/v1/status")).json();
    let models = status["models"].as_array().into_iter().flatten();
    let candidates = models.flat_map(|model| model["candidates"].as_array().into_iter().flatten());
    let rejected = candidates.filter(|it| it["last_failure"] == "auth").collect::<Vec<_>>();
    // On Workers and Lambda, another instance may answer, which has seen no failure.
    checks.that(
        "status: cause and text of the last failure",
        suite.host != Host::Native
            || rejected
                .iter()
                .any(|it| it["last_failure_cause"].is_string() && it["last_failure_text"].is_string()),
        "both",
        &rejected,
    );
}

/// The provider gets the bytes of the caller's body, and none of the caller's headers.
fn forwarded_request(suite: &Suite) {
    let checks = &suite.checks;
    let body = |model: &str| {
        format!(
            "{{ \"future\" :\t{{\"big\":123456789012345678901234567890,\"float\":1.0e+400,\"text\":\"\\u0041\\/ é🙂\"}},\r\n \
             \"model\"  :  \"{model}\" ,\"messages\":[ {{\"role\":\"user\",\"content\":\"pass through\",\"odd\":[ ]}} ]\n,\
             \"n\": 1, \"n2\":-0.0 }} \n"
        )
    };
    let request = Request::post(CHAT, body("plain"))
        .with("x-caller-secret", "caller-header")
        .with("cookie", "caller-header")
        .with("openai-organization", "caller-header")
        .with("x-request-id", "caller-header");
    let answer = suite.ask(request);
    checks.equal("forwarded request: status", answer.status, 200);
    let records = suite.upstream.records().mentioning("pass through");
    let [record] = records.as_slice() else {
        return checks.that("forwarded request: number of calls", false, "one call", records);
    };
    checks.equal(
        "forwarded request: body as the provider got it",
        String::from_utf8_lossy(&record.body),
        body("good"),
    );
    let all = suite.upstream.records().all();
    let without_key =
        all.iter().filter(|record| record.header("authorization") != Some(&format!("Bearer {CANARY}")));
    checks.equal("calls without the provider's key as authorization", without_key.count(), 0);
    let leaks = |record: &&outlive_tests::upstream::Record| {
        record.headers.iter().any(|(_, value)| value.contains("caller-header") || value.contains(FULL))
    };
    checks.equal("calls with a header of the caller", all.iter().filter(leaks).count(), 0);
    let paths = all.iter().filter(|record| (record.method.as_str(), record.path.as_str()) != ("POST", CHAT));
    checks.equal("calls of other routes than chat completions", paths.count(), 0);
}

/// A client that disconnects from a stream cancels the call of the provider.
fn client_disconnects(suite: &Suite) {
    // The local runtimes of the other platforms do not report a disconnected client.
    if suite.host != Host::Native {
        return;
    }
    let mut body = question("slow", true);
    body["user"] = json!("leaves");
    let request = Request::post(CHAT, body.to_string()).key(FULL);
    let disconnected = suite.client.disconnect_after(&request, "All");
    suite.checks.that(
        "disconnected client: a delta before the disconnect",
        matches!(disconnected, Ok(true)),
        "a delta",
        disconnected,
    );
    let start = Instant::now();
    let disconnected =
        || suite.upstream.records().mentioning("\"leaves\"").iter().any(|record| record.disconnected);
    while !disconnected() && start.elapsed() < Duration::from_secs(5) {
        thread::sleep(Duration::from_millis(50));
    }
    suite.checks.that(
        "disconnected client: the call of the provider is cancelled",
        disconnected(),
        "a disconnect within 5 s",
        start.elapsed(),
    );
}
