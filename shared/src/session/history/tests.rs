//! Checks prompts made from histories that are cut, mixed or incomplete.

use proptest::prelude::*;

use super::*;
use crate::wire::{pace::at_once, responses};

fn call(id: &str) -> Value {
    json!({"type": "function_call", "id": "fc_1", "call_id": id, "name": "f", "arguments": "{}"})
}

fn output(id: &str, text: &str) -> Value {
    json!({"type": "function_call_output", "id": "fco_1", "call_id": id, "output": text})
}

fn user(text: &str) -> Value {
    json!({"type": "message", "id": "msg_1", "role": "user", "content": [{"type": "input_text", "text": text}]})
}

/// A call as `!name`, a result as `name=text`, everything else by its type.
fn short(items: &[Value]) -> Vec<String> {
    let text = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    let short = |item: &Value| match item["type"].as_str().unwrap() {
        "function_call" => format!("!{}", text(item, "call_id")),
        "function_call_output" => format!("{}={}", text(item, "call_id"), text(item, "output")),
        other => other.to_owned(),
    };
    items.iter().map(short).collect()
}

#[test]
fn outputs_follow_their_calls() {
    let check = |items: &[Value], expected: &[&str]| {
        assert_eq!(short(&prompt(items.to_vec())), expected);
    };
    let lost = format!("a={UNKNOWN_OUTPUT}");
    check(&[user("x"), call("a"), output("a", "1"), user("y")], &["message", "!a", "a=1", "message"]);
    check(&[call("a"), user("y")], &["!a", &lost, "message"]);
    check(&[call("a"), call("b"), output("b", "2"), output("a", "1")], &["!a", "!b", "a=1", "b=2"]);
    check(&[call("a"), user("y"), output("a", "1")], &["!a", "a=1", "message"]);
    check(&[output("a", "1"), call("a")], &["!a", "a=1"]);
    check(&[output("b", "1"), user("y")], &["message"]);
    // The same id twice.
    check(
        &[call("a"), output("a", "1"), user("y"), call("a"), output("a", "2")],
        &["!a", "a=1", "message", "!a", "a=2"],
    );
    check(&[call("a"), user("y"), call("a"), output("a", "2")], &["!a", &lost, "message", "!a", "a=2"]);
    // Two calls in sequence without a message between.
    check(&[call("a"), output("a", "1"), call("b"), output("b", "2")], &["!a", "a=1", "!b", "b=2"]);
}

#[test]
fn calls_of_the_node_keep_their_order_and_steps() {
    let in_step = |step: &str, mut item: Value| {
        item[STEP] = step.into();
        item
    };
    let kinds = |items: &[Value]| {
        let history = prompt(items.to_vec());
        history
            .iter()
            .map(|item| kind_of(item).trim_start_matches("function_").to_owned())
            .collect::<Vec<_>>()
    };
    let made = |id: &str, step: &str| in_step(step, served(id, None, Some("1")));
    assert_eq!(
        kinds(&[made("mcp_1", "s"), made("mcp_2", "s")]),
        ["call", "call", "call_output", "call_output"]
    );
    assert_eq!(
        kinds(&[made("mcp_1", "s"), made("mcp_2", "t")]),
        ["call", "call_output", "call", "call_output"]
    );
    let request = json!({"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "s", "name": "f",
                         "arguments": "{}"});
    let approved = served("mcp_1", Some("mcpr_1"), Some("done"));
    let later = [reasoning_item("v/m"), request, user("x"), approved];
    assert_eq!(kinds(&later), ["reasoning", "call", "call_output", "message"]);
    assert_eq!(prompt(later)[2]["output"], format!("{DATA_NOTICE}done"));
}

#[test]
fn only_the_first_request_of_a_turn_forces_a_call() {
    let check = |choice: Value, first: Value, later: Value| {
        assert_eq!((tool_choice(&choice, false), tool_choice(&choice, true)), (first, later));
    };
    let named = json!({"type": "function", "name": "s__f"});
    check(json!({"type": "mcp", "server_label": "s", "name": "f"}), named.clone(), json!("auto"));
    check(json!({"type": "mcp", "server_label": "s"}), json!("required"), json!("auto"));
    check(named.clone(), named, json!("auto"));
    check(json!("required"), json!("required"), json!("auto"));
    check(json!("none"), json!("none"), json!("none"));
    let some = |mode: &str| json!({"type": "allowed_tools", "mode": mode, "tools": []});
    check(some("required"), some("required"), some("auto"));
}

