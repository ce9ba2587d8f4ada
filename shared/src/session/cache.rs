use std::collections::BTreeMap;

use super::Session;
use crate::{entry::LogId, log::View};

/// Folds of conversations that were used lately, so that a request reads only what is new.
#[derive(Default)]
pub struct Cache {
    views: BTreeMap<LogId, (u64, View<Session>)>,
    pub(super) weight: usize,
    clock: u64,
}

impl Cache {
    /// Items of all cached conversations together: about 300 bytes each, so 20 MB of an isolate's 128.
    pub(super) const MAX_WEIGHT: usize = 64 * 1024;

    /// Takes the view of `log` out; an empty one if there is none, or if another request has it. That one costs a read
    /// of the log and no copy for everybody else.
    pub fn take(&mut self, log: LogId) -> View<Session> {
        let Some((_, view)) = self.views.remove(&log) else { return View::default() };
        self.weight -= view.fold.weight();
        view
    }

    /// All views that are kept.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn views(&self) -> Vec<(LogId, View<Session>)> {
        self.views.iter().map(|(log, (_, view))| (*log, view.clone())).collect()
    }

    /// What is known of `log` without a look at the store; `None` if nothing is, or if another request has it.
    pub fn peek(&self, log: LogId) -> Option<&Session> {
        self.views.get(&log).map(|(_, view)| &view.fold)
    }

    /// Keeps `view`, unless a newer one is known, and drops those longest unused if there are too many.
    pub fn put(&mut self, log: LogId, view: View<Session>) {
        if view.is_empty() || self.views.get(&log).is_some_and(|(_, known)| known.len() >= view.len()) {
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
