//! One request and its answer, over as many connections as that takes.

use std::{future::poll_fn, pin::Pin, time::Duration};

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

/// What both sides have agreed on.
#[derive(Clone, Debug)]
pub(super) struct Protocol {
    /// The revision that is spoken.
    pub(super) revision: HeaderValue,
    /// Whether it is one without sessions: every request says all about itself, and only the server's end of a
    /// connection ends an answer.
    pub(super) modern: bool,
    /// The session, if the server has given it an id.
    pub(super) session: Option<HeaderValue>,
}

/// The deadlines of one call, with all requests that it takes.
pub(super) type CallDeadlines<'a, P> = Deadlines<'a, &'a P>;

/// Speaks with one server.
pub(super) struct Exchange<'a, P> {
    pub(super) platform: &'a P,
    pub(super) endpoint: &'a Endpoint,
}

/// What is asked.
pub(super) struct RpcRequest<'a> {
    pub(super) id: u64,
    pub(super) method: &'a str,
    pub(super) params: &'a Map<String, Value>,
    /// Headers that only this request has.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExchangeError {
    /// The request did not reach the server.
    Unsent(String),
    /// The deadlines passed before there was an answer.
    Late,
    /// The server answered with another status than 200, and maybe with an error.
    Status(StatusCode, Option<RpcError>),
    /// The server answered with an error.
    Refusal(RpcError),
    /// What came is no answer.
    Lost(String),
}

/// How often the stream of one answer is taken up again: servers may close it to let the client ask from time to time,
/// but one that does nothing else keeps the caller busy.
const MAX_RESUMES: u32 = 8;

/// How long it is waited before that if the server does not say.
const RETRY: Duration = Duration::from_secs(1);

/// Most that a server may ask while it answers: each is a request of ours, and nobody should be made to send many.
const MAX_ASKED: u32 = 16;

pub(super) const REVISION: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
const AGENT: &str = concat!("outlive/", env!("CARGO_PKG_VERSION"));

