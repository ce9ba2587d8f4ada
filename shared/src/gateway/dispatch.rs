//! Makes one upstream call, up to the moment when its answer may be shown to the client.
//!
//! Everything that goes wrong until then is an error, so that another candidate can be called. `relay.rs` takes over
//! from the first content on.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use http_body::Body as _;

use super::{Attempt, MAX_ANSWER_BYTES, NextChunk, RequestDeadlines, Trace, deadline_error};
use crate::{
    body::JoinedBytes,
    deadlines::DeadlineExceeded,
    error::{ErrorClass, ProviderError},
    model::{Hints, Timeouts, Translation},
    node::Node,
    platform::{Http, HttpError, Platform},
    provider::{self, CallSize, Quirks, UpstreamCall, UpstreamRequest, demo, error_text},
    routing::rate_limit::RateLimit,
    wire::{
        Decoder, Delta, Format, Prompt, Request, Signal, ToolNames, Transcript, decoder,
        sse::{self, SseEvent},
    },
};

/// An answer that may be shown to the client.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one for each request, and boxing it would cost an allocation; smaller on 32 bits"
)]
pub(super) enum Committed<P: Platform> {
    /// The whole answer: the provider's format, its body, and its content.
    Whole(Format, Bytes, Transcript),
    /// The beginning of a stream, up to its first content.
    Stream(OpenedStream<P>),
}

/// A stream that has reached its first content.
pub(super) struct OpenedStream<P: Platform> {
    /// The provider's format.
    pub(super) format: Format,
    /// The events so far, as bytes for a client of the same format.
    pub(super) held: Vec<Bytes>,
    /// The content of these events.
    pub(super) deltas: Vec<Delta<'static>>,
    /// Yields the rest of the stream.
    pub(super) source: ByteSource<P>,
    pub(super) events: sse::SseDecoder,
    pub(super) decoder: Decoder,
    /// Puts the client's names of functions into the deltas of `decoder`.
    pub(super) tool_names: ToolNames,
    /// Whether the last event is among `held`.
    pub(super) done: bool,
}

/// What one attempt sends.
#[derive(Clone, Copy)]
pub(super) struct AttemptRequest<'a> {
    pub(super) request: &'a Request,
    /// The name of the caller's key; empty for the node's own probes.
    pub(super) caller: &'a str,
    /// The prompt that continues an interrupted answer, sent instead of the client's.
    pub(super) prompt: Option<&'a Prompt>,
    /// What may be left out of the request.
    pub(super) translation: &'a Translation,
    pub(super) timeouts: Timeouts,
    /// How long the model may think; `None` if it does not.
    pub(super) thinking: Option<Duration>,
    /// The request's id.
    pub(super) id: &'a str,
    /// Whether thoughts of earlier turns are left out.
    pub(super) without_thoughts: bool,
    /// The client's trace, if it sent one.
    pub(super) trace: Option<&'a Trace>,
}

/// Most bytes of the events before the first content: usually there are a handful of small ones, but a model may think
/// for minutes, with an event every few seconds.
const MAX_HELD_BYTES: usize = 1024 * 1024;

/// Most bytes of an error's body that are read, to find the code in it.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// How long to wait for an error's body: the status alone is usually enough.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(2);

/// A call that is encoded and whose cost is reserved.
pub(super) struct PreparedCall {
    /// `None` if the vendor is built in, so that nothing is sent.
    upstream: Option<UpstreamRequest>,
    /// What the candidate's server was taken to refuse.
    quirks: Rc<Quirks>,
}

/// Encodes the call of `attempt`, and reserves the most that it can cost as it is sent.
pub(super) async fn prepare<P: Platform>(
    node: &Node<P>,
    attempt: &mut Attempt<P>,
    attempt_request: AttemptRequest<'_>,
) -> Result<PreparedCall, ProviderError> {
    let quirks = node.quirks(&attempt.candidate);
    encode(node, attempt, attempt_request, quirks).await
}

