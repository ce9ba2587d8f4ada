//! Reads what OpenAI's chat completions and responses have in common: tool choice and usage.

use serde::Deserialize;

use super::{
    RequestError,
    fields::{Fields, parsed},
    prompt::{Prompt, ToolChoice},
};
use crate::usage::Usage;

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
