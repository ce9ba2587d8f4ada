//! A stream after its first content: every event is handed on as it comes, and the end is always an explicit one.

use std::{collections::VecDeque, rc::Rc};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use serde_json::json;

use super::{
    Attempt, GatewayRequest, Recorder, RequestDeadlines,
    answer_writer::AnswerWriter,
    dispatch::{self, AttemptRequest, ByteSource, Committed, OpenedStream, truncated},
    rescue::{self, Continuation},
    splice::Splice,
};
use crate::{
    body::{Body, BodyError},
    error::{ErrorClass, ProviderError},
    model::{Candidate, Rescue},
    node::Node,
    platform::Platform,
    routing::NextStep,
    usage::Usage,
    wire::{
        Decoder, Delta, Format, Signal, Writer,
        sse::{self, SseEvent},
        writer,
    },
};

/// The body of a streamed answer.
pub(super) fn stream<P: Platform>(
    node: Node<P>,
    task: Rc<GatewayRequest>,
    flight: Attempt<P>,
    opening: OpenedStream<P>,
    attempts: u32,
    deadlines: RequestDeadlines<P>,
    journal: Recorder<P>,
) -> Body {
    let native = opening.format == task.request.format && task.delta_sink.is_none();
    let frame = || task.frame(&flight.candidate, node.platform().now());
    let writer =
        if native || task.delta_sink.is_some() { None } else { Writer::new(task.request.format, frame()) };
    let resumed = task.continuation(&node, &flight.candidate);
    let OpenedStream { format, held, deltas, source, events, decoder, done } = opening;
    let meter = Rc::clone(&flight.meter);
    let mut relay = Relay {
        node,
        flight,
        format,
        ready: VecDeque::new(),
        source,
        events,
        decoder,
        said: AnswerWriter {
            writer,
            tap: task.delta_sink.clone(),
            transcript: task.partial_answer.clone().unwrap_or_default(),
            splice: resumed.map(|plan| plan.splice),
            before: Usage::default(),
            meter,
        },
        deadlines,
        journal,
        attempts,
        broken: Vec::new(),
        moved: true,
        ended: false,
        task,
    };
    let mut out = Vec::new();
    deltas.into_iter().for_each(|delta| relay.said.take(delta, &mut out));
    if native {
        relay.ready.extend(held);
    } else if !out.is_empty() {
        relay.ready.push_back(out.into());
    }
    if done {
        // The provider's own last event is the last that is held.
        let last = relay.done(Some(Bytes::new()));
        relay.ready.push_back(last);
    }
    Body::stream(stream::unfold(relay, |mut relay| async {
        let bytes = relay.next().await?;
        Some((Ok::<_, BodyError>(bytes), relay))
    }))
}

struct Relay<P: Platform> {
    node: Node<P>,
    task: Rc<GatewayRequest>,
    /// The call that answers.
    flight: Attempt<P>,
    /// The format that the provider speaks.
    format: Format,
    /// Events that can go out at once.
    ready: VecDeque<Bytes>,
    source: ByteSource<P>,
    events: sse::SseDecoder,
    decoder: Decoder,
    said: AnswerWriter,
    deadlines: RequestDeadlines<P>,
    journal: Recorder<P>,
    /// Calls of providers for this request.
    attempts: u32,
    /// Who broke off, each time that the answer was taken up again.
    broken: Vec<Candidate>,
    /// Content was handed on since the idle clock was set. Keep-alives are not content.
    moved: bool,
    /// The terminal event is sent or in `ready`.
    ended: bool,
}

