//! Conversations: their API, concurrency, and what a killed node still knows.

use std::{
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    client::{Answer, Request},
    node::Host,
    suite::{FULL, INFERENCE, Suite},
    updating,
};

pub(crate) fn run(suite: &mut Suite) {
    creating(suite);
    adding(suite);
    bad_items(suite);
    listing(suite);
    updating::run(suite);
    sizes(suite);
    idempotency(suite);
    others(suite);
    concurrency(suite);
    durability(suite);
}

const PATH: &str = "/v1/conversations";

fn create(suite: &Suite, body: &Value) -> Answer {
    suite.ask(Request::post(PATH, body.to_string()))
}

/// A new conversation's path; empty if it could not be made, which the cases on it will tell.
fn new(suite: &Suite) -> String {
    let id = create(suite, &json!({})).json()["id"].as_str().unwrap_or_default().to_owned();
    format!("{PATH}/{id}")
}

fn message(text: &str) -> Value {
    json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]})
}

fn add(suite: &Suite, conversation: &str, items: &[Value]) -> Answer {
    suite.ask(Request::post(format!("{conversation}/items"), json!({"items": items}).to_string()))
}

fn list(suite: &Suite, conversation: &str, query: &str) -> Value {
    suite.ask(Request::get(format!("{conversation}/items{query}"))).json()
}

fn texts(list: &Value) -> Vec<String> {
    let items = list["data"].as_array().into_iter().flatten();
    items.map(|item| item["content"][0]["text"].as_str().unwrap_or_default().to_owned()).collect()
}

fn ids(list: &Value) -> Vec<String> {
    let items = list["data"].as_array().into_iter().flatten();
    items.map(|item| item["id"].as_str().unwrap_or_default().to_owned()).collect()
}

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

fn creating(suite: &Suite) {
    let checks = &suite.checks;
    let answer = create(suite, &json!({"metadata": {"topic": "é🙂", "b": ""}}));
    let made = answer.json();
    checks.equal("create, status", answer.status, 200);
    checks.equal("create, object", made["object"].as_str(), Some("conversation"));
    checks.that("create, id", made["id"].as_str().is_some_and(|id| id.starts_with("conv_")), "conv_…", &made);
    checks.that(
        "create, created_at",
        made["created_at"].as_u64().is_some_and(|at| at > 1_700_000_000),
        "seconds",
        &made,
    );
    checks.equal("create, metadata", &made["metadata"], &json!({"topic": "é🙂", "b": ""}));
    let path = format!("{PATH}/{}", made["id"].as_str().unwrap_or_default());
    let seen = suite.ask(Request::get(path.as_str()));
    checks.equal("retrieve", (seen.status, seen.json()), (200, made));
    let empty = suite.ask(Request::post(PATH, ""));
    checks.equal("create without a body", (empty.status, &empty.json()["metadata"]), (200, &json!({})));

    let items = [message("first"), message("second")];
    let answer = create(suite, &json!({"items": items})).json();
    let path = format!("{PATH}/{}", answer["id"].as_str().unwrap_or_default());
    checks.equal("create with items", texts(&list(suite, &path, "?order=asc")), ["first", "second"]);

    let pairs = |count: usize| -> Value {
        (0..count).map(|i| (format!("k{i}"), Value::from("v"))).collect::<serde_json::Map<_, _>>().into()
    };
    let metadata = [
        ("16 pairs", pairs(16), None),
        ("17 pairs", pairs(17), Some("invalid_value")),
        ("the longest name", json!({"é".repeat(64): "v"}), None),
        ("a longer name", json!({"n".repeat(65): "v"}), Some("invalid_value")),
        ("the longest value", json!({"n": "é".repeat(512)}), None),
        ("a longer value", json!({"n": "v".repeat(513)}), Some("invalid_value")),
        ("a number as value", json!({"n": 1}), Some("invalid_type")),
        ("an array", json!([]), Some("invalid_type")),
        ("null", Value::Null, None),
    ];
    for (name, metadata, code) in metadata {
        let answer = create(suite, &json!({"metadata": metadata}));
        let case = format!("metadata: {name}");
        match code {
            None => checks.equal(&case, answer.status, 200),
            Some(code) => {
                let expected = (400, code.to_owned(), Some("metadata".to_owned()));
                checks.equal(&case, answer.error(), expected);
            }
        }
    }
}

