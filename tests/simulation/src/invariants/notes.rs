//! What a turn remembers is noted once, however often it is asked to and whatever fails.

use std::collections::{BTreeMap, BTreeSet};

use outlive::entry::Kind;
use serde_json::Value;

use crate::world::World;

/// Looks at all notes. `told` are those of which an item says that they are kept.
pub(crate) fn notes(world: &World, told: &BTreeSet<String>) {
    let mut kept: BTreeMap<String, u64> = BTreeMap::new();
    for entry in world.store.entries().iter().filter(|entry| entry.header().kind == Kind::NOTED) {
        let body: Value = serde_json::from_slice(entry.body()).unwrap_or_default();
        let text = body.get("text").and_then(Value::as_str).unwrap_or_default();
        *kept.entry(text.to_owned()).or_default() += 1;
    }
    for (text, count) in &kept {
        world.saw("notes");
        if *count > 1 {
            world.violation(format_args!("{text:?} is noted {count} times"));
        }
    }
    for text in told.iter().filter(|text| !kept.contains_key(*text)) {
        world.violation(format_args!("{text:?} was told to be noted and is not"));
    }
}

/// The note that an item says is kept.
pub(crate) fn noted(item: &Value) -> Option<String> {
    let is = |name: &str, value: &str| item.get(name) == Some(&value.into());
    if !is("type", "mcp_call") || !is("name", "remember") || !is("status", "completed") {
        return None;
    }
    let arguments: Value = serde_json::from_str(item.get("arguments")?.as_str()?).ok()?;
    arguments.get("text")?.as_str().map(str::to_owned)
}
