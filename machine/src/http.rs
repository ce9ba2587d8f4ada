//! The `Http` port over hyper.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body::{Frame, SizeHint};
use http_body_util::{Either, Full, StreamBody};
use hyper::{Request, Response, body::Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use outlive::{
    body::{Body, BodyError},
    platform::{Http, HttpError},
};

/// Connections to providers, kept open between calls.
#[derive(Default)]
pub struct HttpClient {
    /// One pool for each connect time-out, since hyper's connector has it fixed. A configuration has few.
    pools: RefCell<BTreeMap<Duration, Pool>>,
}

type Pool = Client<HttpsConnector<HttpConnector>, Outgoing>;

/// What hyper sends: it wants bodies that may cross threads.
type Outgoing =
    Either<Full<Bytes>, StreamBody<futures_channel::mpsc::Receiver<Result<Frame<Bytes>, BodyError>>>>;

/// Idle connections are closed before the usual server's 60 s, so that they are rarely found dead.
const IDLE: Duration = Duration::from_secs(50);

impl HttpClient {
    fn pool(&self, connect: Duration) -> Result<Pool, HttpError> {
        if let Some(pool) = self.pools.borrow().get(&connect) {
            return Ok(pool.clone());
        }
        let pool = pool(connect).map_err(|error| HttpError::Connect(error.to_string()))?;
        self.pools.borrow_mut().insert(connect, pool.clone());
        Ok(pool)
    }
}

fn pool(connect: Duration) -> Result<Pool, rustls::Error> {
    let mut tcp = HttpConnector::new();
    tcp.set_connect_timeout(Some(connect));
    // Small writes must not wait for the acknowledgement of the last one.
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    let tls = HttpsConnectorBuilder::new()
        // Named, since rustls refuses to choose where another crate of the program brings a second one.
        .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())?
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(tcp);
    let client = Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE)
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .build(tls);
    Ok(client)
}

impl Http for HttpClient {
    type Body = Answer;

    async fn send(&self, request: Request<Body>, connect: Duration) -> Result<Response<Answer>, HttpError> {
        let request = request.map(outgoing);
        let response = self.pool(connect)?.request(request).await.map_err(|error| classify(&error))?;
        Ok(response.map(Answer))
    }
}

/// A body may not cross threads, and hyper's client wants that it could: a stream goes through a channel.
fn outgoing(body: Body) -> Outgoing {
    match body {
        Body::Empty => Either::Left(Full::default()),
        Body::Full(bytes) => Either::Left(Full::new(bytes)),
        Body::Stream(mut stream) => {
            let (mut sender, receiver) = futures_channel::mpsc::channel(1);
            tokio::task::spawn_local(async move {
                while let Some(chunk) = stream.next().await {
                    // A receiver that is gone has no use for the rest.
                    if sender.send(chunk.map(Frame::data)).await.is_err() {
                        return;
                    }
                }
            });
            Either::Right(StreamBody::new(receiver))
        }
    }
}

/// The body of a provider's answer.
pub struct Answer(Incoming);

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        Pin::new(&mut self.0).poll_frame(cx).map_err(|error| HttpError::Broken(cause(&error)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

fn classify(error: &hyper_util::client::legacy::Error) -> HttpError {
    if !error.is_connect() {
        return HttpError::Broken(cause(error));
    }
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let timed_out = inner
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut);
        if timed_out {
            return HttpError::ConnectTimeout;
        }
        source = inner.source();
    }
    HttpError::Connect(cause(error))
}

/// The innermost error's text: the outer ones only say that a request failed.
fn cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(inner) = last.source() {
        last = inner;
    }
    last.to_string()
}
