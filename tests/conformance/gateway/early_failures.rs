//! Checks failures before the first content: the error of a single candidate, and the failover to a second one.

use std::time::{Duration, Instant};

use outlive_tests::upstream::WORDS;
use serde_json::json;

use super::{ChatStream, answered_by};
use crate::{
    node::Host,
    suite::{Suite, only, via},
};

/// A failure before the first content.
pub(super) struct EarlyFailure {
    name: &'static str,
    /// Whether it comes before the first content of a stream, too.
    streamed: bool,
    /// The errors that the caller may get without another candidate: status and code.
    expected_errors: &'static [(u16, &'static str)],
    /// The classes that the attempt may have.
    classes: &'static [&'static str],
    /// The status of the provider's answer.
    status: Option<u16>,
    /// The largest `retry-after` in seconds; 0: none is needed.
    retry_after: u64,
    /// Whether another candidate is tried.
    fails_over: bool,
}

const BAD_GATEWAY: &[(u16, &str)] = &[(502, "upstream_error"), (503, "all_candidates_unavailable")];
const OVERLOADED: &[(u16, &str)] = &[(503, "upstream_overloaded")];
const LATE: &[(u16, &str)] = &[(504, "upstream_timeout")];
const LIMITED: &[(u16, &str)] = &[(429, "rate_limit_exceeded")];

const SERVER: &[&str] = &["server"];
/// A body that ends or breaks too early may have either class.
const CUT: &[&str] = &["server", "truncated"];
const TIMEOUT: &[&str] = &["timeout"];

const fn early_failure(
    name: &'static str,
    expected_errors: &'static [(u16, &'static str)],
    classes: &'static [&'static str],
    status: u16,
    retry_after: u64,
) -> EarlyFailure {
    let status = if status == 0 { None } else { Some(status) };
    EarlyFailure { name, streamed: true, expected_errors, classes, status, retry_after, fails_over: true }
}

const fn json_only(
    name: &'static str,
    expected_errors: &'static [(u16, &'static str)],
    classes: &'static [&'static str],
) -> EarlyFailure {
    EarlyFailure { streamed: false, ..early_failure(name, expected_errors, classes, 0, 0) }
}

pub(super) const EARLY_FAILURES: [EarlyFailure; 31] = [
    // The slow ones come first, so that they overlap with the rest.
    early_failure("silent", LATE, TIMEOUT, 0, 0),
    early_failure("stall-headers", LATE, TIMEOUT, 0, 0),
    early_failure("stall-body", LATE, TIMEOUT, 0, 0),
    early_failure("keepalive-only", LATE, TIMEOUT, 0, 0),
    json_only("stall-middle", LATE, TIMEOUT),
    json_only("keepalive-middle", LATE, TIMEOUT),
    early_failure("limited", LIMITED, &["rate_limited"], 429, 7),
    early_failure("limited-ms", LIMITED, &["rate_limited"], 429, 2),
    early_failure("broken", BAD_GATEWAY, SERVER, 500, 0),
    early_failure("overloaded", OVERLOADED, &["overloaded"], 503, 3),
    early_failure("overloaded-529", OVERLOADED, &["overloaded"], 529, 0),
    early_failure("quota", BAD_GATEWAY, &["quota"], 402, 0),
    early_failure("bad-key", BAD_GATEWAY, &["auth"], 401, 0),
    early_failure("gone", BAD_GATEWAY, &["not_here"], 404, 0),
    EarlyFailure {
        fails_over: false,
        ..early_failure("caller-error", &[(400, "decimal_above_max_value")], &["caller"], 400, 0)
    },
    early_failure("context", &[(400, "context_length_exceeded")], &["context_length"], 400, 0),
    early_failure("too-large", &[(413, "request_too_large")], &["context_length"], 413, 0),
    EarlyFailure {
        fails_over: false,
        ..early_failure("policy", &[(400, "content_policy_violation")], &["content_policy"], 400, 0)
    },
    early_failure("early", BAD_GATEWAY, CUT, 0, 0),
    early_failure("error-first", BAD_GATEWAY, SERVER, 0, 0),
    early_failure("html-200", BAD_GATEWAY, SERVER, 0, 0),
    early_failure("empty-200", BAD_GATEWAY, CUT, 0, 0),
    early_failure("half-json", BAD_GATEWAY, CUT, 0, 0),
    early_failure("endless-line", BAD_GATEWAY, CUT, 0, 0),
    early_failure("redirect", BAD_GATEWAY, SERVER, 307, 0),
    json_only("halfway", BAD_GATEWAY, CUT),
    json_only("eof-middle", BAD_GATEWAY, CUT),
    json_only("torn-middle", BAD_GATEWAY, CUT),
    json_only("endless-middle", BAD_GATEWAY, CUT),
    json_only("error-middle", BAD_GATEWAY, SERVER),
    early_failure("dead", BAD_GATEWAY, SERVER, 0, 0),
];

