//! A stream after its first content: every event is handed on as it comes, and the end is always an explicit one.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use serde_json::json;

use super::{
    Alarm,
    attempt::{Opening, Source, truncated},
    failed,
};
use crate::{
    body::{Body, BodyError},
    config::Candidate,
    node::Node,
    platform::Platform,
    provider::{
        Class, ProviderError, Signal,
        openai::Decoder,
        sse::{self, Event},
    },
};

/// The body of a streamed answer.
pub(super) fn stream<P: Platform>(
    node: Node<P>,
    candidate: Candidate,
    opening: Opening<P>,
    idle: Duration,
    alarm: Alarm<P>,
) -> Body {
    let Opening { held, source, events, decoder } = opening;
    let relay = Relay {
        node,
        candidate,
        ready: held.into(),
        source,
        events,
        decoder,
        idle,
        alarm,
        moved: true,
        ended: false,
    };
    Body::stream(stream::unfold(relay, |mut relay| async {
        let bytes = relay.next().await?;
        Some((Ok::<_, BodyError>(bytes), relay))
    }))
}

struct Relay<P: Platform> {
    node: Node<P>,
    candidate: Candidate,
    /// Events that can go out at once.
    ready: VecDeque<Bytes>,
    source: Source<P>,
    events: sse::Decoder,
    decoder: Decoder,
    idle: Duration,
    alarm: Alarm<P>,
    /// Content was handed on since the idle clock was set. Keep-alives are not content.
    moved: bool,
    /// The terminal event is sent or in `ready`.
    ended: bool,
}

impl<P: Platform> Relay<P> {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(bytes) = self.ready.pop_front() {
            return Some(bytes);
        }
        if self.ended {
            self.source.finish().await;
            return None;
        }
        if std::mem::take(&mut self.moved) {
            self.alarm.phase("idle", Some(self.idle));
        }
        match self.event().await {
            Ok(bytes) => Some(bytes),
            Err(error) => Some(self.fail(&error)),
        }
    }

    /// The next event for the client.
    async fn event(&mut self) -> Result<Bytes, ProviderError> {
        let torn = |error: sse::SseError| ProviderError::new(Class::Truncated, error.to_string());
        loop {
            if let Some(event) = self.events.event().map_err(torn)? {
                // Comments go on too, so that proxies between us and the client see life.
                let Event::Data { data, plain } = event else { return Ok(COMMENT) };
                match self.decoder.decode(&data) {
                    Signal::Error(error) => return Err(error),
                    Signal::Done => return Ok(self.done()),
                    Signal::Frame | Signal::Content | Signal::Finish => {
                        self.moved = true;
                        return Ok(plain.unwrap_or_else(|| sse::encode(&data)));
                    }
                }
            }
            match self.source.next(&mut self.alarm).await {
                Ok(Some(chunk)) => self.events.push(chunk),
                Ok(None) => return self.end(),
                // The answer is whole; what broke or hung is only the connection.
                Err(_) if self.decoder.is_complete() => return Ok(self.done()),
                Err(error) => return Err(error),
            }
        }
    }

    /// The connection has ended, without the last event.
    fn end(&mut self) -> Result<Bytes, ProviderError> {
        let last = self.events.finish().ok().flatten();
        if let Some(Event::Data { data, .. }) = last {
            match self.decoder.decode(&data) {
                Signal::Done => return Ok(self.done()),
                Signal::Error(error) => return Err(error),
                Signal::Frame | Signal::Content | Signal::Finish if self.decoder.is_complete() => {
                    let done = self.done();
                    self.ready.push_back(done);
                    return Ok(sse::encode(&data));
                }
                Signal::Frame | Signal::Content | Signal::Finish => {}
            }
        }
        if self.decoder.is_complete() { Ok(self.done()) } else { Err(truncated()) }
    }

    fn done(&mut self) -> Bytes {
        self.ended = true;
        self.node.health().borrow_mut().succeeded(&self.candidate);
        DONE
    }

    /// The error event that ends a stream which can't go on.
    fn fail(&mut self, error: &ProviderError) -> Bytes {
        self.ended = true;
        failed(&self.node, &self.candidate, error);
        let error = json!({"error": {
            "message": format!("the answer broke off: {}", error.message),
            "type": "server_error",
            "param": null,
            "code": "stream_interrupted",
        }});
        sse::encode(error.to_string().as_bytes())
    }
}

const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");
const COMMENT: Bytes = Bytes::from_static(b": keep-alive\n\n");
