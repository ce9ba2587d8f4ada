//! Turns with tools whose stream is taken up again, or whose node is killed.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{of_type, output, script, server, unique, why};
use crate::{
    responses::{create, events, get, id, numbers, wait_until_ended, with},
    suite::Suite,
};

/// A stream can be taken up at each event.
pub(super) fn streams(suite: &Suite) {
    let checks = &suite.checks;
    let text_of = "think hm\ncall shop__lookup {\"city\": \"Ulm\"}\ncall shop__fail\nthen\ncall guarded__lookup {\"city\": \"Rom\"}\nthen\n\
                   call guarded__deploy {\"target\": \"streamed\"}";
    for model in ["agent", "agent-openai", "agent-anthropic", "agent-deepseek"] {
        let body = with(script(text_of, &[server("shop"), server("guarded")]), "model", json!(model));
        let body = with(with(body, "reasoning", json!({"effort": "low"})), "stream", json!(true));
        let seen = events(&create(suite, &body));
        checks.equal(
            &format!("{model}, numbers"),
            numbers(&seen),
            (0..seen.len() as u64).collect::<Vec<_>>(),
        );
        let kinds: Vec<&str> = seen.iter().filter_map(|event| event["type"].as_str()).collect();
        for (kind, count) in [
            ("response.mcp_list_tools.in_progress", 2),
            ("response.mcp_list_tools.completed", 2),
            ("response.mcp_call.in_progress", 3),
            ("response.mcp_call_arguments.done", 3),
            ("response.mcp_call.completed", 2),
            ("response.mcp_call.failed", 1),
            ("response.completed", 1),
        ] {
            checks.equal(
                &format!("{model}, {kind}"),
                kinds.iter().filter(|other| **other == kind).count(),
                count,
            );
        }
        let last = seen.last().map(|event| event["response"].clone()).unwrap_or_default();
        checks.equal(&format!("{model}, approval"), of_type(&last, "mcp_approval_request").len(), 1);
        checks.equal(&format!("{model}, retrieved"), get(suite, &id(&last)).json(), last.clone());
        let done: Vec<&Value> = seen
            .iter()
            .filter(|event| event["type"] == "response.output_item.done")
            .map(|event| &event["item"])
            .collect();
        let mut of_events: Vec<String> = done.iter().map(|item| item.to_string()).collect();
        let whole = last["output"].as_array().into_iter().flatten().map(Value::to_string);
        let mut of_whole: Vec<String> = whole.collect();
        of_events.sort();
        of_whole.sort();
        checks.equal(&format!("{model}, the whole"), of_events, of_whole);
        for after in 0..seen.len() {
            let rest = events(&get(suite, &format!("{}?stream=true&starting_after={after}", id(&last))));
            checks.equal(&format!("{model}, after {after}"), &rest, &seen[after + 1..].to_vec());
        }
    }
}

/// Longer than it takes to kill a node.
const LONG: u64 = 6;

/// `kill -9` while a tool runs.
pub(super) fn killed(suite: &mut Suite) {
    let order = unique(suite, "killed");
    let labels = ["once", "shop", "again"];
    let turns = labels.map(|label| {
        let text = format!("call {label}__ship {{\"order\": \"{order}-{label}\", \"seconds\": {LONG}}}");
        create(suite, &with(script(&text, &[server(label)]), "background", json!(true))).json()
    });
    let begun = |suite: &Suite, label: &str| suite.mcp.shop.effects(&format!("{order}-{label}"));
    let start = Instant::now();
    while !labels.iter().all(|label| begun(suite, label).len() == 1)
        && start.elapsed() < Duration::from_secs(LONG)
    {
        thread::sleep(Duration::from_millis(20));
    }
    let counts = labels.map(|label| begun(suite, label).len());
    suite.checks.equal("before the kill, each is called", counts, [1, 1, 1]);
    let crashed = suite.node.crash();
    suite.checks.that("after the kill, it starts again", crashed.is_ok(), "a node that serves", &crashed);
    for (label, turn) in labels.iter().zip(&turns) {
        let done = wait_until_ended(suite, &id(turn));
        let call = of_type(&done, "mcp_call").first().map(|call| (*call).clone()).unwrap_or_default();
        let (calls, first) = {
            let all = begun(suite, label);
            (all.len(), all.iter().filter(|effect| effect["first"] == true).count())
        };
        suite.checks.equal(&format!("after the kill, {label}, the turn"), &done["status"], "completed");
        if *label == "once" {
            suite.checks.that(
                "after the kill, what may have had an effect",
                why(&call).contains("not known"),
                "an end that is not known",
                &call,
            );
            suite.checks.equal("after the kill, it is not called again", calls, 1);
        } else {
            let shipped = format!("shipped {order}-{label}");
            suite.checks.equal(&format!("after the kill, {label}"), output(&call), shipped);
            suite.checks.equal(
                &format!("after the kill, {label}, calls and effects"),
                (calls, first),
                (2, 1),
            );
        }
        let seen = events(&get(suite, &format!("{}?stream=true", id(turn))));
        let last = seen.last().map(|event| event["response"].clone()).unwrap_or_default();
        suite.checks.equal(&format!("after the kill, {label}, its stream"), last, done);
    }
}
