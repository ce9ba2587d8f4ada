//! One upstream call, up to the moment when its answer may be shown.

use std::{future::poll_fn, pin::Pin, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode, header::CONTENT_TYPE};
use http_body::Body as _;

use super::{Alarm, Chunk, MAX_ANSWER_BYTES, alarm::Late, late};
use crate::{
    config::{Candidate, Provider, ProviderKind, Timeouts},
    node::Node,
    platform::{Http, HttpError, Platform},
    provider::{
        Class, ProviderError, Signal,
        chat::ChatRequest,
        demo,
        openai::{self, Decoder},
        sse::{self, Event},
    },
};

/// An answer that may be shown to the client.
pub(super) enum Committed<P: Platform> {
    /// All of it.
    Whole(Bytes),
    /// Its beginning, up to the first content.
    Stream(Opening<P>),
}

/// A stream that has reached its first content.
pub(super) struct Opening<P: Platform> {
    /// The events so far, ready to be sent.
    pub(super) held: Vec<Bytes>,
    /// Where more comes from.
    pub(super) source: Source<P>,
    pub(super) events: sse::Decoder,
    pub(super) decoder: Decoder,
}

/// Events before the first content that are held back at most: openings are a handful of small frames.
const MAX_HELD_EVENTS: usize = 64;

/// Most of an error's body that is read, to find the code in it.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// How long an error's body is waited for; the status alone tells the most.
const ERROR_BODY: Duration = Duration::from_secs(2);

/// Calls `candidate`. Whatever goes wrong before the first content is an error, so that another candidate can be asked.
pub(super) async fn start<P: Platform>(
    node: &Node<P>,
    request: &ChatRequest,
    candidate: &Candidate,
    timeouts: Timeouts,
    id: &str,
    alarm: &mut Alarm<P>,
) -> Result<Committed<P>, ProviderError> {
    let missing = || ProviderError::new(Class::NotHere, "the provider is not configured");
    let provider = node.config().provider(&candidate.provider).ok_or_else(missing)?;
    alarm.phase("first token", request.stream.then_some(timeouts.first_token));
    let source = match provider.kind {
        ProviderKind::Demo if request.stream => {
            Source::Demo(node.clone(), demo::events(request, id, &candidate.model, node.platform().now()))
        }
        ProviderKind::Demo => {
            return Ok(Committed::Whole(demo::answer(id, &candidate.model, node.platform().now())));
        }
        ProviderKind::OpenAi | ProviderKind::Compatible => {
            let response = call(node, request, provider, candidate, timeouts, alarm).await?;
            Source::Http(response.into_body())
        }
    };
    if request.stream {
        open(source, alarm).await.map(Committed::Stream)
    } else {
        alarm.phase("idle", Some(timeouts.idle));
        let body = read(source, MAX_ANSWER_BYTES, Some(timeouts.idle), alarm).await?;
        openai::check_answer(&body)?;
        Ok(Committed::Whole(body))
    }
}

async fn call<P: Platform>(
    node: &Node<P>,
    request: &ChatRequest,
    provider: &Provider,
    candidate: &Candidate,
    timeouts: Timeouts,
    alarm: &mut Alarm<P>,
) -> Result<Response<<P::Http as Http>::Body>, ProviderError> {
    let missing = || ProviderError::new(Class::NotHere, "the provider has no base_url");
    let base_url = provider.base_url.as_ref().ok_or_else(missing)?;
    let upstream = openai::encode(request, base_url, provider.api_key.as_ref(), &candidate.model)?;
    let sent = node.platform().http().send(upstream, timeouts.connect);
    let response = alarm.within(sent).await.map_err(timeout)?.map_err(broken)?;
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        alarm.phase("error body", Some(ERROR_BODY));
        // What can't be read of the body changes nothing about the status.
        let body = read(Source::<P>::Http(body), MAX_ERROR_BYTES, None, alarm).await.unwrap_or_default();
        return Err(openai::classify(head.status, &head.headers, &body));
    }
    let kind = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is = |name: &str| kind.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    if is("text/html") {
        return Err(ProviderError::new(Class::Server, "the provider answered HTML"));
    }
    if request.stream && is("application/json") {
        // Not a stream: an error under status 200, or a server that can't stream.
        let body = read(Source::<P>::Http(body), MAX_ERROR_BYTES, None, alarm).await?;
        openai::check_answer(&body)?;
        return Err(ProviderError::new(Class::Server, "the provider did not stream"));
    }
    Ok(Response::from_parts(head, body))
}

