use crate::{
    entry::{Batch, Bucket, Change, Cursor, Entry, Head, LogId, Origin, Seq},
    platform::{AppendError, ReadLimit, Store, StoreError},
    time::Timestamp,
};

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call does what it should.
    None,
    /// It fails and has done nothing.
    Before,
    /// It fails although it was done: the answer is lost.
    After,
}

/// Which call is about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`Store::append`].
    Append,
    /// Any of the reading calls.
    Read,
    /// [`Store::erase`].
    Erase,
}

/// A store whose calls fail when `plan` says so.
pub struct Faulty<S, F> {
    store: S,
    plan: F,
}

impl<S: Store, F: AsyncFn(Call) -> Fault> Faulty<S, F> {
    /// `plan` is asked before every call; it may wait, so that calls can overlap.
    pub fn new(store: S, plan: F) -> Self {
        Self { store, plan }
    }

    async fn read_fault(&self) -> Result<(), StoreError> {
        match (self.plan)(Call::Read).await {
            Fault::None => Ok(()),
            Fault::Before | Fault::After => Err(StoreError::Unavailable("injected".into())),
        }
    }
}

impl<S: Store, F: AsyncFn(Call) -> Fault> Store for Faulty<S, F> {
    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        match (self.plan)(Call::Append).await {
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
        match (self.plan)(Call::Erase).await {
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
