//! Checks the sessions that an operator sees: one, the list, their entries, and imports.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use outlive_tests::upstream::WORDS;
use serde_json::{Value, json};

use crate::{
    client::{Answer, Request},
    suite::{ADMIN, INFERENCE, Suite},
};

const PATH: &str = "/v1/sessions";

/// A host with an index adds a session to it within a second, or after a failure within half a minute.
const INDEX_TIMEOUT: Duration = Duration::from_secs(45);

pub(crate) fn run(suite: &Suite) {
    let session = create_session(suite);
    single_session(suite, &session);
    list_of_sessions(suite, &session);
    response_session(suite);
    imported_again(suite, &session);
    refused_requests(suite, &session);
}

fn get(suite: &Suite, path: &str) -> Answer {
    suite.client.send(&Request::get(path).key(ADMIN))
}

/// All pages of a list.
fn pages(suite: &Suite, path: &str, limit: usize) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = get(suite, &format!("{path}?limit={limit}{after}")).json();
        all.extend(page["data"].as_array().cloned().unwrap_or_default());
        let Some(next) = page["next"].as_str() else { return all };
        after = format!("&after={next}");
    }
}

/// A session of the key `INFERENCE`, with two items and a response of two more.
fn create_session(suite: &Suite) -> String {
    let ask = |path: &str, body: Value| {
        suite.client.send(&Request::post(path, body.to_string()).key(INFERENCE)).json()
    };
    let item = |text: &str| json!({"role": "user", "content": text});
    let body = json!({"metadata": {"topic": "é"}, "items": [item("one"), item("two")]});
    let id = ask("/v1/conversations", body)["id"].as_str().unwrap_or_default().to_owned();
    let answer = ask("/v1/responses", json!({"model": "plain", "input": "x", "conversation": id}));
    suite.checks.equal(
        "session: text of its response",
        &answer["output"][0]["content"][0]["text"],
        WORDS.concat().as_str(),
    );
    id.replacen("conv_", "sess_", 1)
}

fn single_session(suite: &Suite, id: &str) {
    let session = get(suite, &format!("{PATH}/{id}")).json();
    for (name, expected) in [
        ("id", json!(id)),
        ("object", json!("session")),
        ("conversation", json!(id.replacen("sess_", "conv_", 1))),
        ("owner", json!("inference")),
        ("items", json!(4)),
        ("turns", json!(1)),
        ("open_turns", json!(0)),
        ("metadata", json!({"topic": "é"})),
    ] {
        suite.checks.equal(&format!("session: {name}"), &session[name], &expected);
    }
    let response = &session["responses"][0];
    suite.checks.equal("session: last_response", &session["last_response"], &response["id"]);
    suite.checks.equal("session: status of its response", response["status"].as_str(), Some("completed"));
    let entries: u64 =
        session["heads"].as_array().into_iter().flatten().filter_map(|head| head["seq"].as_u64()).sum();
    suite.checks.equal("session: number of entries", session["entries"].as_u64(), Some(entries));
    let times = (session["created_at"].as_u64(), session["last_active_at"].as_u64());
    suite.checks.that(
        "session: created_at and last_active_at",
        times.0.is_some() && times.0 <= times.1,
        "created_at <= last_active_at",
        times,
    );
}

fn list_of_sessions(suite: &Suite, id: &str) {
    let start = Instant::now();
    let mut all = pages(suite, PATH, 100);
    while !all.iter().any(|session| session["id"] == id) && start.elapsed() < INDEX_TIMEOUT {
        thread::sleep(Duration::from_millis(500));
        all = pages(suite, PATH, 100);
    }
    let listed = all.iter().find(|session| session["id"] == id).cloned().unwrap_or_default();
    let mut shown = get(suite, &format!("{PATH}/{id}")).json();
    for more in ["heads", "responses"] {
        if let Some(shown) = shown.as_object_mut() {
            shown.remove(more);
        }
    }
    suite.checks.equal("list: the session equals the single one", listed, shown);
    let sessions =
        all.iter().all(|session| session["items"].as_u64() > Some(0) || !session["owner"].is_null());
    suite.checks.that("list: only sessions", sessions, "entries with items or an owner", &all);
    let ids: BTreeSet<&str> = all.iter().filter_map(|session| session["id"].as_str()).collect();
    suite.checks.equal("list: number of distinct ids", ids.len(), all.len());
}

/// A response that continues no other has its own session.
fn response_session(suite: &Suite) {
    let response = suite.ask(Request::post("/v1/responses", r#"{"model":"plain","input":"x"}"#)).json();
    let id = response["id"].as_str().and_then(|id| id.get(5..37)).unwrap_or_default();
    let session = get(suite, &format!("{PATH}/sess_{id}")).json();
    suite.checks.equal(
        "session of a single response: conversation, last response and turns",
        (&session["conversation"], &session["last_response"], session["turns"].as_u64()),
        (&Value::Null, &response["id"], Some(1)),
    );
}

/// An import of a node's own entries appends none.
fn imported_again(suite: &Suite, id: &str) {
    let path = format!("{PATH}/{id}/entries");
    let all = pages(suite, &path, 100);
    suite.checks.equal("entries: pages of one", pages(suite, &path, 1), all.as_slice());
    let kinds: Vec<&str> = all.iter().filter_map(|entry| entry["name"].as_str()).collect();
    suite.checks.that(
        "entries: names of their kinds",
        kinds.starts_with(&["conversation_created", "item_added"]),
        "conversation_created and item_added first",
        &kinds,
    );
    let body = json!({"data": all.iter().rev().collect::<Vec<_>>()}).to_string();
    let back = suite.client.send(&Request::post(path, body).key(ADMIN)).json();
    let expected = json!({"object": "session.import", "appended": 0, "known": all.len()});
    suite.checks.equal("import of known entries: answer", back, expected);
}

/// Imports and queries that are refused, each with the field that the error names.
fn refused_requests(suite: &Suite, id: &str) {
    let path = format!("{PATH}/{id}/entries");
    let all = pages(suite, &path, 100);
    let import = |path: &str, entries: &[Value]| {
        suite.client.send(&Request::post(path, json!({"data": entries}).to_string()).key(ADMIN)).error()
    };
    let mut damaged = all.clone();
    damaged[1]["body"] = json!("e30=");
    let cases = [
        ("a damaged entry", import(&path, &damaged), 400, "invalid_value", Some("data[1].body")),
        ("an entry without fields", import(&path, &[json!({})]), 400, "invalid_value", Some("data[0]")),
        ("an import without entries", import(&path, &[]), 400, "invalid_value", Some("data")),
        (
            "entries of another session",
            import(&format!("{PATH}/sess_{}/entries", "0".repeat(32)), &all),
            400,
            "invalid_value",
            Some("data[0].header"),
        ),
        (
            "an unknown cursor of the entries",
            get(suite, &format!("{path}?after=x")).error(),
            400,
            "invalid_value",
            Some("after"),
        ),
        (
            "an unknown cursor of the list",
            get(suite, &format!("{PATH}?after=x")).error(),
            400,
            "invalid_value",
            Some("after"),
        ),
        ("a bad limit", get(suite, &format!("{PATH}?limit=0")).error(), 400, "invalid_value", Some("limit")),
        (
            "an id that is no session",
            get(suite, &format!("{PATH}/x")).error(),
            404,
            "session_not_found",
            Some("session_id"),
        ),
    ];
    for (case, actual, status, code, param) in cases {
        suite.checks.equal(
            &format!("error for {case}"),
            actual,
            (status, code.to_owned(), param.map(str::to_owned)),
        );
    }
}
