//! The logs that an isolate can reach: an object has its own, the Worker asks the objects.

use outlive::{
    platform::{AppendError, ReadLimit, Store, StoreError, Timestamp},
    session::{
        entry::{Batch, Entry, Head, LogId, Origin, Seq},
        log::{Bucket, Change, Cursor},
    },
};

use crate::{remote::Elsewhere, store::ObjectStore};

/// One type for both, so that the core is compiled once: every isolate downloads it.
#[cfg_attr(feature = "suite", derive(Clone))]
pub(crate) enum Logs {
    /// In this object's database.
    Here(ObjectStore),
    /// In the objects of the logs.
    Elsewhere(Elsewhere),
}

impl Logs {
    /// The database, in an object.
    pub(crate) fn here(&self) -> Option<&ObjectStore> {
        match self {
            Self::Here(store) => Some(store),
            Self::Elsewhere(_) => None,
        }
    }
}

impl Store for Logs {
    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        match self {
            Self::Here(store) => store.append(batch).await,
            Self::Elsewhere(store) => store.append(batch).await,
        }
    }

    async fn read(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        limit: ReadLimit,
    ) -> Result<Vec<Entry>, StoreError> {
        match self {
            Self::Here(store) => store.read(log, origin, from, limit).await,
            Self::Elsewhere(store) => store.read(log, origin, from, limit).await,
        }
    }

    async fn heads(&self, log: LogId) -> Result<Vec<Head>, StoreError> {
        match self {
            Self::Here(store) => store.heads(log).await,
            Self::Elsewhere(store) => store.heads(log).await,
        }
    }

    async fn changes(&self, bucket: Bucket, after: Cursor, limit: usize) -> Result<Vec<Change>, StoreError> {
        match self {
            Self::Here(store) => store.changes(bucket, after, limit).await,
            Self::Elsewhere(store) => store.changes(bucket, after, limit).await,
        }
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LogId>, StoreError> {
        match self {
            Self::Here(store) => store.due(now, limit).await,
            Self::Elsewhere(store) => store.due(now, limit).await,
        }
    }

    async fn erase(&self, log: LogId, origin: &Origin, from: Seq, to: Seq) -> Result<(), StoreError> {
        match self {
            Self::Here(store) => store.erase(log, origin, from, to).await,
            Self::Elsewhere(store) => store.erase(log, origin, from, to).await,
        }
    }
}
