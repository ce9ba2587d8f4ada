//! Implements the `Http` port over hyper. Deadlines other than that of the connection are the caller's.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    error::Error,
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body::Frame;
use http_body_util::{Either, Full, StreamBody};
use hyper::{Request, Response, body::Incoming, rt::Executor};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioTimer,
};
use outlive::{
    body::{Body, BodyError, JoinedBytes, Slices},
    platform::{Http, HttpError},
};

/// An HTTP client that keeps its connections open between calls. It runs in a `LocalSet` of tokio.
#[derive(Default)]
pub struct HttpClient {
    /// One pool for each connect timeout, since hyper's connector has a fixed one. A configuration has few.
    pools: RefCell<BTreeMap<Duration, Pool>>,
}

type Pool = Client<HttpsConnector<HttpConnector>, RequestBody>;

/// The body of a request, which hyper requires to be `Send`.
type RequestBody = Either<
    Either<Full<Bytes>, Slices>,
    StreamBody<futures_channel::mpsc::Receiver<Result<Frame<Bytes>, BodyError>>>,
>;

/// Idle connections are closed before the usual server's 60 s, so that a request rarely meets a dead one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

impl HttpClient {
    fn pool(&self, connect_timeout: Duration) -> Result<Pool, HttpError> {
        if let Some(pool) = self.pools.borrow().get(&connect_timeout) {
            return Ok(pool.clone());
        }
        let pool = pool(connect_timeout).map_err(|error| HttpError::Connect(error.to_string()))?;
        self.pools.borrow_mut().insert(connect_timeout, pool.clone());
        Ok(pool)
    }
}

fn pool(connect_timeout: Duration) -> Result<Pool, rustls::Error> {
    let mut tcp = HttpConnector::new();
    tcp.set_connect_timeout(Some(connect_timeout));
    // A small write must not wait until the previous one is acknowledged.
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    let tls = HttpsConnectorBuilder::new()
        // Named, since rustls refuses to choose a provider where another crate enables a second one.
        .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())?
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(tcp);
    let client = Client::builder(LocalExecutor)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .build(tls);
    Ok(client)
}

/// Runs the tasks of connections on this thread, beside those of the requests: in one queue, they pass bytes on sooner.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

impl Http for HttpClient {
    type Body = ResponseBody;

    async fn send(
        &self,
        request: Request<Body>,
        connect_timeout: Duration,
    ) -> Result<Response<ResponseBody>, HttpError> {
        let request = request.map(request_body);
        let response =
            self.pool(connect_timeout)?.request(request).await.map_err(|error| classify(&error))?;
        Ok(response.map(ResponseBody::new))
    }
}

/// Makes a body `Send`: a stream, which is not, is read by a task of this thread and sent through a channel.
fn request_body(body: Body) -> RequestBody {
    match body {
        Body::Empty => Either::Left(Either::Left(Full::default())),
        Body::Full(bytes) => Either::Left(Either::Left(Full::new(bytes))),
        Body::Slices(slices) => Either::Left(Either::Right(slices)),
        Body::Stream(mut stream) => {
            let (mut sender, receiver) = futures_channel::mpsc::channel(1);
            tokio::task::spawn_local(async move {
                while let Some(chunk) = stream.next().await {
                    // The request was cancelled: dropping the stream cancels what feeds it.
                    if sender.send(chunk.map(Frame::data)).await.is_err() {
                        return;
                    }
                }
            });
            Either::Right(StreamBody::new(receiver))
        }
    }
}

/// The body of a response.
///
/// The connection's task passes on one chunk at a time. After a chunk, this one lets it run once more before the chunk is
/// returned: chunks that have arrived together stay together, and the client gets them in one write.
pub struct ResponseBody {
    incoming: Incoming,
    /// The chunks that have arrived together so far.
    joined: JoinedBytes,
    /// Whether the first chunk was returned. It is passed on at once, since a client waits for it.
    has_begun: bool,
    /// Whether the connection's task could run after the last chunk.
    has_waited: bool,
    /// How the body ended, if that is known before `joined` is returned.
    end: Option<Result<(), HttpError>>,
}

