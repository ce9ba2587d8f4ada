//! Every way in which a provider answers or fails, as JSON and as a stream.

mod refusals;
mod streamed;

use std::{
    thread,
    time::{Duration, Instant},
};

use outlive_tests::upstream::WORDS;
use serde_json::{Value, json};

use crate::{
    client::{Answer, Request},
    node::Host,
    suite::{CANARY, CHAT, FULL, Suite, only, question, via},
};
use refusals::{REFUSALS, refused};
use streamed::Streamed;

pub(crate) fn run(suite: &Suite) {
    good_answers(suite);
    suite.each(&REFUSALS, |refusal| refused(suite, refusal));
    suite.each(&AFTER_COMMIT, |name| broken_off(suite, name));
    several_failures(suite);
    passed_through(suite);
    client_leaves(suite);
}

/// How providers may answer so that their answer is taken.
const TAKEN: [&str; 8] = ["good", "tools", "refusal", "no-done", "done-then-open", "bytewise", "crlf", "cr"];

fn good_answers(suite: &Suite) {
    let names: Vec<&str> = TAKEN.into_iter().chain(["comments"]).collect();
    suite.each(&names, |name| {
        let expected = match *name {
            "tools" => Streamed {
                text: String::new(),
                tools: vec![
                    ("weather".into(), "{\"city\": \"Zürich\"}".into()),
                    ("clock".into(), "{\"zone\": \"CET\"}".into()),
                ],
                finish: vec!["tool_calls".into()],
                ..Streamed::good()
            },
            "refusal" => {
                Streamed { text: String::new(), refusal: "I can't do that.".into(), ..Streamed::good() }
            }
            _ => Streamed::good(),
        };
        for model in [only(name, true), via(name, true)] {
            let start = Instant::now();
            let answer = suite.chat(&model, true);
            suite.checks.equal(&format!("{model}, status"), answer.status, 200);
            suite.checks.equal(&format!("{model}, the stream"), &Streamed::read(&answer), &expected);
            answered_by(suite, &model, &answer, "bad", 1);
            let kind = answer.header("content-type");
            suite.checks.that(
                &format!("{model}, content type"),
                kind.starts_with("text/event-stream"),
                "text/event-stream",
                kind,
            );
            suite.checks.that(
                &format!("{model}, the end of the connection"),
                answer.whole,
                "a whole body",
                answer.text(),
            );
            // A provider that keeps the connection open after the last event holds nobody up.
            let took = start.elapsed();
            suite.checks.that(
                &format!("{model}, time"),
                took < Duration::from_secs(10),
                "less than 10 s",
                took,
            );
        }
        let model = only(name, false);
        let answer = suite.chat(&model, false);
        let body = answer.json();
        let message = &body["choices"][0]["message"];
        let seen = Streamed {
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
            ..Streamed::default()
        };
        suite.checks.equal(&format!("{model}, status"), answer.status, 200);
        suite.checks.equal(&format!("{model}, the answer"), &seen, &expected);
        suite.checks.equal(
            &format!("{model}, content type"),
            answer.header("content-type"),
            "application/json",
        );
        answered_by(suite, &model, &answer, "bad", 1);
    });
    let mut body = question("plain", true);
    body["stream_options"] = Value::Null;
    let answer = suite.ask(Request::post(CHAT, body.to_string()));
    suite.checks.equal(
        "no usage unless asked for",
        Streamed::read(&answer),
        Streamed { usages: 0, ..Streamed::good() },
    );
}

fn answered_by(suite: &Suite, case: &str, answer: &Answer, provider: &str, attempts: u32) {
    suite.checks.equal(&format!("{case}, who answered"), answer.header("x-outlive-provider"), provider);
    suite.checks.that(
        &format!("{case}, its model"),
        !answer.header("x-outlive-model").is_empty(),
        "x-outlive-model",
        answer,
    );
    suite.checks.equal(
        &format!("{case}, attempts"),
        answer.header("x-outlive-attempts"),
        attempts.to_string(),
    );
}

/// Failures after the first content: nobody else can be asked, and the client must learn of it.
const AFTER_COMMIT: [&str; 7] = [
    "stall-middle",
    "keepalive-middle",
    "halfway",
    "eof-middle",
    "torn-middle",
    "endless-middle",
    "error-middle",
];