pub(super) fn check_early_failure(suite: &Suite, early_failure: &EarlyFailure) {
    let checks = &suite.checks;
    // First the model with this candidate alone, then the one with a working candidate behind it.
    for stream in [false, true] {
        if stream && (!early_failure.streamed || early_failure.name == "dead") {
            continue;
        }
        let model = only(early_failure.name, stream);
        let start = Instant::now();
        let answer = suite.chat(&model, stream);
        let took = start.elapsed();
        let (status, code, param) = answer.error();
        let is_expected = early_failure.expected_errors.contains(&(status, code.as_str()));
        checks.that(
            &format!("{model}: status and error code"),
            is_expected,
            &format!("{:?}", early_failure.expected_errors),
            (status, code, param),
        );
        let body = answer.json();
        let attempts = body["error"]["attempts"].as_array().cloned().unwrap_or_default();
        let is_expected = (1..=2).contains(&attempts.len())
            && attempts.iter().all(|attempt| {
                attempt["provider"].is_string()
                    && attempt["model"].is_string()
                    && early_failure.classes.iter().any(|class| attempt["class"] == *class)
                    && (early_failure.status.is_none() || attempt["status"] == json!(early_failure.status))
            });
        let expected =
            format!("1 or 2 attempts of {:?} with status {:?}", early_failure.classes, early_failure.status);
        checks.that(&format!("{model}: attempts in the error"), is_expected, &expected, &body);
        if early_failure.retry_after > 0 || matches!(status, 429 | 503) {
            let most = if early_failure.retry_after > 0 { early_failure.retry_after } else { 300 };
            let is_expected =
                answer.retry_after().is_some_and(|retry_after| (1..=most).contains(&retry_after));
            checks.that(
                &format!("{model}: retry-after"),
                is_expected,
                &format!("1 to {most}"),
                answer.header("retry-after"),
            );
        }
        let kind = answer.header("content-type");
        checks.equal(&format!("{model}: content type"), kind, "application/json");
        // At most two timeouts of the first token, or the total one. On Lambda other requests are ahead in the queue.
        let most = Duration::from_secs(if suite.host == Host::Lambda { 30 } else { 12 });
        checks.that(&format!("{model}: duration"), took < most, &format!("less than {most:?}"), took);

        let model = via(early_failure.name, stream);
        let answer = suite.chat(&model, stream);
        if !early_failure.fails_over {
            let (status, code, _) = answer.error();
            let is_expected = early_failure.expected_errors.contains(&(status, code.as_str()));
            checks.that(
                &format!("{model}: error without a failover"),
                is_expected,
                &format!("{:?}", early_failure.expected_errors),
                (status, code),
            );
            continue;
        }
        checks.equal(&format!("{model}: status after the failover"), answer.status, 200);
        if stream {
            checks.equal(
                &format!("{model}: content of the stream"),
                ChatStream::read(&answer),
                ChatStream::good(),
            );
        } else {
            let text = &answer.json()["choices"][0]["message"]["content"];
            checks.equal(
                &format!("{model}: content of the answer"),
                text.as_str(),
                Some(WORDS.concat().as_str()),
            );
        }
        answered_by(suite, &model, &answer, "good", 2);
    }
    if early_failure.name == "caller-error" || early_failure.name == "context" {
        let param = if early_failure.name == "context" { "messages" } else { "temperature" };
        let answer = suite.chat(&only(early_failure.name, false), false);
        checks.equal(
            &format!("{}: param of the provider's error", early_failure.name),
            answer.error().2.as_deref(),
            Some(param),
        );
        let message = &answer.json()["error"]["message"];
        checks.equal(
            &format!("{}: message of the provider's error", early_failure.name),
            message.as_str(),
            Some("the scripted upstream refuses"),
        );
    }
}
