//! Sends one request to a server and reads its answer, over several connections if the stream breaks. Knows no methods;
//! what an error means for a call is decided in `session.rs`.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT},
};
use http_body::Body as _;
use serde_json::{Map, Value};

use super::{
    Endpoint, MAX_ANSWER_BYTES, MAX_ERROR_BYTES,
    message::{self, RpcError, RpcMessage},
};
use crate::{
    body::Body,
    deadlines::{DeadlineExceeded, Deadlines},
    platform::{Http, HttpError, Platform},
    wire::sse::{self, ResumePoint, SseEvent},
};

/// The revision and session that both sides agreed on.
#[derive(Clone, Debug)]
pub(super) struct Protocol {
    /// The revision, sent with every request.
    pub(super) revision: HeaderValue,
    /// Whether it is the revision without sessions: every request stands alone, and a broken stream can't be resumed.
    pub(super) modern: bool,
    /// The id of the session, if the server assigned one.
    pub(super) session: Option<HeaderValue>,
}

/// The deadlines of one call, over all its requests.
pub(super) type CallDeadlines<'a, P> = Deadlines<'a, &'a P>;

/// The connection details of one server.
pub(super) struct Exchange<'a, P> {
    pub(super) platform: &'a P,
    pub(super) endpoint: &'a Endpoint,
}

/// A JSON-RPC request to the server.
pub(super) struct RpcRequest<'a> {
    pub(super) id: u64,
    pub(super) method: &'a str,
    pub(super) params: &'a Map<String, Value>,
    /// Headers of this request alone.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExchangeError {
    /// There was no connection: the request did not reach the server.
    Unsent(String),
    /// The deadline passed before the answer was complete.
    Timeout,
    /// The server answered with a status other than 200, and perhaps with a JSON-RPC error.
    Status(StatusCode, Option<RpcError>),
    /// The server answered with status 200 and a JSON-RPC error.
    Refused(RpcError),
    /// The connection broke, or the server sent something that is not an answer to the request.
    NoAnswer(String),
}

/// How often the stream of one answer is resumed: servers may close it to make the client poll, but must not keep the
/// caller busy.
const MAX_RESUMES: u32 = 8;

/// The pause before a stream is resumed, unless the server names one.
const RETRY: Duration = Duration::from_secs(1);

/// Most requests of the server that are answered during one call: each answer is an HTTP request of the node.
const MAX_SERVER_REQUESTS: u32 = 16;

pub(super) const REVISION: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const METHOD_NAME: HeaderName = HeaderName::from_static("mcp-method");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const CLIENT: &str = concat!("outlive/", env!("CARGO_PKG_VERSION"));

