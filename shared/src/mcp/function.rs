use serde_json::{Map, Value};

use super::message::cut;

/// What a server offers to do. All of it is the server's claim.
#[derive(Clone, Debug, PartialEq)]
pub struct McpFunction {
    /// Its name: 1 to 128 ASCII letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// What it is for, at most 8 KiB.
    pub description: Option<String>,
    /// A JSON Schema of its arguments, an object of at most 32 KiB.
    pub input_schema: Value,
    /// Hints about what it does, an object of at most 4 KiB, or null. **Untrusted**: a server may call a payment
    /// read-only.
    pub annotations: Value,
}

impl McpFunction {
    /// How much of a model's attention it takes, roughly.
    pub(super) fn bytes(&self) -> usize {
        let description = self.description.as_ref().map_or(0, String::len);
        self.name.len() + description + self.input_schema.to_string().len()
    }
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FunctionPage {
    /// Those of its functions that can be called.
    pub(super) functions: Vec<McpFunction>,
    /// How many it had, those that were left out as well.
    pub(super) entries: usize,
    /// Where the next page begins.
    pub(super) next: Option<String>,
}

/// The specification's bound for names of tools.
const MAX_NAME_BYTES: usize = 128;

/// A model reads every description with every request; longer ones are cut.
const MAX_DESCRIPTION_BYTES: usize = 8 * 1024;

/// As with descriptions; but a schema can't be cut.
const MAX_SCHEMA_BYTES: usize = 32 * 1024;

/// A handful of booleans and a title are expected.
const MAX_ANNOTATIONS_BYTES: usize = 4 * 1024;

/// Cursors are sent back as they are; longer ones are no cursors.
const MAX_CURSOR_BYTES: usize = 4 * 1024;

/// Whether the specification allows a function to be called this.
pub(super) fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// Reads a page. A function that can't be called is left out, so that it does not take the others with it; so is, if
/// `modern`, one whose arguments must be repeated in headers, which this client does not do.
pub(super) fn page(mut result: Map<String, Value>, modern: bool) -> Result<FunctionPage, &'static str> {
    let Some(Value::Array(tools)) = result.remove("tools") else {
        return Err("a list without `tools`");
    };
    let next = match result.remove("nextCursor") {
        None | Some(Value::Null) => None,
        Some(Value::String(next)) if next.len() <= MAX_CURSOR_BYTES => Some(next),
        Some(_) => return Err("a cursor that is none"),
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
