//! Keeps the folds of sessions that were used lately, so that a request reads only what is new. Reads no store itself.

use std::collections::BTreeMap;

use super::Session;
use crate::{entry::LogId, log::View};

/// Cached views of sessions by log, bounded by weight; the least recently used goes first.
#[derive(Default)]
pub struct Cache {
    /// Each view with the value of `clock` at its last use.
    views: BTreeMap<LogId, (u64, View<Session>)>,
    pub(super) weight: usize,
    clock: u64,
}

impl Cache {
    /// Upper bound of the weight of all cached sessions, in items: about 300 bytes each, so 20 MB of an isolate's 128.
    pub(super) const MAX_WEIGHT: usize = 64 * 1024;

    /// Takes the view of `log` out; an empty one if it is not cached, or if another request has it. That rare request
    /// reads the log anew, which spares all others a copy.
    pub fn take(&mut self, log: LogId) -> View<Session> {
        let Some((_, view)) = self.views.remove(&log) else { return View::default() };
        self.weight -= view.fold.weight();
        view
    }

    /// Copies of all cached views.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn views(&self) -> Vec<(LogId, View<Session>)> {
        self.views.iter().map(|(log, (_, view))| (*log, view.clone())).collect()
    }

    /// The cached session of `log`, as old as it may be; `None` if it is not cached or another request has it.
    pub fn peek(&self, log: LogId) -> Option<&Session> {
        self.views.get(&log).map(|(_, view)| &view.fold)
    }

    /// Caches `view`, unless a newer one is cached, then evicts the least recently used views beyond
    /// `MAX_WEIGHT`.
    pub fn put(&mut self, log: LogId, view: View<Session>) {
        if view.is_empty() || self.views.get(&log).is_some_and(|(_, cached)| cached.len() >= view.len()) {
            return;
        }
        drop(self.take(log));
        self.clock += 1;
        self.weight += view.fold.weight();
        self.views.insert(log, (self.clock, view));
        while self.weight > Self::MAX_WEIGHT
            && let Some(oldest) = self.views.iter().min_by_key(|(_, (used, _))| *used).map(|(log, _)| *log)
        {
            drop(self.take(oldest));
        }
    }
}
