//! Fits a JSON Schema to those that Anthropic's models can be held to, as the vendor's own SDKs do. Checks no value
//! against a schema.
//!
//! Sources: <https://platform.claude.com/docs/en/build-with-claude/structured-outputs>,
//! <https://github.com/anthropics/anthropic-sdk-python/blob/main/src/anthropic/lib/_parse/_transform.py>.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::wire::raw::RawJson;

/// The formats of strings that the vendor takes.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"];

/// Keywords under which a schema has definitions, to which its references point.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];

/// Keywords that describe the schema itself, which the model need not see.
const ANNOTATIONS: [&str; 3] = ["$schema", "$id", "$comment"];

/// Keywords that can't become a description without a change of which objects fit: a fitted object is closed.
const OPENING: [&str; 3] = ["patternProperties", "unevaluatedProperties", "dependentSchemas"];

/// Most definitions of a schema that is fitted. The vendor refuses far smaller ones as too complex.
const MAX_DEFINITIONS: usize = 256;

/// The schema with every object closed, and with keywords that the vendor refuses in the descriptions, where the model
/// can still follow them. `None` if the model can't be held to it: objects with any properties, recursion, values of
/// any type.
pub(super) fn fitted(schema: &RawJson) -> Option<Value> {
    let schema = schema.to_value();
    if resolves(&schema) { fit(schema) } else { None }
}

fn fit(schema: Value) -> Option<Value> {
    let Value::Object(schema) = schema else { return None };
    let (mut out, mut refused) = (Map::new(), Vec::new());
    for (mut key, value) in schema {
        let value = match (key.as_str(), value) {
            ("type" | "title" | "description" | "required" | "$ref", value) => value,
            ("enum", Value::Array(values)) if values.iter().all(is_primitive) => values.into(),
            ("const", value) if is_primitive(&value) => value,
            ("properties" | "$defs" | "definitions", Value::Object(schemas)) => {
                let fitted = schemas.into_iter().map(|(name, schema)| Some((name, fit(schema)?)));
                Value::Object(fitted.collect::<Option<_>>()?)
            }
            ("items", schema) => fit(schema)?,
            ("anyOf" | "oneOf", Value::Array(schemas)) if !out.contains_key("anyOf") => {
                key = "anyOf".into();
                Value::Array(schemas.into_iter().map(fit).collect::<Option<_>>()?)
            }
            ("allOf", Value::Array(schemas)) => {
                Value::Array(schemas.into_iter().map(fit).collect::<Option<_>>()?)
            }
            ("additionalProperties", Value::Bool(false)) => false.into(),
            ("format", Value::String(format)) if FORMATS.contains(&format.as_str()) => format.into(),
            ("minItems", least) if matches!(least.as_u64(), Some(0 | 1)) => least,
            (name, _) if ANNOTATIONS.contains(&name) => continue,
            (name, _) if OPENING.contains(&name) => return None,
            ("additionalProperties" | "anyOf" | "oneOf", _) => return None,
            (name, value) => {
                refused.push(format!("{name}: {value}"));
                continue;
            }
        };
        out.insert(key, value);
    }
    // The vendor takes nothing beside a reference.
    if out.contains_key("$ref") {
        out.retain(|key, _| key == "$ref" || DEFINITIONS.contains(&key.as_str()));
        return Some(out.into());
    }
    if !["type", "anyOf", "allOf", "enum", "const"].iter().any(|key| out.contains_key(*key)) {
        return None;
    }
    if is_object(&out) && !out.contains_key("additionalProperties") {
        // An object without properties takes any; closed, it would take none.
        out.get("properties").and_then(Value::as_object).filter(|properties| !properties.is_empty())?;
        out.insert("additionalProperties".into(), false.into());
    }
    if !refused.is_empty() {
        let description = out.get("description").and_then(Value::as_str).map(|text| format!("{text}\n\n"));
        let description = format!("{}{{{}}}", description.unwrap_or_default(), refused.join(", "));
        out.insert("description".into(), description.into());
    }
    Some(out.into())
}

fn is_primitive(value: &Value) -> bool {
    !value.is_object() && !value.is_array()
}

