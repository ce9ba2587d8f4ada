//! Parses the event of an invocation: a request, the tick or a wake. Handles none of them.

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

/// The fields that are read of an event: Lambda's function URL payload 2.0, EventBridge's scheduled event, or an event
/// that the node sends to itself.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Event {
    source: Option<String>,
    log: Option<String>,
    #[serde(rename = "detail-type")]
    detail_type: Option<String>,
    raw_path: Option<String>,
    // The service omits fields without a value; emulators send null.
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

/// What the function is invoked for.
pub(crate) enum Invocation {
    /// A client's request.
    Request(Box<Request<RequestBody>>),
    /// The tick of the schedule.
    Tick,
    /// The wake of this log, which an instance of the function has asked for.
    Wake(LogId),
}

/// Why an event can't be handled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EventError {
    /// It is of a source that this function does not have.
    #[error("this event is neither a request to the function's URL nor the schedule's")]
    UnknownSource,
    /// Its request is not valid HTTP.
    #[error("this event's request is not valid HTTP: {0}")]
    InvalidRequest(String),
}

impl Event {
    /// Decides by the event's source what the function is invoked for.
    pub(crate) fn into_invocation(self) -> Result<Invocation, EventError> {
        // Requests through the URL have a context, so no client can send a wake.
        if let (Some("outlive.wake"), Some(log), None) =
            (self.source.as_deref(), &self.log, &self.request_context)
        {
            return LogId::parse(log).map(Invocation::Wake).ok_or(EventError::UnknownSource);
        }
        let is_tick = self.source.as_deref() == Some("outlive.tick")
            || self.detail_type.as_deref() == Some("Scheduled Event");
        if is_tick {
            return Ok(Invocation::Tick);
        }
        self.into_request().map(|request| Invocation::Request(Box::new(request)))
    }

    fn into_request(self) -> Result<Request<RequestBody>, EventError> {
        let method = self.request_context.and_then(|context| context.http).map(|http| http.method);
        let (Some(method), Some(path)) = (method, self.raw_path) else {
            return Err(EventError::UnknownSource);
        };
        let invalid = |error: &dyn std::fmt::Display| EventError::InvalidRequest(error.to_string());
        let query = self.raw_query_string.filter(|query| !query.is_empty());
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        let mut request = Request::builder()
            .method(method.as_str())
            .uri(format!("{path}{query}"))
            .body(RequestBody(decode(self.body, self.is_base64_encoded)?))
            .map_err(|error| invalid(&error))?;
        // The service takes the cookies out of the headers.
        let cookies = self.cookies.filter(|cookies| !cookies.is_empty());
        let cookies = cookies.map(|cookies| (COOKIE.to_string(), cookies.join("; ")));
        for (name, value) in self.headers.into_iter().flatten().chain(cookies) {
            let name: HeaderName = name.parse().map_err(|error| invalid(&error))?;
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|error| invalid(&error))?;
            request.headers_mut().append(name, value);
        }
        Ok(request)
    }
}

fn decode(body: Option<String>, is_base64: bool) -> Result<Bytes, EventError> {
    let Some(body) = body else { return Ok(Bytes::new()) };
    if !is_base64 {
        return Ok(body.into());
    }
    STANDARD.decode(body).map(Bytes::from).map_err(|error| EventError::InvalidRequest(error.to_string()))
}

/// The body of a request, in one piece as Lambda passes it.
pub(crate) struct RequestBody(Bytes);

impl http_body::Body for RequestBody {
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

    fn parse(json: &str) -> Result<Invocation, EventError> {
        serde_json::from_str::<Event>(json).unwrap().into_invocation()
    }

    #[test]
    fn a_request_to_the_url() {
        let json = r#"{"version":"2.0","rawPath":"/v1/models","rawQueryString":"a=b","cookies":["x=1"],
            "headers":{"authorization":"Bearer k"},"requestContext":{"http":{"method":"POST"}},
            "body":"aMOp","isBase64Encoded":true}"#;
        let Ok(Invocation::Request(request)) = parse(json) else { panic!("not a request") };
        assert_eq!(
            (request.method().as_str(), request.uri().to_string().as_str()),
            ("POST", "/v1/models?a=b")
        );
        assert_eq!(request.headers()["authorization"], "Bearer k");
        assert_eq!(request.headers()["cookie"], "x=1");
        assert_eq!(request.body().0, "hé");
    }

    #[test]
    fn ticks_wakes_and_unknown_events() {
        assert!(matches!(parse(r#"{"source":"outlive.tick"}"#), Ok(Invocation::Tick)));
        assert!(matches!(
            parse(r#"{"detail-type":"Scheduled Event","source":"aws.events"}"#),
            Ok(Invocation::Tick)
        ));
        let wake = r#"{"source":"outlive.wake","log":"000102030405060708090a0b0c0d0e0f"}"#;
        assert!(matches!(parse(wake), Ok(Invocation::Wake(LogId([0, 1, ..])))));
        assert!(matches!(parse(r#"{"source":"outlive.wake","log":"x"}"#), Err(EventError::UnknownSource)));
        assert!(matches!(parse("{}"), Err(EventError::UnknownSource)));
        assert!(matches!(parse(r#"{"rawPath":"/","requestContext":{}}"#), Err(EventError::UnknownSource)));
        let invalid = r#"{"rawPath":"no slash","requestContext":{"http":{"method":"G T"}}}"#;
        assert!(matches!(parse(invalid), Err(EventError::InvalidRequest(_))));
    }
}
