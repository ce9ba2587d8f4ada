//! Every way in which a provider answers or fails, as JSON and as a stream.

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

pub(crate) fn run(suite: &Suite) {
    good_answers(suite);
    suite.each(&REFUSALS, |refusal| refused(suite, refusal));
    suite.each(&AFTER_COMMIT, |name| broken_off(suite, name));
    several_failures(suite);
    passed_through(suite);
    client_leaves(suite);
}

/// What the client reads in a stream.
#[derive(Debug, Default, PartialEq)]
struct Streamed {
    text: String,
    refusal: String,
    /// Name and arguments, by index.
    tools: Vec<(String, String)>,
    finish: Vec<String>,
    usages: usize,
    errors: Vec<Value>,
    /// How the stream ends: with `[DONE]`, an error, or neither.
    end: &'static str,
    /// Lines that are not part of an event stream, and events after the end.
    strange: Vec<String>,
}

impl Streamed {
    fn read(answer: &Answer) -> Self {
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
    fn good() -> Self {
        Self {
            text: WORDS.concat(),
            finish: vec!["stop".into()],
            usages: 1,
            end: "[DONE]",
            ..Self::default()
        }
    }
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

/// A failure that is known before the first content.
struct Refusal {
    name: &'static str,
    /// Whether it is one for streams too; some break only after the first content there.
    streamed: bool,
    /// What the caller may get if there is no other candidate: status and code.
    answers: &'static [(u16, &'static str)],
    /// What the attempt may be called.
    classes: &'static [&'static str],
    /// What the provider answered.
    status: Option<u16>,
    /// What the caller is told to wait, in seconds, at most; 0: nothing need be said.
    wait: u64,
    /// Whether another candidate is asked.
    fails_over: bool,
}

const BAD_GATEWAY: &[(u16, &str)] = &[(502, "upstream_error"), (503, "all_candidates_unavailable")];
const UNAVAILABLE: &[(u16, &str)] = &[(503, "all_candidates_unavailable")];
const LATE: &[(u16, &str)] = &[(504, "upstream_timeout")];
const LIMITED: &[(u16, &str)] = &[(429, "rate_limit_exceeded")];

const SERVER: &[&str] = &["server"];
/// A body that ends or breaks too early may be seen as either.
const CUT: &[&str] = &["server", "truncated"];
const TIMEOUT: &[&str] = &["timeout"];

const fn refusal(
    name: &'static str,
    answers: &'static [(u16, &'static str)],
    classes: &'static [&'static str],
    status: u16,
    wait: u64,
) -> Refusal {
    let status = if status == 0 { None } else { Some(status) };
    Refusal { name, streamed: true, answers, classes, status, wait, fails_over: true }
}

const fn json_only(
    name: &'static str,
    answers: &'static [(u16, &'static str)],
    classes: &'static [&'static str],
) -> Refusal {
    Refusal { streamed: false, ..refusal(name, answers, classes, 0, 0) }
}

const REFUSALS: [Refusal; 31] = [
    // The slow ones first, so that they overlap with the rest.
    refusal("silent", LATE, TIMEOUT, 0, 0),
    refusal("stall-headers", LATE, TIMEOUT, 0, 0),
    refusal("stall-body", LATE, TIMEOUT, 0, 0),
    refusal("keepalive-only", LATE, TIMEOUT, 0, 0),
    json_only("stall-middle", LATE, TIMEOUT),
    json_only("keepalive-middle", LATE, TIMEOUT),
    refusal("limited", LIMITED, &["rate_limited"], 429, 7),
    refusal("limited-ms", LIMITED, &["rate_limited"], 429, 2),
    refusal("broken", BAD_GATEWAY, SERVER, 500, 0),
    refusal("overloaded", UNAVAILABLE, &["overloaded"], 503, 3),
    refusal("overloaded-529", BAD_GATEWAY, &["overloaded"], 529, 0),
    refusal("quota", BAD_GATEWAY, &["quota"], 402, 0),
    refusal("bad-key", BAD_GATEWAY, &["auth"], 401, 0),
    refusal("gone", BAD_GATEWAY, &["not_here"], 404, 0),
    Refusal {
        fails_over: false,
        ..refusal("caller-error", &[(400, "decimal_above_max_value")], &["caller"], 400, 0)
    },
    refusal("context", &[(400, "context_length_exceeded")], &["context_length"], 400, 0),
    refusal("too-large", &[(413, "request_too_large")], &["context_length"], 413, 0),
    Refusal {
        fails_over: false,
        ..refusal("policy", &[(400, "content_policy_violation")], &["content_policy"], 400, 0)
    },
    refusal("early", BAD_GATEWAY, CUT, 0, 0),
    refusal("error-first", BAD_GATEWAY, SERVER, 0, 0),
    refusal("html-200", BAD_GATEWAY, SERVER, 0, 0),
    refusal("empty-200", BAD_GATEWAY, CUT, 0, 0),
    refusal("half-json", BAD_GATEWAY, CUT, 0, 0),
    refusal("endless-line", BAD_GATEWAY, CUT, 0, 0),
    refusal("redirect", BAD_GATEWAY, SERVER, 307, 0),
    json_only("halfway", BAD_GATEWAY, CUT),
    json_only("eof-middle", BAD_GATEWAY, CUT),
    json_only("torn-middle", BAD_GATEWAY, CUT),
    json_only("endless-middle", BAD_GATEWAY, CUT),
    json_only("error-middle", BAD_GATEWAY, SERVER),
    refusal("dead", BAD_GATEWAY, SERVER, 0, 0),
];