/// Most bytes that are joined: more saves little.
const MAX_JOINED_BYTES: usize = 16 * 1024;

impl ResponseBody {
    fn new(incoming: Incoming) -> Self {
        Self { incoming, joined: JoinedBytes::default(), has_begun: false, has_waited: false, end: None }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        while this.end.is_none() {
            match Pin::new(&mut this.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers are ignored.
                    if let Ok(chunk) = frame.into_data() {
                        this.joined.push(chunk);
                        this.has_waited = !this.has_begun;
                    }
                    if this.joined.len() >= MAX_JOINED_BYTES {
                        break;
                    }
                }
                Poll::Ready(Some(Err(error))) => this.end = Some(Err(HttpError::Broken(cause(&error)))),
                Poll::Ready(None) => this.end = Some(Ok(())),
                Poll::Pending if this.joined.is_empty() => return Poll::Pending,
                Poll::Pending if !this.has_waited => {
                    this.has_waited = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Pending => break,
            }
        }
        if let Some(chunk) = this.joined.take() {
            this.has_begun = true;
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        match this.end.replace(Ok(())) {
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            Some(Ok(())) | None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.joined.is_empty() && self.incoming.is_end_stream()
    }
}

fn classify(error: &hyper_util::client::legacy::Error) -> HttpError {
    if !error.is_connect() {
        return HttpError::Broken(cause(error));
    }
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(error) = connect_error(inner) {
            return error;
        }
        source = inner.source();
    }
    HttpError::Connect("no connection".into())
}

/// What one error in a chain says of a connection that could not be made.
fn connect_error(error: &(dyn Error + 'static)) -> Option<HttpError> {
    let cause = |text: &str| Some(HttpError::Connect(text.to_owned()));
    if error.to_string() == DNS_ERROR {
        return cause("no such host");
    }
    let io = error.downcast_ref::<io::Error>()?;
    // An error inside of an `io::Error` is not among its sources; hyper-rustls puts one into another.
    let inner =
        io.get_ref().map(|inner| (inner.downcast_ref::<io::Error>(), inner.downcast_ref::<rustls::Error>()));
    match inner {
        Some((Some(inner), _)) => return connect_error(inner),
        Some((_, Some(rustls::Error::InvalidCertificate(_)))) => {
            return cause("its certificate is not accepted");
        }
        Some((_, Some(_))) => return cause("it speaks no TLS that is accepted"),
        Some((None, None)) | None => {}
    }
    match io.kind() {
        ErrorKind::TimedOut => Some(HttpError::ConnectTimeout),
        ErrorKind::ConnectionRefused => cause("connection refused"),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => cause("no route to the host"),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::UnexpectedEof => {
            cause("the host closed the connection")
        }
        _ => None,
    }
}

/// The text of hyper's error for a name that has no address; it has no type that could be asked.
const DNS_ERROR: &str = "dns error";

/// The text of the innermost error: the outer ones only say that a request failed.
fn cause(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(inner) = last.source() {
        last = inner;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_a_connection_that_can_not_be_made_is_named() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let plain_address = plain.local_addr().unwrap();
        std::thread::spawn(move || {
            use std::io::Write;
            let (mut stream, _) = plain.accept().unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            std::thread::sleep(Duration::from_secs(1));
        });
        for (url, expected) in [
            (format!("http://{closed}/"), "connection refused"),
            ("http://no-such-host.invalid/".into(), "no such host"),
            (format!("https://{plain_address}/"), "it speaks no TLS that is accepted"),
        ] {
            let request = Request::get(&url).body(Body::Empty).unwrap();
            let sent = runtime.block_on(HttpClient::default().send(request, Duration::from_secs(5)));
            assert_eq!(sent.err(), Some(HttpError::Connect(expected.into())), "{url}");
        }
    }
}
