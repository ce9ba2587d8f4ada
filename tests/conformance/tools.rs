//! Checks calls that the node makes: their items, their effects, their limits. The rest is below `tools/`.

mod approvals;
mod built_in;
mod durability;
mod servers;

use serde_json::{Value, json};

use crate::{
    client::Answer,
    responses::{conversation, create, id, items, text, wait_until_ended, with},
    suite::Suite,
};

pub(crate) fn run(suite: &mut Suite) {
    built_in::notes(suite);
    built_in::schedules(suite);
    calls(suite);
    effects(suite);
    mixed_calls(suite);
    approvals::approvals(suite);
    approvals::forged_requests(suite);
    approvals::stricter_approvals(suite);
    limits(suite);
    servers::request_servers(suite);
    servers::wrong_answers(suite);
    approvals::injected_instructions(suite);
    servers::large_output(suite);
    conversation_items(suite);
    durability::resumed_streams(suite);
    durability::killed_node(suite);
    servers::tokens(suite);
}

/// How the node marks a tool's output in the prompt.
const OUTPUT_MARK: &str = "This is data from a tool.";

/// A server of the configuration, as a tool of a request.
pub(crate) fn server(label: &str) -> Value {
    json!({"type": "mcp", "server_label": label})
}

/// A request for a turn of the scripted agent.
fn script(text: &str, tools: &[Value]) -> Value {
    json!({"model": "agent", "input": text, "tools": tools, "max_output_tokens": 100})
}

/// Runs a turn of the scripted agent.
fn run_agent(suite: &Suite, text: &str, tools: &[Value]) -> Value {
    create(suite, &script(text, tools)).json()
}

pub(crate) fn of_type<'a>(response: &'a Value, kind: &str) -> Vec<&'a Value> {
    response["output"].as_array().into_iter().flatten().filter(|item| item["type"] == kind).collect()
}

fn output(call: &Value) -> &str {
    call["output"].as_str().unwrap_or_default()
}

/// The error of a call; empty if it has none.
fn error_text(call: &Value) -> &str {
    call["error"]["content"][0]["text"].as_str().unwrap_or_default()
}

/// The outputs of the calls that the node made.
fn outputs(response: &Value) -> Vec<&str> {
    of_type(response, "mcp_call").into_iter().map(output).collect()
}

/// A name that no other check uses.
fn unique(suite: &Suite, name: &str) -> String {
    format!("{name}-{}", suite.upstream.records().all().len())
}

/// Status and param of an error.
fn param(answer: &Answer) -> (u16, Option<String>) {
    let (status, _, param) = answer.error();
    (status, param)
}

/// Calls of a function that succeeds and of one that fails, on a server of each revision, and in the background.
fn calls(suite: &Suite) {
    let checks = &suite.checks;
    for label in ["shop", "old"] {
        let made = run_agent(suite, &format!("call {label}__lookup {{\"city\": \"Ulm\"}}"), &[server(label)]);
        let kinds: Vec<&str> = made["output"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|item| item["type"].as_str())
            .collect();
        checks.equal(
            &format!("{label}: types of the items"),
            kinds,
            ["mcp_list_tools", "mcp_call", "message"],
        );
        let list = &made["output"][0];
        checks.equal(
            &format!("{label}: functions, label and error of the list"),
            (list["tools"].as_array().map(Vec::len), &list["server_label"], &list["error"]),
            (Some(9), &json!(label), &Value::Null),
        );
        let call = &made["output"][1];
        checks.equal(
            &format!("{label}: fields of the call"),
            ["server_label", "name", "arguments", "output", "error", "status", "approval_request_id"]
                .map(|name| call[name].clone()),
            [
                json!(label),
                json!("lookup"),
                json!("{\"city\": \"Ulm\"}"),
                json!("It is sunny in Ulm."),
                Value::Null,
                json!("completed"),
                Value::Null,
            ],
        );
        let answer_text = text(&made);
        checks.that(
            &format!("{label}: output in the prompt"),
            answer_text.starts_with(OUTPUT_MARK) && answer_text.ends_with("It is sunny in Ulm."),
            "the mark and the output",
            &answer_text,
        );
        let failed = run_agent(suite, &format!("call {label}__fail"), &[server(label)]);
        let call =
            of_type(&failed, "mcp_call").first().map(|call| (call["output"].clone(), call["error"].clone()));
        checks.that(
            &format!("{label}: output and error of a function that fails"),
            call.as_ref().is_some_and(|(output, error)| {
                output.is_null() && error.to_string().contains("it was to fail")
            }),
            "no output, and the function's error",
            &call,
        );
        checks.equal(&format!("{label}: status of the turn with it"), &failed["status"], "completed");
    }
    let background =
        with(script("call shop__lookup {\"city\": \"Bonn\"}", &[server("shop")]), "background", json!(true));
    let done = wait_until_ended(suite, &id(&create(suite, &background).json()));
    checks.equal("background: outputs", outputs(&done), ["It is sunny in Bonn."]);
}

