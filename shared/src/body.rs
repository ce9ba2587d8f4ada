//! The HTTP body that the core sends, in requests to providers and in answers to clients. Bodies that arrive are the
//! shells' types.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream::LocalBoxStream};
use http_body::{Frame, SizeHint};

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
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }
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
            Self::Stream(stream) => stream.poll_next_unpin(cx).map_ok(Frame::data),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Full(bytes) => write!(f, "Full({} bytes)", bytes.len()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}
