//! Reads what OpenAI's chat completions and responses have in common: tool choice, usage, errors.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    RequestError,
    fields::Fields,
    prompt::{Prompt, ToolChoice},
};
use crate::{
    error::{ErrorClass, ProviderDetail, ProviderError},
    usage::Usage,
};

/// Reads `tool_choice`. `name` reads the name of a function that must be called, `allowed` describes the field in
/// errors.
pub(super) fn tool_choice(
    fields: &mut Fields,
    prompt: &mut Prompt,
    allowed: &str,
    name: impl FnOnce(&mut Fields) -> Result<String, RequestError>,
) -> Result<Option<ToolChoice>, RequestError> {
    let path = fields.path("tool_choice");
    match fields.value("tool_choice") {
        None => Ok(None),
        Some(Value::String(choice)) => match choice.as_str() {
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

/// The beginning of an error message: long messages quote the request.
pub(crate) fn short(message: Option<String>) -> String {
    message.unwrap_or_default().chars().take(2000).collect()
}

/// Codes and types of errors that mean an exhausted quota under any status: a retry soon is useless.
pub(crate) const QUOTA_CODES: [&str; 6] = [
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "billing_hard_limit_reached",
];

/// Codes and types of refusals by content policy. They do not fail over, since another vendor must not overrule them.
pub(crate) const POLICY_CODES: [&str; 3] =
    ["content_filter", "content_policy_violation", "image_content_policy_violation"];

/// Classifies an error object that was sent instead of an answer: with status 200, or in the middle of a stream.
pub(super) fn in_band(raw: &RawValue) -> ProviderError {
    let detail = serde_json::from_str::<ErrorObject>(raw.get()).unwrap_or_default();
    let codes = [detail.code_text(), detail.kind.clone()];
    let has = |names: &[&str]| codes.iter().flatten().any(|code| names.contains(&code.as_str()));
    let class = if has(&QUOTA_CODES) || has(&["402"]) {
        ErrorClass::Quota
    } else if has(&["rate_limit_exceeded", "rate_limit_error", "429"]) {
        ErrorClass::RateLimited
    } else if has(&["server_is_overloaded", "slow_down", "overloaded_error", "503", "529"]) {
        ErrorClass::Overloaded
    } else if has(&["context_length_exceeded"]) {
        ErrorClass::ContextLength
    } else if has(&["content_filter", "content_policy_violation"]) {
        ErrorClass::ContentPolicy
    } else {
        ErrorClass::Server
    };
    ProviderError::new(class, "the provider sent an error instead of an answer")
}

/// An error object of OpenAI and compatible servers.
#[derive(Default, Deserialize)]
pub(crate) struct ErrorObject {
    #[serde(default)]
    pub(crate) message: Option<String>,
    #[serde(default, rename = "type")]
    pub(crate) kind: Option<String>,
    #[serde(default)]
    pub(crate) param: Option<String>,
    /// A string from OpenAI, a number from some compatible servers.
    #[serde(default)]
    pub(crate) code: Option<serde_json::Value>,
}

impl ErrorObject {
    pub(crate) fn code_text(&self) -> Option<String> {
        match self.code.as_ref()? {
            serde_json::Value::String(text) => Some(text.clone()),
            serde_json::Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    pub(crate) fn into_detail(self) -> ProviderDetail {
        let code = self.code_text();
        ProviderDetail { message: short(self.message), kind: self.kind, param: self.param, code }
    }
}
