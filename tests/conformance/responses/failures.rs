//! Responses that fail, and requests that are refused.

use outlive_tests::upstream::WORDS;
use serde_json::{Value, json};

use super::{ask, create, events, get, id, numbers, text, with};
use crate::suite::Suite;

pub(super) fn failures(suite: &Suite) {
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

pub(super) fn bad_input(suite: &Suite) {
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
