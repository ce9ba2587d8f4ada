//! Finds what a request costs beside the tokens of its bytes, so that a budget can bound the cost of a call. Computes
//! no prices.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::raw::RawFields;

/// What a request costs beside the tokens of its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// How many images it has: each takes up to some thousand tokens, however few bytes it has.
    pub images: u64,
    /// Whether it has a document, whose tokens cannot be estimated from its bytes.
    pub documents: bool,
    /// A field that requests something without a price in the price table.
    pub unpriced: Option<&'static str>,
}

/// Types of tools that the client runs, so that no vendor bills them.
const CLIENT_TOOLS: [&str; 4] = ["function", "custom", "local_shell", "apply_patch"];

/// Prefixes of Anthropic's dated types of such tools.
const CLIENT_TOOL_PREFIXES: [&str; 5] =
    ["bash_", "text_editor_", "computer_", "memory_", "tool_search_tool_"];

impl Extras {
    /// Scans a request's body. A duplicate field counts each time, since vendors differ in which one they take. A body
    /// that cannot be parsed has no extras, since vendors refuse it.
    pub(super) fn of(body: &[u8]) -> Self {
        let mut extras = Self::default();
        if let Ok(RawFields(fields)) = serde_json::from_slice(body) {
            for field in fields {
                extras.field(&field.name(), field.value);
                // Extras found before an error still count.
                let _ = PartScan(&mut extras).deserialize(field.value);
            }
        }
        extras
    }

    /// Notes a top-level field if it requests something without a price.
    fn field(&mut self, name: &str, value: &RawValue) {
        let one_of = |allowed: &[&str]| {
            let value = serde_json::from_str::<Cow<'_, str>>(value.get());
            value.is_ok_and(|value| allowed.contains(&value.as_ref()))
        };
        let (field, priced) = match name {
            _ if value.get() == "null" => return,
            "service_tier" => ("service_tier", one_of(&["auto", "default", "flex", "standard_only"])),
            "speed" => ("speed", one_of(&["standard"])),
            "inference_geo" => ("inference_geo", one_of(&["global"])),
            "modalities" => {
                let modalities = serde_json::from_str::<Vec<Cow<'_, str>>>(value.get());
                ("modalities", modalities.is_ok_and(|all| all.iter().all(|modality| modality == "text")))
            }
            "tools" => {
                let tools = serde_json::from_str::<Vec<RawFields<'_>>>(value.get());
                ("tools", tools.is_ok_and(|tools| tools.iter().all(RawFields::is_client_tool)))
            }
            // Work that the vendor does before it answers: searches, other models, other servers.
            "web_search_options" => ("web_search_options", false),
            "models" => ("models", false),
            "plugins" => ("plugins", false),
            "provider" => ("provider", false),
            "data_sources" => ("data_sources", false),
            "mcp_servers" => ("mcp_servers", false),
            "container" => ("container", false),
            _ => return,
        };
        if !priced {
            self.unpriced = Some(field);
        }
    }
}

impl RawFields<'_> {
    /// Whether these are the fields of a tool that the client runs.
    fn is_client_tool(&self) -> bool {
        self.0.iter().filter(|field| field.name() == "type").all(|field| {
            let kind = serde_json::from_str::<Cow<'_, str>>(field.value.get()).unwrap_or_default();
            CLIENT_TOOLS.contains(&kind.as_ref())
                || CLIENT_TOOL_PREFIXES.iter().any(|prefix| kind.starts_with(prefix))
        })
    }
}

/// Finds the types of message parts at any depth.
struct PartScan<'a>(&'a mut Extras);

impl<'de> DeserializeSeed<'de> for PartScan<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PartScan<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key == "type" {
                map.next_value_seed(PartTypeScan(self.0))?
            } else {
                map.next_value_seed(PartScan(self.0))?
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(PartScan(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// Reads the type of a part.
struct PartTypeScan<'a>(&'a mut Extras);

impl<'de> DeserializeSeed<'de> for PartTypeScan<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // A `type` that is not a string is a property of that name in a JSON schema, so it is scanned like any value.
        let value = <&RawValue>::deserialize(deserializer)?;
        let Ok(kind) = serde_json::from_str::<Cow<'_, str>>(value.get()) else {
            let _ = PartScan(self.0).deserialize(value);
            return Ok(());
        };
        match kind.as_ref() {
            "image" | "image_url" | "input_image" => self.0.images += 1,
            "document" | "file" | "input_file" => self.0.documents = true,
            "input_audio" | "audio" => self.0.unpriced = Some("input_audio"),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, images: u64, documents: bool, unpriced: Option<&'static str>) {
        assert_eq!(Extras::of(body.as_bytes()), Extras { images, documents, unpriced }, "{body}");
    }

    #[test]
    fn images_and_documents_are_found() {
        check(
            r#"{"messages":[{"role":"user","content":"image"}],"service_tier":"default","n":1.5}"#,
            0,
            false,
            None,
        );
        let part = r#"{"type":"image_url","image_url":{"url":"https://x"}}"#;
        check(&format!(r#"{{"messages":[{{"content":[{part},{part}]}}]}}"#), 2, false, None);
        // With escapes, and at any depth.
        check(r#"{"input":[{"output":[{"\u0074ype":"input\u005fimage"}]}]}"#, 1, false, None);
        check(r#"{"messages":[{"content":[{"type":"document","source":{"type":"url"}}]}]}"#, 0, true, None);
        check(r#"{"messages":[{"content":[{"type":"input_audio"}]}]}"#, 0, false, Some("input_audio"));
        // A schema may have a property `type`.
        check(r#"{"tools":[{"input_schema":{"properties":{"type":{"type":"image"}}}}]}"#, 1, false, None);
    }

    #[test]
    fn fields_without_a_price_are_found() {
        for (field, body) in [
            ("service_tier", r#"{"service_tier":"priority"}"#),
            ("service_tier", r#"{"service_t\u0069er":["x"]}"#),
            ("speed", r#"{"speed":"fast"}"#),
            ("inference_geo", r#"{"inference_geo":"us"}"#),
            ("modalities", r#"{"modalities":["text","audio"]}"#),
            ("web_search_options", r#"{"web_search_options":{}}"#),
            ("tools", r#"{"tools":[{"type":"function"},{"type":"web_search_20250305"}]}"#),
            ("tools", r#"{"tools":[{"type":"code_interpreter"}]}"#),
            // Duplicate fields, and a wrong type.
            ("service_tier", r#"{"service_tier":"priority","service_tier":"default"}"#),
            ("tools", r#"{"tools":[{"type":"function","type":"web_search_20250305"}]}"#),
            ("tools", r#"{"tools":{}}"#),
            ("models", r#"{"models":["dear"]}"#),
        ] {
            check(body, 0, false, Some(field));
        }
        check(
            r#"{"tools":[{"name":"f"},{"type":"bash_20250124"}],"speed":null,"modalities":["text"]}"#,
            0,
            false,
            None,
        );
    }
}