impl<P: Platform> Exchange<'_, P> {
    /// Sends `request` and returns its result with the headers of the response.
    pub(super) async fn round_trip(
        &self,
        protocol: Option<&Protocol>,
        request: RpcRequest<'_>,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<(Map<String, Value>, HeaderMap), ExchangeError> {
        let mut headers = request.headers;
        if protocol.is_some_and(|protocol| protocol.modern) {
            // Names of methods are constants of this client, so they always fit into a header.
            headers.extend(HeaderValue::from_str(request.method).map(|method| (METHOD_NAME, method)));
        }
        let message = message::request(request.id, request.method, request.params);
        let response = self.post(protocol, &message, headers, deadlines).await?;
        let (head, body) = response.into_parts();
        let mut source = AnswerBody { body, left: MAX_ANSWER_BYTES };
        if head.status != StatusCode::OK {
            source.left = MAX_ERROR_BYTES;
            // The status decides; a body that can't be read only means that no code is known.
            let body = source.read_all(deadlines).await.unwrap_or_default();
            return Err(ExchangeError::Status(head.status, message::decode_error(body)));
        }
        let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is = |name: &str| kind.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        let outcome = if is("application/json") {
            let body = source.read_all(deadlines).await?;
            match message::decode(&body).map_err(no_answer)? {
                RpcMessage::Answer(id, outcome) => check_id(request.id, id, outcome)?,
                RpcMessage::Request(..) | RpcMessage::Notification => {
                    return Err(no_answer("another message"));
                }
            }
        } else if is("text/event-stream") {
            self.read_stream(protocol, request.id, source, deadlines).await?
        } else {
            return Err(no_answer("neither JSON nor an event stream"));
        };
        Ok((outcome, head.headers))
    }

    /// Sends a message that has no answer; the error is one of delivery or of the status.
    pub(super) async fn notify(
        &self,
        protocol: &Protocol,
        message: &Value,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<(), ExchangeError> {
        let response = self.post(Some(protocol), message, Vec::new(), deadlines).await?;
        let status = response.status();
        if status.is_success() { Ok(()) } else { Err(ExchangeError::Status(status, None)) }
    }

    /// Ends the session with `DELETE`; the status is ignored.
    pub(super) async fn end(
        &self,
        protocol: &Protocol,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<(), ExchangeError> {
        let request = self.request(Method::DELETE, Some(protocol), Vec::new(), Body::Empty)?;
        self.send(request, deadlines).await.map(|_| ())
    }

    async fn post(
        &self,
        protocol: Option<&Protocol>,
        message: &Value,
        mut headers: Vec<(HeaderName, HeaderValue)>,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<HttpResponse<P>, ExchangeError> {
        headers.extend([
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (ACCEPT, HeaderValue::from_static("application/json, text/event-stream")),
        ]);
        let body = Bytes::from(message.to_string());
        let request = self.request(Method::POST, protocol, headers, body.into())?;
        self.send(request, deadlines).await
    }

    fn request(
        &self,
        method: Method,
        protocol: Option<&Protocol>,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Body,
    ) -> Result<Request<Body>, ExchangeError> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self.endpoint.url.clone();
        let map = request.headers_mut();
        map.insert(USER_AGENT, HeaderValue::from_static(CLIENT));
        // A compressed stream would sit in the compressor until a block is full.
        map.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        map.extend(headers.into_iter().map(|(name, value)| (Some(name), value)));
        map.extend(self.endpoint.headers.iter().map(|(name, value)| (Some(name.clone()), value.clone())));
        // Last, so that no configured header replaces them.
        if let Some(protocol) = protocol {
            map.insert(REVISION, protocol.revision.clone());
            map.extend(protocol.session.clone().map(|session| (SESSION, session)));
        }
        Ok(request)
    }

    async fn send(
        &self,
        request: Request<Body>,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<HttpResponse<P>, ExchangeError> {
        let sent = pin!(self.platform.http().send(request, self.endpoint.timeouts.connect));
        match deadlines.within(sent).await {
            Err(DeadlineExceeded(_)) => Err(ExchangeError::Timeout),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error @ (HttpError::Connect(_) | HttpError::ConnectTimeout))) => {
                Err(ExchangeError::Unsent(error.to_string()))
            }
            Ok(Err(error @ HttpError::Broken(_))) => Err(ExchangeError::NoAnswer(error.to_string())),
        }
    }

    /// Reads an event stream up to the answer to `id`. If the stream ends early, resumes it on a new connection after
    /// the last event, as far as the revision allows that.
    async fn read_stream(
        &self,
        protocol: Option<&Protocol>,
        id: u64,
        mut source: AnswerBody<P>,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<Map<String, Value>, ExchangeError> {
        let (mut resume, mut resumes, mut server_requests) = (ResumePoint::default(), 0, 0);
        let is_resumable = protocol.is_some_and(|protocol| !protocol.modern);
        loop {
            let mut events = sse::SseDecoder::default();
            let broken = loop {
                while let Some(event) =
                    events.event().map_err(|error| ExchangeError::NoAnswer(error.to_string()))?
                {
                    let SseEvent::Data { name, data, .. } = event else { continue };
                    if data.is_empty() || name.is_some_and(|name| name != "message") {
                        continue;
                    }
                    match message::decode(&data).map_err(no_answer)? {
                        RpcMessage::Answer(of, outcome) => return check_id(id, of, outcome),
                        RpcMessage::Request(of, method) => {
                            server_requests += 1;
                            // A server may wait for this reply before it answers the request.
                            self.reply_to_server(protocol, &of, &method, server_requests, deadlines).await?;
                        }
                        RpcMessage::Notification => {}
                    }
                }
                match source.next(deadlines).await {
                    Ok(Some(chunk)) => events.push(chunk),
                    Ok(None) => break no_answer("a stream that ends before it"),
                    Err(fault @ ExchangeError::NoAnswer(_)) => break fault,
                    Err(fault) => return Err(fault),
                }
            };
            // A connection without an event id leaves the one before it in force.
            let latest = events.resume();
            resume =
                ResumePoint { id: latest.id.clone().or(resume.id), retry: latest.retry.or(resume.retry) };
            let may_resume = is_resumable && resumes < MAX_RESUMES && source.left > 0;
            let Some(last_event) = resume.id.as_deref().filter(|id| may_resume && !id.is_empty()) else {
                return Err(broken);
            };
            let last_event = HeaderValue::from_bytes(last_event).map_err(|_| broken)?;
            resumes += 1;
            // Only the body is replaced: the bound on bytes holds for all connections together.
            source.body = self.resume(protocol, last_event, resume.retry, deadlines).await?;
        }
    }

    /// Answers a request of the server: a `ping`, or a method that this client does not have. Ignores requests in the
    /// revision without sessions, which has none, and those beyond [`MAX_SERVER_REQUESTS`].
    async fn reply_to_server(
        &self,
        protocol: Option<&Protocol>,
        id: &Value,
        method: &str,
        server_requests: u32,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<(), ExchangeError> {
        let may_reply = |protocol: &&Protocol| !protocol.modern && server_requests <= MAX_SERVER_REQUESTS;
        let Some(protocol) = protocol.filter(may_reply) else { return Ok(()) };
        let Some(answer) = message::reply_to(id, method) else { return Ok(()) };
        match self.notify(protocol, &answer, deadlines).await {
            Err(ExchangeError::Timeout) => Err(ExchangeError::Timeout),
            // A reply that is refused changes nothing: the answer to the call may still come.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Waits, then requests the rest of the stream after the event `last_event`.
    async fn resume(
        &self,
        protocol: Option<&Protocol>,
        last_event: HeaderValue,
        retry: Option<u64>,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<<P::Http as Http>::Body, ExchangeError> {
        let wait = retry.map_or(RETRY, Duration::from_millis);
        deadlines
            .within(pin!(self.platform.sleep(wait)))
            .await
            .map_err(|DeadlineExceeded(_)| ExchangeError::Timeout)?;
        let headers =
            vec![(ACCEPT, HeaderValue::from_static("text/event-stream")), (LAST_EVENT_ID, last_event)];
        let request = self.request(Method::GET, protocol, headers, Body::Empty)?;
        match self.send(request, deadlines).await {
            Ok(response) if response.status() == StatusCode::OK => Ok(response.into_body()),
            Ok(_) => Err(no_answer("a stream that can't be resumed")),
            // The call itself was sent earlier, so it may have run.
            Err(ExchangeError::Unsent(why)) => Err(ExchangeError::NoAnswer(why)),
            Err(fault) => Err(fault),
        }
    }
}

type HttpResponse<P> = Response<<<P as Platform>::Http as Http>::Body>;

/// Checks that an answer has the id of the request. An error without an id is one about a request that the server could
/// not parse; there is only one in flight on this connection, so it is this one.
fn check_id(
    expected: u64,
    id: Option<u64>,
    outcome: Result<Map<String, Value>, RpcError>,
) -> Result<Map<String, Value>, ExchangeError> {
    match (id, outcome) {
        (Some(id), outcome) if id == expected => outcome.map_err(ExchangeError::Refused),
        (None, Err(refusal)) => Err(ExchangeError::Refused(refusal)),
        _ => Err(no_answer(message::WRONG_ID)),
    }
}

fn no_answer(what: &str) -> ExchangeError {
    ExchangeError::NoAnswer(format!("it sent {what}"))
}

/// The body of a response, read up to a bound.
struct AnswerBody<P: Platform> {
    body: <P::Http as Http>::Body,
    /// Bytes that may still be read.
    left: usize,
}

impl<P: Platform> AnswerBody<P> {
    /// The next bytes; `None` at the end.
    async fn next(&mut self, deadlines: &mut CallDeadlines<'_, P>) -> Result<Option<Bytes>, ExchangeError> {
        loop {
            let frame = deadlines.within(poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx))).await;
            let data = match frame.map_err(|DeadlineExceeded(_)| ExchangeError::Timeout)? {
                None => return Ok(None),
                Some(Err(error)) => return Err(ExchangeError::NoAnswer(error.to_string())),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            // Empty frames count as a byte each: a body that is always ready never reaches the deadline.
            let Some(left) = self.left.checked_sub(data.len().max(1)) else {
                self.left = 0;
                return Err(no_answer("a longer answer than the client reads"));
            };
            self.left = left;
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }

    async fn read_all(&mut self, deadlines: &mut CallDeadlines<'_, P>) -> Result<Bytes, ExchangeError> {
        let mut body = BytesMut::new();
        while let Some(chunk) = self.next(deadlines).await? {
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}
