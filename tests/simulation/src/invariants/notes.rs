//! Checks that a turn stores a note once, however often its model asks for it and whatever fails.

use std::collections::{BTreeMap, BTreeSet};

use outlive::entry::Kind;
use serde_json::Value;

use crate::world::World;

/// Checks all stored notes. `completed` are the notes whose calls were shown as completed.
pub(crate) fn notes(world: &World, completed: &BTreeSet<String>) {
    let mut stored: BTreeMap<String, u64> = BTreeMap::new();
    for entry in world.store.entries().iter().filter(|entry| entry.header().kind == Kind::NOTED) {
        let body: Value = serde_json::from_slice(entry.body()).unwrap_or_default();
        let text = body.get("text").and_then(Value::as_str).unwrap_or_default();
        *stored.entry(text.to_owned()).or_default() += 1;
    }
    for (text, count) in &stored {
        world.count("stored notes");
        if *count > 1 {
            world.violation(format_args!("the note {text:?} is stored {count} times"));
        }
    }
    for text in completed.iter().filter(|text| !stored.contains_key(*text)) {
        world.violation(format_args!("the note {text:?} is not stored, and its call was completed"));
    }
}

/// The note that an item shows as stored.
pub(crate) fn completed_note(item: &Value) -> Option<String> {
    let is = |name: &str, value: &str| item.get(name) == Some(&value.into());
    if !is("type", "mcp_call") || !is("name", "remember") || !is("status", "completed") {
        return None;
    }
    let arguments: Value = serde_json::from_str(item.get("arguments")?.as_str()?).ok()?;
    arguments.get("text")?.as_str().map(str::to_owned)
}
