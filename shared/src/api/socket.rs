//! Serves the Responses API over a WebSocket: a message requests a response, and each of its events is a message. The
//! handshake and the frames are the host's.
//!
//! Each message becomes a request that the node handles like any other, with the same keys, limits and sessions. The
//! connection adds an order, and remembers items that no log stores.
//!
//! Sources: <https://developers.openai.com/api/docs/guides/websocket-mode>,
//! <https://www.openresponses.org/specification>.

mod context;
mod message;
mod queue;
mod turn;

use std::{cell::RefCell, pin::pin, rc::Rc, time::Duration};

use bytes::Bytes;
use futures_channel::mpsc;
use futures_util::{
    FutureExt, SinkExt, Stream, StreamExt, select_biased,
    stream::{self, FuturesUnordered},
};
use http::{HeaderName, HeaderValue, Method, Request, Response, header, request};

use super::{
    ApiError, Arrival, Route, Style,
    caller::{self, Caller},
    rate_limit, refuse, request_body,
};
use crate::{body::Body, limits::SocketPermit, node::Node, platform::Platform};
use context::Contexts;
use message::{ClientEvent, Lane, LaneError};
use queue::Queue;

/// Largest message of a client, since a message becomes the body of a request.
pub const MAX_MESSAGE_BYTES: usize = request_body::MAX_BYTES;

/// How long a connection lasts, as at OpenAI. All clients reconnect now and then, so that a node can be drained without
/// breaking connections.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// Most responses of one connection. A Worker may make 10,000 calls for it, and a response that fails over takes
/// several.
const MAX_RESPONSES: usize = 1_000;

/// Most responses of one connection that run at once, as at OpenAI.
const MAX_RUNNING: usize = 16;

/// Most messages that wait to be sent to the client.
const CHANNEL_CAPACITY: usize = 8;

/// What the host receives on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// A text message.
    Text(Bytes),
    /// A binary message.
    Binary,
    /// A message of more than [`MAX_MESSAGE_BYTES`]. Later messages can't be read.
    TooLarge,
    /// Bytes that RFC 6455 does not allow. Later messages can't be read.
    Malformed,
    /// A text message that is not UTF-8. Later messages can't be read.
    NotUtf8,
    /// The host is about to stop: running responses end, and no new one starts.
    Stopping,
}

/// What the host sends on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerMessage {
    /// A text message; these bytes are UTF-8.
    Text(Bytes),
    /// Close the connection with this code of RFC 6455 and this reason. The last message.
    Close(u16, &'static str),
}

/// A connection that is authorized and within the limits of its caller.
pub struct Socket<P: Platform> {
    node: Node<P>,
    caller: Caller,
    permit: SocketPermit,
    /// The head of each request that a message becomes.
    head: request::Parts,
}

/// Whether a request asks for a WebSocket, on the route that has one.
pub(super) fn is_upgrade(head: &request::Parts) -> bool {
    let upgrade = head.headers.get(header::UPGRADE).map(HeaderValue::as_bytes);
    head.method == Method::GET
        && Route::find(head.uri.path()) == Some(Route::Responses)
        && upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

/// Authorizes the WebSocket that a request asks for; `Err` is the answer that refuses it, `None` if it asks for none.
pub(crate) fn open<P: Platform>(
    node: &Node<P>,
    head: &request::Parts,
    arrival: Arrival,
) -> Option<Result<Socket<P>, Response<Body>>> {
    if !is_upgrade(head) {
        return None;
    }
    let authorized = caller::authorize(node.config(), head, arrival, Route::Responses.scope());
    let socket = authorized.and_then(|caller| {
        let permit = rate_limit::connect(node, &caller)?;
        Ok(Socket { node: node.clone(), caller, permit, head: request_head(head) })
    });
    Some(socket.map_err(|error| refuse(node, Style::OpenAi, error)))
}

/// The head of each request that a message becomes: the handshake's, without headers about the connection or one
/// request.
fn request_head(handshake: &request::Parts) -> request::Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = Method::POST;
    head.uri = handshake.uri.clone();
    head.headers = handshake.headers.clone();
    let idempotency_key = HeaderName::from_static("idempotency-key");
    for name in [
        header::CONNECTION,
        header::UPGRADE,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::EXPECT,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
        header::SEC_WEBSOCKET_EXTENSIONS,
        header::SEC_WEBSOCKET_PROTOCOL,
        idempotency_key,
    ] {
        head.headers.remove(name);
    }
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    head
}

impl<P: Platform> Socket<P> {
    /// The answer to a handshake that is not as RFC 6455 requires.
    pub fn refuse(self, why: impl std::fmt::Display) -> Response<Body> {
        refuse(&self.node, Style::OpenAi, ApiError::value("handshake", why))
    }

