//! What models want to call, as the words of who asks them say.

use serde_json::{Value, json};

use crate::{provider::is_told, world::World};

/// Between what a client calls its turn and the functions that it wants called.
const DO: &str = " do ";

/// How a client asks for a turn in which `functions` are called.
pub(crate) fn content(name: &str, functions: &[&str]) -> String {
    if functions.is_empty() {
        return format!("turn {name}");
    }
    format!("turn {name}{DO}{}", functions.join(" "))
}

/// The word that makes a model want the same once more when it knows what came of it.
pub(crate) const AGAIN: &str = "again";

/// How a function is named that is wanted twice at once: a word that stands there twice would look like one that a model
/// said again when it went on.
const ALSO: &str = "also-";

/// The note that a turn leaves.
pub(crate) fn note(name: &str) -> String {
    format!("note of {name}")
}

/// A call that a model asks for.
pub(crate) struct Wanted {
    id: String,
    function: String,
    arguments: String,
}

/// How many answers with calls there have been since the user spoke last.
pub(crate) fn round(asked: &Value) -> usize {
    let messages = asked.get("messages").and_then(Value::as_array).into_iter().flatten().rev();
    let asks = |message: &Value| message.get("role") == Some(&"user".into()) && !is_told(message);
    let since = messages.take_while(|message| !asks(message));
    since.filter(|message| message.get("tool_calls").is_some()).count()
}

/// The calls that the model wants next. Each time it asks it has other names for them, and other words beside what
/// matters.
pub(crate) fn wanted(world: &World, asked: &Value, content: &str) -> Vec<Wanted> {
    let Some((turn, functions)) = content.split_once(DO) else { return Vec::new() };
    let name = turn.trim_start_matches("turn ");
    let functions: Vec<&str> = functions.split(' ').collect();
    let rounds = if functions.contains(&AGAIN) { 2 } else { 1 };
    if round(asked) >= rounds {
        return Vec::new();
    }
    let tools = asked.get("tools").and_then(Value::as_array).into_iter().flatten();
    let known: Vec<&str> = tools.filter_map(|tool| tool.pointer("/function/name")?.as_str()).collect();
    let chance = world.words.borrow_mut().range(0..1_000);
    let wanted = functions.iter().enumerate().filter_map(|(at, function)| {
        let (alias, arguments) = match function.trim_start_matches(ALSO) {
            "lookup" => ("t__lookup", json!({"city": "Oslo"})),
            "charge" => ("t__charge", json!({"order": name, "note": format!("{chance}-{at}")})),
            "deploy" => ("t__deploy", json!({"target": name})),
            "guarded" => ("t__guarded", json!({"target": name})),
            "remember" => ("outlive__remember", json!({"text": note(name)})),
            _ => return None,
        };
        let id = format!("call_{chance}_{at}");
        known.contains(&alias).then(|| Wanted {
            id,
            function: alias.to_owned(),
            arguments: arguments.to_string(),
        })
    });
    wanted.collect()
}

impl Wanted {
    /// The pieces in which it is streamed as the call number `index`.
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