fn refused(suite: &Suite, refusal: &Refusal) {
    let checks = &suite.checks;
    for stream in [false, true] {
        if stream && (!refusal.streamed || refusal.name == "dead") {
            continue;
        }
        let model = only(refusal.name, stream);
        let start = Instant::now();
        let answer = suite.chat(&model, stream);
        let took = start.elapsed();
        let (status, code, param) = answer.error();
        let right = refusal.answers.contains(&(status, code.as_str()));
        checks.that(
            &format!("{model}, status and code"),
            right,
            &format!("{:?}", refusal.answers),
            (status, code, param),
        );
        let body = answer.json();
        let attempts = body["error"]["attempts"].as_array().cloned().unwrap_or_default();
        let right = (1..=2).contains(&attempts.len())
            && attempts.iter().all(|attempt| {
                attempt["provider"].is_string()
                    && attempt["model"].is_string()
                    && refusal.classes.iter().any(|class| attempt["class"] == *class)
                    && (refusal.status.is_none() || attempt["status"] == json!(refusal.status))
            });
        let expected = format!("1 or 2 attempts of {:?} with status {:?}", refusal.classes, refusal.status);
        checks.that(&format!("{model}, attempts"), right, &expected, &body);
        if refusal.wait > 0 || matches!(status, 429 | 503) {
            let longest = if refusal.wait > 0 { refusal.wait } else { 300 };
            let right = answer.retry_after().is_some_and(|wait| (1..=longest).contains(&wait));
            checks.that(
                &format!("{model}, retry-after"),
                right,
                &format!("1 to {longest}"),
                answer.header("retry-after"),
            );
        }
        let kind = answer.header("content-type");
        checks.equal(&format!("{model}, content type"), kind, "application/json");
        // Streams: two first-token clocks at most; else the total one. On a queue others come first.
        let longest = Duration::from_secs(if suite.host == Host::Lambda { 30 } else { 12 });
        checks.that(&format!("{model}, time"), took < longest, &format!("less than {longest:?}"), took);

        let model = via(refusal.name, stream);
        let answer = suite.chat(&model, stream);
        if !refusal.fails_over {
            let (status, code, _) = answer.error();
            let right = refusal.answers.contains(&(status, code.as_str()));
            checks.that(
                &format!("{model} is not asked of others"),
                right,
                &format!("{:?}", refusal.answers),
                (status, code),
            );
            continue;
        }
        checks.equal(&format!("{model}, status"), answer.status, 200);
        if stream {
            checks.equal(&format!("{model}, the stream"), Streamed::read(&answer), Streamed::good());
        } else {
            let text = &answer.json()["choices"][0]["message"]["content"];
            checks.equal(&format!("{model}, the answer"), text.as_str(), Some(WORDS.concat().as_str()));
        }
        answered_by(suite, &model, &answer, "good", 2);
    }
    if refusal.name == "caller-error" || refusal.name == "context" {
        let param = if refusal.name == "context" { "messages" } else { "temperature" };
        let answer = suite.chat(&only(refusal.name, false), false);
        checks.equal(
            &format!("{}, what the provider says it is about", refusal.name),
            answer.error().2.as_deref(),
            Some(param),
        );
        let message = &answer.json()["error"]["message"];
        checks.equal(
            &format!("{}, the provider's words", refusal.name),
            message.as_str(),
            Some("the scripted upstream refuses"),
        );
    }
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
    let left = || suite.upstream.records().mentioning("\"leaves\"").iter().any(|record| record.left);
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
