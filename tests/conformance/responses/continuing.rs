//! Responses that continue others: by their id, in a conversation, and with the results of a client's tools.

use outlive_tests::upstream::WORDS;
use serde_json::{Value, json};

use super::{ask, asked, conversation, create, ended, events, get, id, items, text, with};
use crate::{client::Request, suite::Suite};

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
pub(super) fn lines(suite: &Suite) {
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

pub(super) fn conversations(suite: &Suite) {
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

pub(super) fn tools(suite: &Suite) {
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
