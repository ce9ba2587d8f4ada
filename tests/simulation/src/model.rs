//! Chooses the calls that a simulated model asks for, from the text of the user's message. Makes none of them.

use serde_json::{Value, json};

use crate::{provider::is_interruption_notice, world::World};

/// Separates a turn's name from the functions to call.
const FUNCTIONS_MARK: &str = " do ";

/// The input of a turn in which the model asks for calls of `functions`.
pub(crate) fn content(name: &str, functions: &[&str]) -> String {
    if functions.is_empty() {
        return format!("turn {name}");
    }
    format!("turn {name}{FUNCTIONS_MARK}{}", functions.join(" "))
}

/// The word that makes a model ask for the same calls again once it has their results.
pub(crate) const REPEAT: &str = "again";

/// Marks the second call of one function in a round. The plain name twice would look like a word that a model repeated
/// when it continued an answer.
const DUPLICATE_PREFIX: &str = "also-";

/// The text that the turn `name` asks to remember.
pub(crate) fn note_text(name: &str) -> String {
    format!("note of {name}")
}

/// A call that a model asks for.
pub(crate) struct RequestedCall {
    id: String,
    function: String,
    arguments: String,
}

/// How many answers with calls follow the newest message of the user.
pub(crate) fn call_rounds(request_body: &Value) -> usize {
    let messages = request_body.get("messages").and_then(Value::as_array).into_iter().flatten().rev();
    let asks =
        |message: &Value| message.get("role") == Some(&"user".into()) && !is_interruption_notice(message);
    let since = messages.take_while(|message| !asks(message));
    since.filter(|message| message.get("tool_calls").is_some()).count()
}

/// The calls that the model asks for next. Each time they have other ids, and other arguments beside those in the key.
pub(crate) fn requested_calls(world: &World, request_body: &Value, content: &str) -> Vec<RequestedCall> {
    let Some((turn, functions)) = content.split_once(FUNCTIONS_MARK) else { return Vec::new() };
    let name = turn.trim_start_matches("turn ");
    let functions: Vec<&str> = functions.split(' ').collect();
    let rounds = if functions.contains(&REPEAT) { 2 } else { 1 };
    if call_rounds(request_body) >= rounds {
        return Vec::new();
    }
    let tools = request_body.get("tools").and_then(Value::as_array).into_iter().flatten();
    let known: Vec<&str> = tools.filter_map(|tool| tool.pointer("/function/name")?.as_str()).collect();
    let chance = world.model_random.borrow_mut().range(0..1_000);
    let calls = functions.iter().enumerate().filter_map(|(at, function)| {
        let (alias, arguments) = match function.trim_start_matches(DUPLICATE_PREFIX) {
            "lookup" => ("t__lookup", json!({"city": "Oslo"})),
            "charge" => ("t__charge", json!({"order": name, "note": format!("{chance}-{at}")})),
            "deploy" => ("t__deploy", json!({"target": name})),
            "guarded" => ("t__guarded", json!({"target": name})),
            "remember" => ("outlive__remember", json!({"text": note_text(name)})),
            _ => return None,
        };
        let id = format!("call_{chance}_{at}");
        known.contains(&alias).then(|| RequestedCall {
            id,
            function: alias.to_owned(),
            arguments: arguments.to_string(),
        })
    });
    calls.collect()
}

impl RequestedCall {
    /// The deltas that stream this as the call number `index`.
    pub(crate) fn deltas(&self, index: usize) -> Vec<Value> {
        let call = |fields: Value| json!({"tool_calls": [fields]});
        let half = self.arguments.floor_char_boundary(self.arguments.len() / 2);
        let (first, second) = self.arguments.split_at(half);
        let piece = |text: &str| call(json!({"index": index, "function": {"arguments": text}}));
        let function = json!({"name": self.function, "arguments": ""});
        let begin = json!({"index": index, "id": self.id, "type": "function", "function": function});
        vec![call(begin), piece(first), piece(second)]
    }
}
