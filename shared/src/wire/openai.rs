//! What OpenAI's two formats have in common.

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

/// What is kept of a message: long ones quote the request back.
pub(crate) fn short(message: Option<String>) -> String {
    message.unwrap_or_default().chars().take(2000).collect()
}

/// Codes and types that mean "out of money" under any status: never to be tried again soon.
pub(crate) const MONEY: [&str; 6] = [
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "billing_hard_limit_reached",
];

/// Codes and types of a refusal by policy, which no other vendor is asked to overrule.
pub(crate) const POLICY: [&str; 3] =
    ["content_filter", "content_policy_violation", "image_content_policy_violation"];

/// An error object where an answer should be: under status 200, or in the middle of a stream.
pub(super) fn in_band(raw: &RawValue) -> ProviderError {
    let detail = serde_json::from_str::<ErrorObject>(raw.get()).unwrap_or_default();
    let words = [detail.code_text(), detail.kind.clone()];
    let has = |names: &[&str]| words.iter().flatten().any(|word| names.contains(&word.as_str()));
    let class = if has(&MONEY) || has(&["402"]) {
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

/// An error as OpenAI and those compatible with it write it.
#[derive(Default, Deserialize)]
pub(crate) struct ErrorObject {
    #[serde(default)]
    pub(crate) message: Option<String>,
    #[serde(default, rename = "type")]
    pub(crate) kind: Option<String>,
    #[serde(default)]
    pub(crate) param: Option<String>,
    /// A string at OpenAI, a number at others.
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
