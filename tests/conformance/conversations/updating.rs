//! Checks updates of a conversation's metadata, and requests for single items.

use serde_json::{Value, json};

use crate::{
    client::{Answer, Request},
    suite::{FULL, INFERENCE, Suite},
};

pub(crate) fn run(suite: &Suite) {
    let checks = &suite.checks;
    let item = json!({"role": "user", "content": "first"});
    let made = suite.ask(Request::post(
        "/v1/conversations",
        json!({"metadata": {"a": "b"}, "items": [item]}).to_string(),
    ));
    let path = format!("/v1/conversations/{}", made.json()["id"].as_str().unwrap_or_default());
    // Each update has a key of its own, unless the check is about a used one.
    let update = |key: &str, body: &Value, caller: &str| -> Answer {
        let request = Request::post(path.as_str(), body.to_string()).with("idempotency-key", key);
        suite.client.send(&request.key(caller))
    };
    let retrieve = || suite.ask(Request::get(path.as_str())).json();

    let mut expected = made.json();
    expected["metadata"] = json!({"c": "é🙂"});
    let changed = json!({"metadata": {"c": "é🙂"}});
    let answer = update("update-1", &changed, FULL);
    checks.equal("update: status and body", (answer.status, answer.json()), (200, expected.clone()));
    checks.equal("update: the conversation afterwards", retrieve(), expected.clone());
    let again = update("update-1", &changed, FULL);
    checks.equal(
        "update with a used key: status and body",
        (again.status, again.json()),
        (200, expected.clone()),
    );
    let other = update("update-1", &json!({"metadata": {}}), FULL).error();
    checks.equal(
        "another update with a used key: error",
        (other.0, other.1),
        (409, "idempotency_key_reused".to_owned()),
    );
    let of_another_key = update("update-2", &json!({"metadata": {"x": "y"}}), INFERENCE).error();
    checks.equal(
        "update with another caller's key: error",
        (of_another_key.0, of_another_key.1),
        (404, "conversation_not_found".to_owned()),
    );
    let nothing = update("update-3", &json!({}), FULL);
    let missing = (400, "missing_required_parameter".to_owned(), Some("metadata".to_owned()));
    checks.equal("update without metadata: error", nothing.error(), missing);
    let with_number = update("update-4", &json!({"metadata": {"n": 1}}), FULL);
    checks.equal(
        "update with a number as value: error",
        with_number.error(),
        (400, "invalid_type".into(), Some("metadata".into())),
    );
    checks.equal("refused updates: the conversation afterwards", retrieve(), expected);

    let listed = suite.ask(Request::get(format!("{path}/items"))).json();
    let first = &listed["data"][0];
    let id = first["id"].as_str().unwrap_or_default();
    let one = suite.ask(Request::get(format!("{path}/items/{id}")));
    checks.equal("single item: status and body", (one.status, &one.json()), (200, first));
    let none = suite.ask(Request::get(format!("{path}/items/msg_nope"))).error();
    checks.equal(
        "single item: error for an unknown id",
        none,
        (404, "item_not_found".into(), Some("item_id".into())),
    );
    let request = Request::get(format!("{path}/items/{id}")).key(INFERENCE);
    checks.equal("single item with another caller's key: status", suite.client.send(&request).status, 404);
}
