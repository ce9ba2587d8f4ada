//! The `Store` port over other objects: sends each call to the object of its log, and runs such calls in that object.
//!
//! Meant for the few small entries that a request needs from a second log, such as grants of a budget. A request about
//! a log is forwarded to the object of that log instead (`object_call.rs`).

use outlive::{
    entry::{Batch, Bucket, Change, Cursor, Entry, Head, LogId, Origin, Seq, Wake},
    hex::{hex, unhex},
    platform::{AppendError, ReadLimit, Store, StoreError},
    time::Timestamp,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use worker::{Env, ObjectNamespace, js_sys::futures::JsFuture};

use crate::{
    head_json::HeadJson,
    index,
    object_call::{self, MAX_TRIES, ObjectCall},
};

/// The logs of all log objects, reached by calls to them.
#[derive(Clone)]
pub(crate) struct RemoteStore {
    env: Env,
    index: ObjectNamespace,
}

impl RemoteStore {
    /// The store over the bindings of `env`.
    pub(crate) fn new(env: &Env) -> worker::Result<Self> {
        Ok(Self { env: env.clone(), index: index::namespace(env)? })
    }

    /// Wakes the object of `log`, which then does what is due. `false` if the call failed.
    pub(crate) async fn wake(&self, log: LogId) -> bool {
        object_call::send(&self.env, log, ObjectCall::Wake(log), None, MAX_TRIES)
            .await
            .is_ok_and(|response| response.ok())
    }

    async fn call<T: DeserializeOwned>(&self, log: LogId, call: &StoreCall) -> Result<T, StoreError> {
        let unavailable = |reason: &str| StoreError::Unavailable(reason.to_owned());
        let body = serde_json::to_string(call).map_err(|error| unavailable(&error.to_string()))?;
        // A repeated append would report its own first try as a conflict with another writer.
        let tries = if matches!(call, StoreCall::Append(..)) { 1 } else { MAX_TRIES };
        let response = object_call::send(&self.env, log, ObjectCall::Store, Some(&body), tries).await;
        let response = response.map_err(|_| unavailable("the log's object does not respond"))?;
        if !response.ok() {
            return Err(unavailable("the log's object failed"));
        }
        let text =
            JsFuture::from(response.text().map_err(|_| unavailable("the response has no body"))?).await;
        let text = text.ok().and_then(|text| text.as_string());
        let text = text.ok_or_else(|| unavailable("the response was truncated"))?;
        serde_json::from_str(&text).map_err(|error| unavailable(&error.to_string()))
    }
}

impl Store for RemoteStore {
    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        let entries = batch.entries().map(EntryJson::from).collect();
        let wake = match batch.wake() {
            Wake::Keep => None,
            Wake::Never => Some(None),
            Wake::At(at) => Some(Some(at.0)),
        };
        match self.call(batch.log(), &StoreCall::Append(entries, wake)).await? {
            AppendReply::Ok => Ok(()),
            AppendReply::Conflict(head) => Err(AppendError::Conflict { head: head.map(Into::into) }),
            AppendReply::Unavailable(reason) => Err(AppendError::Unavailable(reason)),
            AppendReply::TooLarge(reason) => Err(AppendError::TooLarge(reason)),
            AppendReply::Corrupt(reason) => Err(AppendError::Corrupt(reason)),
        }
    }

    async fn read(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        limit: ReadLimit,
    ) -> Result<Vec<Entry>, StoreError> {
        let call = StoreCall::Read {
            log: log.to_string(),
            origin: origin.to_string(),
            from: from.0,
            entries: limit.entries,
            bytes: limit.bytes,
        };
        let entries: Vec<EntryJson> =
            self.call::<StoreReply<Vec<EntryJson>>>(log, &call).await?.into_result()?;
        let undecodable = || StoreError::Corrupt("an entry can't be decoded".into());
        entries.iter().map(|json| json.decode().ok_or_else(undecodable)).collect()
    }

    async fn heads(&self, log: LogId) -> Result<Vec<Head>, StoreError> {
        let call = StoreCall::Heads { log: log.to_string() };
        let heads: Vec<HeadJson> = self.call::<StoreReply<Vec<HeadJson>>>(log, &call).await?.into_result()?;
        Ok(heads.into_iter().map(Into::into).collect())
    }

    async fn changes(&self, bucket: Bucket, after: Cursor, limit: usize) -> Result<Vec<Change>, StoreError> {
        index::changes(&self.index, bucket, after, limit).await
    }

    /// Always empty: each object wakes itself by its alarm.
    async fn due(&self, _: Timestamp, _: usize) -> Result<Vec<LogId>, StoreError> {
        Ok(Vec::new())
    }

    async fn erase(&self, log: LogId, origin: &Origin, from: Seq, to: Seq) -> Result<(), StoreError> {
        let call =
            StoreCall::Erase { log: log.to_string(), origin: origin.to_string(), from: from.0, to: to.0 };
        self.call::<StoreReply<()>>(log, &call).await?.into_result()
    }
}

/// The error of a call whose log or origin has no valid name.
const BAD_NAME: &str = "the name of a log or origin is invalid";

