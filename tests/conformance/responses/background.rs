//! Checks responses in the background, and responses whose client disconnects or whose node is killed.

use std::{
    thread,
    time::{Duration, Instant},
};

use outlive_tests::upstream::WORDS;
use serde_json::json;

use super::{
    PATH, ask, conversation, create, delta_text, events, get, id, items, numbers, text, wait_until_ended,
    with,
};
use crate::{
    client::Request,
    node::Host,
    suite::{FULL, Suite},
};

pub(super) fn background(suite: &Suite) {
    let checks = &suite.checks;
    let answer = create(suite, &with(ask("steady", "in the background"), "background", json!(true)));
    let created = answer.json();
    checks.equal(
        "background: status and field",
        (answer.status, &created["background"]),
        (200, &json!(true)),
    );
    checks.that(
        "background: it has not ended at first",
        matches!(created["status"].as_str(), Some("queued" | "in_progress")),
        "queued or in_progress",
        &created,
    );
    let done = wait_until_ended(suite, &id(&created));
    checks.equal(
        "background: status and text in the end",
        (done["status"].as_str(), text(&done)),
        (Some("completed"), WORDS.concat()),
    );
    // A client that follows it from the start.
    let body = with(with(ask("steady", "followed"), "background", json!(true)), "stream", json!(true));
    let stream = events(&create(suite, &body));
    let kinds: Vec<&str> = stream.iter().filter_map(|event| event["type"].as_str()).take(3).collect();
    checks.equal(
        "background stream: types of the first events",
        kinds,
        ["response.created", "response.queued", "response.in_progress"],
    );
    checks.equal(
        "background stream: text and sequence numbers",
        (delta_text(&stream), numbers(&stream)),
        (WORDS.concat(), (0..stream.len() as u64).collect()),
    );
    // A response that is cancelled while the provider answers.
    let slow = create(suite, &with(ask("slow", "to be cancelled"), "background", json!(true))).json();
    let path = format!("{PATH}/{}/cancel", id(&slow));
    let cancelled = suite.ask(Request::post(path.as_str(), ""));
    checks.equal(
        "cancelled: status of the answer and the response",
        (cancelled.status, &cancelled.json()["status"]),
        (200, &json!("cancelled")),
    );
    checks.equal("cancelled: retrieved response", get(suite, &id(&slow)).json(), cancelled.json());
    checks.equal(
        "cancelled: answer to a second cancel",
        suite.ask(Request::post(path, "")).json(),
        cancelled.json(),
    );
    let start = Instant::now();
    let is_cancelled =
        || suite.upstream.records().mentioning("to be cancelled").iter().all(|record| record.disconnected);
    while !is_cancelled() && start.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(50));
    }
    checks.that(
        "cancelled: the call of the provider is cancelled",
        is_cancelled() || suite.host == Host::Lambda,
        "a disconnect from the provider",
        (),
    );
    let other = create(suite, &ask("plain", "in the foreground")).json();
    let refused = suite.ask(Request::post(format!("{PATH}/{}/cancel", id(&other)), ""));
    checks.equal("cancel of a response that is not in the background: status", refused.error().0, 400);
}

/// A turn in a conversation goes on when its client disconnects.
pub(super) fn disconnected_client(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = conversation(suite);
    let body =
        with(with(ask("steady", "left alone"), "conversation", json!(conversation)), "stream", json!(true));
    let request = Request::post(PATH, body.to_string()).key(FULL);
    let is_cancelled = suite.client.disconnect_after(&request, "response.output_text.delta");
    checks.that(
        "disconnected client: a delta before the disconnect",
        matches!(is_cancelled, Ok(true)),
        "a delta",
        &is_cancelled,
    );
    let start = Instant::now();
    while items(suite, &conversation).len() < 2 && start.elapsed() < Duration::from_secs(150) {
        thread::sleep(Duration::from_millis(200));
    }
    let items = items(suite, &conversation);
    checks.equal(
        "disconnected client: the newest item is the whole answer",
        items.last().map(|item| item["content"][0]["text"].clone()),
        Some(json!(WORDS.concat())),
    );
}

/// `kill -9` during a response: the turn goes on by itself, and its stream can be resumed.
pub(super) fn killed_node(suite: &mut Suite) {
    let conversation = conversation(suite);
    let open = |name: &str| with(ask("steady", name), "background", json!(true));
    let alone = create(suite, &open("killed alone")).json();
    let in_conversation =
        create(suite, &with(open("killed in it"), "conversation", json!(conversation))).json();
    // The kill falls between two deltas.
    let path = format!("{PATH}/{}?stream=true", id(&alone));
    let stream = suite.client.disconnect_after(&Request::get(path).key(FULL), "response.output_text.delta");
    suite.checks.that("killed node: a delta before the kill", matches!(stream, Ok(true)), "a delta", &stream);
    let crashed = suite.node.crash();
    suite.checks.that("killed node: it starts again", crashed.is_ok(), "a node that serves", &crashed);
    let start = Instant::now();
    for response in [&alone, &in_conversation] {
        let done = wait_until_ended(suite, &id(response));
        suite.checks.equal(
            "killed node: status and text of the response",
            (done["status"].as_str(), text(&done)),
            (Some("completed"), WORDS.concat()),
        );
        let all = events(&get(suite, &format!("{}?stream=true", id(response))));
        suite.checks.equal("killed node: text of the stream", delta_text(&all), WORDS.concat());
        suite.checks.equal(
            "killed node: sequence numbers of the stream",
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
    suite.checks.equal("killed node: status of the conversation's next response", free.status, 200);
}
