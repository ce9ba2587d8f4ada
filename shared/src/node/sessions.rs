//! Reads and writes sessions through the folds that this node caches, and writes their snapshots. What the entries mean
//! is decided in `session`.

use std::convert::Infallible;

use super::Node;
use crate::{
    entry::{Entry, EntryId, LogId, Wake},
    log::{self, CommitError, Decision, Fold, View},
    names::metric,
    platform::{Platform, StoreError},
    session::{
        Session, snapshot,
        turn::{Turn, TurnId},
    },
};

impl<P: Platform> Node<P> {
    /// [`log::commit`] on a session's log through the cached fold. Also returns the value of `look` at the state
    /// afterwards.
    pub(crate) async fn commit_session<T, E, S>(
        &self,
        log: LogId,
        decide: impl FnMut(&Session) -> Result<Decision<T>, E>,
        look: impl FnOnce(&Session) -> S,
    ) -> Result<(T, Vec<Entry>, S), CommitError<E>> {
        self.commit_session_until(log, |_| true, decide, look).await
    }

    /// [`Self::commit_session`], after older parts of the session are loaded until `enough` holds or all is loaded.
    pub(crate) async fn commit_session_until<T, E, S>(
        &self,
        log: LogId,
        enough: impl Fn(&Session) -> bool,
        decide: impl FnMut(&Session) -> Result<Decision<T>, E>,
        look: impl FnOnce(&Session) -> S,
    ) -> Result<(T, Vec<Entry>, S), CommitError<E>> {
        let mut view = self.0.sessions.borrow_mut().take(log);
        // The cached state usually suffices, and the commit catches up by itself.
        let loaded = match view.is_empty() || !enough(&view.fold) {
            true => match view.catch_up(self.platform().store(), log).await {
                Ok(()) => self.load_older(log, &mut view, enough).await,
                Err(error) => Err(error),
            },
            false => Ok(()),
        };
        let result = match loaded {
            Ok(()) => log::commit(self.platform(), log, self.origin(), &mut view, decide).await,
            Err(error) => Err(error.into()),
        };
        // Cached after an error as well: the view is valid as far as it was read.
        let extracted = look(&view.fold);
        self.0.sessions.borrow_mut().put(log, view);
        let (value, entries) = result?;
        self.count(&entries);
        Ok((value, entries, extracted))
    }

    /// Counts an append in the metrics, unless nothing was appended.
    fn count(&self, appended: &[Entry]) {
        if !appended.is_empty() {
            let mut metrics = self.metrics().borrow_mut();
            metrics.count(metric::APPENDS, &[]);
            metrics.add(metric::APPEND_ENTRIES, &[], appended.len() as u64);
        }
    }

    /// Writes a snapshot of a session if one is due, and sets the log's next `wake`. If another instance writes at the
    /// same time, the snapshot is left to a later turn.
    pub(crate) async fn write_snapshot(
        &self,
        log: LogId,
        wake: impl Fn(&Session) -> Wake,
    ) -> Result<(), CommitError<Infallible>> {
        // A turn has just written to the session, so the cached state is new enough to decide without a read.
        let is_due = self.peek_session(log, Session::is_snapshot_due);
        if is_due != Some(true) {
            return Ok(());
        }
        let mut view = self.0.sessions.borrow_mut().take(log);
        let mut result = view.catch_up(self.platform().store(), log).await.map_err(CommitError::from);
        if result.is_ok() && view.fold.is_snapshot_due() {
            let draft = snapshot::draft(&view.fold, view.heads());
            let wake = wake(&view.fold);
            let append =
                log::append_drafts(self.platform(), log, self.origin(), &mut view, vec![draft], wake);
            result = append.await.map(|appended| self.count(&appended.unwrap_or_default()));
        }
        self.0.sessions.borrow_mut().put(log, view);
        result
    }

    /// Applies `look` to the cached state of a session, which may be old; `None` if none is cached.
    pub(crate) fn peek_session<T>(&self, log: LogId, look: impl FnOnce(&Session) -> T) -> Option<T> {
        self.0.sessions.borrow().peek(log).map(look)
    }

    /// Applies `look` to the newest state of a session.
    pub(crate) async fn read_session<T>(
        &self,
        log: LogId,
        look: impl FnOnce(&Session) -> T,
    ) -> Result<T, StoreError> {
        self.read_session_until(log, |_| true, look).await
    }

    /// [`Self::read_session`], after older parts of the session are loaded until `enough` holds or all is loaded.
    pub(crate) async fn read_session_until<T>(
        &self,
        log: LogId,
        enough: impl Fn(&Session) -> bool,
        look: impl FnOnce(&Session) -> T,
    ) -> Result<T, StoreError> {
        let mut view = self.0.sessions.borrow_mut().take(log);
        let mut result = view.catch_up(self.platform().store(), log).await;
        if result.is_ok() {
            result = self.load_older(log, &mut view, enough).await;
        }
        let value = look(&view.fold);
        self.0.sessions.borrow_mut().put(log, view);
        result.map(|()| value)
    }

    /// The turn `id` of a session, however old it is; `None` if there is none.
    pub(crate) async fn read_turn(&self, log: LogId, id: &TurnId) -> Result<Option<Turn>, StoreError> {
        let is_known = |session: &Session| session.turns().find(id).is_some();
        self.read_session_until(log, is_known, |session| session.turns().find(id).cloned()).await
    }

    /// Loads older parts of a session until `enough` holds or all is loaded.
    async fn load_older(
        &self,
        log: LogId,
        view: &mut View<Session>,
        enough: impl Fn(&Session) -> bool,
    ) -> Result<(), StoreError> {
        while !enough(&view.fold)
            && let Some(EntryId { origin, seq }) = view.fold.older_snapshot().cloned()
        {
            let entries = log::read_range(self.platform().store(), log, &origin, seq, seq).await?;
            let missing = || StoreError::Corrupt(format!("the snapshot {} of {origin} is missing", seq.0));
            let (part, _) = Session::restore(entries.first().ok_or_else(missing)?)?.ok_or_else(missing)?;
            view.fold.prepend(part);
        }
        Ok(())
    }

    /// Copies of all cached views of sessions.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn views(&self) -> Vec<(LogId, log::View<Session>)> {
        self.0.sessions.borrow().views()
    }
}
