//! Follows a turn for a client: turns its durable entries into events, whether the turn runs here or elsewhere. Runs
//! nothing itself.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use futures_util::future::{Either, select};

use super::turn_entries;
use crate::{
    entry::Place,
    node::Node,
    platform::{Platform, StoreError},
    runs::LiveRun,
    session::{ResponseFold, turn::ResponseId},
};

/// Interval at which the log is polled for entries that another instance writes.
const POLL: Duration = Duration::from_millis(500);

/// Longest pause between two writes to a stream: proxies cut a stream that is silent for a minute.
const SILENCE: Duration = Duration::from_secs(15);

/// Reads a turn's entries as they become durable, from the run in this process or else from the log.
pub(crate) struct Follower<P: Platform> {
    node: Node<P>,
    id: ResponseId,
    /// The response, as far as its entries have been applied.
    pub(crate) response: ResponseFold,
    /// The last entry that was applied.
    last: Option<Place>,
    /// The run, if it is in this process, and how many of its entries were read.
    live: Option<(Rc<LiveRun>, usize)>,
    /// Whether a client streams the events.
    watches: bool,
}

impl<P: Platform> Follower<P> {
    /// Follows the turn `id` and leaves out the events up to sequence number `after`.
    pub(crate) fn new(node: &Node<P>, id: ResponseId, after: Option<u64>) -> Self {
        let live = node.runs().find(id.log, &id.turn).map(|live| (live, 0));
        Self {
            node: node.clone(),
            id,
            response: ResponseFold::new(id, after),
            last: None,
            live,
            watches: false,
        }
    }

    /// Asks this run, and those that resume the turn after it, to write deltas at short intervals: a client streams
    /// them.
    pub(crate) fn watch(&mut self) {
        if !std::mem::replace(&mut self.watches, true)
            && let Some((live, _)) = &self.live
        {
            live.add_watcher();
        }
    }

    /// Applies the entries that are durable now and returns the events that they add. Fails if the turn was deleted.
    pub(crate) async fn catch_up(&mut self) -> Result<Bytes, StoreError> {
        let mut out = Vec::new();
        let new = match &mut self.live {
            Some((live, read_count)) => {
                let new = live.entries(*read_count);
                *read_count += new.len();
                new
            }
            None => {
                let ResponseId { log, turn } = self.id;
                let found = self.node.read_turn(log, &turn).await?;
                let found = found.ok_or_else(deleted)?;
                turn_entries(&self.node, log, turn, &found).await?
            }
        };
        for entry in new {
            if entry.is_erased() {
                return Err(deleted());
            }
            // After a change between run and log the same entries are read a second time.
            let place = entry.place();
            if self.last.as_ref().is_none_or(|last| *last < place) {
                self.response.apply(&entry, &mut out)?;
                self.last = Some(place);
            }
        }
        Ok(out.into())
    }

    /// Waits for entries and returns the events that they add. Empty bytes are a keep-alive; `None` means that the turn
    /// is closed and all its events were returned. Loses no event if it is dropped while it waits: entries are applied
    /// after the last wait.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, StoreError>> {
        let mut silent = Duration::ZERO;
        loop {
            if self.response.closed().is_some() {
                return None;
            }
            match &self.live {
                Some((live, read_count)) => {
                    let wait = Box::pin(self.node.platform().sleep(SILENCE));
                    let more = Box::pin(live.wait_for_more(*read_count));
                    if let Either::Right(_) = select(more, wait).await {
                        return Some(Ok(Bytes::new()));
                    }
                    if live.has_ended() && live.entries(*read_count).is_empty() {
                        // The run ended without closing its turn; the run that resumes it may be in another process.
                        self.leave_run();
                    }
                }
                None => {
                    self.node.platform().sleep(POLL).await;
                    silent += POLL;
                    self.live = self.node.runs().find(self.id.log, &self.id.turn).map(|live| (live, 0));
                    if let (Some((live, _)), true) = (&self.live, self.watches) {
                        live.add_watcher();
                    }
                }
            }
            match self.catch_up().await {
                Ok(events) if events.is_empty() && silent < SILENCE => {}
                result => return Some(result),
            }
        }
    }

    fn leave_run(&mut self) {
        if let (Some((live, _)), true) = (self.live.take(), self.watches) {
            live.remove_watcher();
        }
    }
}

/// Cuts the stream of a client whose response was deleted meanwhile.
fn deleted() -> StoreError {
    StoreError::Unavailable("the response was deleted".into())
}

impl<P: Platform> Drop for Follower<P> {
    fn drop(&mut self) {
        self.leave_run();
    }
}
