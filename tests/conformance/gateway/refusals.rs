//! Failures that are known before the first content.

use std::time::{Duration, Instant};

use outlive_tests::upstream::WORDS;
use serde_json::json;

use super::{Streamed, answered_by};
use crate::{
    node::Host,
    suite::{Suite, only, via},
};

/// A failure that is known before the first content.
pub(super) struct Refusal {
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

pub(super) const REFUSALS: [Refusal; 31] = [
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

pub(super) fn refused(suite: &Suite, refusal: &Refusal) {
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
