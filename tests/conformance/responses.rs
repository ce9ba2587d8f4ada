//! Responses: turns, their streams, and what becomes of them when the client or the node is gone.

mod background;
mod continuing;
mod failures;
mod stored;

use std::{
    thread,
    time::{Duration, Instant},
};

use outlive_tests::upstream::WORDS;
use serde_json::{Value, json};

use crate::{
    client::{Answer, Request},
    suite::Suite,
};

pub(crate) fn run(suite: &mut Suite) {
    one(suite);
    streams(suite);
    continuing::lines(suite);
    continuing::conversations(suite);
    continuing::tools(suite);
    background::background(suite);
    stored::forgetting(suite);
    stored::lists(suite);
    stored::keys(suite);
    failures::failures(suite);
    failures::bad_input(suite);
    background::leaving(suite);
    background::killed(suite);
}

pub(crate) const PATH: &str = "/v1/responses";

pub(crate) fn create(suite: &Suite, body: &Value) -> Answer {
    suite.ask(Request::post(PATH, body.to_string()))
}

pub(crate) fn get(suite: &Suite, path: &str) -> Answer {
    suite.ask(Request::get(format!("{PATH}/{path}")))
}

fn ask(model: &str, text: &str) -> Value {
    json!({"model": model, "input": text, "max_output_tokens": 100})
}

pub(crate) fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

pub(crate) fn id(response: &Value) -> String {
    response["id"].as_str().unwrap_or_default().to_owned()
}

pub(crate) fn text(response: &Value) -> String {
    let items = response["output"].as_array().into_iter().flatten();
    let parts = items.flat_map(|item| item["content"].as_array().into_iter().flatten());
    parts.map(|part| part["text"].as_str().unwrap_or_default()).collect()
}

/// The events of a stream.
pub(crate) fn events(answer: &Answer) -> Vec<Value> {
    let text = answer.text();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap_or_default()).collect()
}

pub(crate) fn numbers(events: &[Value]) -> Vec<u64> {
    events.iter().filter_map(|event| event["sequence_number"].as_u64()).collect()
}

fn said(events: &[Value]) -> String {
    let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    deltas.map(|event| event["delta"].as_str().unwrap_or_default()).collect()
}

/// Asks for a response until it has ended.
pub(crate) fn ended(suite: &Suite, id: &str) -> Value {
    let start = Instant::now();
    loop {
        let response = get(suite, id).json();
        let open = matches!(response["status"].as_str(), Some("queued" | "in_progress"));
        if !open || start.elapsed() > Duration::from_secs(150) {
            return response;
        }
        thread::sleep(Duration::from_millis(200));
    }
}

fn one(suite: &Suite) {
    let checks = &suite.checks;
    let asked = json!({
        "model": "plain", "input": "How are you? é🙂", "instructions": "Be brief.", "metadata": {"k": "é"},
        "max_output_tokens": 100, "temperature": 0.5, "truncation": "auto",
    });
    let answer = create(suite, &asked);
    let made = answer.json();
    checks.equal("a response", (answer.status, text(&made)), (200, WORDS.concat()));
    checks.equal("its id", id(&made).len(), "resp_".len() + 64);
    checks.equal("who answered", answer.header("x-outlive-provider"), "good");
    for (name, expected) in [
        ("object", json!("response")),
        ("status", json!("completed")),
        ("instructions", json!("Be brief.")),
        ("metadata", json!({"k": "é"})),
        ("max_output_tokens", json!(100)),
        ("temperature", json!(0.5)),
        ("truncation", json!("auto")),
        ("store", json!(true)),
        ("background", json!(false)),
        ("error", Value::Null),
        ("incomplete_details", Value::Null),
        ("previous_response_id", Value::Null),
        ("conversation", Value::Null),
    ] {
        checks.equal(&format!("a response's {name}"), made.get(name), Some(&expected));
    }
    checks.equal("its usage", &made["usage"]["total_tokens"], &json!(12));
    checks.that("its times", made["completed_at"].as_u64() >= made["created_at"].as_u64(), "an order", &made);
    checks.equal("retrieved", get(suite, &id(&made)).json(), made);
    let default = create(suite, &json!({"input": "Who?"}));
    checks.equal(
        "without a model, the agent's",
        (default.status, text(&default.json())),
        (200, WORDS.concat()),
    );
    let image = json!([{"role": "user", "content": [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "detail": "auto", "image_url": "data:image/png;base64,iVBORw0KGgo="}]}]);
    let seen = create(suite, &json!({"model": "plain", "input": image})).json();
    checks.equal("an image", text(&seen), "I see an image.");
    let format = json!({"format": {"type": "json_schema", "name": "w", "schema": {"type": "object"}}});
    let shaped = create(suite, &with(ask("plain", "Weather?"), "text", format)).json();
    checks.equal("a schema", text(&shaped), "{\"city\": \"Zürich\", \"degrees\": 21}");
}

