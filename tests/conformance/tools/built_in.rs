//! Checks the agent's built-in functions: notes and schedules.

use serde_json::{Value, json};

use super::{error_text, of_type, outputs, run_agent, script, server, unique};
use crate::{
    client::Request,
    responses::{PATH, conversation, create, with},
    suite::{INFERENCE, Suite},
};

/// Notes outlive the session and belong to the caller.
pub(super) fn notes(suite: &Suite) {
    let checks = &suite.checks;
    let word = unique(suite, "Muesli");
    let tools = [server("outlive")];
    let remembered =
        run_agent(suite, &format!("call outlive__remember {{\"text\": \"the cat is {word}\"}}"), &tools);
    let note: Value =
        outputs(&remembered).first().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    checks.that("remember: id of the note", note["id"].is_string(), "a note's id", &remembered["output"]);
    let recall = format!("call outlive__recall {{\"query\": \"cat {}\"}}", word.to_lowercase());
    let found = |suite: &Suite| outputs(&run_agent(suite, &recall, &tools)).concat();
    checks.that(
        "recall: the note",
        found(suite).contains(&format!("the cat is {word}")),
        "the note",
        found(suite),
    );
    let of_another_key = Request::post(PATH, script(&recall, &tools).to_string()).key(INFERENCE);
    let of_another_key = suite.client.send(&of_another_key).json();
    checks.equal("recall with another caller's key: outputs", outputs(&of_another_key), ["{\"notes\":[]}"]);
    let forget = format!("call outlive__forget {{\"id\": {}}}", note["id"]);
    let of_another_key = Request::post(PATH, script(&forget, &tools).to_string()).key(INFERENCE);
    let of_another_key = suite.client.send(&of_another_key).json();
    checks.that(
        "forget with another caller's key: error of the call",
        of_type(&of_another_key, "mcp_call").iter().all(|call| !error_text(call).is_empty()),
        "an error",
        &of_another_key["output"],
    );
    checks.that(
        "forget with another caller's key: the note afterwards",
        found(suite).contains(&word),
        "the note",
        found(suite),
    );
    run_agent(suite, &forget, &tools);
    checks.equal("forget: recall afterwards", found(suite), "{\"notes\":[]}");
}

/// A schedule of the agent belongs to the conversation in which it was created.
pub(super) fn schedules(suite: &Suite) {
    let checks = &suite.checks;
    let (conversation, name, tools) = (conversation(suite), unique(suite, "tea"), [server("outlive")]);
    let run_agent =
        |text: &str| create(suite, &with(script(text, &tools), "conversation", json!(conversation))).json();
    let call = |function: &str, arguments: Value| run_agent(&format!("call outlive__{function} {arguments}"));
    let terms =
        json!({"name": name, "prompt": "Tea?", "at": "2099-01-01T07:00:00", "time_zone": "Europe/Berlin"});
    let made = call("schedule_create", terms);
    let made: Value =
        outputs(&made).first().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let path = format!("/v1/schedules/{}", made["id"].as_str().unwrap_or_default());
    let shown = suite.ask(Request::get(path.clone())).json();
    checks.equal(
        "schedule_create: name, source, conversation and next fire",
        (&shown["name"], &shown["source"], &shown["conversation"], &shown["next_fire_at"]),
        (&json!(name), &json!("agent"), &json!(conversation), &json!(4_070_930_400_u64)),
    );
    let listed = call("schedule_list", json!({}));
    let found = outputs(&listed).concat().contains(&name);
    checks.that("schedule_list: name of the schedule", found, "its name", &listed["output"]);
    call("schedule_pause", json!({"id": made["id"], "paused": true}));
    checks.equal(
        "schedule_pause: paused",
        &suite.ask(Request::get(path.clone())).json()["paused"],
        &json!(true),
    );
    // The other caller tries before the schedule is deleted, so that the error is about the caller.
    let foreign = format!("call outlive__schedule_delete {{\"id\": {}}}", made["id"]);
    let foreign = Request::post(PATH, script(&foreign, &tools).to_string()).key(INFERENCE);
    let foreign = suite.client.send(&foreign).json();
    let refused =
        of_type(&foreign, "mcp_call").iter().all(|call| error_text(call).contains("no such schedule"));
    checks.that(
        "schedule_delete with another caller's key: error of the call",
        refused,
        "an error",
        &foreign["output"],
    );
    call("schedule_delete", json!({"id": made["id"]}));
    checks.equal(
        "schedule_delete: status of the schedule afterwards",
        suite.ask(Request::get(path)).status,
        404,
    );
    let bad = call("schedule_create", json!({"name": "x", "prompt": "x", "cron": "0 0 30 2 *"}));
    let refused = of_type(&bad, "mcp_call").iter().all(|call| error_text(call).contains("cron"));
    checks.that(
        "schedule_create that never fires: error of the call",
        refused,
        "an error that names the field",
        &bad["output"],
    );
}