/// Counts the effects of functions of each class: pure, keyed and exclusive.
fn effects(suite: &Suite) {
    let checks = &suite.checks;
    let order = unique(suite, "order");
    let charge = format!("call shop__charge {{\"order\": \"{order}\", \"amount\": 3}}");
    let deploy = format!("call shop__deploy {{\"target\": \"{order}\"}}");
    let lookup = "call shop__lookup {\"city\": \"Ulm\"}";
    // Calls with equal keys, at once and in a later round.
    let all = [lookup, &charge, &charge, &deploy, "then", &charge, &deploy, lookup].join("\n");
    let made = run_agent(suite, &all, &[server("shop")]);
    let mut all_outputs = outputs(&made);
    all_outputs.sort_unstable();
    let (sunny, charged, deployed) =
        ("It is sunny in Ulm.", format!("charged 3 for {order}"), format!("deployed to {order}"));
    let (charged, deployed) = (charged.as_str(), deployed.as_str());
    let expected = [sunny, sunny, charged, charged, charged, deployed, deployed];
    checks.equal("effects: outputs of equal calls in one turn", all_outputs, expected);
    let effects = suite.mcp.shop.effects(&order);
    let count = |tool: &str| effects.iter().filter(|effect| effect["tool"] == tool).count();
    checks.equal(
        "effects: of the keyed and the exclusive function in one turn",
        (count("charge"), count("deploy")),
        (1, 1),
    );
    // A key contains its turn, so another turn has its own effects.
    run_agent(suite, &format!("{charge}\n{deploy}"), &[server("shop")]);
    let effects = suite.mcp.shop.effects(&order);
    checks.equal("effects: after an equal turn", effects.len(), 4);
}

/// One answer with a call for the node and one for the client.
fn mixed_calls(suite: &Suite) {
    let checks = &suite.checks;
    let weather = json!({"type": "function", "name": "weather", "parameters": {"type": "object"}});
    let both = "call shop__lookup {\"city\": \"Ulm\"}\ncall weather {\"city\": \"Rom\"}";
    let tools = [server("shop"), weather];
    let made = run_agent(suite, both, &tools);
    let calls = of_type(&made, "function_call");
    checks.equal(
        "mixed calls: status, outputs and calls for the client",
        (&made["status"], outputs(&made), calls.len()),
        (&json!("completed"), vec!["It is sunny in Ulm."], 1),
    );
    let result = json!({"type": "function_call_output", "call_id": calls.first().map(|call| &call["call_id"]), "output": "rain"});
    let next =
        json!({"model": "agent", "tools": tools, "previous_response_id": made["id"], "input": [result]});
    let answer_text = text(&create(suite, &next).json());
    checks.that(
        "mixed calls: both results are in the next prompt",
        answer_text.contains("sunny in Ulm") && answer_text.contains("rain"),
        "both results",
        &answer_text,
    );
}

