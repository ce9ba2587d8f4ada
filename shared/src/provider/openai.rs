//! OpenAI's chat completions, as OpenAI and everybody compatible with it speak them.
//!
//! Source: <https://developers.openai.com/api/reference>, and for what compatible servers do differently the traps in
//! each function.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri,
    header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Class, Detail, ProviderError, Signal, chat::ChatRequest};
use crate::{body::Body, config::Secret, json::Filled};

/// The request to a provider at `base_url`. Only what is listed here is sent: no header of the caller's.
pub fn encode(
    request: &ChatRequest,
    base_url: &Uri,
    key: Option<&Secret>,
    model: &str,
) -> Result<Request<Body>, ProviderError> {
    let url = format!("{}/chat/completions", base_url.to_string().trim_end_matches('/'));
    let accept = if request.stream { "text/event-stream" } else { "application/json" };
    let mut out = Request::new(Body::from(request.encode(model)));
    *out.method_mut() = Method::POST;
    *out.uri_mut() =
        url.parse().map_err(|_| ProviderError::new(Class::Server, "the provider's URL is not usable"))?;
    let headers = out.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    // A compressed stream would sit in the compressor until a block is full.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    if let Some(key) = key {
        headers.insert(AUTHORIZATION, key.bearer());
    }
    Ok(out)
}

/// How we introduce ourselves to providers.
const AGENT: &str = concat!("outlive/", env!("CARGO_PKG_VERSION"));

/// Whether a whole answer is one: vendors and the proxies before them send HTML, nothing, half a JSON, or an error
/// with status 200.
pub fn check_answer(body: &[u8]) -> Result<(), ProviderError> {
    let server = |what: &str| Err(ProviderError::new(Class::Server, format!("the provider answered {what}")));
    if body.trim_ascii().is_empty() {
        return server("an empty body");
    }
    let Ok(answer) = serde_json::from_slice::<Answer<'_>>(body) else {
        return server("what is not a chat completion");
    };
    if let Some(error) = answer.error.filter(|raw| raw.get() != "null") {
        return Err(in_band(error));
    }
    match answer.choices.as_deref() {
        Some([_, ..]) if answer.choices.iter().flatten().all(|choice| choice.message.is_some()) => Ok(()),
        _ => server("a completion without choices"),
    }
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    choices: Option<Vec<AnswerChoice<'a>>>,
}

#[derive(Deserialize)]
struct AnswerChoice<'a> {
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
}

/// Follows one answer stream and says what each event is.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Choices that have begun and not yet finished.
    open: std::collections::BTreeSet<u64>,
    finished: bool,
}

impl Decoder {
    /// What the event with this data is.
    pub fn decode(&mut self, data: &[u8]) -> Signal {
        if data == b"[DONE]" {
            return Signal::Done;
        }
        let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(data) else {
            return Signal::Error(ProviderError::new(Class::Truncated, "the stream holds torn JSON"));
        };
        if let Some(error) = chunk.error.filter(|raw| raw.get() != "null") {
            return Signal::Error(in_band(error));
        }
        let mut signal = Signal::Frame;
        for choice in chunk.choices.into_iter().flatten() {
            let begun = choice.delta.as_ref().is_some_and(Delta::is_content);
            if begun && signal == Signal::Frame {
                signal = Signal::Content;
            }
            if choice.finish_reason.0 {
                self.open.remove(&choice.index);
                self.finished = true;
                signal = Signal::Finish;
            } else {
                self.open.insert(choice.index);
            }
        }
        signal
    }

    /// Whether every choice was finished, so that the end of the connection is the end of the answer. Some compatible
    /// servers leave `[DONE]` out.
    pub fn is_complete(&self) -> bool {
        self.finished && self.open.is_empty()
    }
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(default)]
    choices: Option<Vec<Choice>>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u64,
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    finish_reason: Filled,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: Filled,
    #[serde(default)]
    tool_calls: Filled,
    #[serde(default)]
    refusal: Filled,
    #[serde(default)]
    reasoning_content: Filled,
    #[serde(default)]
    reasoning: Filled,
    #[serde(default)]
    function_call: Filled,
    #[serde(default)]
    audio: Filled,
}

