//! Responses: turns, their streams, and what becomes of them when the client or the node is gone.

use std::{
    thread,
    time::{Duration, Instant},
};

use outlive_tests::upstream::WORDS;
use serde_json::{Value, json};

use crate::{
    client::{Answer, Request},
    node::Host,
    suite::{FULL, INFERENCE, Suite},
};

pub(crate) fn run(suite: &mut Suite) {
    one(suite);
    streams(suite);
    lines(suite);
    conversations(suite);
    tools(suite);
    background(suite);
    forgetting(suite);
    lists(suite);
    keys(suite);
    failures(suite);
    bad_input(suite);
    leaving(suite);
    killed(suite);
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

fn contents(asked: &Value) -> Vec<String> {
    let messages = asked["messages"].as_array().into_iter().flatten();
    messages
        .map(|message| match &message["content"] {
            Value::String(text) => text.clone(),
            Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            _ => message["tool_calls"].as_array().map_or(0, Vec::len).to_string(),
        })
        .collect()
}

/// Responses that continue others.
fn lines(suite: &Suite) {
    let checks = &suite.checks;
    let first = create(suite, &with(ask("plain", "line one"), "instructions", json!("first"))).json();
    let next = |text: &str, previous: &Value| {
        create(suite, &with(ask("plain", text), "previous_response_id", json!(id(previous)))).json()
    };
    let second = next("line two", &first);
    checks.equal("it says what it continues", &second["previous_response_id"], &first["id"]);
    let (left, right) = (next("line left", &second), next("line right", &second));
    let all = WORDS.concat();
    checks.equal(
        "left",
        contents(&asked(suite, "line left")),
        ["line one", &all, "line two", &all, "line left"],
    );
    checks.equal(
        "right",
        contents(&asked(suite, "line right")),
        ["line one", &all, "line two", &all, "line right"],
    );
    checks.that("they are two", id(&left) != id(&right), "two ids", (&left["id"], &right["id"]));
    // What is not kept may continue what is.
    let passing = with(
        with(ask("plain", "line passing"), "previous_response_id", json!(id(&first))),
        "store",
        json!(false),
    );
    let passing = create(suite, &passing).json();
    checks.equal("passing", (text(&passing), &passing["store"]), (all, &json!(false)));
    checks.equal("passing, retrieved", get(suite, &id(&passing)).status, 404);
}

pub(crate) fn conversation(suite: &Suite) -> String {
    suite.ask(Request::post("/v1/conversations", "")).json()["id"].as_str().unwrap_or_default().to_owned()
}

pub(crate) fn items(suite: &Suite, conversation: &str) -> Vec<Value> {
    let path = format!("/v1/conversations/{conversation}/items?order=asc&limit=100");
    suite.ask(Request::get(path)).json()["data"].as_array().cloned().unwrap_or_default()
}

fn conversations(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = conversation(suite);
    let before = json!({"items": [{"role": "user", "content": "My name is Ada."}]});
    suite.ask(Request::post(format!("/v1/conversations/{conversation}/items"), before.to_string()));
    let all = WORDS.concat();
    for (number, reference) in [json!(conversation), json!({"id": conversation})].into_iter().enumerate() {
        let said = format!("turn {number} of {conversation}");
        let response = create(suite, &with(ask("plain", &said), "conversation", reference)).json();
        checks.equal("its conversation", &response["conversation"], &json!({"id": conversation}));
    }
    let first = format!("My name is Ada.turn 0 of {conversation}");
    let expected = [first, all.clone(), format!("turn 1 of {conversation}")];
    checks.equal(
        "the model is told all",
        contents(&asked(suite, &format!("turn 1 of {conversation}"))),
        expected,
    );
    let items = items(suite, &conversation);
    let shown: Vec<(&str, &str)> = items
        .iter()
        .map(|item| {
            (
                item["role"].as_str().unwrap_or_default(),
                item["content"][0]["text"].as_str().unwrap_or_default(),
            )
        })
        .collect();
    checks.equal("items", shown.len(), 5);
    checks.equal("the newest item", shown.last().copied(), Some(("assistant", all.as_str())));
    for item in &items {
        let one = suite.ask(Request::get(format!(
            "/v1/conversations/{conversation}/items/{}",
            item["id"].as_str().unwrap_or_default()
        )));
        checks.equal("one item", &one.json(), item);
    }
    // One at a time.
    let slow =
        with(with(ask("steady", "slowly"), "conversation", json!(conversation)), "background", json!(true));
    let slow = create(suite, &slow).json();
    let refused = create(suite, &with(ask("plain", "meanwhile"), "conversation", json!(conversation)));
    let expected = (400, "conversation_locked".to_owned(), Some("conversation".to_owned()));
    checks.equal("meanwhile", refused.error(), expected);
    checks.equal("in the end", &ended(suite, &id(&slow))["status"], "completed");
    let free = create(suite, &with(ask("plain", "after it"), "conversation", json!(conversation)));
    checks.equal("after it", free.status, 200);
}

fn tools(suite: &Suite) {
    let checks = &suite.checks;
    let tools =
        json!([{"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": false}]);
    for stream in [false, true] {
        let model = if stream { "only-tools-streamed" } else { "only-tools" };
        // What is kept is streamed from the provider in any case.
        let body = with(
            with(ask("only-tools-streamed", "Weather?"), "tools", tools.clone()),
            "stream",
            json!(stream),
        );
        let answer = create(suite, &body);
        let response = if stream {
            events(&answer).last().map(|event| event["response"].clone()).unwrap_or_default()
        } else {
            answer.json()
        };
        let calls: Vec<&Value> = response["output"].as_array().into_iter().flatten().collect();
        checks.equal(&format!("{model}, calls"), calls.len(), 2);
        checks.equal(&format!("{model}, tools"), &response["tools"][0]["name"], "weather");
        let marker = format!("result of {}", id(&response));
        let output = |call: &Value, text: &str| json!({"type": "function_call_output", "call_id": call["call_id"], "output": text});
        let Some(call) = calls.first() else { continue };
        // The other call stays open, and the model is told so.
        let next = json!({"model": "plain", "previous_response_id": response["id"], "input": [output(call, &marker)]});
        checks.equal(&format!("{model}, goes on"), text(&create(suite, &next).json()), WORDS.concat());
        let told = asked(suite, &marker);
        let results =
            told["messages"].as_array().into_iter().flatten().filter(|message| message["role"] == "tool");
        let results: Vec<&str> = results.filter_map(|message| message["content"].as_str()).collect();
        checks.equal(&format!("{model}, results"), results.len(), 2);
        checks.that(
            &format!("{model}, the open call"),
            results.iter().any(|text| text.contains("not known")),
            "a result that is not known",
            &results,
        );
        let nobody = json!({"type": "function_call_output", "call_id": "call_of_nobody", "output": "x"});
        let answer = create(suite, &with(next, "input", json!([nobody])));
        checks.equal(
            &format!("{model}, of nobody"),
            answer.error(),
            (400, "invalid_value".to_owned(), Some("input".to_owned())),
        );
    }
}

fn background(suite: &Suite) {
    let checks = &suite.checks;
    let answer = create(suite, &with(ask("steady", "in the background"), "background", json!(true)));
    let begun = answer.json();
    checks.equal("background", (answer.status, &begun["background"]), (200, &json!(true)));
    checks.that(
        "it waits",
        matches!(begun["status"].as_str(), Some("queued" | "in_progress")),
        "not ended",
        &begun,
    );
    let done = ended(suite, &id(&begun));
    checks.equal("it ends", (done["status"].as_str(), text(&done)), (Some("completed"), WORDS.concat()));
    // Who follows it sees all of it.
    let body = with(with(ask("steady", "followed"), "background", json!(true)), "stream", json!(true));
    let seen = events(&create(suite, &body));
    let kinds: Vec<&str> = seen.iter().filter_map(|event| event["type"].as_str()).take(3).collect();
    checks.equal("followed, first", kinds, ["response.created", "response.queued", "response.in_progress"]);
    checks.equal(
        "followed",
        (said(&seen), numbers(&seen)),
        (WORDS.concat(), (0..seen.len() as u64).collect()),
    );
    // Cancelled.
    let slow = create(suite, &with(ask("slow", "to be cancelled"), "background", json!(true))).json();
    let path = format!("{PATH}/{}/cancel", id(&slow));
    let cancelled = suite.ask(Request::post(path.as_str(), ""));
    checks.equal("cancelled", (cancelled.status, &cancelled.json()["status"]), (200, &json!("cancelled")));
    checks.equal("cancelled, retrieved", get(suite, &id(&slow)).json(), cancelled.json());
    checks.equal("cancelled twice", suite.ask(Request::post(path, "")).json(), cancelled.json());
    let start = Instant::now();
    let left = || suite.upstream.records().mentioning("to be cancelled").iter().all(|record| record.left);
    while !left() && start.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(50));
    }
    checks.that(
        "cancelled, the call is cut",
        left() || suite.host == Host::Lambda,
        "a provider that is left",
        (),
    );
    let other = create(suite, &ask("plain", "in the foreground")).json();
    let refused = suite.ask(Request::post(format!("{PATH}/{}/cancel", id(&other)), ""));
    checks.equal("only what is in the background", refused.error().0, 400);
}

