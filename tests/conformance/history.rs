//! Checks the history that is sent to each vendor: its own thoughts and those of others, calls, and cached prefixes.

use serde_json::{Value, json};

use crate::{
    client::Request,
    responses::{conversation, create},
    suite::{AGENTS, Suite},
    tools::{of_type, server},
};

pub(crate) fn run(suite: &Suite) {
    alternating_vendors(suite);
    within_a_turn(suite);
    approved_calls(suite);
    prefixes(suite);
}

/// A turn of a vendor's agent with thoughts and tools.
fn turn(suite: &Suite, conversation: &str, model: &str, text: &str) -> Value {
    let tools = [
        server("shop"),
        server("guarded"),
        json!({"type": "function", "name": "weather", "parameters": {"type": "object"}}),
    ];
    let body = json!({"model": model, "input": text, "tools": tools, "conversation": conversation,
                      "reasoning": {"effort": "low"}, "max_output_tokens": 5000});
    create(suite, &body).json()
}

/// The requests that contain `marker`: tag of the agent and body.
fn requests_with(suite: &Suite, marker: &str) -> Vec<(String, Value)> {
    let records = suite.upstream.records().mentioning(marker);
    let bodies = records.iter().filter_map(|record| serde_json::from_slice::<Value>(&record.body).ok());
    bodies
        .map(|body| {
            let model = body["model"].as_str().unwrap_or_default();
            (model.strip_prefix("agent:").unwrap_or(model).to_owned(), body)
        })
        .collect()
}

/// Checks that thoughts are sent again to the agent that wrote them, and to no other. All requests contain `marker`.
fn check_thoughts(suite: &Suite, case: &str, marker: &str) {
    let mut returned_to = Vec::new();
    for (agent, body) in requests_with(suite, marker) {
        // The user's script has the same text, so only the agents' parts are read.
        let mut messages = body["messages"].as_array().cloned().unwrap_or_default();
        messages.extend(body["input"].as_array().cloned().unwrap_or_default());
        messages.retain(|message| message["role"] == "assistant" || message["type"] == "reasoning");
        let history = json!(messages).to_string();
        for owner in AGENTS {
            if history.contains(&format!("thought of {owner}.")) {
                suite.checks.that(
                    &format!("{case}: agent that got thoughts of {owner}"),
                    agent == owner,
                    "the agent of the thoughts",
                    &agent,
                );
                returned_to.push(agent.clone());
            }
        }
    }
    // OpenAI does not show its thoughts, so they are sent to no agent.
    for owner in AGENTS.into_iter().filter(|owner| *owner != "openai") {
        suite.checks.that(
            &format!("{case}: {owner} got its thoughts again"),
            returned_to.iter().any(|agent| agent == owner),
            "at least one request",
            &returned_to,
        );
    }
}

/// The script of a turn that only this agent answers: a thought, a call, another thought.
fn thinking_script(agent: &str) -> String {
    format!(
        "only {agent}\nthink thought of {agent}.\ncall shop__lookup {{\"city\": \"{agent}\"}}\nthen\nthink thought of {agent}."
    )
}

/// Each turn of a conversation is answered by another vendor.
fn alternating_vendors(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = conversation(suite);
    for round in 0..3 {
        for agent in AGENTS {
            let case = format!("alternating vendors, round {round}, {agent}");
            let made =
                turn(suite, &conversation, "agents", &format!("{conversation}\n{}", thinking_script(agent)));
            checks.equal(
                &format!("{case}: status and error"),
                (&made["status"], &made["error"]),
                (&json!("completed"), &Value::Null),
            );
            checks.equal(&format!("{case}: number of calls"), of_type(&made, "mcp_call").len(), 1);
            // A call for the client stays open. Its result comes in the second round, and in the others never.
            let open = turn(
                suite,
                &conversation,
                "agents",
                &format!("only {agent}\nthink thought of {agent}.\ncall weather"),
            );
            let call = of_type(&open, "function_call").first().map(|call| call["call_id"].clone());
            checks.that(&format!("{case}: a call for the client"), call.is_some(), "a call", &open);
            if round == 1 {
                let result = json!([{"type": "function_call_output", "call_id": call, "output": "rain"}]);
                let items = json!({"items": result});
                let path = format!("/v1/conversations/{conversation}/items");
                checks.equal(
                    &format!("{case}: status of adding its result"),
                    suite.ask(Request::post(path, items.to_string())).status,
                    200,
                );
            }
        }
    }
    check_no_refusal(suite, "alternating vendors", &conversation);
    check_thoughts(suite, "alternating vendors", &conversation);
}

