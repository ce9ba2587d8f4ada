//! Sessions as an operator sees them: which there are, what they hold, and their entries.

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

/// The index of a host with one is told of what has grown within a second, or else within half a minute.
const INDEXED: Duration = Duration::from_secs(45);

pub(crate) fn run(suite: &Suite) {
    let session = made(suite);
    shown(suite, &session);
    listed(suite, &session);
    alone(suite);
    moved(suite, &session);
    refused(suite, &session);
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

/// A session of the key for inference, with two items and a response of two more.
fn made(suite: &Suite) -> String {
    let ask = |path: &str, body: Value| {
        suite.client.send(&Request::post(path, body.to_string()).key(INFERENCE)).json()
    };
    let item = |text: &str| json!({"role": "user", "content": text});
    let body = json!({"metadata": {"topic": "é"}, "items": [item("one"), item("two")]});
    let id = ask("/v1/conversations", body)["id"].as_str().unwrap_or_default().to_owned();
    let answer = ask("/v1/responses", json!({"model": "plain", "input": "x", "conversation": id}));
    suite.checks.equal(
        "a session, its answer",
        &answer["output"][0]["content"][0]["text"],
        WORDS.concat().as_str(),
    );
    id.replacen("conv_", "sess_", 1)
}

fn shown(suite: &Suite, id: &str) {
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
        suite.checks.equal(&format!("a session's {name}"), &session[name], &expected);
    }
    let response = &session["responses"][0];
    suite.checks.equal("a session's last response", &session["last_response"], &response["id"]);
    suite.checks.equal("a session's response", response["status"].as_str(), Some("completed"));
    let entries: u64 =
        session["heads"].as_array().into_iter().flatten().filter_map(|head| head["seq"].as_u64()).sum();
    suite.checks.equal("a session's entries", session["entries"].as_u64(), Some(entries));
    let times = (session["created_at"].as_u64(), session["last_active_at"].as_u64());
    suite.checks.that("a session's times", times.0.is_some() && times.0 <= times.1, "an order", times);
}

fn listed(suite: &Suite, id: &str) {
    let start = Instant::now();
    let mut all = pages(suite, PATH, 100);
    while !all.iter().any(|session| session["id"] == id) && start.elapsed() < INDEXED {
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
    suite.checks.equal("listed as it is shown", listed, shown);
    let sessions =
        all.iter().all(|session| session["items"].as_u64() > Some(0) || !session["owner"].is_null());
    suite.checks.that("nothing else is listed", sessions, "sessions", &all);
    let ids: BTreeSet<&str> = all.iter().filter_map(|session| session["id"].as_str()).collect();
    suite.checks.equal("each once", ids.len(), all.len());
}

/// A response that continues nothing has a session of its own.
fn alone(suite: &Suite) {
    let made = suite.ask(Request::post("/v1/responses", r#"{"model":"plain","input":"x"}"#)).json();
    let id = made["id"].as_str().and_then(|id| id.get(5..37)).unwrap_or_default();
    let session = get(suite, &format!("{PATH}/sess_{id}")).json();
    suite.checks.equal(
        "a response alone",
        (&session["conversation"], &session["last_response"], session["turns"].as_u64()),
        (&Value::Null, &made["id"], Some(1)),
    );
}

/// What was taken out is known where it came from.
fn moved(suite: &Suite, id: &str) {
    let path = format!("{PATH}/{id}/entries");
    let all = pages(suite, &path, 100);
    suite.checks.equal("entries, one by one", pages(suite, &path, 1), all.as_slice());
    let kinds: Vec<&str> = all.iter().filter_map(|entry| entry["name"].as_str()).collect();
    suite.checks.that(
        "what they are about",
        kinds.starts_with(&["conversation_created", "item_added"]),
        "names",
        &kinds,
    );
    let body = json!({"data": all.iter().rev().collect::<Vec<_>>()}).to_string();
    let back = suite.client.send(&Request::post(path, body).key(ADMIN)).json();
    let expected = json!({"object": "session.import", "appended": 0, "known": all.len()});
    suite.checks.equal("imported where it came from", back, expected);
}

fn refused(suite: &Suite, id: &str) {
    let path = format!("{PATH}/{id}/entries");
    let all = pages(suite, &path, 100);
    let import = |path: &str, entries: &[Value]| {
        suite.client.send(&Request::post(path, json!({"data": entries}).to_string()).key(ADMIN)).error()
    };
    let mut damaged = all.clone();
    damaged[1]["body"] = json!("e30=");
    let cases = [
        ("a damaged entry", import(&path, &damaged), 400, "invalid_value", Some("data[1].body")),
        ("no entry", import(&path, &[json!({})]), 400, "invalid_value", Some("data[0]")),
        ("nothing", import(&path, &[]), 400, "invalid_value", Some("data")),
        (
            "another session",
            import(&format!("{PATH}/sess_{}/entries", "0".repeat(32)), &all),
            400,
            "invalid_value",
            Some("data[0].header"),
        ),
        ("a bad cursor", get(suite, &format!("{path}?after=x")).error(), 400, "invalid_value", Some("after")),
        (
            "a bad cursor of the list",
            get(suite, &format!("{PATH}?after=x")).error(),
            400,
            "invalid_value",
            Some("after"),
        ),
        ("a bad limit", get(suite, &format!("{PATH}?limit=0")).error(), 400, "invalid_value", Some("limit")),
        (
            "no session",
            get(suite, &format!("{PATH}/x")).error(),
            404,
            "session_not_found",
            Some("session_id"),
        ),
    ];
    for (case, saw, status, code, param) in cases {
        suite.checks.equal(case, saw, (status, code.to_owned(), param.map(str::to_owned)));
    }
}
