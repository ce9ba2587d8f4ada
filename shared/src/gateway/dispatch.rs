//! One upstream call, up to the moment when its answer may be shown.

use std::{future::poll_fn, pin::Pin, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{StatusCode, header::CONTENT_TYPE};
use http_body::Body as _;

use super::{Attempt, MAX_ANSWER_BYTES, NextChunk, RequestDeadlines, Trace, deadline_error};
use crate::{
    deadlines::DeadlineExceeded,
    error::{ErrorClass, ProviderError},
    model::Timeouts,
    node::Node,
    platform::{Http, HttpError, Platform},
    provider::{Provider, UpstreamCall, demo},
    routing::rate_limit::RateLimit,
    wire::{
        Decoder, Delta, Format, Prompt, Request, Signal, Transcript, decoder,
        sse::{self, SseEvent},
    },
};

/// An answer that may be shown to the client.
pub(super) enum Committed<P: Platform> {
    /// All of it, in the format that the provider speaks, and what it says.
    Whole(Format, Bytes, Transcript),
    /// Its beginning, up to the first content.
    Stream(OpenedStream<P>),
}

/// A stream that has reached its first content.
pub(super) struct OpenedStream<P: Platform> {
    /// The format that the provider speaks.
    pub(super) format: Format,
    /// The events so far, ready to be sent where the client speaks the same format.
    pub(super) held: Vec<Bytes>,
    /// What they say.
    pub(super) deltas: Vec<Delta<'static>>,
    /// Where more comes from.
    pub(super) source: ByteSource<P>,
    pub(super) events: sse::SseDecoder,
    pub(super) decoder: Decoder,
    /// Whether the last event was among them.
    pub(super) done: bool,
}

/// What is asked of a candidate.
#[derive(Clone, Copy)]
pub(super) struct AttemptRequest<'a> {
    pub(super) request: &'a Request,
    /// Instead of what the client asks: how to go on with an answer that broke off.
    pub(super) prompt: Option<&'a Prompt>,
    pub(super) timeouts: Timeouts,
    /// The request's id.
    pub(super) id: &'a str,
    /// Whether the thoughts of earlier turns are left out.
    pub(super) without_thoughts: bool,
    /// The trace that the call belongs to.
    pub(super) trace: Option<&'a Trace>,
}

/// Events before the first content that are held back at most: openings are a handful of small frames.
const MAX_HELD_EVENTS: usize = 64;

/// Most of an error's body that is read, to find the code in it.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// How long an error's body is waited for; the status alone tells the most.
const ERROR_BODY: Duration = Duration::from_secs(2);

/// Makes the call of `flight`. Whatever goes wrong before the first content is an error, so that another one can be asked.
pub(super) async fn start<P: Platform>(
    node: &Node<P>,
    flight: &Attempt<P>,
    ask: AttemptRequest<'_>,
    deadlines: &mut RequestDeadlines<P>,
) -> Result<Committed<P>, ProviderError> {
    let missing = || ProviderError::new(ErrorClass::NotHere, "the provider is not configured");
    let provider = node.config().provider(&flight.candidate.provider).ok_or_else(missing)?;
    let stream = ask.request.stream;
    deadlines.begin_phase("first token", stream.then_some(ask.timeouts.first_token));
    let (format, source) = if provider.vendor.is_built_in() {
        (Format::Chat, demo(node, ask, &flight.candidate.model)?)
    } else {
        call(node, flight, ask, provider, deadlines).await?
    };
    if stream {
        let opening = open(format, source, deadlines).await?;
        flight.record_first_content();
        return Ok(Committed::Stream(opening));
    }
    deadlines.begin_phase("idle", Some(ask.timeouts.idle));
    let body = read(source, MAX_ANSWER_BYTES, Some(ask.timeouts.idle), deadlines).await?;
    let mut transcript = Transcript::default();
    decoder::decode_whole(format, &body, &mut |delta| {
        flight.meter.borrow_mut().count(&delta);
        transcript.apply(&delta);
    })?;
    transcript.check()?;
    flight.record_first_content();
    Ok(Committed::Whole(format, body, transcript))
}

fn demo<P: Platform>(
    node: &Node<P>,
    ask: AttemptRequest<'_>,
    model: &str,
) -> Result<ByteSource<P>, ProviderError> {
    let (AttemptRequest { request, id, .. }, now) = (ask, node.platform().now());
    match request.format {
        Format::Chat | Format::Responses | Format::Messages => {}
        Format::Embeddings | Format::TokenCount => {
            return Err(ProviderError::new(ErrorClass::Unsupported, "the demo provider only talks"));
        }
    }
    let events = if request.stream {
        demo::events(request, id, model, now)
    } else {
        vec![demo::answer(id, model, now)].into_iter()
    };
    Ok(ByteSource::Demo(node.clone(), events))
}

