//! History: what vendors are told again of what they and others have said.

use serde_json::{Value, json};

use crate::{
    client::Request,
    responses::{conversation, create},
    suite::{AGENTS, Suite},
    tools::{of_type, server},
};

pub(crate) fn run(suite: &Suite) {
    taking_turns(suite);
    within_a_turn(suite);
    approved(suite);
    prefixes(suite);
}

/// A turn of one of the vendors' agents, who may think.
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

/// The bodies that were sent with this marker, and to which agent.
fn sent(suite: &Suite, marker: &str) -> Vec<(String, Value)> {
    let records = suite.upstream.records().mentioning(marker);
    let bodies = records.iter().filter_map(|record| serde_json::from_slice::<Value>(&record.body).ok());
    bodies
        .map(|body| {
            let model = body["model"].as_str().unwrap_or_default();
            (model.strip_prefix("agent:").unwrap_or(model).to_owned(), body)
        })
        .collect()
}

/// Thoughts come back to whom they are of, and to nobody else; `marker` is in all that is looked at.
fn thoughts_are_of_their_own(suite: &Suite, case: &str, marker: &str) {
    let mut back = Vec::new();
    for (agent, body) in sent(suite, marker) {
        // The user's own text has the words as well.
        let mut messages = body["messages"].as_array().cloned().unwrap_or_default();
        messages.extend(body["input"].as_array().cloned().unwrap_or_default());
        messages.retain(|message| message["role"] == "assistant" || message["type"] == "reasoning");
        let told = json!(messages).to_string();
        for of in AGENTS {
            if told.contains(&format!("thought of {of}.")) {
                suite.checks.that(
                    &format!("{case}, thoughts of {of}"),
                    agent == of,
                    "only to its own",
                    &agent,
                );
                back.push(agent.clone());
            }
        }
    }
    // OpenAI's are not shown by their vendor, so nobody gets them.
    for of in AGENTS.into_iter().filter(|of| *of != "openai") {
        suite.checks.that(
            &format!("{case}, thoughts of {of}, again"),
            back.iter().any(|agent| agent == of),
            "some",
            &back,
        );
    }
}

fn think(agent: &str) -> String {
    format!(
        "only {agent}\nthink thought of {agent}.\ncall shop__lookup {{\"city\": \"{agent}\"}}\nthen\nthink thought of {agent}."
    )
}

/// The turns of one conversation are answered by one vendor after the other.
fn taking_turns(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = conversation(suite);
    for round in 0..3 {
        for agent in AGENTS {
            let case = format!("round {round}, {agent}");
            let made = turn(suite, &conversation, "agents", &format!("{conversation}\n{}", think(agent)));
            checks.equal(&case, (&made["status"], &made["error"]), (&json!("completed"), &Value::Null));
            checks.equal(&format!("{case}, calls"), of_type(&made, "mcp_call").len(), 1);
            // A call of the client's stays open, and is answered by others later, if at all.
            let open = turn(
                suite,
                &conversation,
                "agents",
                &format!("only {agent}\nthink thought of {agent}.\ncall weather"),
            );
            let call = of_type(&open, "function_call").first().map(|call| call["call_id"].clone());
            checks.that(&format!("{case}, a client's call"), call.is_some(), "a call", &open);
            if round == 1 {
                let result = json!([{"type": "function_call_output", "call_id": call, "output": "rain"}]);
                let items = json!({"items": result});
                let path = format!("/v1/conversations/{conversation}/items");
                checks.equal(
                    &format!("{case}, a result"),
                    suite.ask(Request::post(path, items.to_string())).status,
                    200,
                );
            }
        }
    }
    refused_nowhere(suite, "taking turns", &conversation);
    thoughts_are_of_their_own(suite, "taking turns", &conversation);
}

/// No agent answers 400: whatever it was sent was what vendors take. Those who refuse are asked no more than once.
fn refused_nowhere(suite: &Suite, case: &str, marker: &str) {
    let records = suite.upstream.records().mentioning(marker);
    let refused: Vec<String> = records.into_iter().filter_map(|record| record.refusal).collect();
    suite.checks.equal(&format!("{case}, refusals"), refused, Vec::<String>::new());
}

