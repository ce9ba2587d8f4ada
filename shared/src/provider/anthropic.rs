//! Encodes calls for Anthropic and classifies its errors. Its formats are in `wire/messages/`.
//!
//! Source: <https://platform.claude.com/docs/en/api/overview>, errors:
//! <https://platform.claude.com/docs/en/api/errors>.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;

use super::{KeyIn, UpstreamCall, UpstreamRequest, Vendor, openai, unsupported};
use crate::{
    error::{ErrorClass, ProviderDetail, ProviderError},
    price::{self, PriceList},
    provider::{Address, Environment},
    wire::{
        Format,
        messages::{Dialect, error::ErrorObject},
        openai::short,
    },
};

/// Anthropic.
pub const VENDOR: Vendor = Vendor {
    kind: "anthropic",
    address: Address::Fixed("https://api.anthropic.com/v1"),
    needs_key: true,
    environment: Some(Environment {
        rank: 1,
        key: "ANTHROPIC_API_KEY",
        url: None,
        model: "claude-haiku-4-5",
    }),
    options: &["beta"],
    facts: |model| price::facts(PriceList::Anthropic, model),
    encode,
    classify,
    takes_prefill: |model, prompt| takes_prefill(model) && prompt.effort.is_none(),
};

/// The API version that this file implements.
const VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");

/// Encodes a call for this vendor.
fn encode(call: &UpstreamCall<'_>) -> Result<UpstreamRequest, ProviderError> {
    let (format, path) = match call.request.format {
        Format::Chat | Format::Responses | Format::Messages => (Format::Messages, "/messages"),
        Format::TokenCount => (Format::TokenCount, "/messages/count_tokens"),
        Format::Embeddings => return Err(unsupported("its API has no embeddings")),
    };
    let body = call.messages_body(format, dialect(call.model))?;
    let mut upstream = call.post(format, path, body, KeyIn::Header("x-api-key"))?;
    let headers = upstream.request.headers_mut();
    headers.insert(HeaderName::from_static("anthropic-version"), VERSION);
    if let Some(beta) = &call.provider.beta {
        headers.insert(HeaderName::from_static("anthropic-beta"), beta.clone());
    }
    Ok(upstream)
}

/// What the model accepts.
fn dialect(model: &str) -> Dialect {
    let version = version(model);
    Dialect {
        max_output: (VENDOR.facts)(model).and_then(|facts| facts.output_tokens),
        adaptive: version >= (4, 6),
        fixed_sampling: version >= (4, 7),
    }
}

/// Whether the model takes a prefill. From 4.6 on it rejects an assistant's message at the end of the prompt
/// (<https://platform.claude.com/docs/en/build-with-claude/streaming>).
fn takes_prefill(model: &str) -> bool {
    version(model) < (4, 6)
}

/// The model's version, from names such as `claude-haiku-4-5-20251001`, `claude-3-7-sonnet-latest` and
/// `claude-opus-5`. A name without a version counts as the newest.
fn version(model: &str) -> (u32, u32) {
    let mut numbers = model.split(['-', '.', '@']).filter_map(|part| {
        // Longer numbers are dates.
        part.parse::<u32>().ok().filter(|_| part.len() <= 2)
    });
    match numbers.next() {
        Some(major) => (major, numbers.next().unwrap_or_default()),
        None => (u32::MAX, 0),
    }
}

