use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};

use crate::{
    body::Body,
    platform::{Http, HttpError, NoSigner, Platform, Store, Timestamp},
};

/// A machine for tests around one store: time moves only when somebody sleeps, and sleeping takes no time.
pub struct TestPlatform<S, H = NoHttp> {
    store: S,
    http: H,
    now: Cell<u64>,
    random: Cell<u64>,
    lines: RefCell<Vec<String>>,
}

impl<S: Store> TestPlatform<S> {
    /// A machine that reaches nobody.
    pub fn new(store: S) -> Self {
        Self::with_http(store, NoHttp)
    }
}

impl<S: Store, H: Http> TestPlatform<S, H> {
    /// A machine that reaches whom `http` reaches.
    pub fn with_http(store: S, http: H) -> Self {
        Self {
            store,
            http,
            now: Cell::new(1_700_000_000_000),
            random: Cell::new(0),
            lines: RefCell::default(),
        }
    }

    /// What was written to the host's log.
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

    fn log(&self, line: &str) {
        self.lines.borrow_mut().push(line.to_owned());
    }

    async fn sleep(&self, duration: Duration) {
        self.now.set((self.now() + duration).0);
    }
}

/// No provider can be reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHttp;

impl Http for NoHttp {
    type Body = NoBody;

    async fn send(&self, _: Request<Body>, _: Duration) -> Result<Response<NoBody>, HttpError> {
        Err(HttpError::Connect("this test reaches nobody".into()))
    }
}

/// The body of an answer that never comes.
#[derive(Clone, Copy, Debug)]
pub enum NoBody {}

impl http_body::Body for NoBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, HttpError>>> {
        match *self {}
    }
}