async fn call<P: Platform>(
    node: &Node<P>,
    flight: &Attempt<P>,
    ask: AttemptRequest<'_>,
    provider: &Provider,
    deadlines: &mut RequestDeadlines<P>,
) -> Result<(Format, ByteSource<P>), ProviderError> {
    let order = UpstreamCall {
        provider,
        key: provider.keys.get(flight.key),
        model: &flight.candidate.model,
        request: ask.request,
        prompt: ask.prompt,
        cap: flight.reservation.as_ref().and_then(|reservation| reservation.cap),
        without_thoughts: ask.without_thoughts,
    };
    let mut upstream =
        (provider.vendor.encode)(&order).inspect_err(|_| flight.meter.borrow_mut().mark_unbilled())?;
    if let Some(header) = ask.trace.and_then(|trace| trace.header(&flight.span)) {
        upstream.request.headers_mut().insert(Trace::HEADER, header);
    }
    let sent = node.platform().http().send(upstream.request, ask.timeouts.connect);
    let response = deadlines.within(sent).await.map_err(timeout)?.map_err(|error| {
        if !matches!(error, HttpError::Broken(_)) {
            flight.meter.borrow_mut().mark_unbilled();
        }
        broken(error)
    })?;
    let (head, body) = response.into_parts();
    flight.record_limits(RateLimit::read(&head.headers, node.platform().now()));
    if head.status != StatusCode::OK {
        flight.meter.borrow_mut().mark_unbilled();
        deadlines.begin_phase("error body", Some(ERROR_BODY));
        // What can't be read of the body changes nothing about the status.
        let body =
            read(ByteSource::<P>::Http(body), MAX_ERROR_BYTES, None, deadlines).await.unwrap_or_default();
        return Err((provider.vendor.classify)(head.status, &head.headers, &body));
    }
    let kind = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is = |name: &str| kind.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    if is("text/html") {
        return Err(ProviderError::new(ErrorClass::Server, "the provider answered HTML"));
    }
    if ask.request.stream && is("application/json") {
        // Not a stream: an error under status 200, or a server that can't stream.
        let body = read(ByteSource::<P>::Http(body), MAX_ERROR_BYTES, None, deadlines).await?;
        decoder::decode_whole(upstream.format, &body, &mut |_| ())?;
        return Err(ProviderError::new(ErrorClass::Server, "the provider did not stream"));
    }
    Ok((upstream.format, ByteSource::Http(body)))
}

/// Reads a stream up to its first content.
async fn open<P: Platform>(
    format: Format,
    mut source: ByteSource<P>,
    deadlines: &mut RequestDeadlines<P>,
) -> Result<OpenedStream<P>, ProviderError> {
    let (mut events, mut decoder) = (sse::SseDecoder::default(), Decoder::new(format));
    let (mut held, mut deltas) = (Vec::new(), Vec::new());
    loop {
        while let Some(event) = events.event().map_err(torn)? {
            let SseEvent::Data { name, data, plain } = event else { continue };
            let signal = decoder.decode(&data, &mut |delta| deltas.push(delta.into_owned()));
            match signal {
                Signal::Error(error) => return Err(error),
                Signal::Done if !decoder.is_complete() => return Err(truncated()),
                Signal::Frame | Signal::Content | Signal::Finish | Signal::Done => {}
            }
            held.push(plain.unwrap_or_else(|| sse::encode(name.as_deref(), &data)));
            if signal != Signal::Frame {
                let done = signal == Signal::Done;
                return Ok(OpenedStream { format, held, deltas, source, events, decoder, done });
            }
            if held.len() > MAX_HELD_EVENTS {
                return Err(ProviderError::new(ErrorClass::Server, "the provider's stream has no beginning"));
            }
        }
        match source.next(deadlines).await? {
            Some(chunk) => events.push(chunk),
            None => return Err(truncated()),
        }
    }
}

/// Reads a body to its end. `idle` is the time allowed between two pieces.
async fn read<P: Platform>(
    mut source: ByteSource<P>,
    limit: usize,
    idle: Option<Duration>,
    deadlines: &mut RequestDeadlines<P>,
) -> Result<Bytes, ProviderError> {
    let Some(first) = source.next(deadlines).await? else { return Ok(Bytes::new()) };
    let mut second = source.next(deadlines).await?;
    if second.is_none() && first.len() <= limit {
        return Ok(first);
    }
    let mut body = BytesMut::from(first);
    while let Some(chunk) = second {
        if body.len() + chunk.len() > limit {
            return Err(ProviderError::new(ErrorClass::Server, "the provider's answer is too large"));
        }
        body.extend_from_slice(&chunk);
        if idle.is_some() {
            deadlines.begin_phase("idle", idle);
        }
        second = source.next(deadlines).await?;
    }
    Ok(body.freeze())
}

/// Where the bytes of an answer come from.
pub(super) enum ByteSource<P: Platform> {
    Http(<P::Http as Http>::Body),
    Demo(Node<P>, std::vec::IntoIter<Bytes>),
}

impl<P: Platform> ByteSource<P> {
    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self, deadlines: &mut RequestDeadlines<P>) -> NextChunk {
        match self {
            Self::Http(body) => loop {
                let frame = deadlines.within(poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))).await;
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

fn timeout(DeadlineExceeded(which): DeadlineExceeded) -> ProviderError {
    deadline_error(which)
}

fn broken(error: HttpError) -> ProviderError {
    match error {
        HttpError::ConnectTimeout => deadline_error("connect"),
        HttpError::Connect(_) => ProviderError::new(ErrorClass::Server, "the provider can't be reached"),
        HttpError::Broken(_) => {
            ProviderError::new(ErrorClass::Server, "the connection to the provider broke")
        }
    }
}

fn torn(error: sse::SseError) -> ProviderError {
    ProviderError::new(ErrorClass::Server, format!("the provider's stream is broken: {error}"))
}

pub(super) fn truncated() -> ProviderError {
    ProviderError::new(ErrorClass::Truncated, "the provider's stream ended in the middle")
}
