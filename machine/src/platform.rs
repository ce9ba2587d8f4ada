//! A machine with an operating system and tokio.

use std::{
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::LocalBoxFuture;
use outlive::{
    platform::{NoSigner, Platform, Store, Timestamp},
    record::Record,
    session::entry::LogId,
};

use crate::http::HttpClient;

/// This machine, with its logs in `S`.
pub struct Machine<S> {
    store: S,
    http: HttpClient,
    watcher: Option<Watcher>,
    summoner: Option<Summoner>,
}

/// Who else wants to know what becomes of requests.
type Watcher = Box<dyn Fn(&Record)>;

/// Asks for a log to be woken in another instance, and says whether that was heard.
type Summoner = Box<dyn Fn(LogId) -> LocalBoxFuture<'static, bool>>;

impl<S> Machine<S> {
    /// A machine that keeps its logs in `store`.
    pub fn new(store: S) -> Self {
        Self { store, http: HttpClient::default(), watcher: None, summoner: None }
    }

    /// Also tells `watcher` what becomes of requests.
    pub fn watched(self, watcher: impl Fn(&Record) + 'static) -> Self {
        Self { watcher: Some(Box::new(watcher)), ..self }
    }

    /// One of many that are frozen after their answers: what is to go on then is asked of `summoner`.
    pub fn frozen(self, summoner: impl Fn(LogId) -> LocalBoxFuture<'static, bool> + 'static) -> Self {
        Self { summoner: Some(Box::new(summoner)), ..self }
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
            // Ids that can be guessed would be worse than no service; no supported system gets here.
            std::process::abort();
        }
    }

    fn log(&self, record: &Record) {
        let line = record.line();
        // Whoever closed standard error does not want it.
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

    async fn summon(&self, log: LogId) -> bool {
        match &self.summoner {
            Some(summon) => summon(log).await,
            None => false,
        }
    }

    fn is_alone(&self) -> bool {
        self.summoner.is_none()
    }
}
