//! Anthropic's error objects, and what one means that comes instead of an answer.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{ErrorClass, ProviderError};

/// An error object where an answer should be.
pub(super) fn in_band(raw: &RawValue) -> ProviderError {
    let kind = serde_json::from_str::<ErrorObject>(raw.get()).ok().and_then(|detail| detail.kind);
    let class = match kind.as_deref().unwrap_or_default() {
        "overloaded_error" => ErrorClass::Overloaded,
        "rate_limit_error" => ErrorClass::RateLimited,
        "billing_error" => ErrorClass::Quota,
        "authentication_error" | "permission_error" => ErrorClass::Auth,
        "not_found_error" => ErrorClass::NotHere,
        "timeout_error" => ErrorClass::Timeout,
        _ => ErrorClass::Server,
    };
    ProviderError::new(class, "the provider sent an error instead of an answer")
}

/// An error as Anthropic writes it.
#[derive(Deserialize)]
pub(crate) struct ErrorObject {
    #[serde(default, rename = "type")]
    pub(crate) kind: Option<String>,
    #[serde(default)]
    pub(crate) message: Option<String>,
    #[serde(default)]
    pub(crate) details: Option<Details>,
}

/// What stands beside the words.
#[derive(Deserialize)]
pub(crate) struct Details {
    #[serde(default)]
    pub(crate) error_code: Option<String>,
}
