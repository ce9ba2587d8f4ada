//! Wraps a store so that its calls fail before or after they take effect. The test decides which.

use crate::{
    entry::{Batch, Bucket, Change, Cursor, Entry, Head, LogId, Origin, Seq},
    platform::{AppendError, ReadLimit, Store, StoreError},
    time::Timestamp,
};

/// How one call fails, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call succeeds.
    None,
    /// It fails without effect.
    Before,
    /// It takes effect, but its result is lost.
    After,
}

/// The kind of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// [`Store::append`].
    Append,
    /// Any of the reading calls.
    Read,
    /// [`Store::erase`].
    Erase,
}

/// A store whose calls fail as `plan` decides.
pub struct Faulty<S, F> {
    store: S,
    plan: F,
}

impl<S: Store, F: AsyncFn(CallKind) -> Fault> Faulty<S, F> {
    /// `plan` runs before every call; it may wait, so that calls overlap.
    pub fn new(store: S, plan: F) -> Self {
        Self { store, plan }
    }

    async fn read_fault(&self) -> Result<(), StoreError> {
        match (self.plan)(CallKind::Read).await {
            Fault::None => Ok(()),
            Fault::Before | Fault::After => Err(StoreError::Unavailable("injected".into())),
        }
    }
}

impl<S: Store, F: AsyncFn(CallKind) -> Fault> Store for Faulty<S, F> {
    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        match (self.plan)(CallKind::Append).await {
            Fault::None => self.store.append(batch).await,
            Fault::Before => Err(AppendError::Unavailable("injected before".into())),
            Fault::After => {
                self.store.append(batch).await?;
                Err(AppendError::Unavailable("injected after".into()))
            }
        }
    }

    async fn read(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        limit: ReadLimit,
    ) -> Result<Vec<Entry>, StoreError> {
        self.read_fault().await?;
        self.store.read(log, origin, from, limit).await
    }

    async fn heads(&self, log: LogId) -> Result<Vec<Head>, StoreError> {
        self.read_fault().await?;
        self.store.heads(log).await
    }

    async fn changes(&self, bucket: Bucket, after: Cursor, limit: usize) -> Result<Vec<Change>, StoreError> {
        self.read_fault().await?;
        self.store.changes(bucket, after, limit).await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LogId>, StoreError> {
        self.read_fault().await?;
        self.store.due(now, limit).await
    }

    async fn erase(&self, log: LogId, origin: &Origin, from: Seq, to: Seq) -> Result<(), StoreError> {
        let lost = || Err(StoreError::Unavailable("injected".into()));
        match (self.plan)(CallKind::Erase).await {
            Fault::None => self.store.erase(log, origin, from, to).await,
            Fault::Before => lost(),
            Fault::After => {
                self.store.erase(log, origin, from, to).await?;
                lost()
            }
        }
    }
}

impl<S: Store> Store for &S {
    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        (**self).append(batch).await
    }

    async fn read(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        limit: ReadLimit,
    ) -> Result<Vec<Entry>, StoreError> {
        (**self).read(log, origin, from, limit).await
    }

    async fn heads(&self, log: LogId) -> Result<Vec<Head>, StoreError> {
        (**self).heads(log).await
    }

    async fn changes(&self, bucket: Bucket, after: Cursor, limit: usize) -> Result<Vec<Change>, StoreError> {
        (**self).changes(bucket, after, limit).await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LogId>, StoreError> {
        (**self).due(now, limit).await
    }

    async fn erase(&self, log: LogId, origin: &Origin, from: Seq, to: Seq) -> Result<(), StoreError> {
        (**self).erase(log, origin, from, to).await
    }
}
