//! A platform for tests: one store, simulated time, predictable random bytes, and no network unless a test brings it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{Request, Response};

use crate::{
    body::Body,
    entry::LogId,
    platform::{Http, HttpError, NoSigner, Platform, Store},
    record::Record,
    time::Timestamp,
};

/// A platform around one store. Time advances only when all futures sleep, to the earliest end of a sleep.
pub struct TestPlatform<S, H = NoHttp> {
    store: S,
    http: H,
    now: Cell<u64>,
    random: Cell<u64>,
    lines: RefCell<Vec<String>>,
    /// When each sleep ends, in milliseconds.
    sleepers: RefCell<BTreeMap<usize, u64>>,
    spawned: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
}

impl<S: Store> TestPlatform<S> {
    /// A platform without a network.
    pub fn new(store: S) -> Self {
        Self::with_http(store, NoHttp)
    }
}

impl<S: Store, H: Http> TestPlatform<S, H> {
    /// A platform that makes its HTTP calls through `http`.
    pub fn with_http(store: S, http: H) -> Self {
        Self {
            store,
            http,
            now: Cell::new(1_700_000_000_000),
            random: Cell::new(0),
            lines: RefCell::default(),
            sleepers: RefCell::default(),
            spawned: RefCell::default(),
        }
    }

    /// Polls all spawned futures. They make progress only while another future sleeps.
    fn run_spawned(&self, cx: &mut Context<'_>) {
        let work = self.spawned.take();
        let pending =
            work.into_iter().filter_map(|mut work| work.as_mut().poll(cx).is_pending().then_some(work));
        // Collected first: a polled future may spawn, which borrows the list.
        let pending: Vec<_> = pending.collect();
        self.spawned.borrow_mut().extend(pending);
    }

    /// The lines written to the host's log.
    pub fn lines(&self) -> Vec<String> {
        self.lines.borrow().clone()
    }
}

impl<S: Store + 'static, H: Http + 'static> Platform for TestPlatform<S, H> {
    type Store = S;
    type Http = H;
    type Signer = NoSigner;

    fn store(&self) -> &S {
        &self.store
    }

    fn http(&self) -> &H {
        &self.http
    }

    fn signer(&self) -> &NoSigner {
        &NoSigner
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.now.get())
    }

    fn random(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.random.set(self.random.get() + 1);
            chunk.iter_mut().zip(self.random.get().to_be_bytes()).for_each(|(out, byte)| *out = byte);
        }
    }

    fn log(&self, record: &Record) {
        self.lines.borrow_mut().push(record.line());
    }

    async fn sleep(&self, duration: Duration) {
        let until = (self.now() + duration).0;
        let place = self.sleepers.borrow().last_key_value().map_or(0, |(place, _)| place + 1);
        self.sleepers.borrow_mut().insert(place, until);
        SleepFuture { platform: self, until, place, polls: 0 }.await;
    }

    fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
        self.spawned.borrow_mut().push(work);
    }

    async fn wake_elsewhere(&self, _: LogId) -> bool {
        false
    }

    fn is_only_instance(&self) -> bool {
        true
    }
}

/// Polls of a sleep before it advances time: other futures that can run must be polled first.
const POLLS_BEFORE_ADVANCE: u32 = 4;

/// Waits until the simulated time reaches `until`.
struct SleepFuture<'a, S, H> {
    platform: &'a TestPlatform<S, H>,
    until: u64,
    place: usize,
    polls: u32,
}

impl<S: Store, H: Http> Future for SleepFuture<'_, S, H> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.platform.run_spawned(cx);
        let TestPlatform { now, sleepers, .. } = self.platform;
        let is_first = sleepers.borrow().values().all(|until| self.until <= *until);
        self.polls += 1;
        if self.polls >= POLLS_BEFORE_ADVANCE && is_first {
            now.set(now.get().max(self.until));
        }
        // Also a sleep of no time lets others run.
        if self.polls > 1 && now.get() >= self.until {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S, H> Drop for SleepFuture<'_, S, H> {
    fn drop(&mut self) {
        self.platform.sleepers.borrow_mut().remove(&self.place);
    }
}

/// An HTTP client that reaches no host.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHttp;

impl Http for NoHttp {
    type Body = NoBody;

    async fn send(&self, _: Request<Body>, _: Duration) -> Result<Response<NoBody>, HttpError> {
        Err(HttpError::Connect("this test has no network".into()))
    }
}

/// The body of an answer that never arrives.
#[derive(Clone, Copy, Debug)]
pub enum NoBody {}

impl http_body::Body for NoBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, HttpError>>> {
        match *self {}
    }
}