/// Checks that no agent answered 400: vendors would have accepted every history.
fn check_no_refusal(suite: &Suite, case: &str, marker: &str) {
    let records = suite.upstream.records().mentioning(marker);
    let refused: Vec<String> = records.into_iter().filter_map(|record| record.refusal).collect();
    suite.checks.equal(&format!("{case}: histories that an agent refused"), refused, Vec::<String>::new());
}

/// The steps of one turn are answered by different vendors.
fn within_a_turn(suite: &Suite) {
    let conversation = conversation(suite);
    for agent in AGENTS {
        let others: Vec<String> = AGENTS
            .into_iter()
            .filter(|other| *other != agent)
            .map(|other| format!("then\nonly {other}\nthink thought of {other}.\ncall shop__lookup {{\"city\": \"{other}\"}}"))
            .collect();
        let text = format!(
            "{conversation}\n{}\n{}\nthen\nonly {agent}\ncall shop__lookup {{\"city\": \"end\"}}",
            thinking_script(agent).split("\nthen").next().unwrap_or_default(),
            others.join("\n")
        );
        let made = turn(suite, &conversation, "agents", &text);
        suite.checks.equal(
            &format!("one turn of all vendors, first {agent}: status, error and number of calls"),
            (&made["status"], &made["error"], of_type(&made, "mcp_call").len()),
            (&json!("completed"), &Value::Null, AGENTS.len() + 1),
        );
    }
    check_no_refusal(suite, "one turn of all vendors", &conversation);
}

/// An approval comes in a later turn than the thoughts and the call, with text of the user or without.
fn approved_calls(suite: &Suite) {
    for agent in AGENTS {
        for with_text in [false, true] {
            let conversation = conversation(suite);
            let model = format!("agent-{agent}");
            let text =
                format!("{conversation}\nthink hm\ncall guarded__deploy {{\"target\": \"{conversation}\"}}");
            let asking = turn(suite, &conversation, &model, &text);
            let request = of_type(&asking, "mcp_approval_request").first().map(|item| item["id"].clone());
            let mut input = vec![
                json!({"type": "mcp_approval_response", "approval_request_id": request, "approve": true}),
            ];
            if with_text {
                input.push(json!({"role": "user", "content": format!("{conversation}\nthink hm\ncall shop__lookup {{\"city\": \"x\"}}")}));
            }
            let body = json!({"model": model, "input": input, "tools": asking["tools"], "conversation": conversation,
                              "reasoning": {"effort": "low"}, "max_output_tokens": 5000});
            let approved = create(suite, &body).json();
            let case = format!("approved call, {agent}, with text {with_text}");
            suite.checks.equal(
                &format!("{case}: status, error and number of calls"),
                (&approved["status"], &approved["error"], of_type(&approved, "mcp_call").len()),
                (&json!("completed"), &Value::Null, 1 + usize::from(with_text)),
            );
            let after = turn(suite, &conversation, &model, &format!("{conversation} after it"));
            suite.checks.equal(&format!("{case}: status of the next turn"), &after["status"], "completed");
            check_no_refusal(suite, &case, &conversation);
        }
    }
}

/// Each request of a conversation begins with the bytes of the one before, so that the vendor's cache can be used.
fn prefixes(suite: &Suite) {
    for agent in AGENTS {
        let conversation = conversation(suite);
        let lookup = |city: &str| format!("call shop__lookup {{\"city\": \"{city}\"}}");
        let texts = [
            // A round of two calls and two rounds of one, without text between them.
            format!(
                "{}\n{}\nthen\n{}\nthen\nthink hm\n{}",
                lookup("a"),
                lookup("b"),
                lookup("c"),
                lookup("d")
            ),
            "How are you?".into(),
            format!("think so\n{}", lookup("e")),
            "And now?".into(),
        ];
        for text in texts {
            turn(suite, &conversation, &format!("agent-{agent}"), &format!("{conversation}\n{text}"));
        }
        let bodies = requests_with(suite, &conversation);
        suite.checks.equal(&format!("prefixes, {agent}: number of requests"), bodies.len(), 8);
        for (number, pair) in bodies.windows(2).enumerate() {
            let [(_, before), (_, after)] = pair else { continue };
            for field in ["system", "instructions", "tools"] {
                suite.checks.equal(
                    &format!("prefixes, {agent}: {field} is unchanged"),
                    &before[field],
                    &after[field],
                );
            }
            let list = if before["input"].is_array() { "input" } else { "messages" };
            let items = |body: &Value| body[list].as_array().cloned().unwrap_or_default();
            let (before, after) = (items(before), items(after));
            let prefix = after.get(..before.len()).map(|items| json!(items).to_string());
            suite.checks.equal(
                &format!("prefixes, {agent}: beginning of request {}", number + 1),
                prefix,
                Some(json!(before).to_string()),
            );
        }
        check_no_refusal(suite, &format!("prefixes, {agent}"), &conversation);
    }
}
