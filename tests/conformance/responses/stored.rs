//! Checks stored responses: deletion, input items, other callers' keys, and idempotency keys.

use std::thread;

use outlive_tests::upstream::WORDS;
use serde_json::{Value, json};

use super::{PATH, ask, conversation, create, delta_text, events, get, id, with};
use crate::{
    client::{Answer, Request},
    suite::{FULL, INFERENCE, Suite},
};

pub(super) fn deleted_response(suite: &Suite) {
    let checks = &suite.checks;
    let made = create(suite, &ask("plain", "to be deleted")).json();
    let path = format!("{PATH}/{}", id(&made));
    let deleted = suite.ask(Request::get(path.as_str()).method("DELETE"));
    let expected = json!({"id": made["id"], "object": "response", "deleted": true});
    checks.equal("deleted: status and answer", (deleted.status, deleted.json()), (200, expected));
    for (case, answer) in [
        ("retrieve", get(suite, &id(&made))),
        ("delete", suite.ask(Request::get(path.as_str()).method("DELETE"))),
        ("list of input items", get(suite, &format!("{}/input_items", id(&made)))),
    ] {
        let expected = (404, "response_not_found".to_owned(), Some("response_id".to_owned()));
        checks.equal(&format!("deleted: error of {case}"), answer.error(), expected);
    }
    let next = create(suite, &with(ask("plain", "after it"), "previous_response_id", made["id"].clone()));
    checks.equal(
        "deleted: error code of a response that continues it",
        next.error().1,
        "previous_response_not_found",
    );
}

/// Lists the input items of a response, and counts the tokens of requests with and without a history.
pub(super) fn input_items(suite: &Suite) {
    let checks = &suite.checks;
    let input: Vec<Value> = (0..5).map(|n| json!({"role": "user", "content": format!("item {n}")})).collect();
    let made = create(suite, &json!({"model": "plain", "input": input})).json();
    let list = |query: &str| get(suite, &format!("{}/input_items{query}", id(&made))).json();
    let texts = |list: &Value| -> Vec<String> {
        let items = list["data"].as_array().into_iter().flatten();
        items.map(|item| item["content"][0]["text"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let all = list("?order=asc");
    checks.equal(
        "input items: in ascending order",
        texts(&all),
        ["item 0", "item 1", "item 2", "item 3", "item 4"],
    );
    checks.equal(
        "input items: in the default order",
        texts(&list("")),
        ["item 4", "item 3", "item 2", "item 1", "item 0"],
    );
    let page = list("?order=asc&limit=2");
    checks.equal(
        "input items: first page of two",
        (texts(&page), &page["has_more"]),
        (vec!["item 0".into(), "item 1".into()], &json!(true)),
    );
    let after = page["last_id"].as_str().unwrap_or_default().to_owned();
    let rest = list(&format!("?order=asc&after={after}"));
    checks.equal(
        "input items: the page after it",
        (texts(&rest), &rest["has_more"]),
        (vec!["item 2".into(), "item 3".into(), "item 4".into()], &json!(false)),
    );
    let counted =
        suite.ask(Request::post(format!("{PATH}/input_tokens"), ask("plain", "How many?").to_string()));
    let object = counted.json();
    checks.equal(
        "token count: status and object",
        (counted.status, object["object"].as_str()),
        (200, Some("response.input_tokens")),
    );
    checks.that(
        "token count: input_tokens",
        object["input_tokens"].as_u64() > Some(0),
        "more than 0",
        &object,
    );
    let longer = json!({"model": "plain", "input": "How many?", "previous_response_id": made["id"]});
    let longer = suite.ask(Request::post(format!("{PATH}/input_tokens"), longer.to_string())).json();
    checks.that(
        "token count of a continuation: input_tokens",
        longer["input_tokens"].as_u64() > object["input_tokens"].as_u64(),
        "more than without the history",
        &longer,
    );
}

/// Another caller's key finds no response. The same idempotency key gives the same response.
pub(super) fn caller_and_idempotency_keys(suite: &Suite) {
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
            "another caller's key: status of {} {}",
            request.method,
            request.path.rsplit('/').next().unwrap_or_default()
        );
        checks.equal(&case, suite.client.send(&request.key(INFERENCE)).status, 404);
    }
    let continued = with(ask("plain", "yours"), "previous_response_id", made["id"].clone());
    let answer = suite.client.send(&Request::post(PATH, continued.to_string()).key(INFERENCE));
    checks.equal(
        "another caller's key: error code of a continuation",
        answer.error().1,
        "previous_response_not_found",
    );
    let conversation = conversation(suite);
    let answer = suite.client.send(
        &Request::post(PATH, with(ask("plain", "yours"), "conversation", json!(conversation)).to_string())
            .key(INFERENCE),
    );
    checks.equal("another caller's key: status of a response in the conversation", answer.status, 404);

    let marker = format!("once {}", id(&made));
    let once =
        |body: &Value| suite.ask(Request::post(PATH, body.to_string()).with("idempotency-key", &marker));
    let (one, two) = (once(&ask("plain", &marker)), once(&ask("plain", &marker)));
    checks.equal("idempotency key: the same response", two.json(), one.json());
    checks.equal(
        "idempotency key: number of calls of the provider",
        suite.upstream.records().mentioning(&marker).len(),
        1,
    );
    checks.equal(
        "idempotency key: error code of another request",
        once(&ask("plain", "other")).error().1,
        "idempotency_key_reused",
    );
    let streamed = once(&with(ask("plain", &marker), "stream", json!(true)));
    checks.equal(
        "idempotency key: text of a stream that attaches to the response",
        delta_text(&events(&streamed)),
        WORDS.concat(),
    );
    // The same requests again while the turn is open.
    let marker = format!("at once {}", id(&made));
    let body = ask("steady", &marker).to_string();
    let request = Request::post(PATH, body).key(FULL).with("idempotency-key", &marker);
    let answers: Vec<Answer> = thread::scope(|scope| {
        let requests: Vec<_> = (0..3).map(|_| scope.spawn(|| suite.client.send(&request))).collect();
        requests.into_iter().map(|answer| answer.join().unwrap_or_default()).collect()
    });
    let ids: Vec<String> = answers.iter().map(|answer| id(&answer.json())).collect();
    checks.that(
        "idempotency key: ids of three requests at once",
        ids.iter().all(|id| *id == ids[0] && !id.is_empty()),
        "one id",
        &ids,
    );
    let calls = suite.upstream.records().mentioning(&marker);
    let bodies: Vec<_> = calls.iter().map(|call| String::from_utf8_lossy(&call.body)).collect();
    checks.that(
        "idempotency key: calls of the provider for three requests at once",
        calls.len() == 1,
        "one call",
        bodies,
    );
}