/// Classifies an answer whose status is not a success.
fn classify(status: StatusCode, headers: &HeaderMap, body: &Bytes) -> ProviderError {
    let detail = serde_json::from_slice::<ErrorBody>(body).ok().and_then(|failure| failure.error);
    let kind = detail.as_ref().and_then(|detail| detail.kind.as_deref()).unwrap_or_default();
    let message = detail.as_ref().and_then(|detail| detail.message.as_deref()).unwrap_or_default();
    let spend_limit_reached = detail
        .as_ref()
        .and_then(|detail| detail.details.as_ref())
        .is_some_and(|details| details.error_code.as_deref() == Some("enforced_spend_limit_reached"));
    let class = match status.as_u16() {
        402 => ErrorClass::Quota,
        429 if spend_limit_reached => ErrorClass::Quota,
        429 => ErrorClass::RateLimited,
        401 | 403 => ErrorClass::Auth,
        404 if kind == "not_found_error" => ErrorClass::ModelNotFound,
        // A proxy before the API sends it, without JSON. Bounds differ between vendors, so another candidate may
        // succeed.
        413 => ErrorClass::ContextLength,
        400 if is_spend_limit(message) => ErrorClass::Quota,
        400 if is_too_long(message) => ErrorClass::ContextLength,
        400 if is_bound(message) => ErrorClass::BoundThoughts,
        529 => ErrorClass::Overloaded,
        503 => ErrorClass::Overloaded,
        504 | 408 => ErrorClass::Timeout,
        // Without an error object the answer is not the API's own.
        400 | 404 | 405 if detail.is_none() => ErrorClass::Server,
        400..=499 => ErrorClass::Caller,
        _ => ErrorClass::Server,
    };
    let detail = detail.map(|detail| ProviderDetail {
        message: short(detail.message),
        kind: detail.kind,
        ..ProviderDetail::default()
    });
    openai::refused(class, status, headers, detail)
}

/// Whether the account's own spend limit is reached, which the API reports as an invalid request.
fn is_spend_limit(message: &str) -> bool {
    message.starts_with("You have reached your specified") && message.contains("API usage limits")
}

/// Whether the prompt is too long or an image in it too large: `messages.0.content.1.image.source.base64: image exceeds
/// 5 MB maximum: …`.
fn is_too_long(message: &str) -> bool {
    message.starts_with("prompt is too long")
        || message.contains("exceed context limit")
        || message.contains("image exceeds ")
}

/// Whether thoughts are rejected: they are bound to their account, model and conversation
/// (<https://platform.claude.com/docs/build-with-claude/preserved-thinking>).
fn is_bound(message: &str) -> bool {
    message.contains("`signature`") && message.contains("`thinking`")
}

#[derive(Deserialize)]
struct ErrorBody {
    error: Option<ErrorObject>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_class() {
        let check = |status: u16, body: &'static str, expected: ErrorClass| {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(classify(status, &HeaderMap::new(), &Bytes::from(body)).class, expected, "{body}");
        };
        check(429, r#"{"type":"error","error":{"type":"rate_limit_error"}}"#, ErrorClass::RateLimited);
        check(
            429,
            r#"{"error":{"type":"rate_limit_error","details":{"error_code":"enforced_spend_limit_reached"}}}"#,
            ErrorClass::Quota,
        );
        check(
            400,
            r#"{"error":{"type":"invalid_request_error","message":"You have reached your specified API usage limits. …"}}"#,
            ErrorClass::Quota,
        );
        check(
            400,
            r#"{"error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#,
            ErrorClass::ContextLength,
        );
        check(
            400,
            r#"{"error":{"type":"invalid_request_error","message":"Invalid `signature` in `thinking` block. The block is bound to a different conversation"}}"#,
            ErrorClass::BoundThoughts,
        );
        check(
            400,
            r#"{"error":{"type":"invalid_request_error","message":"max_tokens: …"}}"#,
            ErrorClass::Caller,
        );
        check(
            400,
            r#"{"error":{"type":"invalid_request_error","message":"messages.0.content.1.image.source.base64: image exceeds 5 MB maximum: 6 bytes > 5 bytes"}}"#,
            ErrorClass::ContextLength,
        );
        check(413, "<html>", ErrorClass::ContextLength);
        check(529, r#"{"error":{"type":"overloaded_error"}}"#, ErrorClass::Overloaded);
        check(404, r#"{"error":{"type":"not_found_error"}}"#, ErrorClass::ModelNotFound);
        check(404, "<html>", ErrorClass::Server);
        check(500, r#"{"error":{"type":"api_error"}}"#, ErrorClass::Server);
    }

    #[test]
    fn versions_are_read_from_names() {
        for (model, expected) in [
            ("claude-haiku-4-5-20251001", (4, 5)),
            ("claude-3-7-sonnet-latest", (3, 7)),
            ("claude-opus-4-20250514", (4, 0)),
            ("claude-opus-5", (5, 0)),
            ("claude-sonnet-4.6", (4, 6)),
            ("next", (u32::MAX, 0)),
        ] {
            assert_eq!(version(model), expected, "{model}");
        }
    }
}
