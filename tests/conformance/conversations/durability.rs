//! Concurrency of a conversation, and what a killed node still knows.

use std::{
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{add, ids, list, message, new, texts};
use crate::{
    client::Request,
    node::Host,
    suite::{FULL, Suite},
};

/// All texts, page after page, the oldest first.
fn all_texts(suite: &Suite, conversation: &str) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = list(suite, conversation, &format!("?order=asc&limit=100{after}"));
        all.extend(texts(&page));
        match page["last_id"].as_str() {
            Some(last) if page["has_more"] == true => after = format!("&after={last}"),
            _ => return all,
        }
    }
}

pub(super) fn concurrency(suite: &Suite) {
    let conversation = new(suite);
    let texts_sent: Vec<String> = (0..50).map(|i| format!("concurrent {i:02}")).collect();
    thread::scope(|scope| {
        for text in &texts_sent {
            let conversation = &conversation;
            scope.spawn(move || {
                let answer = add(suite, conversation, &[message(text)]);
                suite.checks.equal(
                    &format!("50 at once, {text}"),
                    (answer.status, texts(&answer.json())),
                    (200, vec![text.clone()]),
                );
            });
        }
    });
    let page = list(suite, &conversation, "?order=asc&limit=100");
    let mut seen = texts(&page);
    seen.sort_unstable();
    suite.checks.equal("50 at once, each exactly once", seen, texts_sent);
    let mut ids = ids(&page);
    ids.sort_unstable();
    ids.dedup();
    suite.checks.equal("50 at once, ids", ids.len(), 50);
}

/// DynamoDB Local, killed together with the node, forgets transactions that it answered within the last 8 ms, as a test
/// without the node shows. DynamoDB does not, and is not killed with a function.
const FORGOTTEN: Duration = Duration::from_millis(100);

/// Time for a few appends before the node is killed among them.
const BEFORE_KILL: Duration = Duration::from_millis(700);

pub(super) fn durability(suite: &mut Suite) {
    let conversation = new(suite);
    let kept = new(suite);
    let large = "durable ".repeat(60_000);
    suite.checks.equal("before the kill", add(suite, &kept, &[message(&large)]).status, 200);
    let before = suite.ask(Request::get(kept.as_str())).json();
    let acknowledged = Mutex::new(Vec::new());
    let mut killed = Instant::now();
    let forgotten = if suite.host == Host::Lambda { FORGOTTEN } else { Duration::ZERO };
    let crashed = {
        let killed = &mut killed;
        let (client, node) = (&suite.client, &mut suite.node);
        let (acknowledged, conversation) = (&acknowledged, &conversation);
        thread::scope(|scope| {
            for writer in 0..4 {
                scope.spawn(move || {
                    for i in 0.. {
                        let text = format!("writer {writer} item {i}");
                        let body = json!({"items": [message(&text)]}).to_string();
                        let request = Request::post(format!("{conversation}/items"), body).key(FULL);
                        if client.send(&request).status != 200 {
                            return;
                        }
                        if let Ok(mut acknowledged) = acknowledged.lock() {
                            acknowledged.push((Instant::now(), text));
                        }
                    }
                });
            }
            thread::sleep(BEFORE_KILL);
            *killed = Instant::now();
            node.crash()
        })
    };
    suite.checks.that("after the kill, it starts again", crashed.is_ok(), "a node that serves", &crashed);
    if crashed.is_err() {
        return;
    }
    let acknowledged = acknowledged.into_inner().unwrap_or_default();
    let all = acknowledged.len();
    let safe = acknowledged.into_iter().filter(|(at, _)| forgotten.is_zero() || *at + forgotten < killed);
    let acknowledged: Vec<String> = safe.map(|(_, text)| text).collect();
    suite.checks.that("before the kill, acknowledged", !acknowledged.is_empty(), "some items", &acknowledged);
    let seen = all_texts(suite, &conversation);
    let count = |text: &String| seen.iter().filter(|seen| *seen == text).count();
    let counts = acknowledged.iter().map(|text| (text, count(text)));
    let wrong: Vec<_> = counts.filter(|(_, count)| *count != 1).collect();
    suite.checks.that(
        "after the kill, what was acknowledged is there exactly once",
        wrong.is_empty(),
        "no item lost or doubled",
        (&wrong, acknowledged.len(), seen.len()),
    );
    // A request that was not answered may have taken effect, once: at most one of each writer.
    let more = seen.len() - all.min(seen.len());
    suite.checks.that("after the kill, nothing else", more <= 4, "at most 4 more", more);
    suite.checks.equal(
        "after the kill, the conversation",
        suite.ask(Request::get(kept.as_str())).json(),
        before,
    );
    let seen = texts(&list(suite, &kept, ""));
    suite.checks.that(
        "after the kill, the large item",
        seen == [large],
        "the same text",
        seen.first().map(String::len),
    );
    suite.checks.equal(
        "after the kill, it goes on",
        add(suite, &conversation, &[message("more")]).status,
        200,
    );
    suite.checks.equal(
        "after the kill, the newest",
        texts(&list(suite, &conversation, "?limit=1")),
        ["more"],
    );
}