/// As [`prepare`], for a server that refuses what `quirks` says.
async fn encode<P: Platform>(
    node: &Node<P>,
    attempt: &mut Attempt<P>,
    attempt_request: AttemptRequest<'_>,
    quirks: Rc<Quirks>,
) -> Result<PreparedCall, ProviderError> {
    let missing = || ProviderError::new(ErrorClass::ModelNotFound, "the provider is not configured");
    let provider = node.config().provider(&attempt.candidate.provider).ok_or_else(missing)?;
    let AttemptRequest { request, caller, prompt, without_thoughts, translation, .. } = attempt_request;
    let (vendor, budgets) = (provider.vendor, attempt.budgets(caller));
    if vendor.is_built_in() {
        let size = CallSize { bytes: request.bytes(), max_output: request.max_output };
        attempt.reserve(caller, &budgets, request, size).await?;
        return Ok(PreparedCall { upstream: None, quirks });
    }
    let model = attempt.candidate.model.clone();
    let call = UpstreamCall {
        provider,
        key: provider.keys.get(attempt.key),
        model: &model,
        request,
        prompt,
        cap: attempt.lowered_limit(request),
        most_output: node.config().facts(&attempt.candidate).output_tokens,
        max_price: if budgets.is_empty() { None } else { attempt.max_price() },
        without_thoughts,
        translation,
        is_priced: !budgets.is_empty(),
        quirks: &quirks,
    };
    let mut upstream = node.in_pieces(call.encode()).await?;
    if translation.hints == Hints::Refuse && !upstream.dropped.is_empty() {
        let names = upstream.dropped.join("', '");
        let message = format!("it would ignore the fields '{names}'; the model has hints = \"refuse\"");
        return Err(ProviderError::new(ErrorClass::Unsupported, message));
    }
    // Vendors do not bill the counting of tokens, so nothing is reserved for it.
    if upstream.format != Format::TokenCount {
        let cap = attempt.reserve(caller, &budgets, request, upstream.size).await?;
        if cap.is_some() {
            // Dropped first, since a translated body may be large.
            drop(upstream);
            upstream = node.in_pieces(UpstreamCall { cap, ..call }.encode()).await?;
        }
    }
    attempt.dropped = std::mem::take(&mut upstream.dropped);
    Ok(PreparedCall { upstream: Some(upstream), quirks })
}

/// Most refusals from which one attempt learns: a server may refuse several fields, one after the other.
const MAX_LESSONS: usize = 4;

/// Makes the call of `attempt` and reads its answer up to the first content, or whole if it is not a stream.
///
/// A call that the server refuses for what may be left out, or made in another format, is made again without it. If that
/// helps, it is remembered for the candidate.
pub(super) async fn start<P: Platform>(
    node: &Node<P>,
    attempt: &mut Attempt<P>,
    mut prepared: PreparedCall,
    attempt_request: AttemptRequest<'_>,
    deadlines: &mut RequestDeadlines<P>,
) -> Result<Committed<P>, ProviderError> {
    let mut learned = None;
    for _ in 0..MAX_LESSONS {
        let mut lesson = None;
        let result = call_once(node, attempt, prepared, attempt_request, deadlines, &mut lesson).await;
        match (result, lesson) {
            (Err(_), Some(quirks)) => {
                // The refused call cost nothing.
                attempt.release();
                let quirks = Rc::clone(learned.insert(Rc::new(quirks)));
                // Boxed, since it is rare, and its state would be part of every request's.
                prepared = Box::pin(encode(node, attempt, attempt_request, quirks)).await?;
            }
            (Ok(committed), _) => {
                if let Some(quirks) = learned {
                    node.remember_quirks(&attempt.candidate, Rc::unwrap_or_clone(quirks));
                }
                return Ok(committed);
            }
            (Err(error), None) => return Err(error),
        }
    }
    call_once(node, attempt, prepared, attempt_request, deadlines, &mut None).await
}

/// Makes one call. If the server refuses it for something that it need not get, `lesson` becomes what it then refuses.
async fn call_once<P: Platform>(
    node: &Node<P>,
    attempt: &Attempt<P>,
    prepared: PreparedCall,
    attempt_request: AttemptRequest<'_>,
    deadlines: &mut RequestDeadlines<P>,
    lesson: &mut Option<Quirks>,
) -> Result<Committed<P>, ProviderError> {
    let AttemptRequest { timeouts, thinking, .. } = attempt_request;
    let stream = attempt_request.request.stream;
    if stream {
        begin_content_phase(deadlines, "first token", timeouts.first_token, thinking);
    } else {
        // Nothing tells a model that writes from one that hangs, so only the attempt's share bounds it.
        deadlines.begin_phase("first token", None);
    }
    let PreparedCall { upstream, quirks } = prepared;
    let mut tool_names = ToolNames::default();
    let (format, source) = match upstream {
        Some(mut upstream) => {
            let (format, effort) = (upstream.format, upstream.effort);
            tool_names = std::mem::take(&mut upstream.tool_names);
            let source = call(node, attempt, upstream, attempt_request, deadlines).await?;
            let source = source.map_err(|refusal| {
                let mut learned = Quirks::clone(&quirks);
                if learned.learn(format, refusal.status, &refusal.body, effort) {
                    *lesson = Some(learned);
                }
                let keys = node.config().provider_keys(&attempt.candidate.provider);
                let text = error_text(&refusal.body, keys);
                let error = provider::classify(
                    refusal.status,
                    &refusal.headers,
                    &refusal.body,
                    node.platform().now(),
                );
                ProviderError { text, ..error }
            })?;
            (format, source)
        }
        None => (Format::Chat, demo(node, attempt_request, &attempt.candidate.model)?),
    };
    if stream {
        let opened = open(format, source, tool_names, deadlines).await?;
        attempt.record_first_content();
        return Ok(Committed::Stream(opened));
    }
    // Some servers send the head at once, and nothing or blanks while the model thinks.
    let first = timeouts.idle.max(thinking.unwrap_or_default());
    let body = read(source, MAX_ANSWER_BYTES, Some([first, timeouts.idle]), deadlines).await?;
    let mut transcript = Transcript::default();
    decoder::decode_whole(format, &body, &mut |delta| {
        attempt.meter.borrow_mut().count(&delta);
        if let Some(delta) = tool_names.restore(delta) {
            transcript.apply(&delta);
        }
    })?;
    transcript.check()?;
    attempt.meter.borrow_mut().end();
    attempt.record_first_content();
    Ok(Committed::Whole(format, body, transcript))
}

