//! The agent's own functions: notes, and schedules.

use serde_json::{Value, json};

use super::{does, of_type, outputs, script, server, unique, why};
use crate::{
    client::Request,
    responses::{PATH, conversation, create, with},
    suite::{INFERENCE, Suite},
};

/// What is built in: notes outlive the session, and belong to the caller.
pub(super) fn notes(suite: &Suite) {
    let checks = &suite.checks;
    let word = unique(suite, "Muesli");
    let tools = [server("outlive")];
    let kept = does(suite, &format!("call outlive__remember {{\"text\": \"the cat is {word}\"}}"), &tools);
    let note: Value =
        outputs(&kept).first().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    checks.that("remember", note["id"].is_string(), "a note's id", &kept["output"]);
    let recall = format!("call outlive__recall {{\"query\": \"cat {}\"}}", word.to_lowercase());
    let found = |suite: &Suite| outputs(&does(suite, &recall, &tools)).concat();
    checks.that("recall", found(suite).contains(&format!("the cat is {word}")), "the note", found(suite));
    let of_other = Request::post(PATH, script(&recall, &tools).to_string()).key(INFERENCE);
    let of_other = suite.client.send(&of_other).json();
    checks.equal("recall, another key", outputs(&of_other), ["{\"notes\":[]}"]);
    let forget = format!("call outlive__forget {{\"id\": {}}}", note["id"]);
    let of_other = Request::post(PATH, script(&forget, &tools).to_string()).key(INFERENCE);
    let of_other = suite.client.send(&of_other).json();
    checks.that(
        "forget, another key",
        of_type(&of_other, "mcp_call").iter().all(|call| !why(call).is_empty()),
        "an error",
        &of_other["output"],
    );
    checks.that("forget, another key, still there", found(suite).contains(&word), "the note", found(suite));
    does(suite, &forget, &tools);
    checks.equal("forget", found(suite), "{\"notes\":[]}");
}

/// What the agent schedules for itself runs in the conversation in which it did so.
pub(super) fn schedules(suite: &Suite) {
    let checks = &suite.checks;
    let (conversation, name, tools) = (conversation(suite), unique(suite, "tea"), [server("outlive")]);
    let does =
        |text: &str| create(suite, &with(script(text, &tools), "conversation", json!(conversation))).json();
    let call = |function: &str, arguments: Value| does(&format!("call outlive__{function} {arguments}"));
    let terms =
        json!({"name": name, "prompt": "Tea?", "at": "2099-01-01T07:00:00", "time_zone": "Europe/Berlin"});
    let made = call("schedule_create", terms);
    let made: Value =
        outputs(&made).first().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let path = format!("/v1/schedules/{}", made["id"].as_str().unwrap_or_default());
    let shown = suite.ask(Request::get(path.clone())).json();
    checks.equal(
        "a schedule of the agent's",
        (&shown["name"], &shown["source"], &shown["conversation"], &shown["next_fire_at"]),
        (&json!(name), &json!("agent"), &json!(conversation), &json!(4_070_930_400_u64)),
    );
    let listed = call("schedule_list", json!({}));
    let found = outputs(&listed).concat().contains(&name);
    checks.that("it can be listed", found, "its name", &listed["output"]);
    call("schedule_pause", json!({"id": made["id"], "paused": true}));
    checks.equal("it can rest", &suite.ask(Request::get(path.clone())).json()["paused"], &json!(true));
    let foreign = format!("call outlive__schedule_delete {{\"id\": {}}}", made["id"]);
    let foreign = Request::post(PATH, script(&foreign, &tools).to_string()).key(INFERENCE);
    let foreign = suite.client.send(&foreign).json();
    let refused = of_type(&foreign, "mcp_call").iter().all(|call| why(call).contains("no such schedule"));
    checks.that("another key can't remove it", refused, "an error", &foreign["output"]);
    call("schedule_delete", json!({"id": made["id"]}));
    checks.equal("it can be removed", suite.ask(Request::get(path)).status, 404);
    let bad = call("schedule_create", json!({"name": "x", "prompt": "x", "cron": "0 0 30 2 *"}));
    let refused = of_type(&bad, "mcp_call").iter().all(|call| why(call).contains("cron"));
    checks.that("one that never fires", refused, "an error that names the field", &bad["output"]);
}
