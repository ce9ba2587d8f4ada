//! Checks turns with tools whose stream is resumed, and turns whose node is killed during a call.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{error_text, of_type, output, script, server, unique};
use crate::{
    responses::{create, events, get, id, numbers, wait_until_ended, with},
    suite::Suite,
};

/// A stream can be resumed after each event.
pub(super) fn resumed_streams(suite: &Suite) {
    let checks = &suite.checks;
    let text_of = "think hm\ncall shop__lookup {\"city\": \"Ulm\"}\ncall shop__fail\nthen\ncall guarded__lookup {\"city\": \"Rom\"}\nthen\n\
                   call guarded__deploy {\"target\": \"streamed\"}";
    for model in ["agent", "agent-openai", "agent-anthropic", "agent-deepseek"] {
        let body = with(script(text_of, &[server("shop"), server("guarded")]), "model", json!(model));
        let body = with(with(body, "reasoning", json!({"effort": "low"})), "stream", json!(true));
        let stream = events(&create(suite, &body));
        checks.equal(
            &format!("{model}: sequence numbers"),
            numbers(&stream),
            (0..stream.len() as u64).collect::<Vec<_>>(),
        );
        let kinds: Vec<&str> = stream.iter().filter_map(|event| event["type"].as_str()).collect();
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
                &format!("{model}: number of events {kind}"),
                kinds.iter().filter(|other| **other == kind).count(),
                count,
            );
        }
        let last = stream.last().map(|event| event["response"].clone()).unwrap_or_default();
        checks.equal(
            &format!("{model}: number of approval requests"),
            of_type(&last, "mcp_approval_request").len(),
            1,
        );
        checks.equal(&format!("{model}: retrieved response"), get(suite, &id(&last)).json(), last.clone());
        // Items end in another order than they stand in the response, so both lists are sorted.
        let done: Vec<&Value> = stream
            .iter()
            .filter(|event| event["type"] == "response.output_item.done")
            .map(|event| &event["item"])
            .collect();
        let mut of_events: Vec<String> = done.iter().map(|item| item.to_string()).collect();
        let whole = last["output"].as_array().into_iter().flatten().map(Value::to_string);
        let mut of_whole: Vec<String> = whole.collect();
        of_events.sort();
        of_whole.sort();
        checks.equal(&format!("{model}: items of the events and of the last response"), of_events, of_whole);
        for after in 0..stream.len() {
            let rest = events(&get(suite, &format!("{}?stream=true&starting_after={after}", id(&last))));
            checks.equal(
                &format!("{model}: resumed after event {after}"),
                &rest,
                &stream[after + 1..].to_vec(),
            );
        }
    }
}

/// Duration of a call in seconds: longer than it takes to kill the node.
const CALL_S: u64 = 6;

/// `kill -9` during calls: keyed and pure ones are made again, an exclusive one is not.
pub(super) fn killed_node(suite: &mut Suite) {
    let order = unique(suite, "killed");
    let labels = ["once", "shop", "again"];
    let turns = labels.map(|label| {
        let text = format!("call {label}__ship {{\"order\": \"{order}-{label}\", \"seconds\": {CALL_S}}}");
        create(suite, &with(script(&text, &[server(label)]), "background", json!(true))).json()
    });
    let calls_of = |suite: &Suite, label: &str| suite.mcp.shop.effects(&format!("{order}-{label}"));
    let start = Instant::now();
    while !labels.iter().all(|label| calls_of(suite, label).len() == 1)
        && start.elapsed() < Duration::from_secs(CALL_S)
    {
        thread::sleep(Duration::from_millis(20));
    }
    let counts = labels.map(|label| calls_of(suite, label).len());
    suite.checks.equal("killed node: calls before the kill", counts, [1, 1, 1]);
    // All calls are in flight now: each has been made once, and none has an answer.
    let crashed = suite.node.crash();
    suite.checks.that("killed node: it starts again", crashed.is_ok(), "a node that serves", &crashed);
    for (label, turn) in labels.iter().zip(&turns) {
        let done = wait_until_ended(suite, &id(turn));
        let call = of_type(&done, "mcp_call").first().map(|call| (*call).clone()).unwrap_or_default();
        let (calls, first) = {
            let all = calls_of(suite, label);
            (all.len(), all.iter().filter(|effect| effect["first"] == true).count())
        };
        suite.checks.equal(
            &format!("killed node, {label}: status of the turn"),
            &done["status"],
            "completed",
        );
        if *label == "once" {
            suite.checks.that(
                "killed node, exclusive call: error of the call",
                error_text(&call).contains("not known"),
                "an error that says the outcome is not known",
                &call,
            );
            suite.checks.equal("killed node, exclusive call: number of calls", calls, 1);
        } else {
            let shipped = format!("shipped {order}-{label}");
            suite.checks.equal(&format!("killed node, {label}: output"), output(&call), shipped);
            suite.checks.equal(&format!("killed node, {label}: calls and effects"), (calls, first), (2, 1));
        }
        let stream = events(&get(suite, &format!("{}?stream=true", id(turn))));
        let last = stream.last().map(|event| event["response"].clone()).unwrap_or_default();
        suite.checks.equal(&format!("killed node, {label}: last event of the stream"), last, done);
    }
}
