//! The HTTP body that the core sends, in requests to providers and in answers to clients. Bodies that arrive are the
//! shells' types.

use std::{
    collections::VecDeque,
    convert::Infallible,
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream::LocalBoxStream};
use http_body::{Frame, SizeHint};
use serde_json::Value;

/// A body that the core sends: to a client as an answer, to a provider as a request.
///
/// A stream is pulled: it does nothing until it is polled, and dropping it drops everything that feeds it. So a client
/// that disconnects cancels the upstream call without further code.
#[derive(Default)]
pub enum Body {
    /// No bytes.
    #[default]
    Empty,
    /// All bytes at once.
    Full(Bytes),
    /// All bytes at once, in slices, so that a large request is not copied.
    Slices(Slices),
    /// Bytes as they arrive. An error aborts the connection, so that a truncated stream never looks complete.
    Stream(LocalBoxStream<'static, Result<Bytes, BodyError>>),
}

/// Pieces of a body that are joined. A single one is not copied.
#[derive(Debug, Default)]
pub struct JoinedBytes {
    first: Bytes,
    /// All pieces, once there are two.
    all: BytesMut,
}

impl JoinedBytes {
    /// Adds a piece.
    pub fn push(&mut self, piece: Bytes) {
        if self.is_empty() {
            self.first = piece;
        } else if !piece.is_empty() {
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
            self.all.extend_from_slice(&piece);
        }
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes all bytes; `None` if there are none.
    pub fn take(&mut self) -> Option<Bytes> {
        let joined =
            if self.all.is_empty() { std::mem::take(&mut self.first) } else { self.all.split().freeze() };
        (!joined.is_empty()).then_some(joined)
    }
}

/// The stream behind a body failed: the bytes sent so far are not the whole body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body ended before it was complete: {0}")]
pub struct BodyError(pub String);

impl Body {
    /// A body that yields the chunks of `stream`.
    pub fn stream(stream: impl Stream<Item = Result<Bytes, BodyError>> + 'static) -> Self {
        Self::Stream(stream.boxed_local())
    }

    /// The whole body in one buffer, for which slices are copied; `None` if it is a stream.
    pub fn into_bytes(self) -> Option<Bytes> {
        match self {
            Self::Empty => Some(Bytes::new()),
            Self::Full(bytes) => Some(bytes),
            Self::Slices(slices) => {
                let mut whole = Vec::with_capacity(slices.bytes());
                slices.iter().for_each(|slice| whole.extend_from_slice(slice));
                Some(whole.into())
            }
            Self::Stream(_) => None,
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }
}

/// A body of known length in slices of larger buffers. Unlike [`Body`] it is `Send`.
#[derive(Clone, Debug, Default)]
pub struct Slices(VecDeque<Bytes>);

impl Slices {
    /// Bytes of all slices.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// The slices.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.0.iter()
    }
}

impl http_body::Body for Slices {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|slice| Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes() as u64)
    }
}

/// Builds a body, without copying what is large.
#[derive(Debug, Default)]
pub struct BodyBuilder {
    /// What follows the last slice.
    pub(crate) text: Vec<u8>,
    slices: VecDeque<Bytes>,
}

/// Bytes from which a slice of a buffer is sent as it is. Below it, the copy costs less than one more slice.
const MIN_SLICE_BYTES: usize = 64 * 1024;

impl BodyBuilder {
    /// A builder with room for a body of about `bytes` bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { text: Vec::with_capacity(bytes.min(MIN_SLICE_BYTES)), slices: VecDeque::new() }
    }

    /// Adds a range of a buffer; nothing if the range is not in it.
    pub(crate) fn add(&mut self, buffer: &Bytes, range: Range<usize>) {
        let Some(bytes) = buffer.get(range.clone()) else { return };
        if bytes.len() < MIN_SLICE_BYTES {
            self.text.extend_from_slice(bytes);
        } else {
            self.add_slice(buffer.slice(range));
        }
    }

    /// Adds a text as it is.
    pub(crate) fn add_text(&mut self, text: String) {
        if text.len() < MIN_SLICE_BYTES {
            self.text.extend_from_slice(text.as_bytes());
        } else {
            self.add_slice(text.into());
        }
    }

    /// Adds a JSON string.
    pub(crate) fn add_string(&mut self, text: String) {
        let is_plain = |text: &str| all_bytes(text, |byte| !matches!(byte, b'"' | b'\\' | 0..0x20));
        if text.len() >= MIN_SLICE_BYTES && is_plain(&text) {
            self.text.push(b'"');
            self.add_text(text);
            self.text.push(b'"');
        } else {
            self.add_json(&text);
        }
    }

    /// Adds a value as JSON, and takes long strings out of it.
    pub(crate) fn add_value(&mut self, value: Value) {
        match value {
            Value::String(text) => self.add_string(text),
            Value::Array(values) => {
                self.add_list(b'[', values, Self::add_value);
                self.text.push(b']');
            }
            Value::Object(fields) => {
                self.add_list(b'{', fields, |body, (name, value)| {
                    body.add_json(&name);
                    body.text.push(b':');
                    body.add_value(value);
                });
                self.text.push(b'}');
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => self.add_json(&value),
        }
    }

    /// Adds elements, each after a comma, the first after `open`.
    fn add_list<T>(&mut self, open: u8, elements: impl IntoIterator<Item = T>, add: fn(&mut Self, T)) {
        self.text.push(open);
        for (at, element) in elements.into_iter().enumerate() {
            if at > 0 {
                self.text.push(b',');
            }
            add(self, element);
        }
    }

    /// Adds a value as JSON, with a copy of every string.
    pub(crate) fn add_json(&mut self, value: &impl serde::Serialize) {
        // Writing into memory does not fail, and no key of a value is anything but a string.
        let _ = serde_json::to_writer(&mut self.text, value);
    }

    fn add_slice(&mut self, slice: Bytes) {
        if !self.text.is_empty() {
            self.slices.push_back(std::mem::take(&mut self.text).into());
        }
        self.slices.push_back(slice);
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> usize {
        self.slices.iter().map(Bytes::len).sum::<usize>() + self.text.len()
    }

    /// The body.
    pub(crate) fn build(mut self) -> Body {
        if self.slices.is_empty() {
            return Bytes::from(self.text).into();
        }
        if !self.text.is_empty() {
            self.slices.push_back(self.text.into());
        }
        Body::Slices(Slices(self.slices))
    }
}

/// Whether all bytes of a text are `allowed`. Blocks of bytes are checked at once, since a text may be large.
pub(crate) fn all_bytes(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    text.as_bytes().chunks(1024).all(|block| block.iter().fold(true, |all, byte| all & allowed(*byte)))
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Slices(slices) => Pin::new(slices).poll_frame(cx).map_err(|never| match never {}),
            Self::Stream(stream) => stream.poll_next_unpin(cx).map_ok(Frame::data),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Slices(slices) => slices.is_end_stream(),
            Self::Full(_) | Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Slices(slices) => slices.size_hint(),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Full(bytes) => write!(f, "Full({} bytes)", bytes.len()),
            Self::Slices(slices) => write!(f, "Slices({} bytes)", slices.bytes()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}
