//! A node inside this process, whose calls of the store are counted.

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
    Config, Node,
    body::Body,
    node::Arrival,
    platform::{AppendError, NoSigner, Platform, ReadLimit, Store, StoreError, Timestamp},
    record::Record,
    session::{
        entry::{Batch, Entry, Head, LogId, Origin, Seq},
        log::{Bucket, Change, Cursor},
    },
};
use outlive_machine::{HttpClient, Machine};
use outlive_server::store::SqliteStore;

use crate::subject::configured;

/// What was asked of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    /// Appends and erasures, each of which is one durable write.
    pub(crate) writes: u64,
    /// Entries that were appended.
    pub(crate) written: u64,
    /// Looks at the heads of a log, reads of a piece of a chain, and looks at what is due.
    pub(crate) reads: u64,
    /// Entries that came back.
    pub(crate) read: u64,
}

/// A node, and what it has asked of its store.
pub(crate) struct Inside {
    pub(crate) node: Node<Quiet>,
    calls: Rc<Cell<Calls>>,
}

impl Inside {
    /// A node on the logs below `data`.
    pub(crate) fn start(data: &Path, upstream: &str) -> Result<Self> {
        let config = Config::parse(&configured(upstream), "agent.toml", |_| None)
            .map_err(|error| Error::other(error.to_string()))?;
        let calls = Rc::<Cell<Calls>>::default();
        let store = Counted { store: open(data)?, calls: Rc::clone(&calls) };
        Ok(Self { node: Node::new(Quiet(Machine::new(store)), config), calls })
    }

    /// The whole answer to a request, which must be a 200. With `body` it is a POST.
    pub(crate) async fn ask(&self, path: &str, body: Option<String>) -> Result<Bytes> {
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

    /// What was asked of the store since this was last asked.
    pub(crate) fn calls(&self) -> Calls {
        self.calls.take()
    }
}

/// The logs below the directory `data`, as the native node keeps them.
pub(crate) fn open(data: &Path) -> Result<SqliteStore> {
    std::fs::create_dir_all(data)?;
    SqliteStore::open(&data.join("outlive.db")).map_err(Error::other)
}

/// A store that counts.
pub(crate) struct Counted {
    store: SqliteStore,
    calls: Rc<Cell<Calls>>,
}

impl Counted {
    fn count(&self, count: impl FnOnce(&mut Calls)) {
        let mut calls = self.calls.get();
        count(&mut calls);
        self.calls.set(calls);
    }
}

impl Store for Counted {
    async fn append(&self, batch: &Batch) -> std::result::Result<(), AppendError> {
        self.count(|calls| {
            calls.writes += 1;
            calls.written += batch.entries().count() as u64;
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
            calls.read += entries.len() as u64;
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

/// The native machine, but it says nothing about each request.
pub(crate) struct Quiet(Machine<Counted>);

impl Platform for Quiet {
    type Store = Counted;
    type Http = HttpClient;
    type Signer = NoSigner;

    fn store(&self) -> &Counted {
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

    async fn summon(&self, log: LogId) -> bool {
        self.0.summon(log).await
    }

    fn is_alone(&self) -> bool {
        self.0.is_alone()
    }
}