/// Where each event of a response is, from any number on.
fn streams(suite: &Suite) {
    let checks = &suite.checks;
    for model in ["plain", "steady", "openai-good", "anthropic-good"] {
        let answer = create(suite, &with(ask(model, "How are you?"), "stream", json!(true)));
        let seen = events(&answer);
        let kinds: Vec<&str> = seen.iter().filter_map(|event| event["type"].as_str()).collect();
        checks.equal(&format!("{model}, streamed"), said(&seen), WORDS.concat());
        checks.equal(
            &format!("{model}, numbers"),
            numbers(&seen),
            (0..seen.len() as u64).collect::<Vec<_>>(),
        );
        checks.equal(
            &format!("{model}, first and last"),
            (kinds.first().copied(), kinds.get(1).copied(), kinds.last().copied()),
            (Some("response.created"), Some("response.in_progress"), Some("response.completed")),
        );
        let last = seen.last().map(|event| event["response"].clone()).unwrap_or_default();
        let id = id(&last);
        checks.equal(&format!("{model}, retrieved"), get(suite, &id).json(), last);
        if model == "steady" {
            let deltas = kinds.iter().filter(|kind| **kind == "response.output_text.delta").count();
            checks.that("words are seen as they come", deltas >= 4, "several deltas", deltas);
        }
        let again = get(suite, &format!("{id}?stream=true"));
        checks.equal(&format!("{model}, again"), (again.status, events(&again)), (200, seen.clone()));
        for after in 0..seen.len() {
            let rest = events(&get(suite, &format!("{id}?stream=true&starting_after={after}")));
            checks.equal(&format!("{model}, after {after}"), &rest, &seen[after + 1..].to_vec());
        }
        for (query, param) in [
            (format!("stream=true&starting_after={}", seen.len()), "starting_after"),
            ("stream=true&starting_after=-1".into(), "starting_after"),
            ("stream=true&starting_after=x".into(), "starting_after"),
            ("starting_after=1".into(), "starting_after"),
            ("stream=maybe".into(), "stream"),
        ] {
            let expected = (400, "invalid_value".to_owned(), Some(param.to_owned()));
            checks.equal(
                &format!("{model}, {query}"),
                get(suite, &format!("{id}?{query}")).error(),
                expected,
            );
        }
    }
}

/// What the provider was last asked with this text in it.
pub(crate) fn asked(suite: &Suite, marker: &str) -> Value {
    let records = suite.upstream.records().mentioning(marker);
    records.last().and_then(|record| serde_json::from_slice(&record.body).ok()).unwrap_or_default()
}

pub(crate) fn conversation(suite: &Suite) -> String {
    suite.ask(Request::post("/v1/conversations", "")).json()["id"].as_str().unwrap_or_default().to_owned()
}

pub(crate) fn items(suite: &Suite, conversation: &str) -> Vec<Value> {
    let path = format!("/v1/conversations/{conversation}/items?order=asc&limit=100");
    suite.ask(Request::get(path)).json()["data"].as_array().cloned().unwrap_or_default()
}
