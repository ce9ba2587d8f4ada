//! Budgets, and limits of keys.

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

/// The limit of the poor key, and what one answer costs: five tokens of a dollar, and next to nothing for the input.
const LIMIT_USD: u64 = 40;
const ANSWER_USD: u64 = 5;

fn ask(suite: &Suite, key: &str, model: &str) -> Answer {
    let body =
        json!({"model": model, "max_tokens": 20, "messages": [{"role": "user", "content": "How are you?"}]});
    suite.client.send(&Request::post(CHAT, body.to_string()).key(key))
}

/// However many ask at once, on however many instances, no more is spent than is allowed.
fn budget(suite: &Suite) {
    let (paid, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let others = std::sync::Mutex::new(Vec::new());
    suite.each(&[(); 32], |()| {
        let answer = ask(suite, POOR, "paid");
        match answer.status {
            200 => paid.fetch_add(1, Ordering::Relaxed),
            429 => refused.fetch_add(1, Ordering::Relaxed),
            _ => {
                others.lock().map(|mut others| others.push(answer.text())).unwrap_or_default();
                0
            }
        };
    });
    let (paid, refused) = (paid.into_inner(), refused.into_inner());
    let spent = paid * ANSWER_USD;
    suite.checks.that("some answers are paid", paid > 0, "one at least", paid);
    suite.checks.that("no more is spent than allowed", spent <= LIMIT_USD, "40 dollars at most", spent);
    suite.checks.equal(
        "the rest is refused",
        (paid + refused, others.into_inner().unwrap_or_default()),
        (32, Vec::new()),
    );
    // What was only reserved is free again, so a few more may be paid.
    let last = || Some(ask(suite, POOR, "paid")).filter(|answer| answer.status != 200);
    let answer = (0..20).find_map(|_| last()).unwrap_or_default();
    suite.checks.equal(
        "the budget is named",
        (answer.status, answer.error().1),
        (429, "budget_exceeded".to_owned()),
    );
    let wait = answer.retry_after();
    suite.checks.that("when it begins anew", wait.is_some_and(|wait| wait > 0), "seconds", wait);
    suite.checks.equal("others may still spend", ask(suite, crate::suite::FULL, "paid").status, 200);
    let status: Value = suite.client.send(&Request::get("/v1/status").key(ADMIN)).json();
    let listed = status["budgets"][0]["budget"].clone();
    suite.checks.equal("the status lists it", listed, json!("key poor"));
}

fn limits(suite: &Suite) {
    let first = ask(suite, QUICK, "plain");
    suite.checks.equal(
        "the first of a minute",
        (first.status, first.header("x-ratelimit-limit-requests")),
        (200, "2"),
    );
    // Each instance counts for itself, so on a host with several it takes more to find the limit.
    let limited = (0..40).map(|_| ask(suite, QUICK, "plain")).find(|answer| answer.status != 200);
    let seen = limited.as_ref().map(|answer| (answer.status, answer.error().1));
    suite.checks.equal("too many in a minute", seen, Some((429, "rate_limit_exceeded".to_owned())));
    let wait = limited.and_then(|answer| answer.retry_after());
    suite.checks.that(
        "when to come back",
        wait.is_some_and(|wait| (1..=60).contains(&wait)),
        "1 to 60 s",
        wait,
    );
}
