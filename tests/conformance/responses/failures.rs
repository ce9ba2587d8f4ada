//! Checks responses that fail because of their candidates, and requests that are refused.

use outlive_tests::upstream::WORDS;
use serde_json::{Value, json};

use super::{ask, create, events, get, id, numbers, text, with};
use crate::suite::Suite;

/// Failures of the only candidate, as JSON and as a stream; and a failure with a second candidate.
pub(super) fn failures(suite: &Suite) {
    let checks = &suite.checks;
    for (model, status, code) in [
        ("only-limited-streamed", 429, "rate_limit_exceeded"),
        // Not the model of other topics: once its breaker is open, the error is another one.
        ("only-broken-stored", 502, "upstream_error"),
        ("only-caller-error-streamed", 400, "decimal_above_max_value"),
        ("only-halfway-streamed", 502, "stream_interrupted"),
    ] {
        let answer = create(suite, &ask(model, "Well?"));
        let (actual, actual_code, _) = answer.error();
        checks.equal(
            &format!("{model}: status and error code"),
            (actual, actual_code.as_str()),
            (status, code),
        );
        let stream = events(&create(suite, &with(ask(model, "Well?"), "stream", json!(true))));
        let last = stream.last().cloned().unwrap_or_default();
        checks.equal(
            &format!("{model}: type of the last event"),
            last["type"].as_str(),
            Some("response.failed"),
        );
        checks.equal(
            &format!("{model}: sequence numbers"),
            numbers(&stream),
            (0..stream.len() as u64).collect::<Vec<_>>(),
        );
        let retrieved = get(suite, &id(&last["response"])).json();
        checks.equal(&format!("{model}: retrieved response"), &retrieved, &last["response"]);
        checks.that(
            &format!("{model}: message of the response's error"),
            retrieved["error"]["message"].is_string(),
            "a message",
            &retrieved["error"],
        );
    }
    let via = create(suite, &ask("via-broken-streamed", "Well?"));
    checks.equal(
        "via-broken-streamed: provider, attempts and text after the failover",
        (via.header("x-outlive-provider"), via.header("x-outlive-attempts"), text(&via.json())),
        ("good", "2", WORDS.concat()),
    );
}

/// Requests that are refused before a turn is opened, each with the field that the error names.
pub(super) fn refused_requests(suite: &Suite) {
    let gone = format!("resp_{}", "0".repeat(64));
    let no_conversation = format!("conv_{}", "0".repeat(32));
    let with_field = |name: &str, value: Value| with(ask("plain", "x"), name, value);
    let cases = [
        ("an unknown model", with_field("model", json!("nothing")), 404, "model_not_found", Some("model")),
        ("a number as model", with_field("model", json!(7)), 400, "invalid_value", Some("model")),
        ("a number as input", with_field("input", json!(7)), 400, "invalid_value", Some("input")),
        ("no input", json!({"model": "plain"}), 400, "missing_required_parameter", Some("input")),
        ("a number as an item", with_field("input", json!([7])), 400, "invalid_value", Some("input[0]")),
        (
            "an item of an unknown type",
            with_field("input", json!([{"type": "dream"}])),
            400,
            "invalid_value",
            Some("input[0].type"),
        ),
        (
            "an unknown response",
            with_field("previous_response_id", json!(gone)),
            400,
            "previous_response_not_found",
            Some("previous_response_id"),
        ),
        (
            "an id that is no response",
            with_field("previous_response_id", json!("x")),
            400,
            "previous_response_not_found",
            Some("previous_response_id"),
        ),
        (
            "an unknown conversation",
            with_field("conversation", json!(no_conversation)),
            404,
            "conversation_not_found",
            Some("conversation_id"),
        ),
        (
            "a number as conversation",
            with_field("conversation", json!(7)),
            400,
            "invalid_value",
            Some("conversation"),
        ),
        (
            "both a conversation and a previous response",
            with(with_field("conversation", json!(no_conversation)), "previous_response_id", json!(gone)),
            400,
            "invalid_value",
            Some("previous_response_id"),
        ),
        ("a string as store", with_field("store", json!("yes")), 400, "invalid_value", Some("store")),
        (
            "background without store",
            with(with_field("background", json!(true)), "store", json!(false)),
            400,
            "invalid_value",
            Some("background"),
        ),
        (
            "an unknown truncation",
            with_field("truncation", json!("some")),
            400,
            "invalid_value",
            Some("truncation"),
        ),
        (
            "a number in metadata",
            with_field("metadata", json!({"a": 1})),
            400,
            "invalid_type",
            Some("metadata"),
        ),
        (
            "a string as max_output_tokens",
            with_field("max_output_tokens", json!("x")),
            400,
            "invalid_type",
            Some("max_output_tokens"),
        ),
        (
            "a stored prompt",
            with_field("prompt", json!({"id": "pmpt_1"})),
            400,
            "invalid_value",
            Some("prompt"),
        ),
    ];
    for (case, body, status, code, param) in cases {
        let expected = (status, code.to_owned(), param.map(str::to_owned));
        suite.checks.equal(&format!("refused request: {case}"), create(suite, &body).error(), expected);
    }
    for path in ["resp_x", gone.as_str(), "x"] {
        suite.checks.equal(
            &format!("error code for the unknown id {path}"),
            get(suite, path).error().1,
            "response_not_found",
        );
    }
}
