//! Tools: what models may have the node do, on servers that are what they should be, and on others.

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
    parallel(suite);
    mixed(suite);
    approvals::approvals(suite);
    approvals::forged(suite);
    approvals::strengthened(suite);
    limits(suite);
    servers::strangers(suite);
    servers::lies(suite);
    approvals::injected(suite);
    servers::large(suite);
    listed(suite);
    durability::streams(suite);
    durability::killed(suite);
    servers::secret(suite);
}

/// How the node marks what a tool said, for the model.
const DATA: &str = "This is data from a tool.";

/// A server of the configuration, as a request names it.
pub(crate) fn server(label: &str) -> Value {
    json!({"type": "mcp", "server_label": label})
}

/// A turn of the scripted agent.
fn script(text: &str, tools: &[Value]) -> Value {
    json!({"model": "agent", "input": text, "tools": tools, "max_output_tokens": 100})
}

fn does(suite: &Suite, text: &str, tools: &[Value]) -> Value {
    create(suite, &script(text, tools)).json()
}

pub(crate) fn of_type<'a>(response: &'a Value, kind: &str) -> Vec<&'a Value> {
    response["output"].as_array().into_iter().flatten().filter(|item| item["type"] == kind).collect()
}

fn output(call: &Value) -> &str {
    call["output"].as_str().unwrap_or_default()
}

/// Why a call failed; empty if it did not.
fn why(call: &Value) -> &str {
    call["error"]["content"][0]["text"].as_str().unwrap_or_default()
}

/// The outputs of the calls that the node made.
fn outputs(response: &Value) -> Vec<&str> {
    of_type(response, "mcp_call").into_iter().map(output).collect()
}

/// A name that nothing else has.
fn unique(suite: &Suite, name: &str) -> String {
    format!("{name}-{}", suite.upstream.records().all().len())
}

fn param(answer: &Answer) -> (u16, Option<String>) {
    let (status, _, param) = answer.error();
    (status, param)
}

