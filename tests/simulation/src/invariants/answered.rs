//! Checks that no model is asked while a call is open: each call has one result right after it, and each result a call.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::world::World;

/// Checks one request to a model.
pub(crate) fn answered(world: &World, request_body: &Value) {
    let messages =
        request_body.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    match results(messages) {
        Ok(0) => {}
        Ok(_) => world.count("model calls with results of tools"),
        Err(why) => world.violation(format_args!("a model was asked {why}: {request_body}")),
    }
}

/// The number of results.
fn results(messages: &[Value]) -> Result<u64, String> {
    let (mut open, mut count) = (BTreeSet::new(), 0);
    for message in messages {
        let text = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("role") == "tool" {
            if !open.remove(text("tool_call_id")) {
                return Err(format!("with a result of no call, {:?},", text("tool_call_id")));
            }
            count += 1;
            continue;
        }
        if !open.is_empty() {
            return Err(format!("while {open:?} had no result"));
        }
        let calls = message.get("tool_calls").and_then(Value::as_array).into_iter().flatten();
        for id in calls.filter_map(|call| call.get("id")?.as_str()) {
            if !open.insert(id.to_owned()) {
                return Err(format!("with two calls {id:?}"));
            }
        }
    }
    if open.is_empty() { Ok(count) } else { Err(format!("while {open:?} had no result")) }
}
