//! Relays a stream to the client from its first content on: passes each event on at once, continues an interrupted
//! answer with another call, and always ends with a terminal event. How a continuation is asked for is in `rescue.rs`.

use std::{rc::Rc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use serde_json::Value;

use super::{
    Attempt, GatewayRequest, Recorder, RequestDeadlines,
    answer_writer::AnswerWriter,
    dispatch::{self, AttemptRequest, ByteSource, Committed, OpenedStream, truncated},
    rescue::{self, Continuation},
    splice::Splice,
    without_secrets,
};
use crate::{
    body::{Body, BodyError, JoinedBytes},
    error::{ErrorClass, ProviderError},
    model::Candidate,
    node::Node,
    platform::Platform,
    routing::NextStep,
    usage::Usage,
    wire::{
        Decoder, Delta, Format, Signal, ToolNames, Writer,
        sse::{self, SseEvent},
        writer,
    },
};

/// The body of a streamed answer, which goes on from `opened`.
pub(super) fn stream<P: Platform>(
    node: Node<P>,
    task: Rc<GatewayRequest>,
    attempt: Attempt<P>,
    opened: OpenedStream<P>,
    attempts: u32,
    deadlines: RequestDeadlines<P>,
    recorder: Recorder<P>,
) -> Body {
    let passes_through = opened.format == task.request.format && task.delta_sink.is_none();
    let frame = || task.frame(&attempt.candidate, node.platform().now());
    let writer = if passes_through || task.delta_sink.is_some() {
        None
    } else {
        Writer::new(task.request.format, frame())
    };
    // The continuation that `resume` has sent, if an earlier process left a partial answer; here for its splice.
    let continuation = task.continuation(&node, &attempt.candidate);
    let thinking = task.thinking(&node, &attempt.candidate);
    let OpenedStream { format, held, deltas, source, events, decoder, tool_names, done } = opened;
    let meter = Rc::clone(&attempt.meter);
    // Boxed, since it is moved with every piece of the stream.
    let mut relay = Box::new(Relay {
        node,
        attempt,
        format,
        ready: JoinedBytes::default(),
        error: None,
        source,
        events,
        decoder,
        tool_names,
        answer: AnswerWriter {
            writer,
            delta_sink: task.delta_sink.clone(),
            transcript: task.partial_answer.clone().unwrap_or_default(),
            splice: continuation.map(|continuation| continuation.splice),
            earlier_usage: Usage::default(),
            meter,
        },
        deadlines,
        recorder,
        attempts,
        interrupted: Vec::new(),
        thinking,
        progress_since_idle: true,
        ended: false,
        task,
    });
    let mut out = Vec::new();
    // Deltas are applied even if the events pass through: the transcript and the meter need them.
    deltas.into_iter().for_each(|delta| relay.answer.apply(delta, &mut out));
    if passes_through {
        held.into_iter().for_each(|event| relay.ready.push(event));
    } else if !out.is_empty() {
        relay.ready.push(out.into());
    }
    if done {
        // The provider's own last event is in `held` already.
        let last = relay.finish(Some(Bytes::new()));
        relay.ready.push(last);
    }
    Body::stream(stream::unfold(relay, |mut relay| async {
        let bytes = relay.next().await?;
        Some((Ok::<_, BodyError>(bytes), relay))
    }))
}

/// A streamed answer, while it is relayed.
struct Relay<P: Platform> {
    node: Node<P>,
    task: Rc<GatewayRequest>,
    /// The call that answers now.
    attempt: Attempt<P>,
    /// The format of the provider that answers now.
    format: Format,
    /// Bytes for the client that are sent before anything more is read.
    ready: JoinedBytes,
    /// Why the call failed, if that was found after what is in `ready`.
    error: Option<ProviderError>,
    source: ByteSource<P>,
    events: sse::SseDecoder,
    decoder: Decoder,
    tool_names: ToolNames,
    answer: AnswerWriter,
    deadlines: RequestDeadlines<P>,
    recorder: Recorder<P>,
    /// Upstream calls of this request so far.
    attempts: u32,
    /// The candidates whose answers were interrupted, in order.
    interrupted: Vec<Candidate>,
    /// How long the model of the present call may think; `None` if it does not.
    thinking: Option<Duration>,
    /// Whether anything but keep-alives arrived since the idle deadline was set.
    progress_since_idle: bool,
    /// Whether the terminal event is sent or in `ready`.
    ended: bool,
}

impl<P: Platform> Relay<P> {
    /// The next bytes for the client; `None` after the terminal event. Empty if there are new deltas in the sink
    /// instead.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready.take() {
                return Some(bytes);
            }
            if self.ended {
                self.source.finish().await;
                return None;
            }
            if std::mem::take(&mut self.progress_since_idle) {
                let idle = self.task.model.timeouts.idle;
                dispatch::begin_content_phase(&mut self.deadlines, "idle", idle, self.thinking);
            }
            match self.event().await {
                Ok(bytes) => {
                    self.ready.push(bytes);
                    self.read_buffered();
                    // The sink's reader waits for this, not for the sink.
                    if self.has_deltas() {
                        return Some(Bytes::new());
                    }
                }
                Err(error) => {
                    // Boxed, since it is rare, and its state would be part of every stream's.
                    if let Err(error) = Box::pin(self.rescue(error)).await {
                        let last = self.fail(&error);
                        self.ready.push(last);
                    }
                }
            }
        }
    }

    /// Whether deltas wait in the sink.
    fn has_deltas(&self) -> bool {
        self.answer.delta_sink.as_ref().is_some_and(|delta_sink| !delta_sink.is_empty())
    }

    /// The next event for the client; empty if the provider's event has no counterpart in the client's format.
    async fn event(&mut self) -> Result<Bytes, ProviderError> {
        loop {
            if let Some(error) = self.error.take() {
                return Err(error);
            }
            if let Some(bytes) = self.buffered_event()? {
                return Ok(bytes);
            }
            match self.source.next(&mut self.deadlines).await {
                Ok(Some(chunk)) => self.events.push(chunk),
                Ok(None) => return self.end_of_stream(),
                // The answer is whole: only the connection failed, before the last event.
                Err(_) if self.is_whole() => return Ok(self.finish(None)),
                Err(error) => return Err(error),
            }
        }
    }

    /// As [`Relay::event`], from the bytes that were received; `None` if they hold no whole event.
    fn buffered_event(&mut self) -> Result<Option<Bytes>, ProviderError> {
        let invalid_sse = |error: sse::SseError| ProviderError::new(ErrorClass::Truncated, error.to_string());
        let Some(event) = self.events.event().map_err(invalid_sse)? else { return Ok(None) };
        // Comments become keep-alives, so that proxies on the way to the client don't close the connection.
        let SseEvent::Data { name, data, plain } = event else {
            return Ok(Some(Bytes::from_static(writer::keep_alive(self.task.request.format))));
        };
        self.translate(name.as_deref(), &data, plain).map(Some)
    }

    /// Makes the events ready that have arrived together, so that they go on in one piece.
    fn read_buffered(&mut self) {
        while !self.ended && self.error.is_none() {
            match self.buffered_event() {
                Ok(Some(bytes)) => self.ready.push(bytes),
                Ok(None) => return,
                // What came before it is sent first.
                Err(error) => self.error = Some(error),
            }
        }
    }

    /// Translates one event of the provider for the client; empty if the client gets nothing for it.
    fn translate(
        &mut self,
        name: Option<&[u8]>,
        data: &Bytes,
        plain: Option<Bytes>,
    ) -> Result<Bytes, ProviderError> {
        let (mut out, mut has_usage) = (Vec::new(), false);
        let (answer, tool_names) = (&mut self.answer, &mut self.tool_names);
        let signal = self.decoder.decode(data, &mut |delta| {
            has_usage |= matches!(delta, Delta::Usage(_));
            if let Some(delta) = tool_names.restore(delta) {
                answer.apply(delta, &mut out);
            }
        });
        let has_delta_sink = self.task.delta_sink.is_some();
        let unchanged =
            || if has_delta_sink { Bytes::new() } else { plain.unwrap_or_else(|| sse::encode(name, data)) };
        match signal {
            Signal::Error(error) => return Err(error),
            // The answer ends here and not at the stop reason, since filter results may follow that. Without a stop
            // reason, it may be half an answer.
            Signal::Done if !self.is_whole() => return Err(truncated()),
            Signal::Done => return Ok(self.finish(self.answer.writer.is_none().then(unchanged))),
            Signal::KeepAlive => {}
            Signal::Frame | Signal::Content | Signal::Finish => self.progress_since_idle = true,
        }
        if self.answer.writer.is_some() {
            // The provider's keep-alive becomes one in the client's format.
            return Ok(if signal == Signal::KeepAlive && out.is_empty() {
                Bytes::from_static(writer::keep_alive(self.task.request.format))
            } else {
                out.into()
            });
        }
        // Every call requests the usage, for the budgets; the client gets it only if it did so itself.
        let is_unrequested = has_usage
            && signal == Signal::Frame
            && self.format == Format::Chat
            && !self.task.request.wants_usage;
        Ok(if is_unrequested { Bytes::new() } else { unchanged() })
    }

    /// Handles a connection that ended without the provider's last event.
    fn end_of_stream(&mut self) -> Result<Bytes, ProviderError> {
        let mut out = BytesMut::new();
        // The rest of the buffer may be an event without the blank line, or half an event.
        if let Some(SseEvent::Data { name, data, .. }) = self.events.finish().ok().flatten() {
            out.extend_from_slice(&self.translate(name.as_deref(), &data, None)?);
        }
        if !self.is_whole() {
            // The transcript contains it, so it must be sent before a continuation or an error.
            self.ready.push(out.freeze());
            return Err(truncated());
        }
        if !self.ended {
            out.extend_from_slice(&self.finish(None));
        }
        Ok(out.freeze())
    }

    /// Whether all of the answer was received, even if its last event was not. Half a call is no end: some routers turn
    /// the stop reason `length` into `tool_calls`.
    fn is_whole(&self) -> bool {
        self.decoder.is_complete() && !self.answer.transcript.has_half_call()
    }

    /// Ends the answer and returns the last event: `provider_event`, or one written here.
    fn finish(&mut self, provider_event: Option<Bytes>) -> Bytes {
        self.attempt.record_success();
        self.close(provider_event)
    }

    /// Ends what the client gets, and returns the last event as [`Relay::finish`] does.
    fn close(&mut self, provider_event: Option<Bytes>) -> Bytes {
        self.ended = true;
        self.recorder.record_outcome("answered");
        if let Some(delta_sink) = &self.task.delta_sink {
            delta_sink.end(Ok(()));
            return Bytes::new();
        }
        let mut out = Vec::new();
        let mut note = serde_json::Map::new();
        if !self.interrupted.is_empty() {
            note.insert("rescued".into(), self.interrupted.len().into());
            note.insert("attempts".into(), self.attempts.into());
            note.insert("provider".into(), self.attempt.candidate.provider.as_str().into());
        }
        if !self.attempt.dropped.is_empty() {
            note.insert("dropped".into(), self.attempt.dropped.clone().into());
        }
        self.answer.complete_usage(&mut out);
        if let Some(writer) = &mut self.answer.writer {
            let note = (!note.is_empty()).then_some(Value::Object(note));
            writer.finish(note.as_ref(), &mut out);
            return out.into();
        }
        provider_event.unwrap_or(if self.format == Format::Messages { MESSAGE_STOP } else { DONE })
    }

    /// Continues an answer that `error` interrupted, with any candidate that can. Returns `error` if none can.
    async fn rescue(&mut self, error: ProviderError) -> Result<(), ProviderError> {
        self.attempt.record_failure(&error);
        let task = Rc::clone(&self.task);
        // What one vendor refuses, its content or the request itself, no other one must answer.
        let may_continue =
            error.class.fails_over() && rescue::is_allowed(&task.model, self.interrupted.len());
        if !may_continue || self.deadlines.is_exceeded() {
            return Err(error);
        }
        if rescue::is_at_limit(&task.request, &self.answer.transcript) {
            return self.end_at_limit().ok_or(error);
        }
        self.interrupted.push(self.attempt.candidate.clone());
        // A new route, since health and breakers have changed since the first attempt.
        let mut route = task.route(&self.node, task.cache_key()).await;
        self.interrupted.iter().for_each(|candidate| route.move_to_back(candidate));
        loop {
            let next = route.take(&self.node.health().borrow(), self.node.platform().now());
            let candidate = match next {
                NextStep::Try(candidate) => candidate,
                NextStep::Wait(pause) => {
                    self.node.platform().sleep(pause).await;
                    continue;
                }
                NextStep::Stop => break,
            };
            let Some(provider) = self.node.config().provider(&candidate.provider) else { continue };
            let Some(Continuation { prompt, splice }) =
                rescue::plan(&task.request, &self.answer.transcript, provider.vendor, &candidate.model)
            else {
                continue;
            };
            let Some(writer) = self.continuing_writer() else { return Err(error) };
            self.attempts += 1;
            let slow = task.slow_attempt(&self.node, &candidate);
            self.deadlines.begin_attempt(route.candidates_left(), slow);
            let mut attempt = Attempt::begin(&self.node, &candidate, Some(&self.recorder));
            let attempt_request =
                AttemptRequest { prompt: Some(&prompt), ..task.attempt_request(&self.node, &candidate) };
            let prepared = match dispatch::prepare(&self.node, &mut attempt, attempt_request).await {
                Ok(prepared) => prepared,
                Err(error) => {
                    attempt.record_failure(&error);
                    continue;
                }
            };
            match dispatch::start(&self.node, &mut attempt, prepared, attempt_request, &mut self.deadlines)
                .await
            {
                Ok(Committed::Stream(opened)) => {
                    self.deadlines.commit();
                    self.continue_with(attempt, opened, writer, splice);
                    return Ok(());
                }
                // The request is a stream, so its answer is one.
                Ok(Committed::Whole(..)) => {}
                Err(error) => drop(attempt.record_failure(&error)),
            }
            if self.deadlines.is_exceeded() {
                break;
            }
        }
        Err(error)
    }

    /// Ends an answer that has reached the client's limit, although the provider broke it off. `None` if the client's
    /// format can't be written from here on.
    fn end_at_limit(&mut self) -> Option<()> {
        if let Some(writer) = self.continuing_writer()? {
            self.answer.writer = Some(writer);
        }
        let mut out = Vec::new();
        self.answer.stop_at_limit(&mut out);
        out.extend_from_slice(&self.close(None));
        self.ready.push(out.into());
        Some(())
    }

    /// The writer for a continuation: `Some(None)` keeps the present one or needs none; `None` if the stream that
    /// passed through unchanged can't be continued by a writer.
    fn continuing_writer(&mut self) -> Option<Option<Writer>> {
        if self.answer.writer.is_some() || self.task.delta_sink.is_some() {
            return Some(None);
        }
        let frame = self.task.frame(&self.attempt.candidate, self.node.platform().now());
        Writer::resume(self.task.request.format, frame, &self.answer.transcript, &self.decoder).map(Some)
    }

    /// Replaces the interrupted call by `attempt`, and sends what its stream has opened with.
    fn continue_with(
        &mut self,
        attempt: Attempt<P>,
        opened: OpenedStream<P>,
        writer: Option<Writer>,
        splice: Splice,
    ) {
        let OpenedStream { format, held: _, deltas, source, events, decoder, tool_names, done } = opened;
        // Before the meter is replaced: the client's usage includes the interrupted call.
        self.answer.earlier_usage += self.attempt.meter.borrow().reported_usage();
        if let Some(writer) = writer {
            self.answer.writer = Some(writer);
        }
        self.answer.splice = Some(splice);
        self.answer.meter = Rc::clone(&attempt.meter);
        self.recorder.record_rescue();
        self.recorder.record_first_content(&attempt);
        (self.attempt, self.format, self.source, self.events) = (attempt, format, source, events);
        (self.decoder, self.tool_names) = (decoder, tool_names);
        self.thinking = self.task.thinking(&self.node, &self.attempt.candidate);
        self.progress_since_idle = true;
        let mut out = Vec::new();
        deltas.into_iter().for_each(|delta| self.answer.apply(delta, &mut out));
        if done {
            out.extend_from_slice(&self.finish(None));
        }
        self.ready.push(out.into());
    }

    /// Ends an answer that can't be continued and returns the error event.
    fn fail(&mut self, error: &ProviderError) -> Bytes {
        self.ended = true;
        self.recorder.record_outcome("interrupted");
        if let Some(delta_sink) = &self.task.delta_sink {
            delta_sink.end(Err(without_secrets(&self.node, &self.attempt.candidate, error.clone())));
            return Bytes::new();
        }
        let message = format!("the answer broke off: {}", error.message);
        let mut out = Vec::new();
        match &mut self.answer.writer {
            Some(writer) => writer.fail(&message, &mut out),
            None => writer::fail(self.format, &message, self.decoder.sequence(), &mut out),
        }
        out.into()
    }
}

impl<P: Platform> Drop for Relay<P> {
    fn drop(&mut self) {
        // Here, so that it is recorded if the client disconnects, too.
        self.recorder.record_content(&self.answer.transcript);
    }
}

/// The last event of the chat format.
const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// The last event of Anthropic's format.
const MESSAGE_STOP: Bytes = Bytes::from_static(b"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
