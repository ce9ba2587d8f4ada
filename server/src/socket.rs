//! Carries the messages of a WebSocket between a hyper connection and the core, with pings, deadlines and the closing
//! handshake. What messages mean is the core's.

use std::{
    cell::Cell,
    future::pending,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, Stream, StreamExt, select_biased, stream};
use http::{Request, Response, request};
use hyper_tungstenite::{
    HyperWebsocket, is_upgrade_request,
    tungstenite::{
        Error, Message,
        protocol::{CloseFrame, WebSocketConfig},
    },
};
use outlive::{
    Arrival, Node,
    body::Body,
    platform::Platform,
    socket::{ClientMessage, MAX_MESSAGE_BYTES, ServerMessage, Socket},
};
use tokio::time::{Instant, interval_at, timeout};

/// Interval of the node's pings: proxies close connections that are idle for a minute.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// How long a client may send nothing before it is disconnected: it has missed two pings by then.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest wait until a client has read a message: as long as a request's body may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(300);

/// Longest wait for each half of the closing handshake.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Most pings and pongs of a client in one [`PING_INTERVAL`]. The node answers each of its pings, so more are abuse.
const MAX_CONTROL_FRAMES: u32 = 100;

/// Write buffer of a connection: more than the largest event, and room for the pongs of a client that reads nothing.
const MAX_WRITE_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// Read buffer of a connection: small, because it stays allocated as long as the connection is open.
const READ_BUFFER_BYTES: usize = 8 * 1024;

/// The time of the last byte that a connection received. Bytes count, not messages: a client can't answer a ping in the
/// middle of a message.
#[derive(Clone)]
pub(crate) struct ReadActivity {
    start: Instant,
    last_read_millis: Arc<AtomicU64>,
}

impl ReadActivity {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), last_read_millis: Arc::default() }
    }

    /// Records that bytes have arrived now.
    pub(crate) fn record(&self) {
        let since_start = self.start.elapsed().as_millis();
        self.last_read_millis.store(u64::try_from(since_start).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn idle_time(&self) -> Duration {
        let last_read = Duration::from_millis(self.last_read_millis.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(last_read)
    }
}

/// The response to a request that opens `socket`, and the WebSocket that follows; `None` if the handshake is invalid.
pub(crate) fn upgrade<P: Platform>(
    node: &Node<P>,
    socket: Socket<P>,
    head: request::Parts,
    arrival: Arrival,
) -> (Response<Body>, Option<WebSocket<P>>) {
    let request = Request::from_parts(head, ());
    if !is_upgrade_request(&request) {
        return (socket.refuse("no 'connection: upgrade'"), None);
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
        .read_buffer_size(READ_BUFFER_BYTES)
        // No buffering: a client sees each event at once.
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_WRITE_BUFFER_BYTES);
    match hyper_tungstenite::upgrade(request, Some(config)) {
        Ok((response, connection)) => {
            let web_socket = WebSocket { node: node.clone(), socket, connection, arrival };
            (response.map(|_| Body::Empty), Some(web_socket))
        }
        Err(error) => (socket.refuse(error), None),
    }
}

/// A WebSocket whose handshake has been answered.
pub(crate) struct WebSocket<P: Platform> {
    node: Node<P>,
    socket: Socket<P>,
    connection: HyperWebsocket,
    arrival: Arrival,
}

impl<P: Platform> WebSocket<P> {
    /// Carries messages until either side closes the connection. `shutdown` resolves when the node shuts down.
    pub(crate) async fn run(self, activity: &ReadActivity, shutdown: impl Future<Output = ()>) {
        let Self { node, socket, connection, arrival } = self;
        // Fails if the client disconnects during the handshake.
        let Ok(connection) = connection.await else { return };
        let (mut sink, mut messages) = connection.split();
        let control_frames = Cell::new(0);
        {
            let handle = async move |request| node.handle(request, arrival).await;
            let input = client_messages(&mut messages, shutdown, &control_frames);
            let mut output = pin!(socket.serve(input, handle));
            let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
            loop {
                let message = tokio::select! {
                    next = output.next() => match next {
                        None => break,
                        Some(ServerMessage::Text(text)) => text.try_into().map(Message::Text),
                        Some(ServerMessage::Close(code, why)) => {
                            Ok(Message::Close(Some(CloseFrame { code: code.into(), reason: why.into() })))
                        }
                    },
                    _ = pings.tick() => {
                        // No closing handshake: a client that answers no ping would not answer that either.
                        if activity.idle_time() >= IDLE_TIMEOUT {
                            return;
                        }
                        control_frames.set(0);
                        Ok(Message::Ping(Bytes::new()))
                    }
                };
                // Never an error: events are JSON, which is UTF-8.
                let Ok(message) = message else { return };
                if !matches!(timeout(WRITE_TIMEOUT, sink.send(message)).await, Ok(Ok(()))) {
                    return;
                }
            }
        }
        // Errors are ignored: the client has disconnected. The rest of its messages is read, because closing a TCP
        // connection with unread bytes resets it, and the client could lose the last event.
        let _ = timeout(CLOSE_TIMEOUT, sink.close()).await;
        let _ = timeout(CLOSE_TIMEOUT, messages.for_each(async |_| ())).await;
    }
}

/// The messages of a client, until it disconnects or exceeds [`MAX_CONTROL_FRAMES`], which `control_frames` counts.
fn client_messages<'a>(
    messages: impl Stream<Item = Result<Message, Error>> + Unpin + 'a,
    shutdown: impl Future<Output = ()> + 'a,
    control_frames: &'a Cell<u32>,
) -> impl Stream<Item = ClientMessage> + 'a {
    stream::unfold((Some(messages), Box::pin(shutdown.fuse())), async move |(messages, mut shutdown)| {
        // After an invalid frame nothing more can be read. The stream stays open, because its end would mean that the
        // client has disconnected.
        let Some(mut messages) = messages else { return pending().await };
        let last = loop {
            let message = select_biased! {
                () = shutdown => return Some((ClientMessage::Stopping, (Some(messages), shutdown))),
                message = messages.next().fuse() => message?,
            };
            match message {
                Ok(Message::Text(text)) => {
                    return Some((ClientMessage::Text(text.into()), (Some(messages), shutdown)));
                }
                Ok(Message::Binary(_)) => return Some((ClientMessage::Binary, (Some(messages), shutdown))),
                // The library answers pings.
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {
                    control_frames.set(control_frames.get() + 1);
                    if control_frames.get() > MAX_CONTROL_FRAMES {
                        return None;
                    }
                }
                Err(Error::Capacity(_)) => break ClientMessage::TooLarge,
                Err(Error::Protocol(_)) => break ClientMessage::Malformed,
                Err(Error::Utf8(_)) => break ClientMessage::NotUtf8,
                Ok(Message::Close(_)) | Err(_) => return None,
            }
        };
        Some((last, (None, shutdown)))
    })
}
