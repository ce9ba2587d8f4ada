//! Reads the functions that a server lists. Bounds their sizes; trusts nothing in them.

use serde_json::{Map, Value};

use super::message::cut;

/// A function of a server. Untrusted: the server wrote all of it.
#[derive(Clone, Debug, PartialEq)]
pub struct McpFunction {
    /// Its name: 1 to 128 ASCII letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// What it is for, at most 8 KiB.
    pub description: Option<String>,
    /// A JSON Schema of its arguments, an object of at most 32 KiB.
    pub input_schema: Value,
    /// Hints about its effects: an object of at most 4 KiB, or null. **Untrusted**: a server may declare a payment
    /// read-only.
    pub annotations: Value,
}

impl McpFunction {
    /// About how many bytes it adds to each request to a model.
    pub(super) fn bytes(&self) -> usize {
        let description = self.description.as_ref().map_or(0, String::len);
        self.name.len() + description + self.input_schema.to_string().len()
    }
}

/// One page of the list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FunctionPage {
    /// The functions that can be called.
    pub(super) functions: Vec<McpFunction>,
    /// How many functions the server listed, including those that were left out.
    pub(super) entries: usize,
    /// The cursor of the next page; `None` on the last one.
    pub(super) next: Option<String>,
}

/// The specification's bound for the name of a tool.
const MAX_NAME_BYTES: usize = 128;

/// Longer descriptions are truncated: a model reads all of them with every request.
const MAX_DESCRIPTION_BYTES: usize = 8 * 1024;

/// A function with a longer schema is left out, since a truncated schema would be invalid.
const MAX_SCHEMA_BYTES: usize = 32 * 1024;

/// Longer annotations are dropped: a few booleans and a title are expected.
const MAX_ANNOTATIONS_BYTES: usize = 4 * 1024;

/// Longest cursor that is accepted: the client sends it back with the next request.
const MAX_CURSOR_BYTES: usize = 4 * 1024;

/// Whether the specification allows `name` as the name of a tool.
pub(super) fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// Reads a page. Leaves out single functions that can't be called, so that the others still work: those with an invalid
/// name or schema and, if `modern`, those whose arguments must be repeated in headers, which this client does not do.
pub(super) fn page(mut result: Map<String, Value>, modern: bool) -> Result<FunctionPage, &'static str> {
    let Some(Value::Array(tools)) = result.remove("tools") else {
        return Err("a list without `tools`");
    };
    let next = match result.remove("nextCursor") {
        None | Some(Value::Null) => None,
        Some(Value::String(next)) if next.len() <= MAX_CURSOR_BYTES => Some(next),
        Some(_) => return Err("a `nextCursor` that is not a string of at most 4 KiB"),
    };
    let entries = tools.len();
    let functions = tools.into_iter().filter_map(|tool| function(tool, modern)).collect();
    Ok(FunctionPage { functions, entries, next })
}

fn function(tool: Value, modern: bool) -> Option<McpFunction> {
    let Value::Object(mut tool) = tool else { return None };
    let Some(Value::String(name)) = tool.remove("name") else { return None };
    let input_schema = tool.remove("inputSchema").filter(Value::is_object)?;
    let schema = input_schema.to_string();
    if !is_name(&name) || schema.len() > MAX_SCHEMA_BYTES || modern && schema.contains("\"x-mcp-header\"") {
        return None;
    }
    let description = tool.get("description").and_then(Value::as_str);
    let description = description.map(|text| cut(text, MAX_DESCRIPTION_BYTES).to_owned());
    let annotations = tool.remove("annotations").filter(|annotations| {
        annotations.is_object() && annotations.to_string().len() <= MAX_ANNOTATIONS_BYTES
    });
    Some(McpFunction { name, description, input_schema, annotations: annotations.unwrap_or_default() })
}
