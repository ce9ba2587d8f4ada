use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use futures_util::future::{Either, select};

use super::entries;
use crate::{
    entry::Place,
    node::Node,
    platform::{Platform, StoreError},
    runs::LiveRun,
    session::{ResponseFold, Session, turn::ResponseId},
};

/// How often the log is looked at for what another instance writes.
const LOOK: Duration = Duration::from_millis(500);

/// How long a stream may be silent: proxies cut what is silent for a minute.
const SILENCE: Duration = Duration::from_secs(15);

/// Follows a turn, whoever runs it: what is durable, as soon as it is.
pub(crate) struct Follower<P: Platform> {
    node: Node<P>,
    id: ResponseId,
    pub(crate) reply: ResponseFold,
    /// The last entry that was taken in.
    last: Option<Place>,
    /// The run, if it is here, and how many of its entries were taken in.
    live: Option<(Rc<LiveRun>, usize)>,
    /// Whether somebody sees what is said as soon as it is.
    watches: bool,
}

impl<P: Platform> Follower<P> {
    /// Follows the turn `id`; events up to the number `after` are left out.
    pub(crate) fn new(node: &Node<P>, id: ResponseId, after: Option<u64>) -> Self {
        let live = node.runs().find(id.log, &id.turn).map(|live| (live, 0));
        Self { node: node.clone(), id, reply: ResponseFold::new(id, after), last: None, live, watches: false }
    }

    /// Wants to see what is said as soon as it is, from this run and from those that take the turn up after it.
    pub(crate) fn watch(&mut self) {
        if !std::mem::replace(&mut self.watches, true)
            && let Some((live, _)) = &self.live
        {
            live.watch(true);
        }
    }

    /// Takes in what is there, and gives the events that it brings.
    pub(crate) async fn look(&mut self) -> Result<Bytes, StoreError> {
        let mut out = Vec::new();
        let new = match &mut self.live {
            Some((live, seen)) => {
                let new = live.entries(*seen);
                *seen += new.len();
                new
            }
            None => {
                let ResponseId { log, turn } = self.id;
                let known = |fold: &Session| fold.turns().find(&turn).is_some();
                let look = |fold: &Session| fold.turns().find(&turn).cloned();
                let found = self.node.read_session_until(log, known, look).await?;
                let found = found.ok_or_else(deleted)?;
                entries(&self.node, log, turn, &found).await?
            }
        };
        for entry in new {
            if entry.is_erased() {
                return Err(deleted());
            }
            let place = entry.place();
            if self.last.as_ref().is_none_or(|last| *last < place) {
                self.reply.apply(&entry, &mut out)?;
                self.last = Some(place);
            }
        }
        Ok(out.into())
    }

    /// Waits for more, and gives the events that it brings. Nothing for a sign of life; `None` after the turn's end.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, StoreError>> {
        let mut silent = Duration::ZERO;
        loop {
            if self.reply.closed().is_some() {
                return None;
            }
            match &self.live {
                Some((live, seen)) => {
                    let wait = Box::pin(self.node.platform().sleep(SILENCE));
                    let stirred = Box::pin(live.wait_for_more(*seen));
                    if let Either::Right(_) = select(stirred, wait).await {
                        return Some(Ok(Bytes::new()));
                    }
                    if live.is_over() && live.entries(*seen).is_empty() {
                        // The run was given up here; whoever takes it up writes to the log.
                        self.let_go();
                    }
                }
                None => {
                    self.node.platform().sleep(LOOK).await;
                    silent += LOOK;
                    self.live = self.node.runs().find(self.id.log, &self.id.turn).map(|live| (live, 0));
                    if let (Some((live, _)), true) = (&self.live, self.watches) {
                        live.watch(true);
                    }
                }
            }
            match self.look().await {
                Ok(events) if events.is_empty() && silent < SILENCE => {}
                result => return Some(result),
            }
        }
    }

    fn let_go(&mut self) {
        if let (Some((live, _)), true) = (self.live.take(), self.watches) {
            live.watch(false);
        }
    }
}

/// Who still follows is cut off.
fn deleted() -> StoreError {
    StoreError::Unavailable("the response was deleted".into())
}

impl<P: Platform> Drop for Follower<P> {
    fn drop(&mut self) {
        self.let_go();
    }
}