fn adding(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = new(suite);
    let items = [
        json!({"role": "user", "content": "short é🙂"}),
        json!({"role": "assistant", "content": "answer"}),
        json!({"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}),
        json!({"type": "function_call_output", "call_id": "c1", "output": "42"}),
        json!({"type": "message", "role": "user", "id": "msg_mine", "content": [
            {"type": "input_text", "text": "long"}, {"type": "input_image", "image_url": "https://example.org/x.png"}]}),
        json!({"type": "message", "role": "developer", "content": "d", "future_field": {"a": [1, 2.5, null]}}),
    ];
    let answer = add(suite, &conversation, &items);
    let added = answer.json();
    checks.equal("add, status and object", (answer.status, added["object"].as_str()), (200, Some("list")));
    let data = added["data"].as_array().cloned().unwrap_or_default();
    checks.equal("add, number", data.len(), items.len());
    let at = |i: usize| data.get(i).cloned().unwrap_or_default();
    checks.equal(
        "a string becomes a part",
        &at(0)["content"],
        &json!([{"type": "input_text", "text": "short é🙂"}]),
    );
    checks.equal("the type of a message", at(0)["type"].as_str(), Some("message"));
    let part = &at(1)["content"][0];
    checks.equal(
        "an assistant's string",
        (part["type"].as_str(), part["text"].as_str()),
        (Some("output_text"), Some("answer")),
    );
    checks.equal(
        "a call is kept",
        (at(2)["name"].as_str(), at(2)["arguments"].as_str()),
        (Some("f"), Some("{}")),
    );
    checks.equal("a result is kept", at(3)["output"].as_str(), Some("42"));
    let mut parts = items[4]["content"].clone();
    parts[1]["detail"] = json!("auto");
    checks.equal("parts are kept, and complete", &at(4)["content"], &parts);
    checks.equal("unknown fields are kept", &at(5)["future_field"], &items[5]["future_field"]);
    let mut distinct = ids(&added);
    checks.that(
        "ids are ours",
        !distinct.iter().any(|id| id.is_empty() || id == "msg_mine"),
        "ids",
        &distinct,
    );
    distinct.sort_unstable();
    distinct.dedup();
    checks.equal("ids differ", distinct.len(), items.len());
    let status = data.iter().filter(|item| item["status"] == "completed").count();
    checks.equal("items are completed", status, items.len());
    let listed = list(suite, &conversation, "?order=asc");
    checks.equal("the list holds what was answered", &listed["data"], &added["data"]);
    checks.equal(
        "first_id and last_id",
        (listed["first_id"].as_str(), listed["last_id"].as_str()),
        (at(0)["id"].as_str(), at(5)["id"].as_str()),
    );
}

fn bad_items(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = new(suite);
    let cases = [
        ("no items", json!({}), "missing_required_parameter", "items"),
        ("no item", json!({"items": []}), "invalid_value", "items"),
        ("a string", json!({"items": "x"}), "invalid_type", "items"),
        ("21 items", json!({"items": vec![message("x"); 21]}), "invalid_value", "items"),
        ("a number as item", json!({"items": [message("x"), 7]}), "invalid_value", "items[1]"),
        ("no type", json!({"items": [{}]}), "invalid_value", "items[0].type"),
        ("an unknown type", json!({"items": [{"type": "teapot"}]}), "invalid_value", "items[0].type"),
        (
            "an unknown role",
            json!({"items": [{"role": "robot", "content": "x"}]}),
            "invalid_value",
            "items[0].role",
        ),
        ("no content", json!({"items": [{"role": "user"}]}), "invalid_value", "items[0].content"),
        (
            "a number as part",
            json!({"items": [{"role": "user", "content": [7]}]}),
            "invalid_value",
            "items[0].content[0]",
        ),
        (
            "a call without a name",
            json!({"items": [{"type": "function_call", "call_id": "c", "arguments": ""}]}),
            "invalid_value",
            "items[0].name",
        ),
    ];
    for (name, body, code, param) in cases {
        let answer = suite.ask(Request::post(format!("{conversation}/items"), body.to_string()));
        checks.equal(
            &format!("items: {name}"),
            answer.error(),
            (400, code.to_owned(), Some(param.to_owned())),
        );
    }
    for (name, body, code) in [("not JSON", "{", "invalid_json"), ("an array", "[]", "invalid_type")] {
        for path in [PATH.to_owned(), format!("{conversation}/items")] {
            let answer = suite.ask(Request::post(path.as_str(), body));
            let (status, seen, _) = answer.error();
            checks.equal(&format!("{path}: {name}"), (status, seen.as_str()), (400, code));
        }
    }
    checks.equal("nothing of it was kept", texts(&list(suite, &conversation, "")), [""; 0]);
    for query in ["limit=0", "limit=101", "limit=x", "order=up", "after=msg_nope"] {
        let answer = suite.ask(Request::get(format!("{conversation}/items?{query}")));
        let param = query.split('=').next().map(str::to_owned);
        checks.equal(&format!("list: {query}"), answer.error(), (400, "invalid_value".to_owned(), param));
    }
}

fn listing(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = new(suite);
    let all: Vec<String> = (0..25).map(|i| format!("item {i}")).collect();
    let items: Vec<Value> = all.iter().map(|text| message(text)).collect();
    let twenty = add(suite, &conversation, &items[..20]);
    checks.equal("20 items at once", twenty.status, 200);
    checks.equal("five more", add(suite, &conversation, &items[20..]).status, 200);
    let newest: Vec<String> = all.iter().rev().cloned().collect();
    let page = list(suite, &conversation, "");
    checks.equal("by default 20, the newest first", texts(&page), &newest[..20]);
    checks.equal("by default, has_more", &page["has_more"], &json!(true));
    let page = list(suite, &conversation, "?order=asc&limit=100");
    checks.equal("all, the oldest first", texts(&page), all.as_slice());
    checks.equal("all, has_more", &page["has_more"], &json!(false));
    let ids = ids(&page);
    for (order, all) in [("asc", &all), ("desc", &newest)] {
        let (mut seen, mut after, mut pages) = (Vec::new(), String::new(), 0);
        while pages < 10 {
            let page = list(suite, &conversation, &format!("?order={order}&limit=10{after}"));
            seen.extend(texts(&page));
            pages += 1;
            if page["has_more"] != true {
                break;
            }
            after = format!("&after={}", page["last_id"].as_str().unwrap_or_default());
        }
        checks.equal(&format!("pages of ten, {order}"), (&seen, pages), (all, 3));
    }
    let after = |i: usize| format!("?order=asc&after={}", ids.get(i).map_or("", String::as_str));
    let page = list(suite, &conversation, &after(24));
    checks.equal("after the last", (texts(&page).len(), &page["has_more"]), (0, &json!(false)));
    let page = list(suite, &conversation, &format!("{}&limit=1", after(23)));
    checks.equal(
        "the last one",
        (texts(&page), &page["has_more"]),
        (vec!["item 24".to_owned()], &json!(false)),
    );
}

fn sizes(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = new(suite);
    let text = "é🙂x".repeat(100_000);
    checks.equal("an item of 700 kB, add", add(suite, &conversation, &[message(&text)]).status, 200);
    let seen = texts(&list(suite, &conversation, ""));
    checks.that("an item of 700 kB, list", seen == [text], "the same text", seen.first().map(String::len));
    // 20 × 200 kB and what comes back would pass the platform's 6 MB.
    let bytes = if suite.host == Host::Lambda { 100_000 } else { 200_000 };
    let conversation = new(suite);
    let texts_sent: Vec<String> = (0..20).map(|i| format!("{i} ").repeat(bytes / 3)).collect();
    let items: Vec<Value> = texts_sent.iter().map(|text| message(text)).collect();
    checks.equal("20 large items, add", add(suite, &conversation, &items).status, 200);
    let seen = texts(&list(suite, &conversation, "?order=asc"));
    let lengths: Vec<usize> = seen.iter().map(String::len).collect();
    checks.that("20 large items, list", seen == texts_sent, "the same texts", lengths);
}

fn idempotency(suite: &Suite) {
    let checks = &suite.checks;
    let post = |path: &str, key: &str, body: Value, caller: &str| {
        suite.client.send(&Request::post(path, body.to_string()).with("idempotency-key", key).key(caller))
    };
    let body = json!({"metadata": {"a": "b"}, "items": [message("once")]});
    let first = post(PATH, "create-1", body.clone(), FULL);
    let again = post(PATH, "create-1", body.clone(), FULL);
    checks.equal("create again, status", (first.status, again.status), (200, 200));
    checks.equal("create again, the same", first.json(), again.json());
    let conversation = format!("{PATH}/{}", first.json()["id"].as_str().unwrap_or_default());
    checks.equal("create again, items once", texts(&list(suite, &conversation, "")), ["once"]);
    let reused = (409, "idempotency_key_reused".to_owned());
    let other = post(PATH, "create-1", json!({"metadata": {"a": "c"}}), FULL).error();
    checks.equal("create another with the key", (other.0, other.1), reused.clone());
    let theirs = post(PATH, "create-1", body, INFERENCE);
    checks.that(
        "another caller's key is its own",
        theirs.status == 200 && theirs.json()["id"] != first.json()["id"],
        "another conversation",
        &theirs,
    );

    let path = format!("{conversation}/items");
    let body = json!({"items": [message("a"), message("b")]});
    let first = post(&path, "add-1", body.clone(), FULL);
    let again = post(&path, "add-1", body, FULL);
    checks.equal("add again, status", (first.status, again.status), (200, 200));
    checks.equal("add again, the same", first.json(), again.json());
    let other = post(&path, "add-1", json!({"items": [message("c")]}), FULL).error();
    checks.equal("add another with the key", (other.0, other.1), reused);
    checks.equal("add again, once", texts(&list(suite, &conversation, "?order=asc")), ["once", "a", "b"]);
    let keys = ["k".repeat(255), "a key with: signs! ~".to_owned()];
    for key in keys {
        checks.equal(
            &format!("key of {} characters", key.len()),
            post(PATH, &key, json!({}), FULL).status,
            200,
        );
    }
    let long = post(PATH, &"k".repeat(256), json!({}), FULL);
    checks.equal(
        "too long a key",
        long.error(),
        (400, "invalid_value".to_owned(), Some("Idempotency-Key".to_owned())),
    );
}

/// What is somebody else's, or nobody's, does not exist.
fn others(suite: &Suite) {
    let mine = new(suite);
    let id = mine.rsplit('/').next().unwrap_or_default();
    let nobodys = format!("{PATH}/conv_{}", "0".repeat(id.len().saturating_sub(5)));
    let item = json!({"items": [message("x")]}).to_string();
    let paths = [
        ("another caller's", mine.clone(), INFERENCE),
        ("nobody's", nobodys, FULL),
        ("no id at all", format!("{PATH}/conv_nope"), FULL),
        ("an id of another kind", format!("{PATH}/msg_{}", &id[id.len().min(5)..]), FULL),
        ("a very long id", format!("{PATH}/conv_{}", "f".repeat(3000)), FULL),
        ("an odd id", format!("{PATH}/conv_%00%2e%2e"), FULL),
    ];
    for (name, path, key) in paths {
        let requests = [
            Request::get(path.as_str()),
            Request::get(format!("{path}/items")),
            Request::post(format!("{path}/items"), item.as_str()),
        ];
        for request in requests {
            let (status, code, _) = suite.client.send(&request.clone().key(key)).error();
            let case =
                format!("{name}: {} {}", request.method, if request.path == path { "it" } else { "items" });
            suite.checks.equal(&case, (status, code.as_str()), (404, "conversation_not_found"));
        }
    }
    suite.checks.equal("the owner still has it", suite.ask(Request::get(mine)).status, 200);
}

fn concurrency(suite: &Suite) {
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

fn durability(suite: &mut Suite) {
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