impl<P: Platform> Exchange<'_, P> {
    /// Asks, and gives the result with the headers that came before it.
    pub(super) async fn ask(
        &self,
        terms: Option<&Protocol>,
        ask: RpcRequest<'_>,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<(Map<String, Value>, HeaderMap), ExchangeError> {
        let mut headers = ask.headers;
        if terms.is_some_and(|terms| terms.modern) {
            // The names of methods are ours.
            headers.extend(HeaderValue::from_str(ask.method).map(|method| (METHOD, method)));
        }
        let message = message::request(ask.id, ask.method, ask.params);
        let response = self.post(terms, &message, headers, deadlines).await?;
        let (head, body) = response.into_parts();
        let mut source = AnswerBody { body, left: MAX_ANSWER_BYTES };
        if head.status != StatusCode::OK {
            source.left = MAX_ERROR_BYTES;
            // What can't be read of the body changes nothing about the status.
            let body = source.whole(deadlines).await.unwrap_or_default();
            return Err(ExchangeError::Status(head.status, message::decode_error(body)));
        }
        let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is = |name: &str| kind.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        let outcome = if is("application/json") {
            let body = source.whole(deadlines).await?;
            match message::decode(&body).map_err(no_answer)? {
                RpcMessage::Answer(id, outcome) => settle(ask.id, id, outcome)?,
                RpcMessage::Request(..) | RpcMessage::Notification => {
                    return Err(no_answer("another message"));
                }
            }
        } else if is("text/event-stream") {
            self.follow(terms, ask.id, source, deadlines).await?
        } else {
            return Err(no_answer("neither JSON nor an event stream"));
        };
        Ok((outcome, head.headers))
    }

    /// Tells the server something. Nobody waits for what becomes of it, but the status is looked at.
    pub(super) async fn notify(
        &self,
        terms: &Protocol,
        message: &Value,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<(), ExchangeError> {
        let response = self.post(Some(terms), message, Vec::new(), deadlines).await?;
        let status = response.status();
        if status.is_success() { Ok(()) } else { Err(ExchangeError::Status(status, None)) }
    }

    /// Ends the session.
    pub(super) async fn end(
        &self,
        terms: &Protocol,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<(), ExchangeError> {
        let request = self.request(Method::DELETE, Some(terms), Vec::new(), Body::Empty)?;
        self.send(request, deadlines).await.map(|_| ())
    }

    async fn post(
        &self,
        terms: Option<&Protocol>,
        message: &Value,
        mut headers: Vec<(HeaderName, HeaderValue)>,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<HttpResponse<P>, ExchangeError> {
        headers.extend([
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (ACCEPT, HeaderValue::from_static("application/json, text/event-stream")),
        ]);
        let body = Bytes::from(message.to_string());
        let request = self.request(Method::POST, terms, headers, body.into())?;
        self.send(request, deadlines).await
    }

    fn request(
        &self,
        method: Method,
        terms: Option<&Protocol>,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Body,
    ) -> Result<Request<Body>, ExchangeError> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self.endpoint.url.clone();
        let map = request.headers_mut();
        map.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        // A compressed stream would sit in the compressor until a block is full.
        map.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        map.extend(headers.into_iter().map(|(name, value)| (Some(name), value)));
        map.extend(self.endpoint.headers.iter().map(|(name, value)| (Some(name.clone()), value.clone())));
        if let Some(terms) = terms {
            map.insert(REVISION, terms.revision.clone());
            map.extend(terms.session.clone().map(|session| (SESSION, session)));
        }
        Ok(request)
    }

    async fn send(
        &self,
        request: Request<Body>,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<HttpResponse<P>, ExchangeError> {
        let sent = self.platform.http().send(request, self.endpoint.timeouts.connect);
        match deadlines.within(sent).await {
            Err(DeadlineExceeded(_)) => Err(ExchangeError::Late),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error @ (HttpError::Connect(_) | HttpError::ConnectTimeout))) => {
                Err(ExchangeError::Unsent(error.to_string()))
            }
            Ok(Err(error @ HttpError::Broken(_))) => Err(ExchangeError::Lost(error.to_string())),
        }
    }

    /// Reads an event stream, and those that go on where it breaks off, up to the answer.
    async fn follow(
        &self,
        terms: Option<&Protocol>,
        id: u64,
        mut source: AnswerBody<P>,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<Map<String, Value>, ExchangeError> {
        let (mut resume, mut resumes, mut asked) = (ResumePoint::default(), 0, 0);
        let is_resumable = terms.is_some_and(|terms| !terms.modern);
        loop {
            let mut events = sse::SseDecoder::default();
            let broken = loop {
                while let Some(event) =
                    events.event().map_err(|error| ExchangeError::Lost(error.to_string()))?
                {
                    let SseEvent::Data { name, data, .. } = event else { continue };
                    if data.is_empty() || name.is_some_and(|name| name != "message") {
                        continue;
                    }
                    match message::decode(&data).map_err(no_answer)? {
                        RpcMessage::Answer(of, outcome) => return settle(id, of, outcome),
                        RpcMessage::Request(of, method) => {
                            asked += 1;
                            self.decline(terms, &of, &method, asked, deadlines).await?;
                        }
                        RpcMessage::Notification => {}
                    }
                }
                match source.next(deadlines).await {
                    Ok(Some(chunk)) => events.push(chunk),
                    Ok(None) => break no_answer("a stream that ends before it"),
                    Err(fault @ ExchangeError::Lost(_)) => break fault,
                    Err(fault) => return Err(fault),
                }
            };
            let said = events.resume();
            resume = ResumePoint { id: said.id.clone().or(resume.id), retry: said.retry.or(resume.retry) };
            let may_resume = is_resumable && resumes < MAX_RESUMES && source.left > 0;
            let Some(last) = resume.id.as_deref().filter(|id| may_resume && !id.is_empty()) else {
                return Err(broken);
            };
            let last = HeaderValue::from_bytes(last).map_err(|_| broken)?;
            resumes += 1;
            source.body = self.resume(terms, last, resume.retry, deadlines).await?;
        }
    }

    /// Answers what the server asks: whether the client is there, or something that it does not do.
    async fn decline(
        &self,
        terms: Option<&Protocol>,
        id: &Value,
        method: &str,
        asked: u32,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<(), ExchangeError> {
        let Some(terms) = terms.filter(|terms| !terms.modern && asked <= MAX_ASKED) else { return Ok(()) };
        let Some(answer) = message::answer(id, method) else { return Ok(()) };
        match self.notify(terms, &answer, deadlines).await {
            Err(ExchangeError::Late) => Err(ExchangeError::Late),
            // Whether the server takes it is its own affair.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The stream that goes on after the event `last`.
    async fn resume(
        &self,
        terms: Option<&Protocol>,
        last: HeaderValue,
        retry: Option<u64>,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<<P::Http as Http>::Body, ExchangeError> {
        let wait = retry.map_or(RETRY, Duration::from_millis);
        deadlines
            .within(self.platform.sleep(wait))
            .await
            .map_err(|DeadlineExceeded(_)| ExchangeError::Late)?;
        let headers = vec![(ACCEPT, HeaderValue::from_static("text/event-stream")), (LAST_EVENT, last)];
        let request = self.request(Method::GET, terms, headers, Body::Empty)?;
        match self.send(request, deadlines).await {
            Ok(response) if response.status() == StatusCode::OK => Ok(response.into_body()),
            Ok(_) => Err(no_answer("a stream that can't be taken up again")),
            // The request itself was sent long ago.
            Err(ExchangeError::Unsent(why)) => Err(ExchangeError::Lost(why)),
            Err(fault) => Err(fault),
        }
    }
}

type HttpResponse<P> = Response<<<P as Platform>::Http as Http>::Body>;

/// Checks that an answer is one to what was asked. An error may be about a request that the server could not read.
fn settle(
    asked: u64,
    id: Option<u64>,
    outcome: Result<Map<String, Value>, RpcError>,
) -> Result<Map<String, Value>, ExchangeError> {
    match (id, outcome) {
        (Some(id), outcome) if id == asked => outcome.map_err(ExchangeError::Refusal),
        (None, Err(refusal)) => Err(ExchangeError::Refusal(refusal)),
        _ => Err(no_answer("an id that it was not given")),
    }
}

fn no_answer(what: &str) -> ExchangeError {
    ExchangeError::Lost(format!("it sent {what}"))
}

/// Where the bytes of an answer come from.
struct AnswerBody<P: Platform> {
    body: <P::Http as Http>::Body,
    /// How many more are read.
    left: usize,
}

impl<P: Platform> AnswerBody<P> {
    /// The next bytes; `None` at the end.
    async fn next(&mut self, deadlines: &mut CallDeadlines<'_, P>) -> Result<Option<Bytes>, ExchangeError> {
        loop {
            let frame = deadlines.within(poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx))).await;
            let data = match frame.map_err(|DeadlineExceeded(_)| ExchangeError::Late)? {
                None => return Ok(None),
                Some(Err(error)) => return Err(ExchangeError::Lost(error.to_string())),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            // Pieces without bytes count as well, so that nothing goes on for ever because it is always ready.
            let Some(left) = self.left.checked_sub(data.len().max(1)) else {
                self.left = 0;
                return Err(no_answer("more than is read"));
            };
            self.left = left;
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }

    async fn whole(&mut self, deadlines: &mut CallDeadlines<'_, P>) -> Result<Bytes, ExchangeError> {
        let mut body = BytesMut::new();
        while let Some(chunk) = self.next(deadlines).await? {
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}
