//! Sessions of this node: reads and writes them through the folds that it caches.

use std::convert::Infallible;

use super::Node;
use crate::{
    entry::{Entry, EntryId, LogId, Wake},
    log::{self, CommitError, Decision, Fold, View},
    names::metric,
    platform::{Platform, StoreError},
    session::{Session, snapshot},
};

impl<P: Platform> Node<P> {
    /// [`log::commit`] on a session's log, with the fold that is kept of it. Also gives what `look` sees afterwards.
    pub(crate) async fn commit_session<T, E, S>(
        &self,
        log: LogId,
        decide: impl FnMut(&Session) -> Result<Decision<T>, E>,
        look: impl FnOnce(&Session) -> S,
    ) -> Result<(T, Vec<Entry>, S), CommitError<E>> {
        self.commit_session_until(log, |_| true, decide, look).await
    }

    /// The same, after as much of the session's past has been read as `enough` asks for, or all of it.
    pub(crate) async fn commit_session_until<T, E, S>(
        &self,
        log: LogId,
        enough: impl Fn(&Session) -> bool,
        decide: impl FnMut(&Session) -> Result<Decision<T>, E>,
        look: impl FnOnce(&Session) -> S,
    ) -> Result<(T, Vec<Entry>, S), CommitError<E>> {
        let mut view = self.0.conversations.borrow_mut().take(log);
        // What is known suffices mostly, and a commit catches up by itself.
        let read = match view.is_empty() || !enough(&view.fold) {
            true => match view.catch_up(self.platform().store(), log).await {
                Ok(()) => self.read_back(log, &mut view, enough).await,
                Err(error) => Err(error),
            },
            false => Ok(()),
        };
        let result = match read {
            Ok(()) => log::commit(self.platform(), log, self.origin(), &mut view, decide).await,
            Err(error) => Err(error.into()),
        };
        let seen = look(&view.fold);
        self.0.conversations.borrow_mut().put(log, view);
        let (then, entries) = result?;
        self.count(&entries);
        Ok((then, entries, seen))
    }

    /// Counts an append, if there was one.
    fn count(&self, appended: &[Entry]) {
        if !appended.is_empty() {
            let mut metrics = self.metrics().borrow_mut();
            metrics.count(metric::APPENDS, Vec::new());
            metrics.add(metric::APPEND_ENTRIES, Vec::new(), appended.len() as u64);
        }
    }

    /// Writes a snapshot of a session if it is time for one; `wake` says when the log is woken next. If another instance
    /// writes meanwhile, the snapshot is left for a later turn.
    pub(crate) async fn write_snapshot(
        &self,
        log: LogId,
        wake: impl Fn(&Session) -> Wake,
    ) -> Result<(), CommitError<Infallible>> {
        // Whoever has just written to it knows.
        let wants = self.peek_session(log, Session::is_snapshot_due);
        if wants != Some(true) {
            return Ok(());
        }
        let mut view = self.0.conversations.borrow_mut().take(log);
        let mut result = view.catch_up(self.platform().store(), log).await.map_err(CommitError::from);
        if result.is_ok() && view.fold.is_snapshot_due() {
            let draft = snapshot::draft(&view.fold, view.heads());
            let wake = wake(&view.fold);
            let extended =
                log::append_drafts(self.platform(), log, self.origin(), &mut view, vec![draft], wake);
            result = extended.await.map(|appended| self.count(&appended.unwrap_or_default()));
        }
        self.0.conversations.borrow_mut().put(log, view);
        result
    }

    /// What `look` sees in what is known of a session without a look at the store, if anything is.
    pub(crate) fn peek_session<T>(&self, log: LogId, look: impl FnOnce(&Session) -> T) -> Option<T> {
        self.0.conversations.borrow().peek(log).map(look)
    }

    /// What `look` sees in the newest state of a session.
    pub(crate) async fn read_session<T>(
        &self,
        log: LogId,
        look: impl FnOnce(&Session) -> T,
    ) -> Result<T, StoreError> {
        self.read_session_until(log, |_| true, look).await
    }

    /// The same, after as much of the session's past has been read as `enough` asks for, or all of it.
    pub(crate) async fn read_session_until<T>(
        &self,
        log: LogId,
        enough: impl Fn(&Session) -> bool,
        look: impl FnOnce(&Session) -> T,
    ) -> Result<T, StoreError> {
        let mut view = self.0.conversations.borrow_mut().take(log);
        let mut result = view.catch_up(self.platform().store(), log).await;
        if result.is_ok() {
            result = self.read_back(log, &mut view, enough).await;
        }
        let seen = look(&view.fold);
        self.0.conversations.borrow_mut().put(log, view);
        result.map(|()| seen)
    }

    /// Reads older parts of a session until `enough` is there.
    async fn read_back(
        &self,
        log: LogId,
        view: &mut View<Session>,
        enough: impl Fn(&Session) -> bool,
    ) -> Result<(), StoreError> {
        while !enough(&view.fold)
            && let Some(EntryId { origin, seq }) = view.fold.older().cloned()
        {
            let entries = log::read_range(self.platform().store(), log, &origin, seq, seq).await?;
            let missing = || StoreError::Corrupt(format!("the snapshot {} of {origin} is missing", seq.0));
            let (part, _) = Session::restore(entries.first().ok_or_else(missing)?)?.ok_or_else(missing)?;
            view.fold.prepend(part);
        }
        Ok(())
    }

    /// The folds of sessions that this instance keeps.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn views(&self) -> Vec<(LogId, log::View<Session>)> {
        self.0.conversations.borrow().views()
    }
}
