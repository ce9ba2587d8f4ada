//! Implements the `Platform` port with an operating system and tokio. The store is passed in.

use std::{
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::LocalBoxFuture;
use outlive::{
    entry::LogId,
    platform::{NoSigner, Platform, Store},
    record::Record,
    time::Timestamp,
};

use rand::Rng as _;

use crate::http::HttpClient;

/// This process as a platform, with its logs in `S`.
pub struct Machine<S> {
    store: S,
    http: HttpClient,
    log: Log,
    watcher: Option<Watcher>,
    wake_elsewhere: Option<WakeElsewhere>,
}

/// Writes the line of a request to the log.
type Log = Box<dyn Fn(&Record)>;

/// Receives the record of each request, after its line is written.
type Watcher = Box<dyn Fn(&Record)>;

/// Asks the host to wake a log in another instance; `false` if the host did not accept.
type WakeElsewhere = Box<dyn Fn(LogId) -> LocalBoxFuture<'static, bool>>;

impl<S> Machine<S> {
    /// The only instance of a node, with its logs in `store`.
    pub fn new(store: S) -> Self {
        Self {
            store,
            http: HttpClient::default(),
            log: Box::new(|record| write_line(record.line())),
            watcher: None,
            wake_elsewhere: None,
        }
    }

    /// Logs requests with `log`, instead of as lines of JSON on standard error.
    pub fn with_log(self, log: impl Fn(&Record) + 'static) -> Self {
        Self { log: Box::new(log), ..self }
    }

    /// Passes the record of each request to `watcher` too.
    pub fn watched(self, watcher: impl Fn(&Record) + 'static) -> Self {
        Self { watcher: Some(Box::new(watcher)), ..self }
    }

    /// One of several instances of a node, each frozen after its answer: `wake_elsewhere` asks the host to wake a log in
    /// another instance, and resolves to whether the host accepted.
    pub fn with_wake_elsewhere(
        self,
        wake_elsewhere: impl Fn(LogId) -> LocalBoxFuture<'static, bool> + 'static,
    ) -> Self {
        Self { wake_elsewhere: Some(Box::new(wake_elsewhere)), ..self }
    }
}

impl<S: Store + 'static> Platform for Machine<S> {
    type Store = S;
    type Http = HttpClient;
    type Signer = NoSigner;

    fn store(&self) -> &S {
        &self.store
    }

    fn http(&self) -> &HttpClient {
        &self.http
    }

    fn signer(&self) -> &NoSigner {
        &NoSigner
    }

    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn random(&self, out: &mut [u8]) {
        // A generator for secrets, seeded by the system: asking the system itself is a call for each number.
        rand::rng().fill_bytes(out);
    }

    fn log(&self, record: &Record) {
        (self.log)(record);
        if let Some(watcher) = &self.watcher {
            watcher(record);
        }
    }

    async fn sleep(&self, duration: Duration) {
        if duration.is_zero() {
            // A timer would take a millisecond.
            return tokio::task::yield_now().await;
        }
        tokio::time::sleep(duration).await;
    }

    fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
        tokio::task::spawn_local(work);
    }

    async fn wake_elsewhere(&self, log: LogId) -> bool {
        match &self.wake_elsewhere {
            Some(wake) => wake(log).await,
            None => false,
        }
    }

    fn is_only_instance(&self) -> bool {
        self.wake_elsewhere.is_none()
    }
}

/// Writes a line to standard error at once, and in one piece.
fn write_line(mut line: String) {
    line.push('\n');
    // Errors are ignored: the operator has closed standard error.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
