//! WebSockets on hyper's connections.

use std::{cell::Cell, future::pending, pin::pin, time::Duration};

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
    Node,
    body::Body,
    node::Arrival,
    platform::Platform,
    socket::{Heard, MAX_MESSAGE_BYTES, Said, Socket},
};
use tokio::time::{Instant, interval, timeout};

/// How often a client is asked for a sign of life. Proxies cut what is silent for a minute.
const PING: Duration = Duration::from_secs(20);

/// How long a client may be silent before it is taken for gone.
const SILENCE: Duration = Duration::from_secs(60);

/// How long a client may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

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
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
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
    pub(crate) async fn talk(self, stop: impl Future<Output = ()>) {
        let Self { node, socket, connection, arrival } = self;
        // A client that leaves now was never here.
        let Ok(connection) = connection.await else { return };
        let (mut sink, mut messages) = connection.split();
        let last = Cell::new(Instant::now());
        {
            let ask = async move |request| node.handle(request, arrival).await;
            let mut said = pin!(socket.talk(heard(&mut messages, stop, &last), ask));
            let mut clock = interval(PING);
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
                        if last.get().elapsed() >= SILENCE {
                            return;
                        }
                        Ok(Message::Ping(Bytes::new()))
                    }
                };
                // Events are JSON, so they are text.
                let Ok(message) = message else { return };
                if sink.send(message).await.is_err() {
                    return;
                }
            }
        }
        // Who has left is not told. Others answer, and a connection that is dropped before could lose our last words.
        let _ = sink.close().await;
        let _ = timeout(GOODBYE, messages.for_each(async |_| ())).await;
    }
}

/// What a client says, until it leaves. `last` is set whenever it gives a sign of life.
fn heard<'a>(
    messages: impl Stream<Item = Result<Message, Error>> + Unpin + 'a,
    stop: impl Future<Output = ()> + 'a,
    last: &'a Cell<Instant>,
) -> impl Stream<Item = Heard> + 'a {
    stream::unfold((Some(messages), Box::pin(stop.fuse())), async move |(messages, mut stop)| {
        // Whoever sent too much is not listened to any more, and not gone either.
        let Some(mut messages) = messages else { return pending().await };
        loop {
            let message = select_biased! {
                () = stop => return Some((Heard::Stopping, (Some(messages), stop))),
                message = messages.next().fuse() => message?,
            };
            last.set(Instant::now());
            let heard = match message {
                Ok(Message::Text(text)) => Heard::Text(text.into()),
                Ok(Message::Binary(_)) => Heard::Binary,
                Err(Error::Capacity(_)) => return Some((Heard::TooLarge, (None, stop))),
                // Pings are answered by the library.
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => continue,
                Ok(Message::Close(_)) | Err(_) => return None,
            };
            return Some((heard, (Some(messages), stop)));
        }
    })
}
