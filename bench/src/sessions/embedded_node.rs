//! Runs a node inside this process and counts its calls of the store. Serves no socket: requests are handed to the
//! core.

use std::{
    cell::Cell,
    io::{Error, Result},
    path::Path,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::Request;
use http_body_util::BodyExt;
use outlive::{
    Arrival, Config, Node,
    body::Body,
    entry::{Batch, Bucket, Change, Cursor, Entry, Head, LogId, Origin, Seq},
    platform::{AppendError, NoSigner, Platform, ReadLimit, Store, StoreError},
    record::Record,
    time::Timestamp,
};
use outlive_machine::{HttpClient, Machine};
use outlive_server::store::SqliteStore;

use crate::subject::config_text;

/// Calls of a store since they were last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoreCalls {
    /// Appends and erasures: each is one durable write.
    pub(crate) writes: u64,
    /// Entries in the appends.
    pub(crate) entries_written: u64,
    /// Calls that read entries, heads, changes or due logs.
    pub(crate) reads: u64,
    /// Entries that the reads returned.
    pub(crate) entries_read: u64,
}

/// A node with the counter of its store's calls.
pub(crate) struct EmbeddedNode {
    pub(crate) node: Node<QuietPlatform>,
    calls: Rc<Cell<StoreCalls>>,
}

impl EmbeddedNode {
    /// Starts a node over the logs in the directory `data`.
    pub(crate) fn start(data: &Path, upstream: &str) -> Result<Self> {
        let config = Config::parse(&config_text(upstream), "agent.toml", |_| None)
            .map_err(|error| Error::other(error.to_string()))?;
        let calls = Rc::<Cell<StoreCalls>>::default();
        let store = CountingStore { store: open_store(data)?, calls: Rc::clone(&calls) };
        Ok(Self { node: Node::new(QuietPlatform(Machine::new(store)), config), calls })
    }

    /// Sends a GET, or a POST if there is a body, and returns the response's body; any status but 200 is an error.
    pub(crate) async fn request(&self, path: &str, body: Option<String>) -> Result<Bytes> {
        let request = Request::builder().method(if body.is_some() { "POST" } else { "GET" });
        let request =
            request.uri(path).header("host", "127.0.0.1").header("content-type", "application/json");
        let request =
            request.body(Body::from(Bytes::from(body.unwrap_or_default()))).map_err(Error::other)?;
        let arrival = Arrival { loopback: true, log: None };
        let response = self.node.handle(request, arrival).await;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(Error::other)?.to_bytes();
        if status != 200 {
            return Err(Error::other(format!("{path}: {status} {}", String::from_utf8_lossy(&body))));
        }
        Ok(body)
    }

    /// Returns the store's calls since the last call of this, and resets them.
    pub(crate) fn take_calls(&self) -> StoreCalls {
        self.calls.take()
    }
}

/// Opens the store in the directory `data`, where the native node would.
pub(crate) fn open_store(data: &Path) -> Result<SqliteStore> {
    std::fs::create_dir_all(data)?;
    SqliteStore::open(&data.join("outlive.db")).map_err(Error::other)
}

/// The native node's store, with its calls counted.
pub(crate) struct CountingStore {
    store: SqliteStore,
    calls: Rc<Cell<StoreCalls>>,
}

impl CountingStore {
    fn count(&self, count: impl FnOnce(&mut StoreCalls)) {
        let mut calls = self.calls.get();
        count(&mut calls);
        self.calls.set(calls);
    }
}

impl Store for CountingStore {
    async fn append(&self, batch: &Batch) -> std::result::Result<(), AppendError> {
        self.count(|calls| {
            calls.writes += 1;
            calls.entries_written += batch.entries().count() as u64;
        });
        self.store.append(batch).await
    }

    async fn read(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        limit: ReadLimit,
    ) -> std::result::Result<Vec<Entry>, StoreError> {
        let entries = self.store.read(log, origin, from, limit).await?;
        self.count(|calls| {
            calls.reads += 1;
            calls.entries_read += entries.len() as u64;
        });
        Ok(entries)
    }

    async fn heads(&self, log: LogId) -> std::result::Result<Vec<Head>, StoreError> {
        self.count(|calls| calls.reads += 1);
        self.store.heads(log).await
    }

    async fn changes(
        &self,
        bucket: Bucket,
        after: Cursor,
        limit: usize,
    ) -> std::result::Result<Vec<Change>, StoreError> {
        self.count(|calls| calls.reads += 1);
        self.store.changes(bucket, after, limit).await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> std::result::Result<Vec<LogId>, StoreError> {
        self.count(|calls| calls.reads += 1);
        self.store.due(now, limit).await
    }

    async fn erase(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        to: Seq,
    ) -> std::result::Result<(), StoreError> {
        self.count(|calls| calls.writes += 1);
        self.store.erase(log, origin, from, to).await
    }
}

/// The native platform without its log line for each request.
pub(crate) struct QuietPlatform(Machine<CountingStore>);

impl Platform for QuietPlatform {
    type Store = CountingStore;
    type Http = HttpClient;
    type Signer = NoSigner;

    fn store(&self) -> &CountingStore {
        self.0.store()
    }

    fn http(&self) -> &HttpClient {
        self.0.http()
    }

    fn signer(&self) -> &NoSigner {
        self.0.signer()
    }

    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn random(&self, out: &mut [u8]) {
        self.0.random(out);
    }

    fn log(&self, _: &Record) {}

    async fn sleep(&self, duration: Duration) {
        self.0.sleep(duration).await;
    }

    fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
        self.0.spawn(work);
    }

    async fn wake_elsewhere(&self, log: LogId) -> bool {
        self.0.wake_elsewhere(log).await
    }

    fn is_only_instance(&self) -> bool {
        self.0.is_only_instance()
    }
}
