//! Encodes calls for OpenAI and classifies its errors. Azure, DeepSeek and compatible providers share this code. Its
//! formats are in `wire/chat/` and `wire/responses/`.
//!
//! Source: <https://developers.openai.com/api/reference>.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::{KeyIn, UpstreamCall, UpstreamRequest};
use crate::{
    error::{ErrorClass, ProviderDetail, ProviderError},
    price::{self, PriceList},
    provider::{Address, Environment, Vendor},
    wire::{
        Format,
        chat::Dialect,
        openai::{ErrorObject, POLICY_CODES, QUOTA_CODES},
    },
};

/// OpenAI itself.
pub const VENDOR: Vendor = Vendor {
    kind: "openai",
    address: Address::Fixed("https://api.openai.com/v1"),
    needs_key: true,
    environment: Some(Environment { rank: 0, key: "OPENAI_API_KEY", url: None, model: "gpt-5-mini" }),
    options: &[],
    facts: |model| price::facts(PriceList::OpenAi, model),
    encode,
    classify,
    takes_prefill: |_, _| false,
};

/// Encodes a call for this vendor.
fn encode(call: &UpstreamCall<'_>) -> Result<UpstreamRequest, ProviderError> {
    let format = match call.request.format {
        Format::Responses if call.prompt.is_none() => Format::Responses,
        Format::Chat | Format::Responses | Format::Messages => Format::Chat,
        Format::Embeddings => Format::Embeddings,
        Format::TokenCount => return Err(super::unsupported("its API counts no tokens in this format")),
    };
    let body = call.body(format, Dialect::OPENAI)?;
    call.post(format, path(format), body, KeyIn::Authorization)
}

/// The path of a format's endpoint, under the base URL.
pub(super) fn path(format: Format) -> &'static str {
    match format {
        Format::Chat | Format::Messages | Format::TokenCount => "/chat/completions",
        Format::Responses => "/responses",
        Format::Embeddings => "/embeddings",
    }
}

/// Classifies an answer whose status is not a success: by the status, and where that is ambiguous by `code` and `type`.
/// An answer without an error object is a proxy's, not the API's own.
pub(super) fn classify(status: StatusCode, headers: &HeaderMap, body: &Bytes) -> ProviderError {
    let detail = serde_json::from_slice::<ErrorBody>(body).ok().and_then(|failure| failure.error);
    let has_code = |code: &str| {
        detail
            .as_ref()
            .is_some_and(|d| d.code_text().as_deref() == Some(code) || d.kind.as_deref() == Some(code))
    };
    let out_of_money = QUOTA_CODES.iter().any(|code| has_code(code));
    let class = match status.as_u16() {
        402 => ErrorClass::Quota,
        429 | 403 | 400 if out_of_money => ErrorClass::Quota,
        429 => ErrorClass::RateLimited,
        401 | 403 => ErrorClass::Auth,
        408 => ErrorClass::Timeout,
        // Bounds differ between vendors, so another candidate may succeed.
        413 => ErrorClass::ContextLength,
        503 | 529 => ErrorClass::Overloaded,
        400 if has_code("context_length_exceeded") || has_code("image_too_large") => {
            ErrorClass::ContextLength
        }
        400 if POLICY_CODES.iter().any(|code| has_code(code)) => ErrorClass::ContentPolicy,
        404 if detail.is_some() => ErrorClass::ModelNotFound,
        400 | 404 | 405 if detail.is_none() => ErrorClass::Server,
        400..=499 => ErrorClass::Caller,
        _ => ErrorClass::Server,
    };
    refused(class, status, headers, detail.map(ErrorObject::into_detail))
}