impl<P: Platform> Relay<P> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.ready.pop_front() {
                Some(bytes) if bytes.is_empty() => continue,
                Some(bytes) => return Some(bytes),
                None => {}
            }
            if self.ended {
                self.source.finish().await;
                return None;
            }
            if std::mem::take(&mut self.moved) {
                self.deadlines.begin_phase("idle", Some(self.task.model.timeouts.idle));
            }
            match self.event().await {
                Ok(bytes) if bytes.is_empty() => {
                    if self.said.tap.as_ref().is_some_and(|tap| !tap.is_empty()) {
                        return Some(bytes);
                    }
                }
                Ok(bytes) => return Some(bytes),
                Err(error) => {
                    if let Err(error) = self.rescue(error).await {
                        let last = self.fail(&error);
                        self.ready.push_back(last);
                    }
                }
            }
        }
    }

    /// The next event for the client; empty if the provider's says nothing to it.
    async fn event(&mut self) -> Result<Bytes, ProviderError> {
        let torn = |error: sse::SseError| ProviderError::new(ErrorClass::Truncated, error.to_string());
        loop {
            if let Some(event) = self.events.event().map_err(torn)? {
                // Comments go on too, so that proxies between us and the client see life.
                let SseEvent::Data { name, data, plain } = event else {
                    return Ok(Bytes::from_static(writer::keep_alive(self.task.request.format)));
                };
                return self.translate(name.as_deref(), &data, plain);
            }
            match self.source.next(&mut self.deadlines).await {
                Ok(Some(chunk)) => self.events.push(chunk),
                Ok(None) => return self.end(),
                // The answer is whole; what broke or hung is only the connection.
                Err(_) if self.decoder.is_complete() => return Ok(self.done(None)),
                Err(error) => return Err(error),
            }
        }
    }

    /// What an event of the provider is to the client.
    fn translate(
        &mut self,
        name: Option<&[u8]>,
        data: &Bytes,
        plain: Option<Bytes>,
    ) -> Result<Bytes, ProviderError> {
        let (mut out, mut counted) = (Vec::new(), false);
        let said = &mut self.said;
        let signal = self.decoder.decode(data, &mut |delta| {
            counted |= matches!(delta, Delta::Usage(_));
            said.take(delta, &mut out);
        });
        let tapped = self.task.delta_sink.is_some();
        let raw = || if tapped { Bytes::new() } else { plain.unwrap_or_else(|| sse::encode(name, data)) };
        match signal {
            Signal::Error(error) => return Err(error),
            // A filter's last word may come after the reason for the end; but an end without a reason is none.
            Signal::Done if !self.decoder.is_complete() => return Err(truncated()),
            Signal::Done => return Ok(self.done(self.said.writer.is_none().then(raw))),
            Signal::Frame => {}
            Signal::Content | Signal::Finish => self.moved = true,
        }
        if self.said.writer.is_some() {
            // The provider is alive, and so must the connection to the client be.
            let ping = signal == Signal::Frame && out.is_empty() && name == Some(b"ping");
            return Ok(if ping {
                Bytes::from_static(writer::keep_alive(self.task.request.format))
            } else {
                out.into()
            });
        }
        // The client did not ask for the usage, we did.
        let ours = counted
            && signal == Signal::Frame
            && self.format == Format::Chat
            && !self.task.request.wants_usage;
        Ok(if ours { Bytes::new() } else { raw() })
    }

    /// The connection has ended, without the last event.
    fn end(&mut self) -> Result<Bytes, ProviderError> {
        let mut out = BytesMut::new();
        // What is left may be an event without the blank line, and may be half of one.
        if let Some(SseEvent::Data { name, data, .. }) = self.events.finish().ok().flatten() {
            out.extend_from_slice(&self.translate(name.as_deref(), &data, None)?);
        }
        if !self.decoder.is_complete() {
            // It was said, so it must be sent before whatever comes of this.
            self.ready.push_back(out.freeze());
            return Err(truncated());
        }
        if !self.ended {
            out.extend_from_slice(&self.done(None));
        }
        Ok(out.freeze())
    }

    /// The last event: the provider's own, or one of ours.
    fn done(&mut self, raw: Option<Bytes>) -> Bytes {
        self.ended = true;
        self.flight.record_success();
        self.journal.record_outcome("answered");
        if let Some(tap) = &self.task.delta_sink {
            tap.end(Ok(()));
            return Bytes::new();
        }
        let mut out = Vec::new();
        let mark = (!self.broken.is_empty()).then(|| {
            let (rescued, by) = (self.broken.len(), &self.flight.candidate.provider);
            json!({"rescued": rescued, "attempts": self.attempts, "provider": by})
        });
        if let Some(writer) = &mut self.said.writer {
            writer.finish(mark.as_ref(), &mut out);
            // An answer that needed us to write its end follows what is ready.
            return out.into();
        }
        raw.unwrap_or(if self.format == Format::Messages { MESSAGE_STOP } else { DONE })
    }

    /// Goes on with an answer that broke off: where it was, or with another candidate.
    async fn rescue(&mut self, error: ProviderError) -> Result<(), ProviderError> {
        self.flight.record_failure(&error);
        let task = Rc::clone(&self.task);
        // Each candidate may break off once, and the last of them once more.
        let often = self.broken.len() > task.model.candidates.len();
        if task.model.rescue == Rescue::Error || often || self.deadlines.is_exceeded() {
            return Err(error);
        }
        self.broken.push(self.flight.candidate.clone());
        let mut route = task.route(&self.node);
        self.broken.iter().for_each(|candidate| route.move_to_back(candidate));
        loop {
            let next = route.first(&self.node.health().borrow());
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
                rescue::plan(&task.request, &self.said.transcript, provider.vendor, &candidate.model)
            else {
                continue;
            };
            let Some(writer) = self.writer() else { return Err(error) };
            // What was said is sent along, and quoted.
            let more = self.said.transcript.bytes().saturating_mul(2);
            self.attempts += 1;
            self.deadlines.begin_attempt(route.candidates_left());
            let mut flight = Attempt::begin(&self.node, &candidate, Some(&self.journal));
            if let Err(error) = flight.reserve(&task.caller, &task.request, more).await {
                flight.record_failure(&error);
                continue;
            }
            let ask = AttemptRequest { prompt: Some(&prompt), ..task.attempt_request() };
            match dispatch::start(&self.node, &flight, ask, &mut self.deadlines).await {
                Ok(Committed::Stream(opening)) => {
                    self.deadlines.commit();
                    self.continue_with(flight, opening, writer, splice);
                    return Ok(());
                }
                Ok(Committed::Whole(..)) => {}
                Err(error) => drop(flight.record_failure(&error)),
            }
            if self.deadlines.is_exceeded() {
                break;
            }
        }
        Err(error)
    }

    /// What writes the rest. A stream that was handed on as it came is written by us from here on.
    fn writer(&mut self) -> Option<Option<Writer>> {
        if self.said.writer.is_some() || self.task.delta_sink.is_some() {
            return Some(None);
        }
        let frame = self.task.frame(&self.flight.candidate, self.node.platform().now());
        Writer::resume(self.task.request.format, frame, &self.said.transcript, &self.decoder).map(Some)
    }

    fn continue_with(
        &mut self,
        flight: Attempt<P>,
        opening: OpenedStream<P>,
        writer: Option<Writer>,
        splice: Splice,
    ) {
        let OpenedStream { format, held: _, deltas, source, events, decoder, done } = opening;
        self.said.before += self.flight.meter.borrow().reported_usage(self.task.request.bytes());
        if let Some(writer) = writer {
            self.said.writer = Some(writer);
        }
        self.said.splice = Some(splice);
        self.said.meter = Rc::clone(&flight.meter);
        self.journal.record_rescue();
        self.journal.record_first_content(&flight);
        (self.flight, self.format, self.source, self.events, self.decoder) =
            (flight, format, source, events, decoder);
        self.moved = true;
        let mut out = Vec::new();
        deltas.into_iter().for_each(|delta| self.said.take(delta, &mut out));
        if done {
            out.extend_from_slice(&self.done(None));
        }
        self.ready.push_back(out.into());
    }

    /// The error event that ends a stream which can't go on.
    fn fail(&mut self, error: &ProviderError) -> Bytes {
        self.ended = true;
        self.journal.record_outcome("interrupted");
        if let Some(tap) = &self.task.delta_sink {
            tap.end(Err(error.clone()));
            return Bytes::new();
        }
        let message = format!("the answer broke off: {}", error.message);
        let mut out = Vec::new();
        match &mut self.said.writer {
            Some(writer) => writer.fail(&message, &mut out),
            None => writer::fail(self.format, &message, self.decoder.sequence(), &mut out),
        }
        out.into()
    }
}

impl<P: Platform> Drop for Relay<P> {
    fn drop(&mut self) {
        self.journal.record_content(&self.said.transcript);
    }
}

const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");
const MESSAGE_STOP: Bytes = Bytes::from_static(b"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
