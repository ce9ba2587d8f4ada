//! Responses in the background, and those whose client or node is gone.

use std::{
    thread,
    time::{Duration, Instant},
};

use outlive_tests::upstream::WORDS;
use serde_json::json;

use super::{PATH, ask, conversation, create, ended, events, get, id, items, numbers, said, text, with};
use crate::{
    client::Request,
    node::Host,
    suite::{FULL, Suite},
};

pub(super) fn background(suite: &Suite) {
    let checks = &suite.checks;
    let answer = create(suite, &with(ask("steady", "in the background"), "background", json!(true)));
    let begun = answer.json();
    checks.equal("background", (answer.status, &begun["background"]), (200, &json!(true)));
    checks.that(
        "it waits",
        matches!(begun["status"].as_str(), Some("queued" | "in_progress")),
        "not ended",
        &begun,
    );
    let done = ended(suite, &id(&begun));
    checks.equal("it ends", (done["status"].as_str(), text(&done)), (Some("completed"), WORDS.concat()));
    // Who follows it sees all of it.
    let body = with(with(ask("steady", "followed"), "background", json!(true)), "stream", json!(true));
    let seen = events(&create(suite, &body));
    let kinds: Vec<&str> = seen.iter().filter_map(|event| event["type"].as_str()).take(3).collect();
    checks.equal("followed, first", kinds, ["response.created", "response.queued", "response.in_progress"]);
    checks.equal(
        "followed",
        (said(&seen), numbers(&seen)),
        (WORDS.concat(), (0..seen.len() as u64).collect()),
    );
    // Cancelled.
    let slow = create(suite, &with(ask("slow", "to be cancelled"), "background", json!(true))).json();
    let path = format!("{PATH}/{}/cancel", id(&slow));
    let cancelled = suite.ask(Request::post(path.as_str(), ""));
    checks.equal("cancelled", (cancelled.status, &cancelled.json()["status"]), (200, &json!("cancelled")));
    checks.equal("cancelled, retrieved", get(suite, &id(&slow)).json(), cancelled.json());
    checks.equal("cancelled twice", suite.ask(Request::post(path, "")).json(), cancelled.json());
    let start = Instant::now();
    let left =
        || suite.upstream.records().mentioning("to be cancelled").iter().all(|record| record.disconnected);
    while !left() && start.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(50));
    }
    checks.that(
        "cancelled, the call is cut",
        left() || suite.host == Host::Lambda,
        "a provider that is left",
        (),
    );
    let other = create(suite, &ask("plain", "in the foreground")).json();
    let refused = suite.ask(Request::post(format!("{PATH}/{}/cancel", id(&other)), ""));
    checks.equal("only what is in the background", refused.error().0, 400);
}

/// A turn does not depend on its client.
pub(super) fn leaving(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = conversation(suite);
    let body =
        with(with(ask("steady", "left alone"), "conversation", json!(conversation)), "stream", json!(true));
    let request = Request::post(PATH, body.to_string()).key(FULL);
    let left = suite.client.disconnect_after(&request, "response.output_text.delta");
    checks.that("leaving", matches!(left, Ok(true)), "some words", &left);
    let start = Instant::now();
    while items(suite, &conversation).len() < 2 && start.elapsed() < Duration::from_secs(150) {
        thread::sleep(Duration::from_millis(200));
    }
    let items = items(suite, &conversation);
    checks.equal(
        "after leaving",
        items.last().map(|item| item["content"][0]["text"].clone()),
        Some(json!(WORDS.concat())),
    );
}

/// `kill -9` while a response is made: it goes on by itself, and its stream can be taken up again.
pub(super) fn killed(suite: &mut Suite) {
    let conversation = conversation(suite);
    let open = |name: &str| with(ask("steady", name), "background", json!(true));
    let alone = create(suite, &open("killed alone")).json();
    let kept = create(suite, &with(open("killed in it"), "conversation", json!(conversation))).json();
    // Some words are there, and some are not.
    let path = format!("{PATH}/{}?stream=true", id(&alone));
    let seen = suite.client.disconnect_after(&Request::get(path).key(FULL), "response.output_text.delta");
    suite.checks.that("before the kill, some words", matches!(seen, Ok(true)), "a delta", &seen);
    let crashed = suite.node.crash();
    suite.checks.that("after the kill, it starts again", crashed.is_ok(), "a node that serves", &crashed);
    let start = Instant::now();
    for response in [&alone, &kept] {
        let done = ended(suite, &id(response));
        suite.checks.equal(
            "after the kill, it goes on",
            (done["status"].as_str(), text(&done)),
            (Some("completed"), WORDS.concat()),
        );
        let all = events(&get(suite, &format!("{}?stream=true", id(response))));
        suite.checks.equal("after the kill, all that was said", said(&all), WORDS.concat());
        suite.checks.equal(
            "after the kill, numbers",
            numbers(&all),
            (0..all.len() as u64).collect::<Vec<_>>(),
        );
    }
    eprintln!(
        "{}: killed turns ended {:.1} s after the start",
        suite.host.name(),
        start.elapsed().as_secs_f64()
    );
    let free = create(suite, &with(ask("plain", "after the kill"), "conversation", json!(conversation)));
    suite.checks.equal("after the kill, the conversation is free", free.status, 200);
}
