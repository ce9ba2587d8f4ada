//! Checks concurrent writes to a conversation, and the items of a node that was killed.

use std::{
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{add, ids, list, message, new_conversation, texts};
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

pub(super) fn concurrent_writes(suite: &Suite) {
    let conversation = new_conversation(suite);
    let texts_sent: Vec<String> = (0..50).map(|i| format!("concurrent {i:02}")).collect();
    thread::scope(|scope| {
        for text in &texts_sent {
            let conversation = &conversation;
            scope.spawn(move || {
                let answer = add(suite, conversation, &[message(text)]);
                suite.checks.equal(
                    &format!("50 concurrent writes: answer to {text}"),
                    (answer.status, texts(&answer.json())),
                    (200, vec![text.clone()]),
                );
            });
        }
    });
    let page = list(suite, &conversation, "?order=asc&limit=100");
    let mut read = texts(&page);
    read.sort_unstable();
    suite.checks.equal("50 concurrent writes: all items", read, texts_sent);
    let mut ids = ids(&page);
    ids.sort_unstable();
    ids.dedup();
    suite.checks.equal("50 concurrent writes: number of distinct ids", ids.len(), 50);
}

/// DynamoDB Local is killed with the node and loses transactions that it acknowledged in the last 8 ms, as a test
/// without the node shows. DynamoDB itself loses none.
const UNFLUSHED: Duration = Duration::from_millis(100);

/// Time for a few appends before the node is killed among them.
const BEFORE_KILL: Duration = Duration::from_millis(700);

pub(super) fn killed_node(suite: &mut Suite) {
    let conversation = new_conversation(suite);
    let idle = new_conversation(suite);
    let large = "durable ".repeat(60_000);
    suite.checks.equal(
        "status of an item before the kill",
        add(suite, &idle, &[message(&large)]).status,
        200,
    );
    let before = suite.ask(Request::get(idle.as_str())).json();
    let acknowledged = Mutex::new(Vec::new());
    let mut killed_at = Instant::now();
    let unflushed = if suite.host == Host::Lambda { UNFLUSHED } else { Duration::ZERO };
    let restarted = {
        let killed_at = &mut killed_at;
        let (client, node) = (&suite.client, &mut suite.node);
        let (acknowledged, conversation) = (&acknowledged, &conversation);
        // The writers stop at their first failure, which the kill causes.
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
            *killed_at = Instant::now();
            node.crash()
        })
    };
    suite.checks.that(
        "the node starts again after the kill",
        restarted.is_ok(),
        "a node that serves",
        &restarted,
    );
    if restarted.is_err() {
        return;
    }
    let acknowledged = acknowledged.into_inner().unwrap_or_default();
    let all = acknowledged.len();
    let safe = acknowledged.into_iter().filter(|(at, _)| unflushed.is_zero() || *at + unflushed < killed_at);
    let acknowledged: Vec<String> = safe.map(|(_, text)| text).collect();
    suite.checks.that(
        "some items were acknowledged before the kill",
        !acknowledged.is_empty(),
        "at least one item",
        &acknowledged,
    );
    let read = all_texts(suite, &conversation);
    let count = |text: &String| read.iter().filter(|read| *read == text).count();
    let counts = acknowledged.iter().map(|text| (text, count(text)));
    let wrong: Vec<_> = counts.filter(|(_, count)| *count != 1).collect();
    suite.checks.that(
        "acknowledged items that are not there exactly once after the kill",
        wrong.is_empty(),
        "none",
        (&wrong, acknowledged.len(), read.len()),
    );
    // A write without an answer may have happened: at most one of each of the four writers.
    let unacknowledged = read.len() - all.min(read.len());
    suite.checks.that(
        "items without an acknowledgement after the kill",
        unacknowledged <= 4,
        "at most 4",
        unacknowledged,
    );
    suite.checks.equal("conversation after the kill", suite.ask(Request::get(idle.as_str())).json(), before);
    let read = texts(&list(suite, &idle, ""));
    suite.checks.that(
        "large item after the kill",
        read == [large],
        "the same text",
        read.first().map(String::len),
    );
    suite.checks.equal(
        "status of a new item after the kill",
        add(suite, &conversation, &[message("more")]).status,
        200,
    );
    suite.checks.equal(
        "newest item after the kill",
        texts(&list(suite, &conversation, "?limit=1")),
        ["more"],
    );
}