/// Reads a stream up to its first content.
async fn open<P: Platform>(mut source: Source<P>, alarm: &mut Alarm<P>) -> Result<Opening<P>, ProviderError> {
    let (mut events, mut decoder, mut held) = (sse::Decoder::default(), Decoder::default(), Vec::new());
    loop {
        while let Some(event) = events.event().map_err(torn)? {
            let Event::Data { data, plain } = event else { continue };
            let signal = decoder.decode(&data);
            if let Signal::Error(error) = signal {
                return Err(error);
            }
            if signal == Signal::Done {
                return Err(truncated());
            }
            held.push(plain.unwrap_or_else(|| sse::encode(&data)));
            if matches!(signal, Signal::Content | Signal::Finish) {
                return Ok(Opening { held, source, events, decoder });
            }
            if held.len() > MAX_HELD_EVENTS {
                return Err(ProviderError::new(Class::Server, "the provider's stream has no beginning"));
            }
        }
        match source.next(alarm).await? {
            Some(chunk) => events.push(chunk),
            None => return Err(truncated()),
        }
    }
}

/// Reads a body to its end. `idle` is the time allowed between two pieces.
async fn read<P: Platform>(
    mut source: Source<P>,
    limit: usize,
    idle: Option<Duration>,
    alarm: &mut Alarm<P>,
) -> Result<Bytes, ProviderError> {
    let Some(first) = source.next(alarm).await? else { return Ok(Bytes::new()) };
    let mut second = source.next(alarm).await?;
    if second.is_none() && first.len() <= limit {
        return Ok(first);
    }
    let mut body = BytesMut::from(first);
    while let Some(chunk) = second {
        if body.len() + chunk.len() > limit {
            return Err(ProviderError::new(Class::Server, "the provider's answer is too large"));
        }
        body.extend_from_slice(&chunk);
        if idle.is_some() {
            alarm.phase("idle", idle);
        }
        second = source.next(alarm).await?;
    }
    Ok(body.freeze())
}

/// Where the bytes of an answer come from.
pub(super) enum Source<P: Platform> {
    Http(<P::Http as Http>::Body),
    Demo(Node<P>, std::vec::IntoIter<Bytes>),
}

impl<P: Platform> Source<P> {
    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self, alarm: &mut Alarm<P>) -> Chunk {
        match self {
            Self::Http(body) => loop {
                let frame = alarm.within(poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))).await;
                match frame.map_err(timeout)? {
                    None => return Ok(None),
                    Some(Err(error)) => return Err(broken(error)),
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data()
                            && !data.is_empty()
                        {
                            return Ok(Some(data));
                        }
                    }
                }
            },
            Self::Demo(node, events) => {
                node.platform().sleep(demo::PAUSE).await;
                Ok(events.next())
            }
        }
    }

    /// Takes up the end of a body if it is already there: only a connection that was read to the end is used again.
    pub(super) async fn finish(&mut self) {
        if let Self::Http(body) = self {
            let end = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
            let _ = futures_util::FutureExt::now_or_never(end);
        }
    }
}

fn timeout(Late(which): Late) -> ProviderError {
    late(which)
}

fn broken(error: HttpError) -> ProviderError {
    match error {
        HttpError::ConnectTimeout => late("connect"),
        HttpError::Connect(_) => ProviderError::new(Class::Server, "the provider can't be reached"),
        HttpError::Broken(_) => ProviderError::new(Class::Server, "the connection to the provider broke"),
    }
}

fn torn(error: sse::SseError) -> ProviderError {
    ProviderError::new(Class::Server, format!("the provider's stream is broken: {error}"))
}

pub(super) fn truncated() -> ProviderError {
    ProviderError::new(Class::Truncated, "the provider's stream ended in the middle")
}