/// The answer of the built-in demo provider, as the bytes of a provider with the chat format.
fn demo<P: Platform>(
    node: &Node<P>,
    attempt_request: AttemptRequest<'_>,
    model: &str,
) -> Result<ByteSource<P>, ProviderError> {
    let (AttemptRequest { request, id, .. }, now) = (attempt_request, node.platform().now());
    match request.format {
        Format::Chat | Format::Responses | Format::Messages => {}
        Format::Embeddings | Format::TokenCount => {
            return Err(ProviderError::new(
                ErrorClass::Unsupported,
                "the demo provider supports chat, responses and messages only",
            ));
        }
    }
    let events = if request.stream {
        demo::events(request, id, model, now)
    } else {
        vec![demo::answer(id, model, now)].into_iter()
    };
    Ok(ByteSource::Demo(node.clone(), events))
}

/// An answer whose status is not a success.
struct Refusal {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// Sends the call to the provider, and judges the head of its answer: status first, then content type.
async fn call<P: Platform>(
    node: &Node<P>,
    attempt: &Attempt<P>,
    mut upstream: UpstreamRequest,
    attempt_request: AttemptRequest<'_>,
    deadlines: &mut RequestDeadlines<P>,
) -> Result<Result<ByteSource<P>, Refusal>, ProviderError> {
    if let Some(header) = attempt_request.trace.and_then(|trace| trace.header(&attempt.span)) {
        upstream.request.headers_mut().insert(Trace::HEADER, header);
    }
    attempt.meter.borrow_mut().set_billed(attempt.reservation.is_some());
    let sent = pin!(node.platform().http().send(upstream.request, attempt_request.timeouts.connect));
    let response = deadlines.within(sent).await.map_err(deadline_exceeded)?.map_err(|error| {
        // On a connection that broke, the request may have arrived and be billed.
        if !matches!(error, HttpError::Broken(_)) {
            attempt.meter.borrow_mut().set_billed(false);
        }
        connection_error(error)
    })?;
    deadlines.heard();
    let (head, body) = response.into_parts();
    // Providers send their rate limits with errors, too.
    attempt.record_limits(RateLimit::read(&head.headers, node.platform().now()));
    if head.status != StatusCode::OK {
        attempt.meter.borrow_mut().set_billed(false);
        deadlines.begin_phase("error body", Some(ERROR_BODY_TIMEOUT));
        // Errors while reading the body are ignored: the status stands without it.
        let body =
            read(ByteSource::<P>::Http(body), MAX_ERROR_BYTES, None, deadlines).await.unwrap_or_default();
        return Ok(Err(Refusal { status: head.status, headers: head.headers, body }));
    }
    let content_type =
        head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is =
        |name: &str| content_type.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    if is("text/html") {
        return Err(ProviderError::new(ErrorClass::Server, "the provider answered HTML"));
    }
    if attempt_request.request.stream && is("application/json") {
        // An error with status 200, which decoding turns into an error, or a server that can't stream.
        let body = read(ByteSource::<P>::Http(body), MAX_ERROR_BYTES, None, deadlines).await?;
        decoder::decode_whole(upstream.format, &body, &mut |_| ())?;
        return Err(ProviderError::new(ErrorClass::Server, "the provider did not stream"));
    }
    Ok(Ok(ByteSource::Http(body)))
}

/// Reads a stream up to its first content.
async fn open<P: Platform>(
    format: Format,
    mut source: ByteSource<P>,
    mut tool_names: ToolNames,
    deadlines: &mut RequestDeadlines<P>,
) -> Result<OpenedStream<P>, ProviderError> {
    let (mut events, mut decoder) = (sse::SseDecoder::default(), Decoder::new(format));
    let (mut held, mut deltas) = (Vec::new(), Vec::new());
    let mut held_bytes = 0;
    loop {
        while let Some(event) = events.event().map_err(invalid_sse)? {
            // Comments are keep-alives; there is no client's stream yet that needs them.
            let SseEvent::Data { name, data, plain } = event else { continue };
            let signal = decoder.decode(&data, &mut |delta| {
                deltas.extend(tool_names.restore(delta).map(Delta::into_owned));
            });
            match signal {
                Signal::Error(error) => return Err(error),
                // Without a stop reason, the answer may be incomplete.
                Signal::Done if !decoder.is_complete() => return Err(truncated()),
                Signal::KeepAlive | Signal::Frame | Signal::Content | Signal::Finish | Signal::Done => {}
            }
            let bytes = plain.unwrap_or_else(|| sse::encode(name.as_deref(), &data));
            held_bytes += bytes.len();
            // Keep-alives are held too, since they may be numbered.
            held.push(bytes);
            if !matches!(signal, Signal::KeepAlive | Signal::Frame) {
                let done = signal == Signal::Done;
                return Ok(OpenedStream { format, held, deltas, source, events, decoder, tool_names, done });
            }
            if held_bytes > MAX_HELD_BYTES {
                let message =
                    format!("the provider's stream has no content in its first {MAX_HELD_BYTES} bytes");
                return Err(ProviderError::new(ErrorClass::Server, message));
            }
        }
        match source.next(deadlines).await? {
            Some(chunk) => events.push(chunk),
            None => return Err(truncated()),
        }
    }
}

/// Begins the wait for an answer's next content.
///
/// A model that may think takes up to `thinking` for it, as long as anything arrives within `limit`. From any other,
/// content itself must come within `limit`.
pub(super) fn begin_content_phase<P: Platform>(
    deadlines: &mut RequestDeadlines<P>,
    name: &'static str,
    limit: Duration,
    thinking: Option<Duration>,
) {
    match thinking {
        Some(thinking) => deadlines.begin_slow_phase([name, "thinking"], limit, thinking),
        None => deadlines.begin_phase(name, Some(limit)),
    }
}

/// Reads a body to its end, at most `limit` bytes. `pauses` are the times allowed before a chunk: while only blanks have
/// come, and later.
async fn read<P: Platform>(
    mut source: ByteSource<P>,
    limit: usize,
    pauses: Option<[Duration; 2]>,
    deadlines: &mut RequestDeadlines<P>,
) -> Result<Bytes, ProviderError> {
    let (mut body, mut has_content) = (JoinedBytes::default(), false);
    loop {
        if let Some([first, later]) = pauses {
            deadlines.begin_phase("idle", Some(if has_content { later } else { first }));
        }
        let Some(chunk) = source.next(deadlines).await? else { break };
        if body.len() + chunk.len() > limit {
            let message = format!("the provider's answer is too large; allowed: at most {limit} bytes");
            return Err(ProviderError::new(ErrorClass::Server, message));
        }
        has_content |= !chunk.trim_ascii().is_empty();
        body.push(chunk);
    }
    Ok(body.take().unwrap_or_default())
}

/// Yields the bytes of an answer.
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
                match frame.map_err(deadline_exceeded)? {
                    None => return Ok(None),
                    Some(Err(error)) => return Err(connection_error(error)),
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data()
                            && !data.is_empty()
                        {
                            deadlines.heard();
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

    /// Reads the end of a body if it has already arrived: HTTP clients reuse only connections that were read to the
    /// end.
    pub(super) async fn finish(&mut self) {
        if let Self::Http(body) = self {
            let end = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
            let _ = futures_util::FutureExt::now_or_never(end);
        }
    }
}

fn deadline_exceeded(DeadlineExceeded(deadline): DeadlineExceeded) -> ProviderError {
    deadline_error(deadline)
}

fn connection_error(error: HttpError) -> ProviderError {
    match error {
        HttpError::ConnectTimeout => deadline_error("connect"),
        HttpError::Connect(cause) => {
            ProviderError::new(ErrorClass::Server, format!("the provider can't be reached: {cause}"))
        }
        HttpError::Broken(_) => {
            ProviderError::new(ErrorClass::Server, "the connection to the provider broke")
        }
    }
}

fn invalid_sse(error: sse::SseError) -> ProviderError {
    ProviderError::new(ErrorClass::Server, format!("the provider's stream is broken: {error}"))
}

/// The error for a stream that stopped before its end.
pub(super) fn truncated() -> ProviderError {
    ProviderError::new(ErrorClass::Truncated, "the provider's stream ended in the middle")
}
