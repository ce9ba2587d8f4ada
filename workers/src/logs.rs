//! The logs that an isolate can reach: an object has its own, and asks the objects of others, as the Worker does.

use std::cell::Cell;

use outlive::{
    platform::{AppendError, ReadLimit, Store, StoreError, Timestamp},
    session::{
        entry::{Batch, Entry, Head, LogId, Origin, Seq},
        log::{Bucket, Change, Cursor},
    },
};
use worker::{Env, ObjectNamespace, State};

use crate::{object_call, remote::Elsewhere, store::ObjectStore};

/// One type for both, so that the core is compiled once: every isolate downloads it.
pub(crate) enum Logs {
    /// In this object's database, and all others in the objects of the logs.
    Here(Own),
    /// In the objects of the logs.
    Elsewhere(Elsewhere),
}

/// Who keeps a log.
pub(crate) enum Keeper<'a> {
    /// This object.
    Here(&'a ObjectStore),
    /// Another object.
    Elsewhere(&'a Elsewhere),
}

/// What an object can reach: its own log in its database, and others where they are kept. An entry of another log in this
/// database would be seen by nobody else.
pub(crate) struct Own {
    store: ObjectStore,
    others: Elsewhere,
    objects: ObjectNamespace,
    /// This object, as the platform names it.
    id: String,
    /// The log that was found to be this object's.
    log: Cell<Option<LogId>>,
}

impl Own {
    /// Opens the database of this object.
    pub(crate) fn open(state: &State, env: &Env) -> worker::Result<Self> {
        let (store, others) = (ObjectStore::open(state, env)?, Elsewhere::new(env)?);
        let (objects, id) = (object_call::namespace(env)?, state.id().to_string());
        Ok(Self { store, others, objects, id, log: Cell::new(None) })
    }

    fn keeps(&self, log: LogId) -> bool {
        if let Some(own) = self.log.get() {
            return own == log;
        }
        // An object learns its name only from who calls it, but a name always gives the same id.
        let own = self.objects.id_from_name(&log.to_string()).is_ok_and(|id| id.to_string() == self.id);
        if own {
            self.log.set(Some(log));
        }
        own
    }
}

impl Logs {
    /// The database, in an object.
    pub(crate) fn here(&self) -> Option<&ObjectStore> {
        match self {
            Self::Here(own) => Some(&own.store),
            Self::Elsewhere(_) => None,
        }
    }

    /// Who keeps `log`.
    pub(crate) fn keeper(&self, log: LogId) -> Keeper<'_> {
        match self {
            Self::Here(own) if own.keeps(log) => Keeper::Here(&own.store),
            Self::Here(Own { others, .. }) | Self::Elsewhere(others) => Keeper::Elsewhere(others),
        }
    }
}

impl Store for Logs {
    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        match self.keeper(batch.log()) {
            Keeper::Here(store) => store.append(batch).await,
            Keeper::Elsewhere(store) => store.append(batch).await,
        }
    }

    async fn read(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        limit: ReadLimit,
    ) -> Result<Vec<Entry>, StoreError> {
        match self.keeper(log) {
            Keeper::Here(store) => store.read(log, origin, from, limit).await,
            Keeper::Elsewhere(store) => store.read(log, origin, from, limit).await,
        }
    }

    async fn heads(&self, log: LogId) -> Result<Vec<Head>, StoreError> {
        match self.keeper(log) {
            Keeper::Here(store) => store.heads(log).await,
            Keeper::Elsewhere(store) => store.heads(log).await,
        }
    }

    async fn changes(&self, bucket: Bucket, after: Cursor, limit: usize) -> Result<Vec<Change>, StoreError> {
        match self {
            Self::Here(own) => own.store.changes(bucket, after, limit).await,
            Self::Elsewhere(store) => store.changes(bucket, after, limit).await,
        }
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LogId>, StoreError> {
        match self {
            Self::Here(own) => own.store.due(now, limit).await,
            Self::Elsewhere(store) => store.due(now, limit).await,
        }
    }

    async fn erase(&self, log: LogId, origin: &Origin, from: Seq, to: Seq) -> Result<(), StoreError> {
        match self.keeper(log) {
            Keeper::Here(store) => store.erase(log, origin, from, to).await,
            Keeper::Elsewhere(store) => store.erase(log, origin, from, to).await,
        }
    }
}
