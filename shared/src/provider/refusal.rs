//! Classifies answers whose status is not a success. The rules are in `wire/error_body.rs`, since errors within answers
//! follow the same ones.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::{
    error::ProviderError,
    time::Timestamp,
    wire::error_body::{self, ErrorBody},
};

/// Classifies an answer whose status is not a success.
pub fn classify(status: StatusCode, headers: &HeaderMap, body: &[u8], now: Timestamp) -> ProviderError {
    let body = ErrorBody::read(body);
    let class = error_body::class(Some(status.as_u16()), body.as_ref());
    let requested = retry_after(headers, now).or_else(|| body.as_ref()?.retry_after);
    let message = format!("the provider answered {}", status.as_u16());
    let error =
        ProviderError { status: Some(status), retry_after: requested, ..ProviderError::new(class, message) };
    match body {
        Some(body) => body.explain(error),
        None => error,
    }
}

/// The time that the provider asks to wait, from `retry-after-ms`, `x-ms-retry-after-ms` or `retry-after`, which is in
/// seconds or a date (RFC 9110). `None` if it is negative or unreadable.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |name: &str| text(name)?.parse::<f64>().ok();
    let date = |name: &str| Some(Timestamp::parse_http_date(text(name)?)?.since(now).as_secs_f64());
    let seconds = number("retry-after-ms")
        .or_else(|| number("x-ms-retry-after-ms"))
        .map(|millis| millis / 1000.0)
        .or_else(|| number("retry-after"))
        .or_else(|| date("retry-after"))?;
    error_body::wait(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorClass;

    /// 2026-11-29 14:00:00 UTC.
    const NOW: Timestamp = Timestamp(1_795_960_800_000);

    fn check(status: u16, headers: &[(&'static str, &str)], body: &str) -> ProviderError {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        classify(StatusCode::from_u16(status).unwrap(), &headers.collect(), body.as_bytes(), NOW)
    }

    #[test]
    fn retry_after_is_read_in_every_form() {
        let wait = |headers: &[(&'static str, &str)]| check(429, headers, "").retry_after;
        assert_eq!(wait(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(
            wait(&[("retry-after-ms", "250"), ("retry-after", "1")]),
            Some(Duration::from_millis(250))
        );
        assert_eq!(wait(&[("retry-after", "99999999")]), Some(Duration::from_secs(3600)));
        let date = |date: &str| wait(&[("retry-after", date)]);
        assert_eq!(date("Sun, 29 Nov 2026 14:00:50 GMT"), Some(Duration::from_secs(50)));
        assert_eq!(date("Sun, 29 Nov 2026 13:00:00 GMT"), Some(Duration::ZERO));
        for unknown in ["-1", "soon", "NaN"] {
            assert_eq!(wait(&[("retry-after", unknown)]), None, "{unknown}");
        }
        let body = r#"{"error":{"message":"x","metadata":{"retry_after_seconds":17}}}"#;
        assert_eq!(check(429, &[], body).retry_after, Some(Duration::from_secs(17)));
        let google = r#"[{"error":{"code":429,"message":"x","status":"RESOURCE_EXHAUSTED","details":[{},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"39.5s"}]}}]"#;
        assert_eq!(check(429, &[], google).retry_after, Some(Duration::from_millis(39_500)));
    }

    #[test]
    fn a_refusal_keeps_no_text_that_the_caller_did_not_cause() {
        let error = check(401, &[], r#"{"error":{"message":"Incorrect API key provided: sk-abc"}}"#);
        assert_eq!((error.class, error.detail.clone()), (ErrorClass::Auth, None));
        assert!(!format!("{error:?}").contains("sk-abc"));
    }
}