fn calls(suite: &Suite) {
    let checks = &suite.checks;
    for label in ["shop", "old"] {
        let made = does(suite, &format!("call {label}__lookup {{\"city\": \"Ulm\"}}"), &[server(label)]);
        let kinds: Vec<&str> = made["output"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|item| item["type"].as_str())
            .collect();
        checks.equal(&format!("{label}, items"), kinds, ["mcp_list_tools", "mcp_call", "message"]);
        let list = &made["output"][0];
        checks.equal(
            &format!("{label}, functions"),
            (list["tools"].as_array().map(Vec::len), &list["server_label"], &list["error"]),
            (Some(9), &json!(label), &Value::Null),
        );
        let call = &made["output"][1];
        checks.equal(
            &format!("{label}, the call"),
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
        let told = text(&made);
        checks.that(
            &format!("{label}, what the model is told"),
            told.starts_with(DATA) && told.ends_with("It is sunny in Ulm."),
            "data",
            &told,
        );
        let failed = does(suite, &format!("call {label}__fail"), &[server(label)]);
        let call =
            of_type(&failed, "mcp_call").first().map(|call| (call["output"].clone(), call["error"].clone()));
        checks.that(
            &format!("{label}, a function that fails"),
            call.as_ref().is_some_and(|(output, error)| {
                output.is_null() && error.to_string().contains("it was to fail")
            }),
            "its error",
            &call,
        );
        checks.equal(&format!("{label}, a turn with it"), &failed["status"], "completed");
    }
    let background =
        with(script("call shop__lookup {\"city\": \"Bonn\"}", &[server("shop")]), "background", json!(true));
    let done = wait_until_ended(suite, &id(&create(suite, &background).json()));
    checks.equal("in the background", outputs(&done), ["It is sunny in Bonn."]);
}

/// Effects, by how often a call of them may be made.
fn parallel(suite: &Suite) {
    let checks = &suite.checks;
    let order = unique(suite, "order");
    let charge = format!("call shop__charge {{\"order\": \"{order}\", \"amount\": 3}}");
    let deploy = format!("call shop__deploy {{\"target\": \"{order}\"}}");
    let look = "call shop__lookup {\"city\": \"Ulm\"}";
    // The same business again, at once and later.
    let all = [look, &charge, &charge, &deploy, "then", &charge, &deploy, look].join("\n");
    let made = does(suite, &all, &[server("shop")]);
    let mut said = outputs(&made);
    said.sort_unstable();
    let (sunny, charged, deployed) =
        ("It is sunny in Ulm.", format!("charged 3 for {order}"), format!("deployed to {order}"));
    let (charged, deployed) = (charged.as_str(), deployed.as_str());
    let expected = [sunny, sunny, charged, charged, charged, deployed, deployed];
    checks.equal("at once and again", said, expected);
    let effects = suite.mcp.shop.effects(&order);
    let count = |tool: &str| effects.iter().filter(|effect| effect["tool"] == tool).count();
    checks.equal("each business once", (count("charge"), count("deploy")), (1, 1));
    // Another turn is another business.
    does(suite, &format!("{charge}\n{deploy}"), &[server("shop")]);
    let effects = suite.mcp.shop.effects(&order);
    checks.equal("in another turn again", effects.len(), 4);
}

/// A call of the node's and one of the client's in one answer.
fn mixed(suite: &Suite) {
    let checks = &suite.checks;
    let weather = json!({"type": "function", "name": "weather", "parameters": {"type": "object"}});
    let both = "call shop__lookup {\"city\": \"Ulm\"}\ncall weather {\"city\": \"Rom\"}";
    let tools = [server("shop"), weather];
    let made = does(suite, both, &tools);
    let calls = of_type(&made, "function_call");
    checks.equal(
        "mixed",
        (&made["status"], outputs(&made), calls.len()),
        (&json!("completed"), vec!["It is sunny in Ulm."], 1),
    );
    let result = json!({"type": "function_call_output", "call_id": calls.first().map(|call| &call["call_id"]), "output": "rain"});
    let next =
        json!({"model": "agent", "tools": tools, "previous_response_id": made["id"], "input": [result]});
    let told = text(&create(suite, &next).json());
    checks.that("mixed, answered", told.contains("sunny in Ulm") && told.contains("rain"), "both", &told);
}

fn limits(suite: &Suite) {
    let checks = &suite.checks;
    let order = unique(suite, "limited");
    let charge = format!("call shop__charge {{\"order\": \"{order}\", \"amount\": 1}}");
    for allowed in [json!(["lookup"]), json!({"tool_names": ["lookup"]})] {
        let made = does(suite, &charge, &[with(server("shop"), "allowed_tools", allowed)]);
        checks.equal("not allowed by the request", text(&made), "There is no function shop__charge.");
    }
    let made = does(suite, "call once__deploy {\"target\": \"x\"}", &[server("once")]);
    checks.equal("not allowed by the configuration", text(&made), "There is no function once__deploy.");
    // Two at once, and one later.
    let other = format!("call shop__charge {{\"order\": \"{order}-2\", \"amount\": 1}}");
    let body = script(&format!("{charge}\n{other}\nthen\n{other}"), &[server("shop")]);
    let made = create(suite, &with(body, "max_tool_calls", json!(1))).json();
    let made_calls = of_type(&made, "mcp_call");
    checks.equal(
        "max_tool_calls",
        (
            &made["status"],
            made_calls.len(),
            outputs(&made).into_iter().filter(|text| !text.is_empty()).count(),
        ),
        (&json!("completed"), 2, 1),
    );
    let done = suite.mcp.shop.effects(&order).len() + suite.mcp.shop.effects(&format!("{order}-2")).len();
    checks.equal("max_tool_calls, effects", done, 1);
    // A choice counts for the first answer: a model that had to call each time would never end.
    for (choice, sent) in [
        (json!({"type": "mcp", "server_label": "shop", "name": "lookup"}), "shop__lookup"),
        (json!({"type": "mcp", "server_label": "shop"}), "required"),
        (json!("required"), "required"),
    ] {
        let marker = unique(suite, "chosen");
        let body = script(&format!("{marker}\ncall shop__lookup {{\"city\": \"Ulm\"}}"), &[server("shop")]);
        let made = create(suite, &with(body, "tool_choice", choice.clone())).json();
        checks.equal(&format!("tool_choice {choice}"), outputs(&made), ["It is sunny in Ulm."]);
        let records = suite.upstream.records().mentioning(&marker);
        let bodies =
            records.iter().map(|record| serde_json::from_slice::<Value>(&record.body).unwrap_or_default());
        let choices: Vec<String> = bodies.map(|body| body["tool_choice"].to_string()).collect();
        checks.that(
            &format!("tool_choice {choice}, sent"),
            choices.len() == 2 && choices[0].contains(sent) && !choices[1].contains(sent),
            "with the first request only",
            &choices,
        );
    }
}

/// A conversation shows the calls, and what a server offers once.
fn listed(suite: &Suite) {
    let conversation = conversation(suite);
    for city in ["Ulm", "Rom"] {
        let body = script(&format!("call shop__lookup {{\"city\": \"{city}\"}}"), &[server("shop")]);
        let made = create(suite, &with(body, "conversation", json!(conversation))).json();
        suite.checks.equal(&format!("listed, {city}"), outputs(&made), [format!("It is sunny in {city}.")]);
    }
    let kinds: Vec<String> = items(suite, &conversation)
        .iter()
        .map(|item| item["type"].as_str().unwrap_or_default().to_owned())
        .collect();
    let expected = ["message", "mcp_list_tools", "mcp_call", "message", "message", "mcp_call", "message"];
    suite.checks.equal("listed, items", kinds, expected);
}