fn is_object(schema: &Map<String, Value>) -> bool {
    match schema.get("type") {
        Some(Value::Array(types)) => types.contains(&"object".into()),
        Some(kind) => kind == "object",
        None => schema.contains_key("properties"),
    }
}

/// Whether every reference points to a definition of the schema, and none leads back to itself.
fn resolves(schema: &Value) -> bool {
    let (mut refs, mut waiting) = (BTreeSet::new(), BTreeMap::new());
    for (key, value) in schema.as_object().into_iter().flatten() {
        match value.as_object().filter(|_| DEFINITIONS.contains(&key.as_str())) {
            None => add_refs(key, value, &mut refs),
            Some(definitions) => {
                for (name, definition) in definitions {
                    let refs: &mut BTreeSet<&str> = waiting.entry(format!("#/{key}/{name}")).or_default();
                    add_refs("", definition, refs);
                }
            }
        }
    }
    if waiting.len() > MAX_DEFINITIONS {
        return false;
    }
    let mut resolved: BTreeSet<String> = BTreeSet::new();
    loop {
        let before = resolved.len();
        waiting.retain(|name, refs| {
            let is_resolved = refs.iter().all(|to| resolved.contains(*to));
            if is_resolved {
                resolved.insert(name.clone());
            }
            !is_resolved
        });
        if resolved.len() == before {
            return waiting.is_empty() && refs.iter().all(|to| resolved.contains(*to));
        }
    }
}

/// Adds what the references of a schema point to.
fn add_refs<'a>(key: &str, value: &'a Value, refs: &mut BTreeSet<&'a str>) {
    match value {
        Value::String(to) if key == "$ref" => drop(refs.insert(to)),
        Value::Array(values) => values.iter().for_each(|value| add_refs("", value, refs)),
        Value::Object(fields) => fields.iter().for_each(|(key, value)| add_refs(key, value, refs)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_are_closed_and_what_the_vendor_refuses_is_described() {
        let object = |property: Value| json!({"type": "object", "properties": {"a": property}});
        let closed = |property: Value| {
            let mut object = object(property);
            object["additionalProperties"] = false.into();
            Some(object)
        };
        for (schema, expected) in [
            (
                object(json!({"type": "integer", "minimum": 1, "maximum": 5, "description": "A number."})),
                closed(json!({"type": "integer", "description": "A number.\n\n{minimum: 1, maximum: 5}"})),
            ),
            (
                object(json!({"type": ["string", "null"], "minLength": 2, "format": "date", "enum": ["x"]})),
                closed(json!({"type": ["string", "null"], "format": "date", "enum": ["x"],
                    "description": "{minLength: 2}"})),
            ),
            (
                object(json!({"type": "array", "items": {"type": "string", "format": "x"}, "minItems": 2})),
                closed(
                    json!({"type": "array", "items": {"type": "string", "description": "{format: \"x\"}"},
                    "description": "{minItems: 2}"}),
                ),
            ),
            (
                object(json!({"oneOf": [{"type": "null"}, {"type": "array", "minItems": 1}]})),
                closed(json!({"anyOf": [{"type": "null"}, {"type": "array", "minItems": 1}]})),
            ),
            (
                json!({"$schema": "x", "$ref": "#/$defs/A", "$defs": {"A": object(json!({"$ref": "#/$defs/B",
                    "default": 1})), "B": {"type": "string"}}}),
                Some(json!({"$ref": "#/$defs/A", "$defs": {"A": closed(json!({"$ref": "#/$defs/B"})),
                    "B": {"type": "string"}}})),
            ),
            (object(json!({"type": "object"})), None),
            (object(json!({"type": "object", "additionalProperties": {"type": "string"}})), None),
            (object(json!({})), None),
            (object(json!({"$ref": "#"})), None),
            (object(json!({"$ref": "https://example.com/schema"})), None),
            (json!({"$ref": "#/$defs/A", "$defs": {"A": object(json!({"$ref": "#/$defs/A"}))}}), None),
            (true.into(), None),
        ] {
            assert_eq!(fitted(&schema.clone().into()), expected, "{schema}");
        }
    }
}