/// Runs a call of [`RemoteStore`] in the object of its log, and returns the reply as JSON. Fails if `json` is no call.
pub(crate) async fn handle(store: &impl Store, json: &str) -> serde_json::Result<String> {
    // Errors of the store are replies too, so that the caller can tell a conflict from a call that failed.
    match serde_json::from_str(json)? {
        StoreCall::Append(entries, wake) => {
            let entries: Option<Vec<Entry>> = entries.iter().map(EntryJson::decode).collect();
            // The chain is verified here too, because the entries come from outside of this object.
            let batch = entries.and_then(|entries| Batch::from_entries(entries).ok());
            let Some(batch) = batch else {
                return serde_json::to_string(&AppendReply::Corrupt("the entries are no batch".into()));
            };
            let batch = batch.with_wake(match wake {
                None => Wake::Keep,
                Some(None) => Wake::Never,
                Some(Some(at)) => Wake::At(Timestamp(at)),
            });
            serde_json::to_string(&match store.append(&batch).await {
                Ok(()) => AppendReply::Ok,
                Err(AppendError::Conflict { head }) => AppendReply::Conflict(head.as_ref().map(Into::into)),
                Err(AppendError::Unavailable(reason)) => AppendReply::Unavailable(reason),
                Err(AppendError::TooLarge(reason)) => AppendReply::TooLarge(reason),
                Err(AppendError::Corrupt(reason)) => AppendReply::Corrupt(reason),
            })
        }
        StoreCall::Read { log, origin, from, entries, bytes } => {
            let (Some(log), Some(origin)) = (LogId::parse(&log), Origin::parse(&origin)) else {
                return serde_json::to_string(&StoreReply::<()>::Corrupt(BAD_NAME.into()));
            };
            let read = store.read(log, &origin, Seq(from), ReadLimit { entries, bytes }).await;
            serde_json::to_string(&StoreReply::from(
                read.map(|read| read.iter().map(EntryJson::from).collect::<Vec<_>>()),
            ))
        }
        StoreCall::Heads { log } => {
            let Some(log) = LogId::parse(&log) else {
                return serde_json::to_string(&StoreReply::<()>::Corrupt(BAD_NAME.into()));
            };
            let heads = store.heads(log).await;
            serde_json::to_string(&StoreReply::from(
                heads.map(|heads| heads.iter().map(HeadJson::from).collect::<Vec<_>>()),
            ))
        }
        StoreCall::Erase { log, origin, from, to } => {
            let (Some(log), Some(origin)) = (LogId::parse(&log), Origin::parse(&origin)) else {
                return serde_json::to_string(&StoreReply::<()>::Corrupt(BAD_NAME.into()));
            };
            serde_json::to_string(&StoreReply::from(store.erase(log, &origin, Seq(from), Seq(to)).await))
        }
    }
}

/// The body of a call: a method of [`Store`] and its arguments.
#[derive(Serialize, Deserialize)]
enum StoreCall {
    /// The entries, and their [`Wake`]: `None` for keep, `Some(None)` for never. JSON writes both as `null`, which is
    /// read as keep.
    Append(Vec<EntryJson>, Option<Option<u64>>),
    Read {
        log: String,
        origin: String,
        from: u64,
        entries: usize,
        bytes: usize,
    },
    Heads {
        log: String,
    },
    Erase {
        log: String,
        origin: String,
        from: u64,
        to: u64,
    },
}

/// The result of [`Store::append`].
#[derive(Serialize, Deserialize)]
enum AppendReply {
    Ok,
    Conflict(Option<HeadJson>),
    Unavailable(String),
    TooLarge(String),
    Corrupt(String),
}

/// The result of every other method.
#[derive(Serialize, Deserialize)]
enum StoreReply<T> {
    Ok(T),
    Unavailable(String),
    Corrupt(String),
}

impl<T> StoreReply<T> {
    fn into_result(self) -> Result<T, StoreError> {
        match self {
            Self::Ok(value) => Ok(value),
            Self::Unavailable(reason) => Err(StoreError::Unavailable(reason)),
            Self::Corrupt(reason) => Err(StoreError::Corrupt(reason)),
        }
    }
}

impl<T> From<Result<T, StoreError>> for StoreReply<T> {
    fn from(result: Result<T, StoreError>) -> Self {
        match result {
            Ok(value) => Self::Ok(value),
            Err(StoreError::Unavailable(reason)) => Self::Unavailable(reason),
            Err(StoreError::Corrupt(reason)) => Self::Corrupt(reason),
        }
    }
}

/// The JSON of an [`Entry`], in hexadecimal digits.
#[derive(Serialize, Deserialize)]
struct EntryJson {
    header: String,
    /// `None` if it was erased.
    body: Option<String>,
}

impl From<&Entry> for EntryJson {
    fn from(entry: &Entry) -> Self {
        let body = (!entry.is_erased()).then(|| hex(entry.body()));
        Self { header: hex(&entry.encode_header()), body }
    }
}

impl EntryJson {
    fn decode(&self) -> Option<Entry> {
        let header = unhex(&self.header)?;
        match &self.body {
            Some(body) => Entry::decode(&header, unhex(body)?.into()).ok(),
            None => Entry::decode_erased(&header).ok(),
        }
    }
}
