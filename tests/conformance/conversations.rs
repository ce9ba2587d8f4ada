//! Conversations: their API, concurrency, and what a killed node still knows.

mod durability;
mod items;
mod updating;

use serde_json::{Value, json};

use crate::{
    client::{Answer, Request},
    suite::{FULL, INFERENCE, Suite},
};

pub(crate) fn run(suite: &mut Suite) {
    creating(suite);
    items::adding(suite);
    items::bad_items(suite);
    items::listing(suite);
    updating::run(suite);
    items::sizes(suite);
    idempotency(suite);
    others(suite);
    durability::concurrency(suite);
    durability::durability(suite);
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
