//! Checks budgets and the rate limits of keys.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::{
    client::{Answer, Request},
    suite::{ADMIN, CHAT, POOR, QUICK, Suite},
};

pub(crate) fn run(suite: &Suite) {
    budget(suite);
    limits(suite);
}

/// The budget of the key `POOR`, and the cost of one answer: five tokens for a dollar each, and almost no input.
const LIMIT_USD: u64 = 40;
const ANSWER_USD: u64 = 5;

fn ask(suite: &Suite, key: &str, model: &str) -> Answer {
    let body =
        json!({"model": model, "max_tokens": 20, "messages": [{"role": "user", "content": "How are you?"}]});
    suite.client.send(&Request::post(CHAT, body.to_string()).key(key))
}

/// Requests at once, on any number of instances, spend no more than the budget.
fn budget(suite: &Suite) {
    let (answered, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let unexpected = std::sync::Mutex::new(Vec::new());
    suite.each(&[(); 32], |()| {
        let answer = ask(suite, POOR, "paid");
        match answer.status {
            200 => answered.fetch_add(1, Ordering::Relaxed),
            429 => refused.fetch_add(1, Ordering::Relaxed),
            _ => {
                unexpected.lock().map(|mut unexpected| unexpected.push(answer.text())).unwrap_or_default();
                0
            }
        };
    });
    let (answered, refused) = (answered.into_inner(), refused.into_inner());
    let spent = answered * ANSWER_USD;
    suite.checks.that("budget: requests that were answered", answered > 0, "at least one", answered);
    suite.checks.that("budget: dollars spent", spent <= LIMIT_USD, "at most 40 dollars", spent);
    suite.checks.equal(
        "budget: requests with a result, and unexpected answers",
        (answered + refused, unexpected.into_inner().unwrap_or_default()),
        (32, Vec::new()),
    );
    // Reservations are released by now, so a few more requests may be answered.
    let last = || Some(ask(suite, POOR, "paid")).filter(|answer| answer.status != 200);
    let answer = (0..20).find_map(|_| last()).unwrap_or_default();
    suite.checks.equal(
        "budget: error when it is used up",
        (answer.status, answer.error().1),
        (429, "budget_exceeded".to_owned()),
    );
    let retry_after = answer.retry_after();
    suite.checks.that(
        "budget: retry-after when it is used up",
        retry_after.is_some_and(|retry_after| retry_after > 0),
        "seconds",
        retry_after,
    );
    suite.checks.equal(
        "budget: status of another key's request",
        ask(suite, crate::suite::FULL, "paid").status,
        200,
    );
    let status: Value = suite.client.send(&Request::get("/v1/status").key(ADMIN)).json();
    let listed = status["budgets"][0]["budget"].clone();
    suite.checks.equal("budget: name in the node's status", listed, json!("key poor"));
}

fn limits(suite: &Suite) {
    let first = ask(suite, QUICK, "plain");
    suite.checks.equal(
        "rate limit: the first request of a minute",
        (first.status, first.header("x-ratelimit-limit-requests")),
        (200, "2"),
    );
    // Each instance counts its own requests, so a host with several allows more of them.
    let limited = (0..40).map(|_| ask(suite, QUICK, "plain")).find(|answer| answer.status != 200);
    let error = limited.as_ref().map(|answer| (answer.status, answer.error().1));
    suite.checks.equal(
        "rate limit: error of a request beyond it",
        error,
        Some((429, "rate_limit_exceeded".to_owned())),
    );
    let retry_after = limited.and_then(|answer| answer.retry_after());
    suite.checks.that(
        "rate limit: retry-after of a request beyond it",
        retry_after.is_some_and(|retry_after| (1..=60).contains(&retry_after)),
        "1 to 60 s",
        retry_after,
    );
}