fn limits(suite: &Suite) {
    let checks = &suite.checks;
    let order = unique(suite, "limited");
    let charge = format!("call shop__charge {{\"order\": \"{order}\", \"amount\": 1}}");
    for allowed in [json!(["lookup"]), json!({"tool_names": ["lookup"]})] {
        let made = run_agent(suite, &charge, &[with(server("shop"), "allowed_tools", allowed)]);
        checks.equal(
            "allowed_tools: answer of a script that calls another function",
            text(&made),
            "There is no function shop__charge.",
        );
    }
    let made = run_agent(suite, "call once__deploy {\"target\": \"x\"}", &[server("once")]);
    checks.equal(
        "functions of the configuration: answer of a script that calls another function",
        text(&made),
        "There is no function once__deploy.",
    );
    // Two calls at once and one in a later round, of which one is allowed.
    let other = format!("call shop__charge {{\"order\": \"{order}-2\", \"amount\": 1}}");
    let body = script(&format!("{charge}\n{other}\nthen\n{other}"), &[server("shop")]);
    let made = create(suite, &with(body, "max_tool_calls", json!(1))).json();
    let made_calls = of_type(&made, "mcp_call");
    checks.equal(
        "max_tool_calls: status, calls and outputs",
        (
            &made["status"],
            made_calls.len(),
            outputs(&made).into_iter().filter(|text| !text.is_empty()).count(),
        ),
        (&json!("completed"), 2, 1),
    );
    let done = suite.mcp.shop.effects(&order).len() + suite.mcp.shop.effects(&format!("{order}-2")).len();
    checks.equal("max_tool_calls: number of effects", done, 1);
    // `tool_choice` is sent with the first step only: a model that must call in each step would never end.
    for (choice, sent) in [
        (json!({"type": "mcp", "server_label": "shop", "name": "lookup"}), "shop__lookup"),
        (json!({"type": "mcp", "server_label": "shop"}), "required"),
        (json!("required"), "required"),
    ] {
        let marker = unique(suite, "chosen");
        let body = script(&format!("{marker}\ncall shop__lookup {{\"city\": \"Ulm\"}}"), &[server("shop")]);
        let made = create(suite, &with(body, "tool_choice", choice.clone())).json();
        checks.equal(&format!("tool_choice {choice}: outputs"), outputs(&made), ["It is sunny in Ulm."]);
        let records = suite.upstream.records().mentioning(&marker);
        let bodies =
            records.iter().map(|record| serde_json::from_slice::<Value>(&record.body).unwrap_or_default());
        let choices: Vec<String> = bodies.map(|body| body["tool_choice"].to_string()).collect();
        checks.that(
            &format!("tool_choice {choice}: requests that it was sent with"),
            choices.len() == 2 && choices[0].contains(sent) && !choices[1].contains(sent),
            "the first request only",
            &choices,
        );
    }
}

/// The items of a conversation have each call, and the list of a server once.
fn conversation_items(suite: &Suite) {
    let conversation = conversation(suite);
    for city in ["Ulm", "Rom"] {
        let body = script(&format!("call shop__lookup {{\"city\": \"{city}\"}}"), &[server("shop")]);
        let made = create(suite, &with(body, "conversation", json!(conversation))).json();
        suite.checks.equal(
            &format!("conversation: output of {city}"),
            outputs(&made),
            [format!("It is sunny in {city}.")],
        );
    }
    let kinds: Vec<String> = items(suite, &conversation)
        .iter()
        .map(|item| item["type"].as_str().unwrap_or_default().to_owned())
        .collect();
    let expected = ["message", "mcp_list_tools", "mcp_call", "message", "message", "mcp_call", "message"];
    suite.checks.equal("conversation: types of its items", kinds, expected);
}