/// The error for an answer whose status is not a success. The provider's own text is kept only if the caller caused the
/// error: other texts may hold keys or account data.
pub(super) fn refused(
    class: ErrorClass,
    status: StatusCode,
    headers: &HeaderMap,
    detail: Option<ProviderDetail>,
) -> ProviderError {
    let show = matches!(class, ErrorClass::Caller | ErrorClass::ContextLength | ErrorClass::ContentPolicy);
    ProviderError {
        class,
        status: Some(status),
        message: format!("the provider answered {}", status.as_u16()),
        retry_after: retry_after(headers),
        detail: detail.filter(|_| show).map(Box::new),
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    error: Option<ErrorObject>,
}

/// The time that the provider asks to wait, from `retry-after-ms`, `x-ms-retry-after-ms` or `retry-after` in seconds.
/// `None` if it is negative or unreadable; at most an hour, so that one odd answer can't exclude a provider for ever.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    const MAX_SECONDS: f64 = 3600.0;
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let seconds = number("retry-after-ms")
        .or_else(|| number("x-ms-retry-after-ms"))
        .map(|millis| millis / 1000.0)
        .or_else(|| number("retry-after"))?;
    (seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(MAX_SECONDS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        status: u16,
        headers: &[(&'static str, &str)],
        body: &'static str,
        expected: ErrorClass,
    ) -> ProviderError {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let error = classify(StatusCode::from_u16(status).unwrap(), &headers.collect(), &Bytes::from(body));
        assert_eq!(error.class, expected, "{status} {body}");
        error
    }

    #[test]
    fn each_error_has_its_class() {
        check(429, &[], r#"{"error":{"code":"rate_limit_exceeded"}}"#, ErrorClass::RateLimited);
        check(429, &[], r#"{"error":{"type":"insufficient_quota","code":"x"}}"#, ErrorClass::Quota);
        check(402, &[], "", ErrorClass::Quota);
        check(401, &[], r#"{"error":{"message":"User not found","code":401}}"#, ErrorClass::Auth);
        check(404, &[], r#"{"error":{"code":"model_not_found"}}"#, ErrorClass::ModelNotFound);
        check(404, &[], "<html>", ErrorClass::Server);
        check(400, &[], r#"{"error":{"code":"context_length_exceeded"}}"#, ErrorClass::ContextLength);
        check(400, &[], r#"{"error":{"code":"content_filter"}}"#, ErrorClass::ContentPolicy);
        check(400, &[], r#"{"error":{"code":"image_too_large"}}"#, ErrorClass::ContextLength);
        check(400, &[], r#"{"error":{"code":"image_content_policy_violation"}}"#, ErrorClass::ContentPolicy);
        check(413, &[], "<html>", ErrorClass::ContextLength);
        check(503, &[], "", ErrorClass::Overloaded);
        check(529, &[], "", ErrorClass::Overloaded);
        check(307, &[("location", "http://evil")], "", ErrorClass::Server);
        for status in [500, 502, 504, 520] {
            check(status, &[], "<html>", ErrorClass::Server);
        }
    }

    #[test]
    fn only_errors_that_the_caller_caused_show_the_providers_text() {
        let body = r#"{"error":{"message":"no 'x'","type":"invalid_request_error","param":"x","code":null}}"#;
        let detail = check(400, &[], body, ErrorClass::Caller).detail.unwrap();
        assert_eq!((detail.message.as_str(), detail.param.as_deref()), ("no 'x'", Some("x")));
        let body = r#"{"error":{"message":"Incorrect API key provided: sk-abc"}}"#;
        let error = check(401, &[], body, ErrorClass::Auth);
        assert!(!format!("{error:?}").contains("sk-abc"));
    }

    #[test]
    fn retry_after_is_read_in_every_form() {
        let wait =
            |headers: &[(&'static str, &str)]| check(429, headers, "", ErrorClass::RateLimited).retry_after;
        assert_eq!(wait(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(
            wait(&[("retry-after-ms", "250"), ("retry-after", "1")]),
            Some(Duration::from_millis(250))
        );
        assert_eq!(wait(&[("retry-after", "99999999")]), Some(Duration::from_secs(3600)));
        for unknown in ["-1", "soon", "NaN"] {
            assert_eq!(wait(&[("retry-after", unknown)]), None, "{unknown}");
        }
    }
}