impl Delta {
    fn is_content(&self) -> bool {
        let Self { content, tool_calls, refusal, reasoning_content, reasoning, function_call, audio } = self;
        [content, tool_calls, refusal, reasoning_content, reasoning, function_call, audio]
            .iter()
            .any(|part| part.0)
    }
}

/// What an answer with a status other than success means. Decides by status and content type first, then by `code` and
/// `type`, since proxies answer in the vendor's name.
pub fn classify(status: StatusCode, headers: &HeaderMap, body: &Bytes) -> ProviderError {
    let detail = serde_json::from_slice::<Failure>(body).ok().and_then(|failure| failure.error);
    let word = |word: &str| {
        detail
            .as_ref()
            .is_some_and(|d| d.code_text().as_deref() == Some(word) || d.kind.as_deref() == Some(word))
    };
    let money = MONEY.iter().any(|code| word(code));
    let class = match status.as_u16() {
        402 => Class::Quota,
        429 | 403 | 400 if money => Class::Quota,
        429 => Class::RateLimited,
        401 | 403 => Class::Auth,
        408 => Class::Timeout,
        413 => Class::Caller,
        503 | 529 => Class::Overloaded,
        400 if word("context_length_exceeded") => Class::ContextLength,
        400 if word("content_filter") || word("content_policy_violation") => Class::ContentPolicy,
        404 if detail.is_some() => Class::NotHere,
        400 | 404 | 405 if detail.is_none() => Class::Server,
        400..=499 => Class::Caller,
        _ => Class::Server,
    };
    let show = matches!(class, Class::Caller | Class::ContextLength | Class::ContentPolicy);
    ProviderError {
        class,
        status: Some(status),
        message: format!("the provider answered {}", status.as_u16()),
        retry_after: retry_after(headers),
        detail: detail.filter(|_| show).map(|detail| Box::new(detail.into_detail())),
    }
}

/// Codes and types that mean "out of money" under any status: never to be tried again soon.
const MONEY: [&str; 6] = [
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "billing_hard_limit_reached",
];

/// An error object where an answer should be: under status 200, or in the middle of a stream.
fn in_band(raw: &RawValue) -> ProviderError {
    let detail = serde_json::from_str::<FailureDetail>(raw.get()).unwrap_or_default();
    let words = [detail.code_text(), detail.kind.clone()];
    let has = |names: &[&str]| words.iter().flatten().any(|word| names.contains(&word.as_str()));
    let class = if has(&MONEY) || has(&["402"]) {
        Class::Quota
    } else if has(&["rate_limit_exceeded", "rate_limit_error", "429"]) {
        Class::RateLimited
    } else if has(&["server_is_overloaded", "slow_down", "overloaded_error", "503", "529"]) {
        Class::Overloaded
    } else if has(&["context_length_exceeded"]) {
        Class::ContextLength
    } else if has(&["content_filter", "content_policy_violation"]) {
        Class::ContentPolicy
    } else {
        Class::Server
    };
    ProviderError::new(class, "the provider sent an error instead of an answer")
}

#[derive(Deserialize)]
struct Failure {
    error: Option<FailureDetail>,
}

#[derive(Default, Deserialize)]
struct FailureDetail {
    #[serde(default)]
    message: Option<String>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    param: Option<String>,
    /// A string at OpenAI, a number at others.
    #[serde(default)]
    code: Option<serde_json::Value>,
}

