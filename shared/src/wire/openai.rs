//! Reads and writes what OpenAI's chat completions and responses have in common: tool choice, users, strict schemas and
//! usage.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{
    RequestError, Written,
    fields::{Fields, parsed},
    prompt::{Prompt, ToolChoice},
    raw::RawJson,
};
use crate::{hex::hex, usage::Usage};

/// Reads `tool_choice`. `name` reads the name of the tool that must be called, of the type that it gets; `allowed`
/// describes the field in errors.
pub(super) fn tool_choice(
    fields: &mut Fields<'_>,
    prompt: &mut Prompt,
    allowed: &str,
    name: impl FnOnce(&mut Fields<'_>, &str) -> Result<String, RequestError>,
) -> Result<Option<ToolChoice>, RequestError> {
    let path = fields.path("tool_choice");
    match fields.raw("tool_choice") {
        None => Ok(None),
        Some(raw) if raw.get().starts_with('"') => match parsed::<String>(raw)?.as_str() {
            "auto" => Ok(Some(ToolChoice::Auto)),
            "none" => Ok(Some(ToolChoice::None)),
            "required" => Ok(Some(ToolChoice::Required)),
            _ => Err(fields.bad("tool_choice", allowed)),
        },
        Some(raw) => {
            let mut choice = Fields::of(raw, path)?;
            let kind = choice.needed_string("type")?;
            if !matches!(kind.as_str(), "function" | "custom") {
                prompt.untranslatable.push(choice.path("type"));
                return Ok(None);
            }
            Ok(Some(ToolChoice::Named(name(&mut choice, &kind)?)))
        }
    }
}

/// Most characters of an end user's id: the API refuses longer ones
/// (<https://platform.openai.com/docs/api-reference/responses/create>).
const MAX_USER: usize = 64;

/// Hexadecimal digits of the digest that stands for an id.
const USER_DIGITS: usize = 32;

/// An end user's id as the API takes it: one that is too long, or has other characters than visible ASCII, becomes its
/// digest, which still tells users apart.
pub(super) fn user(id: &str) -> String {
    let is_fitting = id.len() <= MAX_USER && id.bytes().all(|byte| byte.is_ascii_graphic());
    if is_fitting { id.to_owned() } else { hex(&Sha256::digest(id)).chars().take(USER_DIGITS).collect() }
}

/// Whether a schema is sent as strict. Anthropic takes more schemas as strict than OpenAI does: where this one is not,
/// the model still gets it, and the loss is noted in `out`.
pub(super) fn strict(strict: Option<bool>, schema: &RawJson, out: &mut Written) -> Option<bool> {
    if strict != Some(true) || can_be_strict(&schema.to_value()) {
        return strict;
    }
    out.drop("strict");
    Some(false)
}

/// Whether the API takes a schema as strict: each object lists all its properties as required and allows no others
/// (<https://platform.openai.com/docs/guides/structured-outputs#supported-schemas>).
fn can_be_strict(schema: &Value) -> bool {
    schema.get("type") == Some(&"object".into()) && schema.get("anyOf").is_none() && is_closed(schema)
}

fn is_closed(schema: &Value) -> bool {
    let Some(fields) = schema.as_object() else { return false };
    let properties = fields.get("properties").and_then(Value::as_object);
    let is_object = match fields.get("type") {
        Some(Value::String(kind)) => kind == "object",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
        _ => properties.is_some(),
    };
    let required = fields.get("required").and_then(Value::as_array);
    let required: BTreeSet<&str> = required.into_iter().flatten().filter_map(Value::as_str).collect();
    let lists_all =
        || properties.into_iter().flat_map(Map::keys).all(|name| required.contains(name.as_str()));
    if is_object && !(fields.get("additionalProperties") == Some(&false.into()) && lists_all()) {
        return false;
    }
    let is_typed = ["type", "anyOf", "$ref"].iter().any(|name| fields.contains_key(*name));
    let are_closed = fields.iter().all(|(name, value)| match name.as_str() {
        "properties" | "$defs" | "definitions" => {
            value.as_object().is_some_and(|schemas| schemas.values().all(is_closed))
        }
        "anyOf" => value.as_array().is_some_and(|schemas| schemas.iter().all(is_closed)),
        "items" => is_closed(value),
        "allOf" | "oneOf" | "not" | "if" | "then" | "else" => false,
        "dependentRequired" | "dependentSchemas" | "patternProperties" => false,
        _ => true,
    });
    is_typed && are_closed
}

/// The details of a count of input tokens.
#[derive(Default, Deserialize)]
pub(super) struct InputDetails {
    #[serde(default)]
    pub(super) cached_tokens: Option<u64>,
    /// Billed above the price of input from gpt-5.6 on.
    #[serde(default)]
    pub(super) cache_write_tokens: Option<u64>,
}

/// The details of a count of output tokens.
#[derive(Default, Deserialize)]
pub(super) struct OutputDetails {
    #[serde(default)]
    pub(super) reasoning_tokens: Option<u64>,
}

/// Converts OpenAI's counts, whose input includes the tokens read from the cache and written to it.
pub(super) fn usage(
    input: Option<u64>,
    input_details: Option<InputDetails>,
    output: Option<u64>,
    details: Option<OutputDetails>,
) -> Usage {
    let input_details = input_details.unwrap_or_default();
    let cache_read = input_details.cached_tokens.unwrap_or_default();
    let cache_write = input_details.cache_write_tokens.unwrap_or_default();
    Usage {
        input: input.unwrap_or_default().saturating_sub(cache_read).saturating_sub(cache_write),
        cache_read,
        cache_write,
        output: output.unwrap_or_default(),
        reasoning: details.and_then(|details| details.reasoning_tokens).unwrap_or_default(),
        ..Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_long_and_odd_ids_of_users_become_digests() {
        for id in ["", "u", "a@b.c", &"u".repeat(64)] {
            assert_eq!(user(id), id);
        }
        for id in ["two words", "é", &"u".repeat(65)] {
            let digest = user(id);
            assert!(digest.len() == 32 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{digest}");
        }
        assert_ne!(user(&"u".repeat(65)), user(&"u".repeat(66)));
    }

    #[test]
    fn a_schema_is_strict_only_if_every_object_in_it_is_closed() {
        let object = |properties: Value, required: Value, more: Value| {
            json!({
                "type": "object", "properties": properties, "required": required, "additionalProperties": more,
            })
        };
        let (text, no) = (json!({"type": "string"}), json!(false));
        let closed = object(json!({"a": text}), json!(["a"]), no.clone());
        for (schema, expected) in [
            (closed.clone(), true),
            (object(json!({}), json!([]), no.clone()), true),
            (object(json!({"a": text}), json!([]), no.clone()), false),
            (object(json!({"a": text}), json!(["a"]), json!(true)), false),
            (object(json!({"a": {}}), json!(["a"]), no.clone()), false),
            (object(json!({"a": {"type": "array", "items": closed}}), json!(["a"]), no.clone()), true),
            (
                object(
                    json!({"a": {"items": {"type": "object"}, "type": "array"}}),
                    json!(["a"]),
                    no.clone(),
                ),
                false,
            ),
            (
                object(
                    json!({"a": {"anyOf": [text, {"type": ["object", "null"]}]}}),
                    json!(["a"]),
                    no.clone(),
                ),
                false,
            ),
            (object(json!({"a": {"type": "string", "oneOf": []}}), json!(["a"]), no), false),
            (json!({"anyOf": [closed]}), false),
            (json!({"type": "object"}), false),
            (text, false),
        ] {
            assert_eq!(can_be_strict(&schema), expected, "{schema}");
        }
    }
}
