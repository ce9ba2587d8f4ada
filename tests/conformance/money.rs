//! Checks budgets and the rate limits of keys.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    client::{Answer, Request},
    node::Host,
    suite::{ADMIN, CHAT, KILLED, POOR, QUICK, Suite},
};

pub(crate) fn run(suite: &mut Suite) {
    budget(suite);
    limits(suite);
    if suite.host == Host::Native {
        killed_node(suite);
    }
}

/// The budget of the key `POOR`, and the cost of one answer: five tokens for a dollar each, and almost no input.
const LIMIT_USD: u64 = 40;
const ANSWER_USD: u64 = 5;

fn ask(suite: &Suite, key: &str, model: &str) -> Answer {
    suite.client.send(&paid_request(key, model))
}

fn paid_request(key: &str, model: &str) -> Request {
    let body =
        json!({"model": model, "max_tokens": 20, "messages": [{"role": "user", "content": "How are you?"}]});
    Request::post(CHAT, body.to_string()).key(key)
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

/// The budget of the key `KILLED` in dollars, and the most that a call of it can cost: 20 tokens of output for a dollar
/// each, and less than a cent of input.
const KILLED_LIMIT_USD: u64 = 10_000;
const WORST_USD: u64 = 21;

/// Callers at once, and their answers between two kills.
const CALLERS: u64 = 40;
const BEFORE_KILL: u64 = 300;

/// Time until the node has returned what its calls no longer need.
const RETURNED: Duration = Duration::from_secs(1);

/// Of a node that is killed three times under load, hardly any of the budget becomes unusable, and no more than the
/// budget is spent.
fn killed_node(suite: &mut Suite) {
    let (mut answered, mut cut) = (0, 0);
    for _ in 0..3 {
        let (more, without_answer, crashed) = load(suite);
        suite.checks.that("killed node: it starts again", crashed.is_ok(), "a node that serves", &crashed);
        answered += more;
        cut += without_answer;
    }
    // The rest of the budget, until it is used up.
    let mut refusals = 0;
    while refusals < 3 {
        let answer = ask(suite, KILLED, "killed");
        match answer.status {
            200 => (answered, refusals) = (answered + 1, 0),
            _ => {
                thread::sleep(RETURNED);
                refusals += 1;
            }
        }
    }
    let (spent, most) =
        (answered * ANSWER_USD, suite.upstream.records().mentioning("good:killed").len() as u64 * ANSWER_USD);
    let possible = KILLED_LIMIT_USD - cut * WORST_USD;
    let percent = spent * 100 / possible;
    eprintln!(
        "killed node: {spent} of {possible} dollars were usable ({percent}%), {cut} calls were cut, {most} were billed"
    );
    suite.checks.that(
        "killed node: percent of the budget that was usable",
        percent >= 90,
        "at least 90",
        percent,
    );
    suite.checks.that("killed node: dollars billed", most <= KILLED_LIMIT_USD, "at most 10,000", most);
}

/// Kills the node while forty callers use it, and starts it again. Returns how many calls were answered, and how many
/// had no answer.
fn load(suite: &mut Suite) -> (u64, u64, io::Result<()>) {
    let (answered, cut) = (AtomicU64::new(0), AtomicU64::new(0));
    let (client, node) = (&suite.client, &mut suite.node);
    let crashed = thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                // A caller stops at its first failure, which the kill causes.
                while client.send(&paid_request(KILLED, "killed")).status == 200 {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                cut.fetch_add(1, Ordering::Relaxed);
            });
        }
        while answered.load(Ordering::Relaxed) < BEFORE_KILL && cut.load(Ordering::Relaxed) < CALLERS {
            thread::sleep(Duration::from_millis(1));
        }
        node.crash()
    });
    (answered.into_inner(), cut.into_inner(), crashed)
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