#[test]
fn an_output_without_a_call_is_found() {
    assert_eq!(unmatched_output(&[call("a")], &[output("a", "1")]), None);
    assert_eq!(unmatched_output(&[], &[call("a"), output("a", "1")]), None);
    assert_eq!(unmatched_output(&[call("a")], &[output("b", "1")]), Some("b"));
    assert_eq!(unmatched_output(&[], &[output("a", "1"), call("a")]), Some("a"));
}

/// A call that the node made; `request` is the approval request that allowed it.
fn served(id: &str, request: Option<&str>, output: Option<&str>) -> Value {
    json!({"type": "mcp_call", "id": id, "server_label": "s", "name": "f", "arguments": "{}",
           "approval_request_id": request, "output": output, "error": null})
}

fn reasoning_item(by: &str) -> Value {
    let field = json!({"thought": {"text": "hm", "signature": "proof"}, "by": by});
    json!({"type": "reasoning", "id": "rs_1", "summary": [], "content": [], REASONING_FIELD: field})
}

fn item() -> impl Strategy<Value = Value> {
    prop_oneof![
        "[ab]".prop_map(|id| call(&id)),
        ("[ab]", "[0-9]").prop_map(|(id, text)| output(&id, &text)),
        Just(user("x")),
        Just(json!({"type": "message", "id": "msg_2", "role": "assistant", "content": "y"})),
        Just(json!({"type": "reasoning", "id": "rs_1", "summary": [], "content": []})),
        "[vw]/m".prop_map(|by| reasoning_item(&by)),
        ("mcp_[0-9]", proptest::option::of("[0-9]")).prop_map(|(id, text)| served(
            &id,
            None,
            text.as_deref()
        )),
        ("mcp_[0-9]", "mcpr_[ab]").prop_map(|(id, request)| served(&id, Some(&request), Some("1"))),
        "mcpr_[ab]".prop_map(|id| json!({"type": "mcp_approval_request", "id": id, "server_label": "s",
                                         "name": "f", "arguments": "{}"})),
        ("mcpr_[ab]", any::<bool>()).prop_map(|(id, approve)| json!({"type": "mcp_approval_response",
                                         "id": "mcpa_1", "approval_request_id": id, "approve": approve})),
        Just(json!({"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": []})),
    ]
}

/// How many calls the items hold; an approved call counts once.
fn count(items: &[Value]) -> usize {
    let is_requested = |request: &Value| {
        items.iter().any(|item| kind_of(item) == "mcp_approval_request" && item["id"] == *request)
    };
    let is_call = |item: &&Value| match kind_of(item) {
        "function_call" | "mcp_approval_request" => true,
        "mcp_call" => !is_requested(&item["approval_request_id"]),
        _ => false,
    };
    items.iter().filter(is_call).count()
}

proptest! {
    #[test]
    fn any_mix_of_items_makes_a_valid_prompt(items in proptest::collection::vec(item(), 0..12)) {
        let history = prompt(items.clone());
        prop_assert_eq!(count(&history), count(&items), "no call is lost");
        let last = history.last().map(kind_of);
        prop_assert_ne!(last, Some("reasoning"), "reasoning without a call");
        let mut open: Vec<&str> = Vec::new();
        for item in &history {
            let fields = item.as_object().unwrap();
            if is_call(kind(fields)) {
                open.push(call_id(fields));
            } else if is_output(kind(fields)) {
                let at = open.iter().position(|id| *id == call_id(fields));
                prop_assert!(at.is_some(), "an output without a call");
                open.remove(at.unwrap());
            } else {
                prop_assert!(open.is_empty(), "a call is open");
            }
            prop_assert!(!fields.contains_key("id"));
            prop_assert!(kind(fields) == "message" || kind(fields) == "reasoning" || fields.contains_key("call_id"));
        }
        prop_assert!(open.is_empty(), "a call is open at the end");
        let body = json!({"model": "m", "input": history}).to_string();
        let prompt = at_once(responses::read(body.as_bytes())).unwrap();
        prop_assert_eq!(prompt.untranslatable, Vec::<String>::new());
    }
}
