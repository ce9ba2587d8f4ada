//! Deleting: what is deleted is gone, also from the disk, and also when the node is killed meanwhile.

use std::{
    path::PathBuf,
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
    items(suite);
    responses(suite);
    conversations(suite);
    while_it_is_made(suite);
    killed(suite);
}

const CONVERSATIONS: &str = "/v1/conversations";
const RESPONSES: &str = "/v1/responses";

/// Too large to lie beside its entry in any store.
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

/// At least `size` bytes that say `word` again and again.
fn long(word: &str, size: usize) -> String {
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

/// Whether `word` is in a file of the node. Elsewhere than on the native host nobody can look into the store.
fn on_disk(suite: &Suite, word: &str) -> Vec<PathBuf> {
    if suite.host == Host::Native { suite.node.files_with(word) } else { Vec::new() }
}

fn code(answer: &Answer) -> (u16, String) {
    let (status, code, _) = answer.error();
    (status, code)
}

fn items(suite: &Suite) {
    let checks = &suite.checks;
    let body = json!({"items": [message("a"), message(&long("removed-item", LARGE)), message("c")]});
    let made = post(suite, CONVERSATIONS, &body).json();
    let path = format!("{CONVERSATIONS}/{}", id(&made));
    let list = get(suite, &format!("{path}/items?order=asc")).json();
    let item = format!("{path}/items/{}", id(&list["data"][1]));
    checks.that("an item, on disk before", has(suite, "removed-item removed-item"), "a file", &item);
    let theirs = suite.client.send(&Request::get(item.as_str()).method("DELETE").key(INFERENCE));
    checks.equal("an item, with another key", code(&theirs), (404, "conversation_not_found".to_owned()));
    let answer = delete(suite, &item);
    checks.equal("an item, the conversation", (answer.status, answer.json()), (200, made.clone()));
    for (case, answer) in [("get", get(suite, &item)), ("delete", delete(suite, &item))] {
        checks.equal(&format!("an item, {case} after"), code(&answer), (404, "item_not_found".to_owned()));
    }
    checks.equal("an item, the list after", texts(suite, &path), ["a", "c"]);
    checks.equal("an item, on disk after", on_disk(suite, "removed-item"), Vec::<PathBuf>::new());

    let asked = |text: &str| json!({"model": "plain", "conversation": id(&made), "input": text});
    post(suite, RESPONSES, &asked("said in removed-turn"));
    let list = get(suite, &format!("{path}/items")).json();
    let said = format!("{path}/items/{}", id(&list["data"][1]));
    checks.equal("an item of a response", delete(suite, &said).status, 200);
    checks.equal("an item of a response, the list after", texts(suite, &path).len(), 3);
    post(suite, RESPONSES, &asked("asked after removing"));
    let told = suite.upstream.records().mentioning("asked after removing");
    let told: Vec<bool> = told.iter().map(|record| record.mentions("removed-")).collect();
    checks.equal("an item, the prompt after", told, [false]);
}

/// Whether `word` is on the disk, where that can be seen.
fn has(suite: &Suite, word: &str) -> bool {
    suite.host != Host::Native || !on_disk(suite, word).is_empty()
}

fn responses(suite: &Suite) {
    let checks = &suite.checks;
    let asked = |word: &str, previous: &Value| json!({"model": "plain", "input": long(word, LARGE), "previous_response_id": previous});
    let first = post(suite, RESPONSES, &asked("erased-first", &Value::Null)).json();
    let second = post(suite, RESPONSES, &asked("erased-second", &first["id"])).json();
    let path = |response: &Value| format!("{RESPONSES}/{}", id(response));
    let expected = json!({"id": first["id"], "object": "response", "deleted": true});
    let answer = delete(suite, &path(&first));
    checks.equal("a response", (answer.status, answer.json()), (200, expected));
    checks.equal("a response, after", get(suite, &path(&first)).status, 404);
    checks.equal("the one that continues it, after", get(suite, &path(&second)).status, 200);
    let third = post(suite, RESPONSES, &asked("erased-third", &second["id"])).json();
    let told = suite.upstream.records().mentioning("erased-third");
    let told: Vec<bool> = told.iter().map(|record| record.mentions("erased-first")).collect();
    checks.equal("what is continued is still told", told, [true]);
    for response in [&second, &third] {
        checks.that("the line, on disk before", has(suite, "erased-first"), "a file", response);
        checks.equal("the line", delete(suite, &path(response)).status, 200);
    }
    for word in ["erased-first", "erased-second", "erased-third"] {
        checks.equal("the line, on disk after", on_disk(suite, word), Vec::<PathBuf>::new());
    }

    let key = |request: Request| suite.ask(request.with("idempotency-key", "deleted-response"));
    let body = json!({"model": "plain", "input": "erased-keyed"}).to_string();
    let made = key(Request::post(RESPONSES, body.as_str())).json();
    checks.equal("with a key", delete(suite, &path(&made)).status, 200);
    let again = key(Request::post(RESPONSES, body.as_str()));
    checks.equal("with a key, again", code(&again), (409, "already_deleted".to_owned()));
    checks.equal("with a key, on disk after", on_disk(suite, "erased-keyed"), Vec::<PathBuf>::new());
}

fn conversations(suite: &Suite) {
    let checks = &suite.checks;
    let body = json!({"metadata": {"erased-metadata": "x"}, "items": [
        message("erased-small"), message(&long("erased-large", LARGE)), message(&long("erased-large", LARGE)),
    ]});
    let create = || {
        suite.ask(
            Request::post(CONVERSATIONS, body.to_string()).with("idempotency-key", "deleted-conversation"),
        )
    };
    let made = create().json();
    let path = format!("{CONVERSATIONS}/{}", id(&made));
    let asked = json!({"model": "plain", "conversation": id(&made), "input": "erased-asked"});
    let response = post(suite, RESPONSES, &asked).json();
    let response = format!("{RESPONSES}/{}", id(&response));
    let item = get(suite, &format!("{path}/items")).json();
    let item = format!("{path}/items/{}", id(&item["data"][0]));
    let theirs = suite.client.send(&Request::get(path.as_str()).method("DELETE").key(INFERENCE));
    checks.equal("a conversation, with another key", theirs.status, 404);
    checks.equal("a conversation, still there", texts(suite, &path).len(), 5);

    let expected = json!({"id": made["id"], "object": "conversation.deleted", "deleted": true});
    let answer = delete(suite, &path);
    checks.equal("a conversation", (answer.status, answer.json()), (200, expected));
    let unknown = "conversation_not_found";
    for (case, answer, expected) in [
        ("get", get(suite, &path), unknown),
        ("delete", delete(suite, &path), unknown),
        ("update", post(suite, &path, &json!({"metadata": {}})), unknown),
        ("items", get(suite, &format!("{path}/items")), unknown),
        ("an item", get(suite, &item), unknown),
        ("add", post(suite, &format!("{path}/items"), &json!({"items": [message("x")]})), unknown),
        ("ask in it", post(suite, RESPONSES, &asked), unknown),
        ("its response", get(suite, &response), "response_not_found"),
    ] {
        checks.equal(&format!("a conversation, {case} after"), code(&answer), (404, expected.to_owned()));
    }
    checks.equal("a conversation, made again", code(&create()), (409, "already_deleted".to_owned()));
    checks.equal("a conversation, still gone", get(suite, &path).status, 404);
    for word in ["erased-small", "erased-large", "erased-metadata", "erased-asked"] {
        checks.equal(&format!("{word}, on disk after"), on_disk(suite, word), Vec::<PathBuf>::new());
    }
}

/// Who follows a response of a conversation that is deleted is told that it ended.
fn while_it_is_made(suite: &Suite) {
    let checks = &suite.checks;
    let made = post(suite, CONVERSATIONS, &json!({})).json();
    let path = format!("{CONVERSATIONS}/{}", id(&made));
    let asked =
        json!({"model": "steady", "conversation": id(&made), "input": "erased-running", "background": true});
    let response = post(suite, RESPONSES, &asked).json();
    let response = format!("{RESPONSES}/{}", id(&response));
    let item = get(suite, &format!("{path}/items")).json();
    let item = format!("{path}/items/{}", id(&item["data"][0]));
    checks.equal("an item of what is being made", code(&delete(suite, &item)).1, "conversation_locked");
    let start = Instant::now();
    let seen = thread::scope(|scope| {
        let stream = scope.spawn(|| get(suite, &format!("{response}?stream=true")));
        // The other host serves one request at a time.
        thread::sleep(Duration::from_millis(if suite.host == Host::Lambda { 0 } else { 700 }));
        checks.equal("deleted while it is made", delete(suite, &path).status, 200);
        stream.join().map(|answer| answer.text()).unwrap_or_default()
    });
    if suite.host != Host::Lambda {
        let last = seen.lines().rev().find_map(|line| line.strip_prefix("data: ")).unwrap_or_default();
        let last: Value = serde_json::from_str(last).unwrap_or_default();
        let told = (last["type"].as_str(), last["response"]["status"].as_str());
        checks.equal("whoever follows is told", told, (Some("response.incomplete"), Some("cancelled")));
        checks.that("at once", start.elapsed() < Duration::from_secs(20), "20 s", start.elapsed());
    }
    checks.equal("its response after", get(suite, &response).status, 404);
    checks.equal("it, on disk after", on_disk(suite, "erased-running"), Vec::<PathBuf>::new());
}

/// A tick comes every minute, and one when the node starts.
const FINISHED: Duration = Duration::from_secs(90);

fn killed(suite: &mut Suite) {
    let items: Vec<Value> = (0..20).map(|_| message(&long("erased-killed", LARGE / 20))).collect();
    let made: Vec<String> = (0..12)
        .map(|_| {
            let made = post(suite, CONVERSATIONS, &json!({"items": items})).json();
            format!("{CONVERSATIONS}/{}", id(&made))
        })
        .collect();
    let (node, client) = (&mut suite.node, &suite.client);
    let crashed = thread::scope(|scope| {
        for path in &made {
            scope.spawn(|| client.send(&Request::get(path.as_str()).method("DELETE").key(FULL)));
        }
        thread::sleep(Duration::from_millis(12));
        node.crash()
    });
    suite.checks.that("killed, it starts again", crashed.is_ok(), "a node that serves", &crashed);
    let left: Vec<&String> = made.iter().filter(|path| get(suite, path).status == 200).collect();
    eprintln!("{}: {} of {} deletions were begun before the kill", suite.host.name(), 12 - left.len(), 12);
    for path in left {
        suite.checks.equal("killed, what was not deleted is whole", texts(suite, path).len(), 20);
        suite.checks.equal("killed, delete again", delete(suite, path).status, 200);
    }
    let start = Instant::now();
    while !on_disk(suite, "erased-killed").is_empty() && start.elapsed() < FINISHED {
        thread::sleep(Duration::from_secs(1));
    }
    let after = on_disk(suite, "erased-killed");
    suite.checks.equal("killed, on disk after", after, Vec::<PathBuf>::new());
    for path in &made {
        suite.checks.equal("killed, after", get(suite, path).status, 404);
    }
}
