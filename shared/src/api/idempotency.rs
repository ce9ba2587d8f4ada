//! Reads the `Idempotency-Key` of a request. The handlers decide what a repeated key means.

use http::request;

use super::ApiError;

/// Longest key: Stripe's bound, which clients know.
const MAX_BYTES: usize = 255;

/// The request's `Idempotency-Key`, if it has one.
pub(super) fn key(head: &request::Parts) -> Result<Option<&str>, ApiError> {
    let Some(value) = head.headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if (1..=MAX_BYTES).contains(&text.len()) {
        return Ok(Some(text));
    }
    Err(ApiError::value("Idempotency-Key", format!("allowed: 1 to {MAX_BYTES} visible ASCII characters")))
}
