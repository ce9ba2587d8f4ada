//! Parses an item that a client sends into a conversation: checks the fields that the gateway reads, keeps the rest as
//! sent.

use serde_json::{Map, Value, value::RawValue};

use crate::{
    entry::{Cause, derive},
    hex::hex,
    json::type_of,
    wire::responses::REASONING_FIELD,
};

/// An item of a conversation in the format of OpenAI's Conversations API. Fields that the gateway reads are checked;
/// all others are kept as sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    prefix: &'static str,
    fields: Map<String, Value>,
}

/// An item is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for '{param}': {why}")]
pub struct ItemError {
    /// The path of the invalid field in the request.
    pub param: String,
    /// What the field is, and what is allowed.
    pub why: String,
}

/// The item types that can be stored, with the prefix of their ids as OpenAI's API has it.
const TYPES: [(&str, &str); 11] = [
    ("message", "msg"),
    ("function_call", "fc"),
    ("function_call_output", "fco"),
    ("reasoning", "rs"),
    ("custom_tool_call", "ctc"),
    ("custom_tool_call_output", "ctco"),
    ("mcp_list_tools", "mcpl"),
    ("mcp_call", "mcp"),
    ("mcp_approval_request", "mcpr"),
    ("mcp_approval_response", "mcpa"),
    ("compaction", "cmp"),
];

const ROLES: [&str; 4] = ["user", "assistant", "system", "developer"];

/// Fields that must be strings, by type.
const STRINGS: [(&str, &[&str]); 9] = [
    ("function_call", &["call_id", "name", "arguments"]),
    ("function_call_output", &["call_id"]),
    ("custom_tool_call", &["call_id", "name", "input"]),
    ("custom_tool_call_output", &["call_id"]),
    ("mcp_list_tools", &["server_label"]),
    ("mcp_call", &["server_label", "name", "arguments"]),
    ("mcp_approval_request", &["server_label", "name", "arguments"]),
    ("mcp_approval_response", &["approval_request_id"]),
    ("compaction", &["encrypted_content"]),
];

impl Item {
    /// Parses an item as a client sent it. `param` is its path in the request, for errors.
    pub fn parse(raw: &RawValue, param: &str) -> Result<Self, ItemError> {
        let wrong = |field: &str, why: String| {
            let param = if field.is_empty() { param.to_owned() } else { format!("{param}.{field}") };
            ItemError { param, why }
        };
        let Ok(mut fields) = serde_json::from_str::<Map<String, Value>>(raw.get()) else {
            return Err(wrong("", format!("it is {}; allowed: an object", type_of(raw.get()))));
        };
        // Some clients send null for a field that they mean to omit.
        fields.retain(|_, value| !value.is_null());
        // Only the log may provide reasoning for a model: a client could forge it.
        fields.remove(REASONING_FIELD);
        // OpenAI's short form of a message omits the type.
        let kind = match fields.get("type") {
            None if fields.contains_key("role") => "message",
            None => return Err(wrong("type", format!("it is missing; allowed: {}", allowed_types()))),
            Some(Value::String(kind)) => kind.as_str(),
            Some(_) => {
                return Err(wrong("type", format!("it is not a string; allowed: {}", allowed_types())));
            }
        };
        let Some((kind, prefix)) = TYPES.iter().find(|(name, _)| *name == kind) else {
            return Err(wrong("type", format!("it is {kind:?}; allowed: {}", allowed_types())));
        };
        for (_, names) in STRINGS.iter().filter(|(name, _)| name == kind) {
            for name in *names {
                if !fields.get(*name).is_some_and(Value::is_string) {
                    return Err(wrong(name, "it is missing or not a string".into()));
                }
            }
        }
        if *kind == "mcp_approval_response" && !fields.get("approve").is_some_and(Value::is_boolean) {
            return Err(wrong("approve", "it is missing or not a boolean".into()));
        }
        if *kind == "message" {
            complete_message(&mut fields).map_err(|(field, why)| wrong(&field, why))?;
        }
        fields.insert("type".into(), Value::from(*kind));
        for name in ["content", "output"] {
            let parts = fields.get_mut(name).and_then(Value::as_array_mut);
            parts.into_iter().flatten().filter_map(Value::as_object_mut).for_each(complete_part);
        }
        Ok(Self { prefix, fields })
    }

