//! Collects a request while it is written in a vendor's format: its body, and what of the client's request is not in
//! it.

use serde_json::{Map, Value, json};

use super::{Format, Prompt, tool_names::ToolNames};

/// A request in a vendor's format.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// The body.
    pub body: Map<String, Value>,
    /// The limit of each choice's tokens; `None` if the body has none.
    pub max_output: Option<u64>,
    /// The hints that were left out, by their names in the client's request.
    pub dropped: Vec<String>,
    /// The client's names of the functions.
    pub tool_names: ToolNames,
}

impl Written {
    /// Sets a field, unless there is no value.
    pub(super) fn set(&mut self, name: &str, value: Option<Value>) {
        if let Some(value) = value {
            self.body.insert(name.into(), value);
        }
    }

    /// Notes that a field of the client's request was left out.
    pub fn drop(&mut self, name: &str) {
        if !self.dropped.iter().any(|dropped| dropped == name) {
            self.dropped.push(name.into());
        }
    }

    /// Writes the hints that `format` has; the others, and those that `takes` refuses, are left out.
    pub(super) fn set_hints(&mut self, prompt: &Prompt, format: Format, takes: impl Fn(&str) -> bool) {
        for (hint, value) in &prompt.hints {
            // A hint without a value is one that a budget can't price.
            match hint.path_in(format).filter(|path| !value.is_null() && takes(path)) {
                Some(path) => self.set_at(path, value.clone()),
                None if hint.is_in_parts(format) => {}
                None => self.drop(hint.name()),
            }
        }
    }

    /// Removes a field that the vendor refuses, and notes it if it was there.
    pub fn remove(&mut self, path: &str) {
        let removed = match path.split_once('.') {
            Some((object, field)) => self
                .body
                .get_mut(object)
                .and_then(Value::as_object_mut)
                .and_then(|object| object.shift_remove(field)),
            None => self.body.shift_remove(path),
        };
        // The node itself asks for the usage, and for nothing to be stored.
        if removed.is_some() && !matches!(path, "stream_options" | "store") {
            self.drop(path);
        }
    }

    /// Sets a field of the body or of an object in it.
    fn set_at(&mut self, path: &str, value: Value) {
        let Some((object, field)) = path.split_once('.') else { return self.set(path, Some(value)) };
        let object = self.body.entry(object).or_insert_with(|| json!({}));
        if let Some(object) = object.as_object_mut() {
            object.insert(field.into(), value);
        }
    }
}