    /// Answers `client_messages` until they end, which means that the client has disconnected. Each request goes to
    /// `handle`, so that a host can send it to the process that keeps its session. Dropping the returned stream
    /// disconnects the client, too, and cancels responses that no log stores.
    pub fn serve(
        self,
        client_messages: impl Stream<Item = ClientMessage>,
        handle: impl AsyncFn(Request<Body>) -> Response<Body>,
    ) -> impl Stream<Item = ServerMessage> {
        let (messages, sent) = mpsc::channel(CHANNEL_CAPACITY);
        let Self { node, caller, permit, head } = self;
        let connection =
            Rc::new(Connection { node, caller, head, handle, messages, contexts: RefCell::default() });
        let work = async move {
            drive(connection, client_messages).await;
            drop(permit);
        };
        // Polling the stream also drives the work, which yields no messages of its own.
        let work = stream::once(work).filter_map(|()| std::future::ready(None));
        stream::select(sent, work)
    }
}

/// The state that all responses of a connection share.
struct Connection<P: Platform, A> {
    node: Node<P>,
    caller: Caller,
    head: request::Parts,
    /// Handles a request: see [`Socket::serve`].
    handle: A,
    messages: mpsc::Sender<ServerMessage>,
    contexts: RefCell<Contexts>,
}

/// Why a connection closes as soon as its running responses have ended.
#[derive(Clone, Copy)]
enum CloseReason {
    Age,
    Responses,
    Stopping,
}

impl CloseReason {
    fn text(self) -> &'static str {
        match self {
            Self::Age => "it is 60 minutes old",
            Self::Responses => "it has had 1000 responses",
            Self::Stopping => "this node is about to stop",
        }
    }

    /// A code of RFC 6455, section 7.4.1.
    fn code(self) -> u16 {
        match self {
            Self::Age | Self::Responses => 1000,
            Self::Stopping => 1001,
        }
    }
}

/// Runs a connection until its client disconnects or it is closed.
async fn drive<P: Platform, A: AsyncFn(Request<Body>) -> Response<Body>>(
    connection: Rc<Connection<P, A>>,
    client_messages: impl Stream<Item = ClientMessage>,
) {
    let mut messages = connection.messages.clone();
    let mut client_messages = pin!(client_messages.fuse());
    let mut age_timer = pin!(connection.node.platform().sleep(MAX_AGE).fuse());
    let (mut queue, mut running, mut started) = (Queue::default(), FuturesUnordered::new(), 0);
    let mut closing: Option<CloseReason> = None;
    let error_message = |lane: Lane, error: ApiError| {
        let text = LaneError { lane, error }.event(&connection.node.random_id());
        ServerMessage::Text(text)
    };
    // Send errors are ignored: the client has disconnected, and its messages end.
    loop {
        while closing.is_none()
            && running.len() < MAX_RUNNING
            && let Some(create) = queue.next()
        {
            running.push(turn::answer(Rc::clone(&connection), create));
            started += 1;
            closing = (started == MAX_RESPONSES).then_some(CloseReason::Responses);
        }
        // Queued requests are refused at once, but running responses end before the connection closes.
        if let Some(reason) = closing {
            let error = || ApiError::connection_limit(reason.text());
            for lane in queue.clear() {
                let _ = messages.send(error_message(lane, error())).await;
            }
            if running.is_empty() {
                let _ = messages.send(error_message(None, error())).await;
                let _ = messages.send(ServerMessage::Close(reason.code(), reason.text())).await;
                return;
            }
        }
        // Client messages come last, so that a client that never pauses cannot hold up the others.
        let message = select_biased! {
            lane = running.select_next_some() => {
                queue.free(&lane);
                continue;
            }
            () = age_timer => {
                closing = Some(CloseReason::Age);
                continue;
            }
            message = client_messages.next() => message,
        };
        let event = match message {
            None => return,
            Some(ClientMessage::Stopping) => {
                closing = Some(CloseReason::Stopping);
                continue;
            }
            Some(ClientMessage::Text(text)) => ClientEvent::parse(&text),
            Some(ClientMessage::Binary) => {
                Err(ApiError::value("message", "it is binary; allowed: text").into())
            }
            // A disconnect would go unnoticed from here on, so running responses are cancelled.
            Some(ClientMessage::TooLarge) => {
                let _ = messages.send(error_message(None, ApiError::too_large(MAX_MESSAGE_BYTES))).await;
                let _ = messages.send(ServerMessage::Close(1009, "a message was larger than 32 MiB")).await;
                return;
            }
            Some(ClientMessage::Malformed) => {
                let _ = messages.send(ServerMessage::Close(1002, "a frame was not valid")).await;
                return;
            }
            Some(ClientMessage::NotUtf8) => {
                let _ = messages.send(ServerMessage::Close(1007, "a message was not UTF-8")).await;
                return;
            }
        };
        let answer = match event {
            Ok(ClientEvent::Create(create)) => match queue.add(create) {
                Ok(()) => continue,
                Err(LaneError { lane, error }) => error_message(lane, error),
            },
            Ok(ClientEvent::Steer(steer)) => ServerMessage::Text(steer.refusal()),
            Err(LaneError { lane, error }) => error_message(lane, error),
        };
        let _ = messages.send(answer).await;
    }
}

#[cfg(test)]
mod tests;
