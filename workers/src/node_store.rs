//! Chooses the store of each log: the own database in the object of the log, else a call to that object. Stores nothing
//! itself.

use std::cell::Cell;

use outlive::{
    entry::{Batch, Bucket, Change, Cursor, Entry, Head, LogId, Origin, Seq},
    platform::{AppendError, ReadLimit, Store, StoreError},
    time::Timestamp,
};
use worker::{Env, ObjectNamespace, State};

use crate::{object_call, remote_store::RemoteStore, store::ObjectStore};

/// The `Store` port of a node on Workers. One type for the Worker and for log objects, so that the core is compiled
/// once: every isolate downloads it.
pub(crate) enum NodeStore {
    /// In a log object: one log in its own database, all others remote.
    InObject(SplitStore),
    /// In the Worker: all logs are remote.
    InWorker(RemoteStore),
}

/// The store that holds one log.
pub(crate) enum LogStore<'a> {
    /// The database of this object.
    Own(&'a ObjectStore),
    /// The database of another object.
    Remote(&'a RemoteStore),
}

/// The stores of a log object. An entry of another log must not get into its database, where no other object would find
/// it.
pub(crate) struct SplitStore {
    own: ObjectStore,
    remote: RemoteStore,
    namespace: ObjectNamespace,
    /// The id that the platform gave this object.
    id: String,
    /// The log of this object, once a call has named it.
    log: Cell<Option<LogId>>,
}

impl SplitStore {
    /// Opens the database of this object.
    pub(crate) fn open(state: &State, env: &Env) -> worker::Result<Self> {
        let (own, remote) = (ObjectStore::open(state, env)?, RemoteStore::new(env)?);
        let (namespace, id) = (object_call::namespace(env)?, state.id().to_string());
        Ok(Self { own, remote, namespace, id, log: Cell::new(None) })
    }

    fn is_own(&self, log: LogId) -> bool {
        if let Some(own) = self.log.get() {
            return own == log;
        }
        // The platform does not tell an object its name, but derives the same id from a name each time.
        let is_own = self.namespace.id_from_name(&log.to_string()).is_ok_and(|id| id.to_string() == self.id);
        if is_own {
            self.log.set(Some(log));
        }
        is_own
    }
}

impl NodeStore {
    /// The own database; `None` in the Worker.
    pub(crate) fn object_store(&self) -> Option<&ObjectStore> {
        match self {
            Self::InObject(stores) => Some(&stores.own),
            Self::InWorker(_) => None,
        }
    }

    /// The store that holds `log`.
    pub(crate) fn store_of(&self, log: LogId) -> LogStore<'_> {
        match self {
            Self::InObject(stores) if stores.is_own(log) => LogStore::Own(&stores.own),
            Self::InObject(SplitStore { remote, .. }) | Self::InWorker(remote) => LogStore::Remote(remote),
        }
    }
}

impl Store for NodeStore {
    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        match self.store_of(batch.log()) {
            LogStore::Own(store) => store.append(batch).await,
            LogStore::Remote(store) => store.append(batch).await,
        }
    }

    async fn read(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        limit: ReadLimit,
    ) -> Result<Vec<Entry>, StoreError> {
        match self.store_of(log) {
            LogStore::Own(store) => store.read(log, origin, from, limit).await,
            LogStore::Remote(store) => store.read(log, origin, from, limit).await,
        }
    }

    async fn heads(&self, log: LogId) -> Result<Vec<Head>, StoreError> {
        match self.store_of(log) {
            LogStore::Own(store) => store.heads(log).await,
            LogStore::Remote(store) => store.heads(log).await,
        }
    }

    async fn changes(&self, bucket: Bucket, after: Cursor, limit: usize) -> Result<Vec<Change>, StoreError> {
        match self {
            Self::InObject(stores) => stores.own.changes(bucket, after, limit).await,
            Self::InWorker(store) => store.changes(bucket, after, limit).await,
        }
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LogId>, StoreError> {
        match self {
            Self::InObject(stores) => stores.own.due(now, limit).await,
            Self::InWorker(store) => store.due(now, limit).await,
        }
    }

    async fn erase(&self, log: LogId, origin: &Origin, from: Seq, to: Seq) -> Result<(), StoreError> {
        match self.store_of(log) {
            LogStore::Own(store) => store.erase(log, origin, from, to).await,
            LogStore::Remote(store) => store.erase(log, origin, from, to).await,
        }
    }
}
