//! What OpenAI's two formats have in common.

use serde::Deserialize;
use serde_json::Value;

use super::{
    RequestError,
    fields::Fields,
    prompt::{Prompt, ToolChoice},
};
use crate::usage::Usage;

/// Reads `tool_choice`. `name` finds the name of the one function that must be called.
pub(super) fn tool_choice(
    fields: &mut Fields,
    prompt: &mut Prompt,
    allowed: &str,
    name: impl FnOnce(&mut Fields) -> Result<String, RequestError>,
) -> Result<Option<ToolChoice>, RequestError> {
    let path = fields.path("tool_choice");
    match fields.value("tool_choice") {
        None => Ok(None),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Ok(Some(ToolChoice::Auto)),
            "none" => Ok(Some(ToolChoice::None)),
            "required" => Ok(Some(ToolChoice::Required)),
            _ => Err(fields.bad("tool_choice", allowed)),
        },
        Some(value) => {
            let mut choice = Fields::of(value, path)?;
            if choice.needed_string("type")? != "function" {
                prompt.untranslatable.push(choice.path("type"));
                return Ok(None);
            }
            Ok(Some(ToolChoice::Named(name(&mut choice)?)))
        }
    }
}

/// The parts of a count of input.
#[derive(Default, Deserialize)]
pub(super) struct InputDetails {
    #[serde(default)]
    pub(super) cached_tokens: Option<u64>,
}

/// The parts of a count of output.
#[derive(Default, Deserialize)]
pub(super) struct OutputDetails {
    #[serde(default)]
    pub(super) reasoning_tokens: Option<u64>,
}

/// Counts as OpenAI has them: the input includes what the cache had.
pub(super) fn usage(
    input: Option<u64>,
    cached: Option<u64>,
    output: Option<u64>,
    details: Option<OutputDetails>,
) -> Usage {
    let cache_read = cached.unwrap_or_default();
    Usage {
        input: input.unwrap_or_default().saturating_sub(cache_read),
        cache_read,
        output: output.unwrap_or_default(),
        reasoning: details.and_then(|details| details.reasoning_tokens).unwrap_or_default(),
        ..Usage::default()
    }
}
