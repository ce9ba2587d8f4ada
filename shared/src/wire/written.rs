//! Collects a request while it is written in a vendor's format: its body, and what of the client's request is not in
//! it.

use serde::Serialize;
use serde_json::{Map, Value, json, value::to_raw_value};

use super::{Format, Pace, Prompt, raw::RawJson, tool_names::ToolNames};
use crate::body::BodyBuilder;

/// A request in a vendor's format.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// The body, without [`encoded`](Self::encoded).
    pub body: Map<String, Value>,
    /// Fields of the body that are JSON already, since their values may be as large as the request.
    pub encoded: Vec<(&'static str, RawJson)>,
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

    /// Sets a field to JSON.
    pub(super) fn set_encoded(&mut self, name: &'static str, value: &impl Serialize) {
        if let Ok(json) = to_raw_value(value) {
            self.encoded.push((name, json.into()));
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
        let fields = self.encoded.len();
        self.encoded.retain(|(name, _)| *name != path);
        // The node itself asks for the usage, and for nothing to be stored.
        if (removed.is_some() || self.encoded.len() < fields) && !matches!(path, "stream_options" | "store") {
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

    /// The body as JSON, after one more `field` whose value is JSON.
    pub async fn encode(self, field: Option<(&str, String)>) -> BodyBuilder {
        let (mut out, mut pace) = (BodyBuilder::default(), Pace::default());
        let mut separator = b'{';
        let mut begin = |out: &mut BodyBuilder, name: &str| {
            out.text.push(std::mem::replace(&mut separator, b','));
            out.add_json(&name);
            out.text.push(b':');
        };
        if let Some((name, value)) = field {
            begin(&mut out, name);
            out.text.extend_from_slice(value.as_bytes());
        }
        for (name, json) in self.encoded {
            begin(&mut out, name);
            out.add_text(json.into());
        }
        for (name, value) in self.body {
            begin(&mut out, &name);
            let Value::Array(elements) = value else {
                out.add_value(value);
                continue;
            };
            out.text.push(b'[');
            for (at, element) in elements.into_iter().enumerate() {
                if at > 0 {
                    out.text.push(b',');
                }
                let start = out.text.len();
                out.add_value(element);
                pace.advance(out.text.len().saturating_sub(start)).await;
            }
            out.text.push(b']');
        }
        out.text.push(b'}');
        out
    }
}

/// An object of these fields. Unlike `json!` it copies none of their values, which may be large.
pub(super) fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
