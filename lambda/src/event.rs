//! What the function is invoked with.

use std::{
    collections::BTreeMap,
    pin::Pin,
    task::{Context, Poll},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, header::COOKIE};
use http_body::{Frame, SizeHint};
use outlive::{body::BodyError, entry::LogId};
use serde::Deserialize;

/// An event, as far as it is looked at: a request to the function's URL, or the schedule.
///
/// Sources: Lambda's function URL payload 2.0, EventBridge's scheduled event.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Event {
    source: Option<String>,
    log: Option<String>,
    #[serde(rename = "detail-type")]
    detail_type: Option<String>,
    raw_path: Option<String>,
    // Fields without a value are left out by the service, and null in emulators of it.
    raw_query_string: Option<String>,
    headers: Option<BTreeMap<String, String>>,
    cookies: Option<Vec<String>>,
    request_context: Option<RequestContext>,
    body: Option<String>,
    is_base64_encoded: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RequestContext {
    http: Option<HttpContext>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HttpContext {
    method: String,
}

/// What an event asks for.
pub(crate) enum Call {
    /// Answer this request.
    Request(Box<Request<Whole>>),
    /// A minute has passed.
    Tick,
    /// This log wants to be looked at; the node itself asks for it.
    Wake(LogId),
}

/// An event that is neither.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EventError {
    /// Not an event of a source that this function has.
    #[error("this event is neither a request to the function's URL nor the schedule's")]
    Unknown,
    /// A request that HTTP does not allow.
    #[error("this event holds a request that can't be one: {0}")]
    Request(String),
}

impl Event {
    /// What the event asks for.
    pub(crate) fn call(self) -> Result<Call, EventError> {
        // Requests that come through the URL have a context, so nobody outside can send this.
        if let (Some("outlive.wake"), Some(log), None) =
            (self.source.as_deref(), &self.log, &self.request_context)
        {
            return LogId::parse(log).map(Call::Wake).ok_or(EventError::Unknown);
        }
        let scheduled = self.source.as_deref() == Some("outlive.tick")
            || self.detail_type.as_deref() == Some("Scheduled Event");
        let method = self.request_context.and_then(|context| context.http).map(|http| http.method);
        let (Some(method), Some(path), false) = (method, self.raw_path, scheduled) else {
            return if scheduled { Ok(Call::Tick) } else { Err(EventError::Unknown) };
        };
        let broken = |error: &dyn std::fmt::Display| EventError::Request(error.to_string());
        let query = self.raw_query_string.filter(|query| !query.is_empty());
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        let mut request = Request::builder()
            .method(method.as_str())
            .uri(format!("{path}{query}"))
            .body(Whole(decode(self.body, self.is_base64_encoded)?))
            .map_err(|error| broken(&error))?;
        let cookies = self.cookies.filter(|cookies| !cookies.is_empty());
        let cookies = cookies.map(|cookies| (COOKIE.to_string(), cookies.join("; ")));
        for (name, value) in self.headers.into_iter().flatten().chain(cookies) {
            let name: HeaderName = name.parse().map_err(|error| broken(&error))?;
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|error| broken(&error))?;
            request.headers_mut().append(name, value);
        }
        Ok(Call::Request(Box::new(request)))
    }
}

fn decode(body: Option<String>, encoded: bool) -> Result<Bytes, EventError> {
    let Some(body) = body else { return Ok(Bytes::new()) };
    if !encoded {
        return Ok(body.into());
    }
    STANDARD.decode(body).map(Bytes::from).map_err(|error| EventError::Request(error.to_string()))
}

/// A request's body, which Lambda hands over whole.
pub(crate) struct Whole(Bytes);

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let bytes = std::mem::take(&mut self.0);
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(json: &str) -> Result<Call, EventError> {
        serde_json::from_str::<Event>(json).unwrap().call()
    }

    #[test]
    fn a_request_to_the_url() {
        let json = r#"{"version":"2.0","rawPath":"/v1/models","rawQueryString":"a=b","cookies":["x=1"],
            "headers":{"authorization":"Bearer k"},"requestContext":{"http":{"method":"POST"}},
            "body":"aMOp","isBase64Encoded":true}"#;
        let Ok(Call::Request(request)) = call(json) else { panic!("not a request") };
        assert_eq!(
            (request.method().as_str(), request.uri().to_string().as_str()),
            ("POST", "/v1/models?a=b")
        );
        assert_eq!(request.headers()["authorization"], "Bearer k");
        assert_eq!(request.headers()["cookie"], "x=1");
        assert_eq!(request.body().0, "hé");
    }

    #[test]
    fn the_schedule_and_what_is_nothing() {
        assert!(matches!(call(r#"{"source":"outlive.tick"}"#), Ok(Call::Tick)));
        assert!(matches!(call(r#"{"detail-type":"Scheduled Event","source":"aws.events"}"#), Ok(Call::Tick)));
        let wake = r#"{"source":"outlive.wake","log":"000102030405060708090a0b0c0d0e0f"}"#;
        assert!(matches!(call(wake), Ok(Call::Wake(LogId([0, 1, ..])))));
        assert!(matches!(call(r#"{"source":"outlive.wake","log":"x"}"#), Err(EventError::Unknown)));
        assert!(matches!(call("{}"), Err(EventError::Unknown)));
        assert!(matches!(call(r#"{"rawPath":"/","requestContext":{}}"#), Err(EventError::Unknown)));
        let odd = r#"{"rawPath":"no slash","requestContext":{"http":{"method":"G T"}}}"#;
        assert!(matches!(call(odd), Err(EventError::Request(_))));
    }
}
