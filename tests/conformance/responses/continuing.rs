//! Checks responses that continue others: by id, in a conversation, and with the results of a client's tools.

use outlive_tests::upstream::WORDS;
use serde_json::{Value, json};

use super::{ask, conversation, create, events, get, id, items, last_prompt, text, wait_until_ended, with};
use crate::{client::Request, suite::Suite};

/// The texts of the messages of a prompt; for a message without text the number of its calls.
fn prompt_texts(prompt: &Value) -> Vec<String> {
    let messages = prompt["messages"].as_array().into_iter().flatten();
    messages
        .map(|message| match &message["content"] {
            Value::String(text) => text.clone(),
            Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            _ => message["tool_calls"].as_array().map_or(0, Vec::len).to_string(),
        })
        .collect()
}

/// Responses that continue others by `previous_response_id`.
pub(super) fn chains(suite: &Suite) {
    let checks = &suite.checks;
    let first = create(suite, &with(ask("plain", "line one"), "instructions", json!("first"))).json();
    let next = |text: &str, previous: &Value| {
        create(suite, &with(ask("plain", text), "previous_response_id", json!(id(previous)))).json()
    };
    let second = next("line two", &first);
    checks.equal("chain: previous_response_id", &second["previous_response_id"], &first["id"]);
    let (left, right) = (next("line left", &second), next("line right", &second));
    let all = WORDS.concat();
    checks.equal(
        "chain: prompt of the first branch",
        prompt_texts(&last_prompt(suite, "line left")),
        ["line one", &all, "line two", &all, "line left"],
    );
    checks.equal(
        "chain: prompt of the second branch",
        prompt_texts(&last_prompt(suite, "line right")),
        ["line one", &all, "line two", &all, "line right"],
    );
    checks.that(
        "chain: the branches have different ids",
        id(&left) != id(&right),
        "two ids",
        (&left["id"], &right["id"]),
    );
    // A response that is not stored may continue a stored one.
    let unstored = with(
        with(ask("plain", "line passing"), "previous_response_id", json!(id(&first))),
        "store",
        json!(false),
    );
    let unstored = create(suite, &unstored).json();
    checks.equal(
        "unstored response: text and the field store",
        (text(&unstored), &unstored["store"]),
        (all, &json!(false)),
    );
    checks.equal("unstored response: status when it is retrieved", get(suite, &id(&unstored)).status, 404);
}

pub(super) fn conversations(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = conversation(suite);
    let before = json!({"items": [{"role": "user", "content": "My name is Ada."}]});
    suite.ask(Request::post(format!("/v1/conversations/{conversation}/items"), before.to_string()));
    let all = WORDS.concat();
    for (number, reference) in [json!(conversation), json!({"id": conversation})].into_iter().enumerate() {
        let input = format!("turn {number} of {conversation}");
        let response = create(suite, &with(ask("plain", &input), "conversation", reference)).json();
        checks.equal(
            "conversation: the field of the response",
            &response["conversation"],
            &json!({"id": conversation}),
        );
    }
    let first = format!("My name is Ada.turn 0 of {conversation}");
    let expected = [first, all.clone(), format!("turn 1 of {conversation}")];
    checks.equal(
        "conversation: prompt of the second turn",
        prompt_texts(&last_prompt(suite, &format!("turn 1 of {conversation}"))),
        expected,
    );
    let items = items(suite, &conversation);
    let roles_and_texts: Vec<(&str, &str)> = items
        .iter()
        .map(|item| {
            (
                item["role"].as_str().unwrap_or_default(),
                item["content"][0]["text"].as_str().unwrap_or_default(),
            )
        })
        .collect();
    checks.equal("conversation: number of items", roles_and_texts.len(), 5);
    checks.equal(
        "conversation: newest item",
        roles_and_texts.last().copied(),
        Some(("assistant", all.as_str())),
    );
    for item in &items {
        let one = suite.ask(Request::get(format!(
            "/v1/conversations/{conversation}/items/{}",
            item["id"].as_str().unwrap_or_default()
        )));
        checks.equal("conversation: a single item equals its entry in the list", &one.json(), item);
    }
    // A conversation has one open turn at a time.
    let slow =
        with(with(ask("steady", "slowly"), "conversation", json!(conversation)), "background", json!(true));
    let slow = create(suite, &slow).json();
    let refused = create(suite, &with(ask("plain", "meanwhile"), "conversation", json!(conversation)));
    let expected = (400, "conversation_locked".to_owned(), Some("conversation".to_owned()));
    checks.equal("conversation: error of a response during an open turn", refused.error(), expected);
    checks.equal(
        "conversation: status of the open turn in the end",
        &wait_until_ended(suite, &id(&slow))["status"],
        "completed",
    );
    let free = create(suite, &with(ask("plain", "after it"), "conversation", json!(conversation)));
    checks.equal("conversation: status of a response after the turn", free.status, 200);
}

pub(super) fn tools(suite: &Suite) {
    let checks = &suite.checks;
    let tools =
        json!([{"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": false}]);
    for stream in [false, true] {
        let model = if stream { "only-tools-streamed" } else { "only-tools" };
        // The node streams stored responses from the provider even if the client does not ask for a stream.
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
        checks.equal(&format!("{model}: number of calls"), calls.len(), 2);
        checks.equal(
            &format!("{model}: name of the response's tool"),
            &response["tools"][0]["name"],
            "weather",
        );
        let marker = format!("result of {}", id(&response));
        let output = |call: &Value, text: &str| json!({"type": "function_call_output", "call_id": call["call_id"], "output": text});
        let Some(call) = calls.first() else { continue };
        // The other call stays open, and the prompt says so.
        let next = json!({"model": "plain", "previous_response_id": response["id"], "input": [output(call, &marker)]});
        checks.equal(
            &format!("{model}: text of the response with a result"),
            text(&create(suite, &next).json()),
            WORDS.concat(),
        );
        let prompt = last_prompt(suite, &marker);
        let results =
            prompt["messages"].as_array().into_iter().flatten().filter(|message| message["role"] == "tool");
        let results: Vec<&str> = results.filter_map(|message| message["content"].as_str()).collect();
        checks.equal(&format!("{model}: number of results in the prompt"), results.len(), 2);
        checks.that(
            &format!("{model}: result of the open call in the prompt"),
            results.iter().any(|text| text.contains("not known")),
            "a result that says it is not known",
            &results,
        );
        let stray_result =
            json!({"type": "function_call_output", "call_id": "call_of_nobody", "output": "x"});
        let answer = create(suite, &with(next, "input", json!([stray_result])));
        checks.equal(
            &format!("{model}: error for a result without a call"),
            answer.error(),
            (400, "invalid_value".to_owned(), Some("input".to_owned())),
        );
    }
}
