//! Checks responses: a single one, its fields, and its stream from any event on. The rest is below `responses/`.

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
    single_response(suite);
    streams(suite);
    continuing::chains(suite);
    continuing::conversations(suite);
    continuing::tools(suite);
    background::background(suite);
    stored::deleted_response(suite);
    stored::input_items(suite);
    stored::caller_and_idempotency_keys(suite);
    failures::failures(suite);
    failures::refused_requests(suite);
    background::disconnected_client(suite);
    background::killed_node(suite);
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

/// The provider, the model and the attempts that the headers name.
fn answered_by(answer: &Answer) -> [&str; 3] {
    ["x-outlive-provider", "x-outlive-model", "x-outlive-attempts"].map(|name| answer.header(name))
}

pub(crate) fn id(response: &Value) -> String {
    response["id"].as_str().unwrap_or_default().to_owned()
}

pub(crate) fn text(response: &Value) -> String {
    let items = response["output"].as_array().into_iter().flatten();
    let parts = items.flat_map(|item| item["content"].as_array().into_iter().flatten());
    parts.map(|part| part["text"].as_str().unwrap_or_default()).collect()
}

/// The events of a streamed answer.
pub(crate) fn events(answer: &Answer) -> Vec<Value> {
    let text = answer.text();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap_or_default()).collect()
}

pub(crate) fn numbers(events: &[Value]) -> Vec<u64> {
    events.iter().filter_map(|event| event["sequence_number"].as_u64()).collect()
}

fn delta_text(events: &[Value]) -> String {
    let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    deltas.map(|event| event["delta"].as_str().unwrap_or_default()).collect()
}

/// Polls a response until it has ended.
pub(crate) fn wait_until_ended(suite: &Suite, id: &str) -> Value {
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

/// Creates a response with many fields, and others with an image, a schema, and no model.
fn single_response(suite: &Suite) {
    let checks = &suite.checks;
    let request_body = json!({
        "model": "plain", "input": "How are you? é🙂", "instructions": "Be brief.", "metadata": {"k": "é"},
        "max_output_tokens": 100, "temperature": 0.5, "truncation": "auto",
    });
    let answer = create(suite, &request_body);
    let made = answer.json();
    checks.equal("single response: status and text", (answer.status, text(&made)), (200, WORDS.concat()));
    checks.equal("single response: length of its id", id(&made).len(), "resp_".len() + 64);
    checks.equal("single response: headers of its candidate", answered_by(&answer), ["good", "good", "1"]);
    let retrieved = get(suite, &id(&made));
    checks.equal(
        "single response, retrieved: headers of its candidate",
        answered_by(&retrieved),
        ["good", "good", "1"],
    );
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
        checks.equal(&format!("single response: {name}"), made.get(name), Some(&expected));
    }
    checks.equal("single response: total tokens", &made["usage"]["total_tokens"], &json!(12));
    checks.that(
        "single response: completed_at is not before created_at",
        made["completed_at"].as_u64() >= made["created_at"].as_u64(),
        "completed_at >= created_at",
        &made,
    );
    checks.equal("single response: the same when it is retrieved", get(suite, &id(&made)).json(), made);
    let default = create(suite, &json!({"input": "Who?"}));
    checks.equal(
        "response without a model: the agent's model answers",
        (default.status, text(&default.json())),
        (200, WORDS.concat()),
    );
    let image = json!([{"role": "user", "content": [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "detail": "auto", "image_url": "data:image/png;base64,iVBORw0KGgo="}]}]);
    let stream = create(suite, &json!({"model": "plain", "input": image})).json();
    checks.equal("response to an image: text", text(&stream), "I see an image.");
    let format = json!({"format": {"type": "json_schema", "name": "w", "schema": {"type": "object"}}});
    let shaped = create(suite, &with(ask("plain", "Weather?"), "text", format)).json();
    checks.equal("response with a schema: text", text(&shaped), "{\"city\": \"Zürich\", \"degrees\": 21}");
}

/// The stream of a response, as a whole and from each sequence number on.
fn streams(suite: &Suite) {
    let checks = &suite.checks;
    // The stream of the request comes first: resumed streams must equal it.
    for model in ["plain", "steady", "openai-good", "anthropic-good"] {
        let answer = create(suite, &with(ask(model, "How are you?"), "stream", json!(true)));
        let [provider, _, attempts] = answered_by(&answer);
        checks.equal(
            &format!("{model}, streamed: headers of its candidate"),
            (provider.is_empty(), attempts),
            (false, "1"),
        );
        let stream = events(&answer);
        let kinds: Vec<&str> = stream.iter().filter_map(|event| event["type"].as_str()).collect();
        checks.equal(&format!("{model}: text of the stream"), delta_text(&stream), WORDS.concat());
        checks.equal(
            &format!("{model}: sequence numbers"),
            numbers(&stream),
            (0..stream.len() as u64).collect::<Vec<_>>(),
        );
        checks.equal(
            &format!("{model}: types of the first two events and the last"),
            (kinds.first().copied(), kinds.get(1).copied(), kinds.last().copied()),
            (Some("response.created"), Some("response.in_progress"), Some("response.completed")),
        );
        let last = stream.last().map(|event| event["response"].clone()).unwrap_or_default();
        let id = id(&last);
        checks.equal(&format!("{model}: retrieved response"), get(suite, &id).json(), last);
        if model == "steady" {
            let deltas = kinds.iter().filter(|kind| **kind == "response.output_text.delta").count();
            checks.that("steady: the stream has several deltas", deltas >= 4, "several deltas", deltas);
        }
        let again = get(suite, &format!("{id}?stream=true"));
        checks.equal(
            &format!("{model}: resumed from the start"),
            (again.status, events(&again)),
            (200, stream.clone()),
        );
        for after in 0..stream.len() {
            let rest = events(&get(suite, &format!("{id}?stream=true&starting_after={after}")));
            checks.equal(
                &format!("{model}: resumed after event {after}"),
                &rest,
                &stream[after + 1..].to_vec(),
            );
        }
        for (query, param) in [
            (format!("stream=true&starting_after={}", stream.len()), "starting_after"),
            ("stream=true&starting_after=-1".into(), "starting_after"),
            ("stream=true&starting_after=x".into(), "starting_after"),
            ("starting_after=1".into(), "starting_after"),
            ("stream=maybe".into(), "stream"),
        ] {
            let expected = (400, "invalid_value".to_owned(), Some(param.to_owned()));
            checks.equal(
                &format!("{model}: error for {query}"),
                get(suite, &format!("{id}?{query}")).error(),
                expected,
            );
        }
    }
}

/// The newest request to the provider that contains `marker`.
pub(crate) fn last_prompt(suite: &Suite, marker: &str) -> Value {
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
