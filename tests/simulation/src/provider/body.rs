//! The body of an answer as the network delivers it: piece by piece, in virtual time.

use std::{
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use outlive::platform::HttpError;

use super::Bill;
use crate::{executor::Sleep, invariants::bounded::Call, machine::Clock, world::World};

/// A body of pieces, each with the pause before it.
pub(crate) struct AnswerBody {
    pub(super) world: Rc<World>,
    pub(super) clock: Rc<Clock>,
    pub(super) pieces: VecDeque<(Duration, Bytes)>,
    pub(super) end: BodyEnd,
    pub(super) pause: Option<Sleep>,
    /// Pieces up to the first content.
    pub(super) head: usize,
    /// The call is in flight until this is dropped.
    pub(super) call: Option<Call>,
    /// The call's bill, if the provider has a budget.
    pub(super) bill: Option<Bill>,
    /// Whether the pieces hold the usage.
    pub(super) is_whole: bool,
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if let Some(bill) = self.bill.take() {
            bill.end(self.is_whole && self.pieces.is_empty());
        }
    }
}

/// What comes after the last piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyEnd {
    /// The end of the body.
    Clean,
    /// A reset of the connection.
    Reset,
    /// Nothing: the connection stays open.
    Open,
}

impl AnswerBody {
    /// A whole JSON answer of a server that is no provider.
    pub(crate) fn whole(world: &Rc<World>, clock: &Rc<Clock>, status: u16, text: &str) -> Response<Self> {
        let (world, clock) = (Rc::clone(world), Rc::clone(clock));
        let pieces = [(Duration::ZERO, Bytes::copy_from_slice(text.as_bytes()))].into();
        let mut response = Response::new(Self {
            world,
            clock,
            pieces,
            end: BodyEnd::Clean,
            pause: None,
            head: 1,
            call: None,
            bill: None,
            is_whole: false,
        });
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        if this.pause.is_none() {
            match (this.pieces.front(), this.end) {
                (Some((pause, _)), _) => this.pause = Some(this.world.executor.sleep(*pause)),
                (None, BodyEnd::Clean) => return Poll::Ready(None),
                (None, BodyEnd::Reset) => return Poll::Ready(Some(Err(HttpError::Broken("reset".into())))),
                (None, BodyEnd::Open) => return Poll::Pending,
            }
        }
        if let Some(pause) = &mut this.pause
            && Pin::new(pause).poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        this.pause = None;
        this.clock.refresh();
        let piece = this.pieces.pop_front().map(|(_, bytes)| Ok(Frame::data(bytes)));
        this.head = this.head.saturating_sub(1);
        if let Some(call) = this.call.as_mut().filter(|_| this.head == 0) {
            call.has_content();
        }
        Poll::Ready(piece)
    }
}