impl FailureDetail {
    fn code_text(&self) -> Option<String> {
        match self.code.as_ref()? {
            serde_json::Value::String(text) => Some(text.clone()),
            serde_json::Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    fn into_detail(self) -> Detail {
        let code = self.code_text();
        // Long messages quote the request back.
        let message = self.message.unwrap_or_default().chars().take(2000).collect();
        Detail { message, kind: self.kind, param: self.param, code }
    }
}

/// How long to wait, from `retry-after-ms`, `x-ms-retry-after-ms` or `retry-after` in seconds. A negative or unreadable
/// value is unknown; longer than an hour is cut to that, so that one odd answer can't shut a provider out for ever.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    const LONGEST: f64 = 3600.0;
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let seconds = number("retry-after-ms")
        .or_else(|| number("x-ms-retry-after-ms"))
        .map(|millis| millis / 1000.0)
        .or_else(|| number("retry-after"))?;
    (seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(LONGEST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        status: u16,
        headers: &[(&'static str, &str)],
        body: &'static str,
        expected: Class,
    ) -> ProviderError {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let error = classify(StatusCode::from_u16(status).unwrap(), &headers.collect(), &Bytes::from(body));
        assert_eq!(error.class, expected, "{status} {body}");
        error
    }

    #[test]
    fn failures_have_their_class() {
        check(429, &[], r#"{"error":{"code":"rate_limit_exceeded"}}"#, Class::RateLimited);
        check(429, &[], r#"{"error":{"type":"insufficient_quota","code":"x"}}"#, Class::Quota);
        check(402, &[], "", Class::Quota);
        check(401, &[], r#"{"error":{"message":"User not found","code":401}}"#, Class::Auth);
        check(404, &[], r#"{"error":{"code":"model_not_found"}}"#, Class::NotHere);
        check(404, &[], "<html>", Class::Server);
        check(400, &[], r#"{"error":{"code":"context_length_exceeded"}}"#, Class::ContextLength);
        check(400, &[], r#"{"error":{"code":"content_filter"}}"#, Class::ContentPolicy);
        check(413, &[], "<html>", Class::Caller);
        check(503, &[], "", Class::Overloaded);
        check(529, &[], "", Class::Overloaded);
        check(307, &[("location", "http://evil")], "", Class::Server);
        for status in [500, 502, 504, 520] {
            check(status, &[], "<html>", Class::Server);
        }
    }

    #[test]
    fn only_what_the_caller_caused_is_shown_to_the_caller() {
        let body = r#"{"error":{"message":"no 'x'","type":"invalid_request_error","param":"x","code":null}}"#;
        let detail = check(400, &[], body, Class::Caller).detail.unwrap();
        assert_eq!((detail.message.as_str(), detail.param.as_deref()), ("no 'x'", Some("x")));
        let body = r#"{"error":{"message":"Incorrect API key provided: sk-abc"}}"#;
        let error = check(401, &[], body, Class::Auth);
        assert!(!format!("{error:?}").contains("sk-abc"));
    }

    #[test]
    fn waits_are_read_in_every_form() {
        let wait = |headers: &[(&'static str, &str)]| check(429, headers, "", Class::RateLimited).retry_after;
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

    #[test]
    fn events_have_their_signal() {
        let mut decoder = Decoder::default();
        let mut check =
            |data: &str, expected: Signal| assert_eq!(decoder.decode(data.as_bytes()), expected, "{data}");
        check(r#"{"choices":[],"prompt_filter_results":[]}"#, Signal::Frame);
        check(
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
            Signal::Frame,
        );
        check(r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#, Signal::Content);
        check(r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#, Signal::Content);
        check(r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#, Signal::Content);
        check(r#"{"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}"#, Signal::Finish);
        check(r#"{"choices":[],"usage":{}}"#, Signal::Frame);
        check("[DONE]", Signal::Done);
        assert!(!decoder.is_complete(), "choice 0 is still open");
        decoder.decode(br#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#);
        assert!(decoder.is_complete());
        for (data, class) in [
            (r#"{"error":{"code":429}}"#, Class::RateLimited),
            (r#"{"error":{"type":"overloaded_error"}}"#, Class::Overloaded),
            (r#"{"error":"oops"}"#, Class::Server),
            (r#"{"choices":[{"del"#, Class::Truncated),
        ] {
            let Signal::Error(error) = decoder.decode(data.as_bytes()) else { panic!("{data}") };
            assert_eq!(error.class, class, "{data}");
        }
    }

    #[test]
    fn an_answer_must_be_one() {
        assert_eq!(check_answer(b"\n\n{\"choices\":[{\"message\":{}}]}"), Ok(()));
        for bad in [
            "",
            " \n",
            "<html>",
            "{\"choices\":[",
            "{}",
            "{\"choices\":[]}",
            "{\"choices\":[{}]}",
            "[]",
            "null",
        ] {
            assert_eq!(check_answer(bad.as_bytes()).unwrap_err().class, Class::Server, "{bad}");
        }
        assert_eq!(
            check_answer(br#"{"error":{"code":"rate_limit_exceeded"}}"#).unwrap_err().class,
            Class::RateLimited
        );
    }
}
