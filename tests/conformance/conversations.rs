//! Checks conversations: creating, retrieving, idempotency keys, and the conversations of other callers.

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
    items::add_items(suite);
    items::bad_items(suite);
    items::list_items(suite);
    updating::run(suite);
    items::large_items(suite);
    idempotency(suite);
    foreign_ids(suite);
    durability::concurrent_writes(suite);
    durability::killed_node(suite);
}

const PATH: &str = "/v1/conversations";

fn create(suite: &Suite, body: &Value) -> Answer {
    suite.ask(Request::post(PATH, body.to_string()))
}

/// The path of a new conversation. If it could not be created, the checks that use it fail.
fn new_conversation(suite: &Suite) -> String {
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

/// Creates conversations without and with items, and with metadata at its limits.
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
    checks.equal("create: metadata", &made["metadata"], &json!({"topic": "é🙂", "b": ""}));
    let path = format!("{PATH}/{}", made["id"].as_str().unwrap_or_default());
    let retrieved = suite.ask(Request::get(path.as_str()));
    checks.equal("retrieve: status and body", (retrieved.status, retrieved.json()), (200, made));
    let empty = suite.ask(Request::post(PATH, ""));
    checks.equal(
        "create without a body: status and metadata",
        (empty.status, &empty.json()["metadata"]),
        (200, &json!({})),
    );

    let items = [message("first"), message("second")];
    let answer = create(suite, &json!({"items": items})).json();
    let path = format!("{PATH}/{}", answer["id"].as_str().unwrap_or_default());
    checks.equal("create with items: texts", texts(&list(suite, &path, "?order=asc")), ["first", "second"]);

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
        let case = format!("create: metadata, {name}");
        match code {
            None => checks.equal(&case, answer.status, 200),
            Some(code) => {
                let expected = (400, code.to_owned(), Some("metadata".to_owned()));
                checks.equal(&case, answer.error(), expected);
            }
        }
    }
}

/// Repeats requests with one key: the same request, another one, and one of another caller.
fn idempotency(suite: &Suite) {
    let checks = &suite.checks;
    let post = |path: &str, key: &str, body: Value, caller: &str| {
        suite.client.send(&Request::post(path, body.to_string()).with("idempotency-key", key).key(caller))
    };
    let body = json!({"metadata": {"a": "b"}, "items": [message("once")]});
    let first = post(PATH, "create-1", body.clone(), FULL);
    let again = post(PATH, "create-1", body.clone(), FULL);
    checks.equal("create with a used key: status", (first.status, again.status), (200, 200));
    checks.equal("create with a used key: the same conversation", first.json(), again.json());
    let conversation = format!("{PATH}/{}", first.json()["id"].as_str().unwrap_or_default());
    checks.equal("create with a used key: items", texts(&list(suite, &conversation, "")), ["once"]);
    let reused = (409, "idempotency_key_reused".to_owned());
    let other = post(PATH, "create-1", json!({"metadata": {"a": "c"}}), FULL).error();
    checks.equal("create another conversation with a used key: error", (other.0, other.1), reused.clone());
    let of_another_key = post(PATH, "create-1", body, INFERENCE);
    checks.that(
        "create with another caller's used key: another conversation",
        of_another_key.status == 200 && of_another_key.json()["id"] != first.json()["id"],
        "another conversation",
        &of_another_key,
    );

    let path = format!("{conversation}/items");
    let body = json!({"items": [message("a"), message("b")]});
    let first = post(&path, "add-1", body.clone(), FULL);
    let again = post(&path, "add-1", body, FULL);
    checks.equal("add items with a used key: status", (first.status, again.status), (200, 200));
    checks.equal("add items with a used key: the same items", first.json(), again.json());
    let other = post(&path, "add-1", json!({"items": [message("c")]}), FULL).error();
    checks.equal("add other items with a used key: error", (other.0, other.1), reused);
    checks.equal(
        "add items with a used key: all items",
        texts(&list(suite, &conversation, "?order=asc")),
        ["once", "a", "b"],
    );
    let keys = ["k".repeat(255), "a key with: signs! ~".to_owned()];
    for key in keys {
        checks.equal(
            &format!("create with a key of {} characters: status", key.len()),
            post(PATH, &key, json!({}), FULL).status,
            200,
        );
    }
    let long = post(PATH, &"k".repeat(256), json!({}), FULL);
    checks.equal(
        "create with a key that is too long: error",
        long.error(),
        (400, "invalid_value".to_owned(), Some("Idempotency-Key".to_owned())),
    );
}

/// Conversations of another caller and unknown ids give the same error.
fn foreign_ids(suite: &Suite) {
    let mine = new_conversation(suite);
    let id = mine.rsplit('/').next().unwrap_or_default();
    let unknown = format!("{PATH}/conv_{}", "0".repeat(id.len().saturating_sub(5)));
    let item = json!({"items": [message("x")]}).to_string();
    let paths = [
        ("of another caller", mine.clone(), INFERENCE),
        ("unknown", unknown, FULL),
        ("no id", format!("{PATH}/conv_nope"), FULL),
        ("id of another kind", format!("{PATH}/msg_{}", &id[id.len().min(5)..]), FULL),
        ("a very long id", format!("{PATH}/conv_{}", "f".repeat(3000)), FULL),
        ("percent-encoded id", format!("{PATH}/conv_%00%2e%2e"), FULL),
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
    suite.checks.equal(
        "the owner's request for the same conversation: status",
        suite.ask(Request::get(mine)).status,
        200,
    );
}