/// One turn goes from vendor to vendor.
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
            think(agent).split("\nthen").next().unwrap_or_default(),
            others.join("\n")
        );
        let made = turn(suite, &conversation, "agents", &text);
        suite.checks.equal(
            &format!("within a turn, from {agent}"),
            (&made["status"], &made["error"], of_type(&made, "mcp_call").len()),
            (&json!("completed"), &Value::Null, AGENTS.len() + 1),
        );
    }
    refused_nowhere(suite, "within a turn", &conversation);
}

/// An approval comes in another turn than the thoughts and the call, and with words or without.
fn approved(suite: &Suite) {
    for agent in AGENTS {
        for words in [false, true] {
            let conversation = conversation(suite);
            let model = format!("agent-{agent}");
            let text =
                format!("{conversation}\nthink hm\ncall guarded__deploy {{\"target\": \"{conversation}\"}}");
            let last_prompt = turn(suite, &conversation, &model, &text);
            let request =
                of_type(&last_prompt, "mcp_approval_request").first().map(|item| item["id"].clone());
            let mut input = vec![
                json!({"type": "mcp_approval_response", "approval_request_id": request, "approve": true}),
            ];
            if words {
                input.push(json!({"role": "user", "content": format!("{conversation}\nthink hm\ncall shop__lookup {{\"city\": \"x\"}}")}));
            }
            let body = json!({"model": model, "input": input, "tools": last_prompt["tools"], "conversation": conversation,
                              "reasoning": {"effort": "low"}, "max_output_tokens": 5000});
            let given = create(suite, &body).json();
            let case = format!("approved, {agent}, with words {words}");
            suite.checks.equal(
                &case,
                (&given["status"], &given["error"], of_type(&given, "mcp_call").len()),
                (&json!("completed"), &Value::Null, 1 + usize::from(words)),
            );
            let after = turn(suite, &conversation, &model, &format!("{conversation} after it"));
            suite.checks.equal(&format!("{case}, after it"), &after["status"], "completed");
            refused_nowhere(suite, &case, &conversation);
        }
    }
}

/// What a vendor has read, it reads again byte for byte, so that its cache knows it: request after request of a conversation
/// begins with the one before.
fn prefixes(suite: &Suite) {
    for agent in AGENTS {
        let conversation = conversation(suite);
        let look = |city: &str| format!("call shop__lookup {{\"city\": \"{city}\"}}");
        let texts = [
            // A round of two calls, and one of one, with nothing said between.
            format!("{}\n{}\nthen\n{}\nthen\nthink hm\n{}", look("a"), look("b"), look("c"), look("d")),
            "How are you?".into(),
            format!("think so\n{}", look("e")),
            "And now?".into(),
        ];
        for text in texts {
            turn(suite, &conversation, &format!("agent-{agent}"), &format!("{conversation}\n{text}"));
        }
        let bodies = sent(suite, &conversation);
        suite.checks.equal(&format!("prefixes, {agent}, requests"), bodies.len(), 8);
        for (number, pair) in bodies.windows(2).enumerate() {
            let [(_, before), (_, after)] = pair else { continue };
            for field in ["system", "instructions", "tools"] {
                suite.checks.equal(&format!("prefixes, {agent}, {field}"), &before[field], &after[field]);
            }
            let list = if before["input"].is_array() { "input" } else { "messages" };
            let items = |body: &Value| body[list].as_array().cloned().unwrap_or_default();
            let (before, after) = (items(before), items(after));
            let kept = after.get(..before.len()).map(|items| json!(items).to_string());
            suite.checks.equal(
                &format!("prefixes, {agent}, request {}", number + 1),
                kept,
                Some(json!(before).to_string()),
            );
        }
        refused_nowhere(suite, &format!("prefixes, {agent}"), &conversation);
    }
}
