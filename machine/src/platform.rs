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

use crate::http::HttpClient;

/// This process as a platform, with its logs in `S`.
pub struct Machine<S> {
    store: S,
    http: HttpClient,
    log_line: LogLine,
    watcher: Option<Watcher>,
    wake_elsewhere: Option<WakeElsewhere>,
}

/// Writes the line of a request in the log.
type LogLine = Box<dyn Fn(&Record) -> String>;

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
            log_line: Box::new(Record::line),
            watcher: None,
            wake_elsewhere: None,
        }
    }

    /// Logs requests as `log_line` writes them, instead of as JSON.
    pub fn with_log_line(self, log_line: impl Fn(&Record) -> String + 'static) -> Self {
        Self { log_line: Box::new(log_line), ..self }
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
        if getrandom::fill(out).is_err() {
            // Guessable ids would be worse than no service; this never fails on a supported system.
            std::process::abort();
        }
    }

    fn log(&self, record: &Record) {
        let line = (self.log_line)(record);
        // Errors are ignored: the operator has closed standard error.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
        if let Some(watcher) = &self.watcher {
            watcher(record);
        }
    }

    async fn sleep(&self, duration: Duration) {
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