fn broken_off(suite: &Suite, name: &&str) {
    for model in [only(name, true), via(name, true)] {
        let answer = suite.chat(&model, true);
        let seen = Streamed::read(&answer);
        let codes: Vec<&str> = seen.errors.iter().filter_map(|error| error["code"].as_str()).collect();
        let checks = &suite.checks;
        checks.equal(&format!("{model}, one error and its code"), &codes, ["stream_interrupted"].as_slice());
        checks.equal(&format!("{model}, the end"), seen.end, "error");
        checks.equal(&format!("{model}, what came before"), seen.text.as_str(), WORDS[..2].concat());
        checks.equal(&format!("{model}, nothing strange"), seen.strange.as_slice(), [""; 0].as_slice());
        let error = seen.errors.first().cloned().unwrap_or_default();
        let shaped =
            error["message"].is_string() && error["type"].is_string() && error.get("param").is_some();
        checks.that(&format!("{model}, the shape of the error"), shaped, "message, type, param", &error);
        checks.that(
            &format!("{model}, the end of the connection"),
            answer.whole,
            "a whole body",
            answer.text(),
        );
    }
}

fn several_failures(suite: &Suite) {
    let checks = &suite.checks;
    let answer = suite.chat("all-limited", false);
    checks.equal("all-limited", answer.error(), (429, "rate_limit_exceeded".to_owned(), None));
    let wait = answer.retry_after();
    checks.that("all-limited, retry-after", wait.is_some_and(|wait| (1..=7).contains(&wait)), "1 to 7", wait);
    let answer = suite.chat("all-down", false);
    checks.equal("all-down", answer.error(), (503, "all_candidates_unavailable".to_owned(), None));
    let body = answer.json();
    let attempts = body["error"]["attempts"].as_array().into_iter().flatten();
    let attempts: Vec<(&str, &str, u64)> = attempts
        .map(|attempt| {
            let text = |name: &str| attempt[name].as_str().unwrap_or_default();
            (text("model"), text("class"), attempt["status"].as_u64().unwrap_or_default())
        })
        .collect();
    // Three calls are the most that one request makes, unless the configuration says otherwise.
    let expected =
        [("broken:all", "server", 500), ("limited:all", "rate_limited", 429), ("gone:all", "not_here", 404)];
    checks.equal("all-down, attempts", attempts, expected.as_slice());
    let wait = answer.retry_after();
    checks.that("all-down, retry-after", wait.is_some_and(|wait| (1..=7).contains(&wait)), "1 to 7", wait);
}

/// What reaches the provider: the caller's request as it is, but nothing of the caller.
fn passed_through(suite: &Suite) {
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
    checks.equal("odd bytes, status", answer.status, 200);
    let records = suite.upstream.records().mentioning("pass through");
    let [record] = records.as_slice() else {
        return checks.that("odd bytes, calls", false, "one call", records);
    };
    checks.equal("odd bytes, as the provider saw them", String::from_utf8_lossy(&record.body), body("good"));
    let all = suite.upstream.records().all();
    let strangers =
        all.iter().filter(|record| record.header("authorization") != Some(&format!("Bearer {CANARY}")));
    checks.equal("the provider's key, and no other, in every call", strangers.count(), 0);
    let leaks = |record: &&outlive_tests::upstream::Record| {
        record.headers.iter().any(|(_, value)| value.contains("caller-header") || value.contains(FULL))
    };
    checks.equal("nothing of the caller's headers in any call", all.iter().filter(leaks).count(), 0);
    let paths = all.iter().filter(|record| (record.method.as_str(), record.path.as_str()) != ("POST", CHAT));
    checks.equal("no other calls", paths.count(), 0);
}

/// A client that leaves a stream cancels the call of the provider.
fn client_leaves(suite: &Suite) {
    // The local runtimes of the other platforms do not tell a function that its client is gone.
    if suite.host != Host::Native {
        return;
    }
    let mut body = question("slow", true);
    body["user"] = json!("leaves");
    let request = Request::post(CHAT, body.to_string()).key(FULL);
    let left = suite.client.leave_after(&request, "All");
    suite.checks.that("a client leaves, the stream before", matches!(left, Ok(true)), "a delta", left);
    let start = Instant::now();
    let left = || suite.upstream.records().mentioning("\"leaves\"").iter().any(|record| record.disconnected);
    while !left() && start.elapsed() < Duration::from_secs(5) {
        thread::sleep(Duration::from_millis(50));
    }
    suite.checks.that(
        "a client leaves, and so does the gateway",
        left(),
        "a broken connection within 5 s",
        start.elapsed(),
    );
}
