//! Reads Anthropic's error objects, and classifies those that come instead of an answer. Errors with an HTTP status are
//! classified in `provider`.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{ErrorClass, ProviderError};

/// Classifies an error object that was sent instead of an answer.
pub(super) fn in_band(raw: &RawValue) -> ProviderError {
    let kind = serde_json::from_str::<ErrorObject>(raw.get()).ok().and_then(|detail| detail.kind);
    let class = match kind.as_deref().unwrap_or_default() {
        "overloaded_error" => ErrorClass::Overloaded,
        "rate_limit_error" => ErrorClass::RateLimited,
        "billing_error" => ErrorClass::Quota,
        "authentication_error" | "permission_error" => ErrorClass::Auth,
        "not_found_error" => ErrorClass::ModelNotFound,
        "timeout_error" => ErrorClass::Timeout,
        _ => ErrorClass::Server,
    };
    ProviderError::new(class, "the provider sent an error instead of an answer")
}

/// An error object of Anthropic.
#[derive(Deserialize)]
pub(crate) struct ErrorObject {
    #[serde(default, rename = "type")]
    pub(crate) kind: Option<String>,
    #[serde(default)]
    pub(crate) message: Option<String>,
    #[serde(default)]
    pub(crate) details: Option<Details>,
}

/// The details of an error.
#[derive(Deserialize)]
pub(crate) struct Details {
    #[serde(default)]
    pub(crate) error_code: Option<String>,
}
