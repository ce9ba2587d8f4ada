//! WebSockets on hyper's connections.

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
    socket::{Heard, MAX_MESSAGE_BYTES, Said, Socket},
};
use tokio::time::{Instant, interval_at, timeout};

/// How often a client is asked for a sign of life. Proxies cut what is silent for a minute.
const PING: Duration = Duration::from_secs(20);

/// How long a client may be silent before it is taken for gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);

/// Longest time until a client has taken a message, as until a body has come.
const TAKE: Duration = Duration::from_secs(300);

/// How long a client may take to say goodbye.
pub(crate) const GOODBYE: Duration = Duration::from_secs(1);

/// Pings and pongs of a client between two of ours: each of its pings is answered, and who sends many wants nothing else.
const MAX_PINGS: u32 = 100;

/// Bytes that wait to be written: more than the largest event, and all that pings of a client that reads nothing can cause.
const MAX_WAITING: usize = 8 * 1024 * 1024;

/// Bytes that are read at once, where a connection needs them for as long as it is open.
const READ: usize = 8 * 1024;

/// When a connection last brought anything. A client can't answer a ping in the middle of a message.
#[derive(Clone)]
pub(crate) struct Pulse {
    start: Instant,
    /// In milliseconds after the start.
    last: Arc<AtomicU64>,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), last: Arc::default() }
    }

    pub(crate) fn beat(&self) {
        let since = self.start.elapsed().as_millis();
        self.last.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

/// The answer to a request that opens `socket`, and the connection that it becomes, unless its handshake is wrong.
pub(crate) fn upgrade<P: Platform>(
    node: &Node<P>,
    socket: Socket<P>,
    head: request::Parts,
    arrival: Arrival,
) -> (Response<Body>, Option<Upgraded<P>>) {
    let request = Request::from_parts(head, ());
    if !is_upgrade_request(&request) {
        return (socket.refuse("no 'connection: upgrade'"), None);
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
        .read_buffer_size(READ)
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_WAITING);
    match hyper_tungstenite::upgrade(request, Some(config)) {
        Ok((answer, connection)) => {
            let upgraded = Upgraded { node: node.clone(), socket, connection, arrival };
            (answer.map(|_| Body::Empty), Some(upgraded))
        }
        Err(error) => (socket.refuse(error), None),
    }
}

/// A connection that is about to speak WebSocket.
pub(crate) struct Upgraded<P: Platform> {
    node: Node<P>,
    socket: Socket<P>,
    connection: HyperWebsocket,
    arrival: Arrival,
}

impl<P: Platform> Upgraded<P> {
    /// Speaks until either side ends it. `stop` resolves when the node is about to stop.
    pub(crate) async fn talk(self, pulse: &Pulse, stop: impl Future<Output = ()>) {
        let Self { node, socket, connection, arrival } = self;
        // A client that leaves now was never here.
        let Ok(connection) = connection.await else { return };
        let (mut sink, mut messages) = connection.split();
        let pings = Cell::new(0);
        {
            let ask = async move |request| node.handle(request, arrival).await;
            let mut said = pin!(socket.talk(heard(&mut messages, stop, &pings), ask));
            let mut clock = interval_at(Instant::now() + PING, PING);
            loop {
                let message = tokio::select! {
                    said = said.next() => match said {
                        None => break,
                        Some(Said::Text(text)) => text.try_into().map(Message::Text),
                        Some(Said::Close(code, why)) => {
                            Ok(Message::Close(Some(CloseFrame { code: code.into(), reason: why.into() })))
                        }
                    },
                    _ = clock.tick() => {
                        if pulse.silence() >= SILENCE {
                            return;
                        }
                        pings.set(0);
                        Ok(Message::Ping(Bytes::new()))
                    }
                };
                // Events are JSON, so they are text.
                let Ok(message) = message else { return };
                if !matches!(timeout(TAKE, sink.send(message)).await, Ok(Ok(()))) {
                    return;
                }
            }
        }
        // Who has left is not told. Others answer, and a connection that is dropped before could lose our last words.
        let _ = timeout(GOODBYE, sink.close()).await;
        let _ = timeout(GOODBYE, messages.for_each(async |_| ())).await;
    }
}

/// What a client says, until it leaves. `pings` counts what it says besides.
fn heard<'a>(
    messages: impl Stream<Item = Result<Message, Error>> + Unpin + 'a,
    stop: impl Future<Output = ()> + 'a,
    pings: &'a Cell<u32>,
) -> impl Stream<Item = Heard> + 'a {
    stream::unfold((Some(messages), Box::pin(stop.fuse())), async move |(messages, mut stop)| {
        // After an error nothing can be heard, which does not mean that the client is gone.
        let Some(mut messages) = messages else { return pending().await };
        let last = loop {
            let message = select_biased! {
                () = stop => return Some((Heard::Stopping, (Some(messages), stop))),
                message = messages.next().fuse() => message?,
            };
            match message {
                Ok(Message::Text(text)) => return Some((Heard::Text(text.into()), (Some(messages), stop))),
                Ok(Message::Binary(_)) => return Some((Heard::Binary, (Some(messages), stop))),
                // Pings are answered by the library.
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {
                    pings.set(pings.get() + 1);
                    if pings.get() > MAX_PINGS {
                        return None;
                    }
                }
                Err(Error::Capacity(_)) => break Heard::TooLarge,
                Err(Error::Protocol(_)) => break Heard::Malformed,
                Err(Error::Utf8(_)) => break Heard::NotUtf8,
                Ok(Message::Close(_)) | Err(_) => return None,
            }
        };
        Some((last, (None, stop)))
    })
}