fn forgetting(suite: &Suite) {
    let checks = &suite.checks;
    let made = create(suite, &ask("plain", "to be deleted")).json();
    let path = format!("{PATH}/{}", id(&made));
    let deleted = suite.ask(Request::get(path.as_str()).method("DELETE"));
    let expected = json!({"id": made["id"], "object": "response", "deleted": true});
    checks.equal("deleted", (deleted.status, deleted.json()), (200, expected));
    for (case, answer) in [
        ("retrieve", get(suite, &id(&made))),
        ("delete", suite.ask(Request::get(path.as_str()).method("DELETE"))),
        ("items", get(suite, &format!("{}/input_items", id(&made)))),
    ] {
        let expected = (404, "response_not_found".to_owned(), Some("response_id".to_owned()));
        checks.equal(&format!("deleted, {case}"), answer.error(), expected);
    }
    let next = create(suite, &with(ask("plain", "after it"), "previous_response_id", made["id"].clone()));
    checks.equal("deleted, continued", next.error().1, "previous_response_not_found");
}

fn lists(suite: &Suite) {
    let checks = &suite.checks;
    let input: Vec<Value> = (0..5).map(|n| json!({"role": "user", "content": format!("item {n}")})).collect();
    let made = create(suite, &json!({"model": "plain", "input": input})).json();
    let list = |query: &str| get(suite, &format!("{}/input_items{query}", id(&made))).json();
    let texts = |list: &Value| -> Vec<String> {
        let items = list["data"].as_array().into_iter().flatten();
        items.map(|item| item["content"][0]["text"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let all = list("?order=asc");
    checks.equal("input items", texts(&all), ["item 0", "item 1", "item 2", "item 3", "item 4"]);
    checks.equal("newest first", texts(&list("")), ["item 4", "item 3", "item 2", "item 1", "item 0"]);
    let page = list("?order=asc&limit=2");
    checks.equal(
        "a page",
        (texts(&page), &page["has_more"]),
        (vec!["item 0".into(), "item 1".into()], &json!(true)),
    );
    let after = page["last_id"].as_str().unwrap_or_default().to_owned();
    let rest = list(&format!("?order=asc&after={after}"));
    checks.equal(
        "the rest",
        (texts(&rest), &rest["has_more"]),
        (vec!["item 2".into(), "item 3".into(), "item 4".into()], &json!(false)),
    );
    let counted =
        suite.ask(Request::post(format!("{PATH}/input_tokens"), ask("plain", "How many?").to_string()));
    let object = counted.json();
    checks.equal("tokens", (counted.status, object["object"].as_str()), (200, Some("response.input_tokens")));
    checks.that("tokens, a number", object["input_tokens"].as_u64() > Some(0), "some", &object);
    let longer = json!({"model": "plain", "input": "How many?", "previous_response_id": made["id"]});
    let longer = suite.ask(Request::post(format!("{PATH}/input_tokens"), longer.to_string())).json();
    checks.that(
        "tokens with a history",
        longer["input_tokens"].as_u64() > object["input_tokens"].as_u64(),
        "more",
        &longer,
    );
}

/// Another key, and the same request twice.
fn keys(suite: &Suite) {
    let checks = &suite.checks;
    let made = create(suite, &ask("plain", "mine")).json();
    let path = format!("{PATH}/{}", id(&made));
    for request in [
        Request::get(path.as_str()),
        Request::get(path.as_str()).method("DELETE"),
        Request::get(format!("{path}/input_items")),
        Request::post(format!("{path}/cancel"), ""),
    ] {
        let case = format!(
            "another key, {} {}",
            request.method,
            request.path.rsplit('/').next().unwrap_or_default()
        );
        checks.equal(&case, suite.client.send(&request.key(INFERENCE)).status, 404);
    }
    let continued = with(ask("plain", "yours"), "previous_response_id", made["id"].clone());
    let answer = suite.client.send(&Request::post(PATH, continued.to_string()).key(INFERENCE));
    checks.equal("another key, continued", answer.error().1, "previous_response_not_found");
    let conversation = conversation(suite);
    let answer = suite.client.send(
        &Request::post(PATH, with(ask("plain", "yours"), "conversation", json!(conversation)).to_string())
            .key(INFERENCE),
    );
    checks.equal("another key, in a conversation", answer.status, 404);

    let marker = format!("once {}", id(&made));
    let once =
        |body: &Value| suite.ask(Request::post(PATH, body.to_string()).with("idempotency-key", &marker));
    let (one, two) = (once(&ask("plain", &marker)), once(&ask("plain", &marker)));
    checks.equal("the same key, the same response", two.json(), one.json());
    checks.equal("one call", suite.upstream.records().mentioning(&marker).len(), 1);
    checks.equal("another request", once(&ask("plain", "other")).error().1, "idempotency_key_reused");
    let streamed = once(&with(ask("plain", &marker), "stream", json!(true)));
    checks.equal("attached as a stream", said(&events(&streamed)), WORDS.concat());
    // While it runs.
    let marker = format!("at once {}", id(&made));
    let body = ask("steady", &marker).to_string();
    let request = Request::post(PATH, body).key(FULL).with("idempotency-key", &marker);
    let answers: Vec<Answer> = thread::scope(|scope| {
        let asked: Vec<_> = (0..3).map(|_| scope.spawn(|| suite.client.send(&request))).collect();
        asked.into_iter().map(|answer| answer.join().unwrap_or_default()).collect()
    });
    let ids: Vec<String> = answers.iter().map(|answer| id(&answer.json())).collect();
    checks.that(
        "at once, one response",
        ids.iter().all(|id| *id == ids[0] && !id.is_empty()),
        "one id",
        &ids,
    );
    let calls = suite.upstream.records().mentioning(&marker);
    let bodies: Vec<_> = calls.iter().map(|call| String::from_utf8_lossy(&call.body)).collect();
    checks.that("at once, one call", calls.len() == 1, "one call", bodies);
}

fn failures(suite: &Suite) {
    let checks = &suite.checks;
    for (model, status, code) in [
        ("only-limited-streamed", 429, "rate_limit_exceeded"),
        ("only-broken-streamed", 502, "upstream_error"),
        ("only-caller-error-streamed", 400, "decimal_above_max_value"),
        ("only-halfway-streamed", 502, "stream_interrupted"),
    ] {
        let answer = create(suite, &ask(model, "Well?"));
        let (saw, word, _) = answer.error();
        checks.equal(model, (saw, word.as_str()), (status, code));
        let seen = events(&create(suite, &with(ask(model, "Well?"), "stream", json!(true))));
        let last = seen.last().cloned().unwrap_or_default();
        checks.equal(&format!("{model}, streamed"), last["type"].as_str(), Some("response.failed"));
        checks.equal(
            &format!("{model}, numbers"),
            numbers(&seen),
            (0..seen.len() as u64).collect::<Vec<_>>(),
        );
        let kept = get(suite, &id(&last["response"])).json();
        checks.equal(&format!("{model}, kept"), &kept, &last["response"]);
        checks.that(
            &format!("{model}, why"),
            kept["error"]["message"].is_string(),
            "a message",
            &kept["error"],
        );
    }
    let via = create(suite, &ask("via-broken-streamed", "Well?"));
    checks.equal(
        "another candidate",
        (via.header("x-outlive-provider"), text(&via.json())),
        ("good", WORDS.concat()),
    );
}

fn bad_input(suite: &Suite) {
    let gone = format!("resp_{}", "0".repeat(64));
    let no_conversation = format!("conv_{}", "0".repeat(32));
    let bad = |name: &str, value: Value| with(ask("plain", "x"), name, value);
    let cases = [
        ("an unknown model", bad("model", json!("nothing")), 404, "model_not_found", Some("model")),
        ("a model of a wrong type", bad("model", json!(7)), 400, "invalid_value", Some("model")),
        ("input of a wrong type", bad("input", json!(7)), 400, "invalid_value", Some("input")),
        ("no input", json!({"model": "plain"}), 400, "missing_required_parameter", Some("input")),
        ("an item of a wrong type", bad("input", json!([7])), 400, "invalid_value", Some("input[0]")),
        (
            "an item of no type",
            bad("input", json!([{"type": "dream"}])),
            400,
            "invalid_value",
            Some("input[0].type"),
        ),
        (
            "an unknown response",
            bad("previous_response_id", json!(gone)),
            400,
            "previous_response_not_found",
            Some("previous_response_id"),
        ),
        (
            "no response",
            bad("previous_response_id", json!("x")),
            400,
            "previous_response_not_found",
            Some("previous_response_id"),
        ),
        (
            "an unknown conversation",
            bad("conversation", json!(no_conversation)),
            404,
            "conversation_not_found",
            Some("conversation_id"),
        ),
        ("no conversation", bad("conversation", json!(7)), 400, "invalid_value", Some("conversation")),
        (
            "both",
            with(bad("conversation", json!(no_conversation)), "previous_response_id", json!(gone)),
            400,
            "invalid_value",
            Some("previous_response_id"),
        ),
        ("store of a wrong type", bad("store", json!("yes")), 400, "invalid_value", Some("store")),
        (
            "background, not stored",
            with(bad("background", json!(true)), "store", json!(false)),
            400,
            "invalid_value",
            Some("background"),
        ),
        ("truncation", bad("truncation", json!("some")), 400, "invalid_value", Some("truncation")),
        ("metadata", bad("metadata", json!({"a": 1})), 400, "invalid_type", Some("metadata")),
        (
            "a limit of a wrong type",
            bad("max_output_tokens", json!("x")),
            400,
            "invalid_type",
            Some("max_output_tokens"),
        ),
        ("a stored prompt", bad("prompt", json!({"id": "pmpt_1"})), 400, "invalid_value", Some("prompt")),
    ];
    for (case, body, status, code, param) in cases {
        let expected = (status, code.to_owned(), param.map(str::to_owned));
        suite.checks.equal(case, create(suite, &body).error(), expected);
    }
    for path in ["resp_x", gone.as_str(), "x"] {
        suite.checks.equal(&format!("retrieve {path}"), get(suite, path).error().1, "response_not_found");
    }
}

/// A turn does not depend on its client.
fn leaving(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = conversation(suite);
    let body =
        with(with(ask("steady", "left alone"), "conversation", json!(conversation)), "stream", json!(true));
    let request = Request::post(PATH, body.to_string()).key(FULL);
    let left = suite.client.leave_after(&request, "response.output_text.delta");
    checks.that("leaving", matches!(left, Ok(true)), "some words", &left);
    let start = Instant::now();
    while items(suite, &conversation).len() < 2 && start.elapsed() < Duration::from_secs(150) {
        thread::sleep(Duration::from_millis(200));
    }
    let items = items(suite, &conversation);
    checks.equal(
        "after leaving",
        items.last().map(|item| item["content"][0]["text"].clone()),
        Some(json!(WORDS.concat())),
    );
}

/// `kill -9` while a response is made: it goes on by itself, and its stream can be taken up again.
fn killed(suite: &mut Suite) {
    let conversation = conversation(suite);
    let open = |name: &str| with(ask("steady", name), "background", json!(true));
    let alone = create(suite, &open("killed alone")).json();
    let kept = create(suite, &with(open("killed in it"), "conversation", json!(conversation))).json();
    // Some words are there, and some are not.
    let path = format!("{PATH}/{}?stream=true", id(&alone));
    let seen = suite.client.leave_after(&Request::get(path).key(FULL), "response.output_text.delta");
    suite.checks.that("before the kill, some words", matches!(seen, Ok(true)), "a delta", &seen);
    let crashed = suite.node.crash();
    suite.checks.that("after the kill, it starts again", crashed.is_ok(), "a node that serves", &crashed);
    let start = Instant::now();
    for response in [&alone, &kept] {
        let done = ended(suite, &id(response));
        suite.checks.equal(
            "after the kill, it goes on",
            (done["status"].as_str(), text(&done)),
            (Some("completed"), WORDS.concat()),
        );
        let all = events(&get(suite, &format!("{}?stream=true", id(response))));
        suite.checks.equal("after the kill, all that was said", said(&all), WORDS.concat());
        suite.checks.equal(
            "after the kill, numbers",
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
    suite.checks.equal("after the kill, the conversation is free", free.status, 200);
}
