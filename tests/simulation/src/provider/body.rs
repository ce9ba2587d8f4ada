//! The body of an answer, as the network brings it.

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

use crate::{executor::Sleep, invariants::bounded::Call, machine::Clock, world::World};

/// The body of a provider's answer, as the network brings it.
pub(crate) struct Answer {
    pub(super) world: Rc<World>,
    pub(super) clock: Rc<Clock>,
    pub(super) pieces: VecDeque<(Duration, Bytes)>,
    pub(super) end: End,
    pub(super) pause: Option<Sleep>,
    /// It is under way until this is gone.
    pub(super) _call: Option<Call>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Clean,
    Broken,
    Never,
}

impl Answer {
    /// A whole JSON answer of somebody who is no provider.
    pub(crate) fn whole(world: &Rc<World>, clock: &Rc<Clock>, status: u16, text: &str) -> Response<Self> {
        let (world, clock) = (Rc::clone(world), Rc::clone(clock));
        let pieces = [(Duration::ZERO, Bytes::copy_from_slice(text.as_bytes()))].into();
        let mut response =
            Response::new(Self { world, clock, pieces, end: End::Clean, pause: None, _call: None });
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

impl http_body::Body for Answer {
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
                (None, End::Clean) => return Poll::Ready(None),
                (None, End::Broken) => return Poll::Ready(Some(Err(HttpError::Broken("reset".into())))),
                (None, End::Never) => return Poll::Pending,
            }
        }
        if let Some(pause) = &mut this.pause
            && Pin::new(pause).poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        this.pause = None;
        this.clock.look();
        let piece = this.pieces.pop_front().map(|(_, bytes)| Ok(Frame::data(bytes)));
        Poll::Ready(piece)
    }
}
