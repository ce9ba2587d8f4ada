//! Checks that deleted content is gone from the API, the prompts and the disk, also if the node is killed meanwhile.

use std::{
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    client::{Answer, Request},
    node::Host,
    suite::{FULL, INFERENCE, Suite},
};

pub(crate) fn run(suite: &mut Suite) {
    deleted_items(suite);
    deleted_responses(suite);
    deleted_conversations(suite);
    open_turn(suite);
    killed_node(suite);
}

const CONVERSATIONS: &str = "/v1/conversations";
const RESPONSES: &str = "/v1/responses";

/// Bytes of a body that every store keeps apart from its entry.
const LARGE: usize = 700_000;

fn post(suite: &Suite, path: &str, body: &Value) -> Answer {
    suite.ask(Request::post(path, body.to_string()))
}

fn get(suite: &Suite, path: &str) -> Answer {
    suite.ask(Request::get(path))
}

fn delete(suite: &Suite, path: &str) -> Answer {
    suite.ask(Request::get(path).method("DELETE"))
}

fn message(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

/// `word` repeated, about `size` bytes long.
fn repeat(word: &str, size: usize) -> String {
    format!("{word} ").repeat(size / word.len())
}

fn id(answer: &Value) -> &str {
    answer["id"].as_str().unwrap_or_default()
}

fn texts(suite: &Suite, conversation: &str) -> Vec<String> {
    let list = get(suite, &format!("{conversation}/items?order=asc&limit=100")).json();
    let items = list["data"].as_array().into_iter().flatten();
    items
        .map(|item| item["content"][0]["text"].as_str().unwrap_or_default().chars().take(40).collect())
        .collect()
}

/// The node's files that contain `word`. Only the native host has files that a test can read.
fn files_with(suite: &Suite, word: &str) -> Vec<PathBuf> {
    if suite.host == Host::Native { suite.node.files_with(word) } else { Vec::new() }
}

/// Status and error code.
fn code(answer: &Answer) -> (u16, String) {
    let (status, code, _) = answer.error();
    (status, code)
}

fn deleted_items(suite: &Suite) {
    let checks = &suite.checks;
    let body = json!({"items": [message("a"), message(&repeat("removed-item", LARGE)), message("c")]});
    let made = post(suite, CONVERSATIONS, &body).json();
    let path = format!("{CONVERSATIONS}/{}", id(&made));
    let list = get(suite, &format!("{path}/items?order=asc")).json();
    let item = format!("{path}/items/{}", id(&list["data"][1]));
    checks.that(
        "item: its text is on the disk before",
        is_on_disk_before(suite, "removed-item removed-item"),
        "a file",
        &item,
    );
    let of_another_key = suite.client.send(&Request::get(item.as_str()).method("DELETE").key(INFERENCE));
    checks.equal(
        "item: error of a deletion with another key",
        code(&of_another_key),
        (404, "conversation_not_found".to_owned()),
    );
    let answer = delete(suite, &item);
    checks.equal("item: status and the conversation", (answer.status, answer.json()), (200, made.clone()));
    for (case, answer) in [("get", get(suite, &item)), ("delete", delete(suite, &item))] {
        checks.equal(
            &format!("item: error of {case} after the deletion"),
            code(&answer),
            (404, "item_not_found".to_owned()),
        );
    }
    checks.equal("item: texts of the list after the deletion", texts(suite, &path), ["a", "c"]);
    checks.equal(
        "item: files with its text after the deletion",
        files_with(suite, "removed-item"),
        Vec::<PathBuf>::new(),
    );

    // An item of a response: the turn stays, and later prompts no longer have the item.
    let request_body = |text: &str| json!({"model": "plain", "conversation": id(&made), "input": text});
    post(suite, RESPONSES, &request_body("said in removed-turn"));
    let list = get(suite, &format!("{path}/items")).json();
    let spoken = format!("{path}/items/{}", id(&list["data"][1]));
    checks.equal("item of a response: status of the deletion", delete(suite, &spoken).status, 200);
    checks.equal("item of a response: number of items after the deletion", texts(suite, &path).len(), 3);
    post(suite, RESPONSES, &request_body("asked after removing"));
    let prompts = suite.upstream.records().mentioning("asked after removing");
    let prompts: Vec<bool> = prompts.iter().map(|record| record.mentions("removed-")).collect();
    checks.equal("item: the prompt of a later turn contains deleted text", prompts, [false]);
}

/// Whether `word` is on the disk; true on hosts whose files can't be read.
fn is_on_disk_before(suite: &Suite, word: &str) -> bool {
    suite.host != Host::Native || !files_with(suite, word).is_empty()
}

/// Deletes responses that continue each other: the text of one is kept until the last that continues it is deleted.
fn deleted_responses(suite: &Suite) {
    let checks = &suite.checks;
    let request_body = |word: &str, previous: &Value| json!({"model": "plain", "input": repeat(word, LARGE), "previous_response_id": previous});
    let first = post(suite, RESPONSES, &request_body("erased-first", &Value::Null)).json();
    let second = post(suite, RESPONSES, &request_body("erased-second", &first["id"])).json();
    let path = |response: &Value| format!("{RESPONSES}/{}", id(response));
    let expected = json!({"id": first["id"], "object": "response", "deleted": true});
    let answer = delete(suite, &path(&first));
    checks.equal(
        "response: status and answer of the deletion",
        (answer.status, answer.json()),
        (200, expected),
    );
    checks.equal("response: status after the deletion", get(suite, &path(&first)).status, 404);
    checks.equal("response: status of the one that continues it", get(suite, &path(&second)).status, 200);
    let third = post(suite, RESPONSES, &request_body("erased-third", &second["id"])).json();
    let prompts = suite.upstream.records().mentioning("erased-third");
    let prompts: Vec<bool> = prompts.iter().map(|record| record.mentions("erased-first")).collect();
    checks.equal("response: the prompt of a continuation contains the deleted text", prompts, [true]);
    // The first text may be erased only with the last response that continues it.
    for response in [&second, &third] {
        checks.that(
            "chain of responses: its text is on the disk before",
            is_on_disk_before(suite, "erased-first"),
            "a file",
            response,
        );
        checks.equal("chain of responses: status of a deletion", delete(suite, &path(response)).status, 200);
    }
    for word in ["erased-first", "erased-second", "erased-third"] {
        checks.equal(
            "chain of responses: files with its text after the deletions",
            files_with(suite, word),
            Vec::<PathBuf>::new(),
        );
    }

    let key = |request: Request| suite.ask(request.with("idempotency-key", "deleted-response"));
    let body = json!({"model": "plain", "input": "erased-keyed"}).to_string();
    let made = key(Request::post(RESPONSES, body.as_str())).json();
    checks.equal(
        "response with an idempotency key: status of the deletion",
        delete(suite, &path(&made)).status,
        200,
    );
    let again = key(Request::post(RESPONSES, body.as_str()));
    checks.equal(
        "response with an idempotency key: error of the same request after the deletion",
        code(&again),
        (409, "already_deleted".to_owned()),
    );
    checks.equal(
        "response with an idempotency key: files with its text after the deletion",
        files_with(suite, "erased-keyed"),
        Vec::<PathBuf>::new(),
    );
}

/// Deletes a conversation with items, metadata and a response, and asks for all of them again.
fn deleted_conversations(suite: &Suite) {
    let checks = &suite.checks;
    let body = json!({"metadata": {"erased-metadata": "x"}, "items": [
        message("erased-small"), message(&repeat("erased-large", LARGE)), message(&repeat("erased-large", LARGE)),
    ]});
    let create = || {
        suite.ask(
            Request::post(CONVERSATIONS, body.to_string()).with("idempotency-key", "deleted-conversation"),
        )
    };
    let made = create().json();
    let path = format!("{CONVERSATIONS}/{}", id(&made));
    let request_body = json!({"model": "plain", "conversation": id(&made), "input": "erased-asked"});
    let response = post(suite, RESPONSES, &request_body).json();
    let response = format!("{RESPONSES}/{}", id(&response));
    let item = get(suite, &format!("{path}/items")).json();
    let item = format!("{path}/items/{}", id(&item["data"][0]));
    let of_another_key = suite.client.send(&Request::get(path.as_str()).method("DELETE").key(INFERENCE));
    checks.equal("conversation: status of a deletion with another key", of_another_key.status, 404);
    checks.equal("conversation: number of items after it", texts(suite, &path).len(), 5);

    // All ids were read before the deletion, so that each request afterwards is one that worked before.
    let expected = json!({"id": made["id"], "object": "conversation.deleted", "deleted": true});
    let answer = delete(suite, &path);
    checks.equal(
        "conversation: status and answer of the deletion",
        (answer.status, answer.json()),
        (200, expected),
    );
    let unknown = "conversation_not_found";
    for (case, answer, expected) in [
        ("get", get(suite, &path), unknown),
        ("delete", delete(suite, &path), unknown),
        ("update", post(suite, &path, &json!({"metadata": {}})), unknown),
        ("list its items", get(suite, &format!("{path}/items")), unknown),
        ("get an item", get(suite, &item), unknown),
        ("add items", post(suite, &format!("{path}/items"), &json!({"items": [message("x")]})), unknown),
        ("create a response in it", post(suite, RESPONSES, &request_body), unknown),
        ("get its response", get(suite, &response), "response_not_found"),
    ] {
        checks.equal(
            &format!("conversation: error of {case} after the deletion"),
            code(&answer),
            (404, expected.to_owned()),
        );
    }
    checks.equal(
        "conversation: error of the same creation after the deletion",
        code(&create()),
        (409, "already_deleted".to_owned()),
    );
    checks.equal("conversation: status after that", get(suite, &path).status, 404);
    for word in ["erased-small", "erased-large", "erased-metadata", "erased-asked"] {
        checks.equal(
            &format!("conversation: files with {word} after the deletion"),
            files_with(suite, word),
            Vec::<PathBuf>::new(),
        );
    }
}

/// A client that follows a response gets its end when the conversation is deleted.
fn open_turn(suite: &Suite) {
    let checks = &suite.checks;
    let made = post(suite, CONVERSATIONS, &json!({})).json();
    let path = format!("{CONVERSATIONS}/{}", id(&made));
    let request_body =
        json!({"model": "steady", "conversation": id(&made), "input": "erased-running", "background": true});
    let response = post(suite, RESPONSES, &request_body).json();
    let response = format!("{RESPONSES}/{}", id(&response));
    let item = get(suite, &format!("{path}/items")).json();
    let item = format!("{path}/items/{}", id(&item["data"][0]));
    checks.equal(
        "open turn: error code of the deletion of its item",
        code(&delete(suite, &item)).1,
        "conversation_locked",
    );
    let start = Instant::now();
    let stream_text = thread::scope(|scope| {
        let stream = scope.spawn(|| get(suite, &format!("{response}?stream=true")));
        // On Lambda the deletion is queued behind the stream.
        thread::sleep(Duration::from_millis(if suite.host == Host::Lambda { 0 } else { 700 }));
        checks.equal("open turn: status of the conversation's deletion", delete(suite, &path).status, 200);
        stream.join().map(|answer| answer.text()).unwrap_or_default()
    });
    if suite.host != Host::Lambda {
        let last = stream_text.lines().rev().find_map(|line| line.strip_prefix("data: ")).unwrap_or_default();
        let last: Value = serde_json::from_str(last).unwrap_or_default();
        let prompts = (last["type"].as_str(), last["response"]["status"].as_str());
        checks.equal(
            "open turn: last event and status for a client that follows",
            prompts,
            (Some("response.incomplete"), Some("cancelled")),
        );
        checks.that(
            "open turn: time until the stream ends",
            start.elapsed() < Duration::from_secs(20),
            "20 s",
            start.elapsed(),
        );
    }
    checks.equal("open turn: status of its response after the deletion", get(suite, &response).status, 404);
    checks.equal(
        "open turn: files with its text after the deletion",
        files_with(suite, "erased-running"),
        Vec::<PathBuf>::new(),
    );
}

/// The node finishes deletions at its start and at each tick, which comes every minute.
const ERASED_WITHIN: Duration = Duration::from_secs(90);

fn killed_node(suite: &mut Suite) {
    let items: Vec<Value> = (0..20).map(|_| message(&repeat("erased-killed", LARGE / 20))).collect();
    let made: Vec<String> = (0..12)
        .map(|_| {
            let made = post(suite, CONVERSATIONS, &json!({"items": items})).json();
            format!("{CONVERSATIONS}/{}", id(&made))
        })
        .collect();
    // The kill falls into the deletions: one is done, some have begun, and some have not.
    let (node, client) = (&mut suite.node, &suite.client);
    let (first, crashed) = thread::scope(|scope| {
        let (done, first_done) = mpsc::channel();
        for paths in made.chunks(3) {
            let done = done.clone();
            scope.spawn(move || {
                for path in paths {
                    let answer = client.send(&Request::get(path.as_str()).method("DELETE").key(FULL));
                    let _ = done.send(answer.status);
                }
            });
        }
        let first = first_done.recv_timeout(Duration::from_secs(20));
        (first, node.crash())
    });
    suite.checks.equal("killed node: status of the deletion that ended before the kill", first, Ok(200));
    suite.checks.that("killed node: it starts again", crashed.is_ok(), "a node that serves", &crashed);
    let undeleted: Vec<&String> = made.iter().filter(|path| get(suite, path).status == 200).collect();
    eprintln!(
        "{}: {} of {} deletions had begun before the kill",
        suite.host.name(),
        12 - undeleted.len(),
        12
    );
    for path in undeleted {
        suite.checks.equal(
            "killed node: items of a conversation that was not deleted",
            texts(suite, path).len(),
            20,
        );
        suite.checks.equal("killed node: status of deleting it again", delete(suite, path).status, 200);
    }
    let start = Instant::now();
    while !files_with(suite, "erased-killed").is_empty() && start.elapsed() < ERASED_WITHIN {
        thread::sleep(Duration::from_secs(1));
    }
    let after = files_with(suite, "erased-killed");
    suite.checks.equal("killed node: files with deleted text after a tick", after, Vec::<PathBuf>::new());
    for path in &made {
        suite.checks.equal("killed node: status of a deleted conversation", get(suite, path).status, 404);
    }
}