    /// The item's id and its JSON with that id. The id follows from the cause and the item's place in the request; a
    /// client can't choose it.
    pub(super) fn with_id(&self, cause: &Cause, number: usize) -> Result<(String, Box<RawValue>), ItemError> {
        let id = format!("{}_{}", self.prefix, hex(&derive("item", &[cause, &number.to_be_bytes()])));
        let mut fields = self.fields.clone();
        fields.insert("id".into(), Value::from(id.as_str()));
        // Items of these types have no status, or one with another meaning.
        if !self.prefix.starts_with("mcp") && self.prefix != "cmp" {
            fields.entry("status").or_insert_with(|| Value::from("completed"));
        }
        let json = RawValue::from_string(Value::Object(fields).to_string())
            .map_err(|error| ItemError { param: "items".into(), why: error.to_string() })?;
        Ok((id, json))
    }
}

/// Checks a message and turns the short form of its content, a string, into a part. An error is the field and what is
/// wrong with it.
fn complete_message(fields: &mut Map<String, Value>) -> Result<(), (String, String)> {
    let role = fields.get("role").and_then(Value::as_str).unwrap_or_default();
    if !ROLES.contains(&role) {
        return Err(("role".into(), format!("it is {role:?}; allowed: {}", ROLES.join(", "))));
    }
    let text_type = if role == "assistant" { "output_text" } else { "input_text" };
    match fields.get("content") {
        Some(Value::String(text)) => {
            let part = Map::from_iter([
                ("type".to_owned(), Value::from(text_type)),
                ("text".to_owned(), Value::from(text.as_str())),
            ]);
            fields.insert("content".into(), Value::Array(vec![Value::Object(part)]));
        }
        Some(Value::Array(parts)) => {
            let is_typed = |part: &Value| part.get("type").is_some_and(Value::is_string);
            if let Some(at) = parts.iter().position(|part| !is_typed(part)) {
                return Err((format!("content[{at}]"), "it is not an object with a type".into()));
            }
        }
        _ => {
            let why = "it is missing; allowed: a string or an array of parts";
            return Err(("content".into(), why.into()));
        }
    }
    Ok(())
}

/// Adds the fields that every part has in OpenAI's API, whether the client sent them or not.
fn complete_part(part: &mut Map<String, Value>) {
    part.retain(|_, value| !value.is_null());
    match part.get("type").and_then(Value::as_str) {
        Some("input_image") => {
            part.entry("detail").or_insert("auto".into());
        }
        Some("output_text") => {
            for name in ["annotations", "logprobs"] {
                part.entry(name).or_insert(Value::Array(Vec::new()));
            }
        }
        _ => {}
    }
}

fn allowed_types() -> String {
    TYPES.map(|(name, _)| name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expected: &str) {
        let raw = RawValue::from_string(json.into()).unwrap();
        let parsed = match Item::parse(&raw, "items[0]") {
            Ok(item) => Value::Object(item.fields).to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(parsed, expected);
    }

    #[test]
    fn items_are_checked_and_completed() {
        check(
            r#"{"role":"user","content":"hi","extra":[1]}"#,
            r#"{"role":"user","content":[{"type":"input_text","text":"hi"}],"extra":[1],"type":"message"}"#,
        );
        check(
            r#"{"type":"function_call_output","call_id":"c","output":"o"}"#,
            r#"{"type":"function_call_output","call_id":"c","output":"o"}"#,
        );
        check(
            r#"{"role":"assistant","content":"hi","phase":null}"#,
            r#"{"role":"assistant","content":[{"type":"output_text","text":"hi","annotations":[],"logprobs":[]}],"type":"message"}"#,
        );
        check(
            r#"{"role":"user","content":[{"type":"input_image","image_url":"u","file_id":null}]}"#,
            r#"{"role":"user","content":[{"type":"input_image","image_url":"u","detail":"auto"}],"type":"message"}"#,
        );
        check("7", "invalid value for 'items[0]': it is a number; allowed: an object");
        check(
            r#"{"type":"message","role":"robot","content":""}"#,
            "invalid value for 'items[0].role': it is \"robot\"; allowed: user, assistant, system, developer",
        );
        check(
            r#"{"type":"message","role":"user"}"#,
            "invalid value for 'items[0].content': it is missing; allowed: a string or an array of parts",
        );
        check(
            r#"{"role":"user","content":[7]}"#,
            "invalid value for 'items[0].content[0]': it is not an object with a type",
        );
        check(
            r#"{"type":"function_call","call_id":"c","name":"n"}"#,
            "invalid value for 'items[0].arguments': it is missing or not a string",
        );
        check(
            "{}",
            "invalid value for 'items[0].type': it is missing; allowed: message, function_call, function_call_output, reasoning, custom_tool_call, custom_tool_call_output, mcp_list_tools, mcp_call, mcp_approval_request, mcp_approval_response, compaction",
        );
    }
}
