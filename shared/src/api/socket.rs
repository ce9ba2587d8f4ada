//! The Responses API over a WebSocket: a message asks for a response, and each of its events is a message.
//!
//! What a message asks is asked of the node like any other request, so keys, limits and sessions are the same. The
//! connection adds an order, and knows what was said on it that no log keeps.
//!
//! Sources: <https://developers.openai.com/api/docs/guides/websocket-mode>, <https://www.openresponses.org/specification>.

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

/// Largest message that is taken in: what it asks for is the body of a request.
pub const MAX_MESSAGE_BYTES: usize = request_body::MAX_BYTES;

/// How long a connection lasts, as at OpenAI: every node is left now and then, so that none has to be left in a hurry.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// Responses of one connection. A Worker may make 10,000 calls for it, and a response that fails over takes several.
const MAX_RESPONSES: usize = 1_000;

/// Responses of one connection that are made at once, as at OpenAI.
const MAX_RUNNING: usize = 16;

/// Events that wait for the client.
const QUEUE: usize = 8;

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// A text message.
    Text(Bytes),
    /// A message that is no text.
    Binary,
    /// A message of more than [`MAX_MESSAGE_BYTES`]. What comes after it can't be heard.
    TooLarge,
    /// Bytes that RFC 6455 does not allow. What comes after them can't be heard.
    Malformed,
    /// A text message that is not UTF-8. What comes after it can't be heard.
    NotUtf8,
    /// The host is about to stop: what goes on is ended, and nothing new begun.
    Stopping,
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerMessage {
    /// A text message; these bytes are UTF-8.
    Text(Bytes),
    /// The connection is closed, with this code of RFC 6455 and this reason. Nothing comes after it.
    Close(u16, &'static str),
}

/// A connection that may be opened.
pub struct Socket<P: Platform> {
    node: Node<P>,
    caller: Caller,
    permit: SocketPermit,
    /// Of each request that is made of what comes over it.
    head: request::Parts,
}

/// Whether a request wants to speak over a WebSocket where the API has one.
pub(super) fn is_asked(head: &request::Parts) -> bool {
    let upgrade = head.headers.get(header::UPGRADE).map(HeaderValue::as_bytes);
    head.method == Method::GET
        && Route::find(head.uri.path()) == Some(Route::Responses)
        && upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

/// Opens a connection for a request that asks for one, or says why not.
pub(crate) fn open<P: Platform>(
    node: &Node<P>,
    head: &request::Parts,
    arrival: Arrival,
) -> Option<Result<Socket<P>, Response<Body>>> {
    if !is_asked(head) {
        return None;
    }
    let allowed = caller::authorize(node.config(), head, arrival, Route::Responses.scope());
    let socket = allowed.and_then(|caller| {
        let permit = rate_limit::connect(node, &caller)?;
        Ok(Socket { node: node.clone(), caller, permit, head: asking(head) })
    });
    Some(socket.map_err(|error| refuse(node, Style::OpenAi, error)))
}

/// The head of a request that is made of a message: the caller's, without what is about the connection or one request.
fn asking(head: &request::Parts) -> request::Parts {
    let (mut asking, ()) = Request::new(()).into_parts();
    asking.method = Method::POST;
    asking.uri = head.uri.clone();
    asking.headers = head.headers.clone();
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
        asking.headers.remove(name);
    }
    asking.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    asking
}

impl<P: Platform> Socket<P> {
    /// The answer instead of a connection, where the handshake is not as RFC 6455 has it.
    pub fn refuse(self, why: impl std::fmt::Display) -> Response<Body> {
        refuse(&self.node, Style::OpenAi, ApiError::value("handshake", why))
    }

    /// Answers what is `heard` until that ends, which says that the client has left. Each request is made of the node by
    /// `ask`, so that a host can have it answered where its session is. Whoever drops the stream has left, too: what no log
    /// keeps is cancelled then.
    pub fn serve(
        self,
        heard: impl Stream<Item = ClientMessage>,
        ask: impl AsyncFn(Request<Body>) -> Response<Body>,
    ) -> impl Stream<Item = ServerMessage> {
        let (out, said) = mpsc::channel(QUEUE);
        let Self { node, caller, permit, head } = self;
        let line = Rc::new(Connection { node, caller, head, ask, out, contexts: RefCell::default() });
        let work = async move {
            drive(line, heard).await;
            drop(permit);
        };
        let work = stream::once(work).filter_map(|()| std::future::ready(None));
        stream::select(said, work)
    }
}

/// What all responses of a connection share.
struct Connection<P: Platform, A> {
    node: Node<P>,
    caller: Caller,
    head: request::Parts,
    ask: A,
    out: mpsc::Sender<ServerMessage>,
    contexts: RefCell<Contexts>,
}

/// Why a connection is closed when what goes on has ended.
#[derive(Clone, Copy)]
enum CloseReason {
    Age,
    Responses,
    Stopping,
}

impl CloseReason {
    fn why(self) -> &'static str {
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

async fn drive<P: Platform, A: AsyncFn(Request<Body>) -> Response<Body>>(
    line: Rc<Connection<P, A>>,
    heard: impl Stream<Item = ClientMessage>,
) {
    let mut out = line.out.clone();
    let mut heard = pin!(heard.fuse());
    let mut old = pin!(line.node.platform().sleep(MAX_AGE).fuse());
    let (mut queue, mut running, mut begun) = (Queue::default(), FuturesUnordered::new(), 0);
    let mut closing: Option<CloseReason> = None;
    let event = |lane: Lane, error: ApiError| {
        let text = LaneError { lane, error }.event(&line.node.random_id());
        ServerMessage::Text(text)
    };
    // Who has left is not told, so what can't be sent is left.
    loop {
        while closing.is_none()
            && running.len() < MAX_RUNNING
            && let Some(create) = queue.next()
        {
            running.push(turn::answer(Rc::clone(&line), create));
            begun += 1;
            closing = (begun == MAX_RESPONSES).then_some(CloseReason::Responses);
        }
        if let Some(closing) = closing {
            let ends = || ApiError::connection_limit(closing.why());
            for lane in queue.clear() {
                let _ = out.send(event(lane, ends())).await;
            }
            if running.is_empty() {
                let _ = out.send(event(None, ends())).await;
                let _ = out.send(ServerMessage::Close(closing.code(), closing.why())).await;
                return;
            }
        }
        let message = select_biased! {
            lane = running.select_next_some() => {
                queue.free(&lane);
                continue;
            }
            () = old => {
                closing = Some(CloseReason::Age);
                continue;
            }
            message = heard.next() => message,
        };
        let asked = match message {
            None => return,
            Some(ClientMessage::Stopping) => {
                closing = Some(CloseReason::Stopping);
                continue;
            }
            // Nobody is heard any more, so what goes on is given up.
            Some(ClientMessage::TooLarge) => {
                let _ = out.send(event(None, ApiError::too_large(MAX_MESSAGE_BYTES))).await;
                let _ = out.send(ServerMessage::Close(1009, "a message was larger than 32 MiB")).await;
                return;
            }
            Some(ClientMessage::Malformed) => {
                let _ = out.send(ServerMessage::Close(1002, "what came is not WebSocket")).await;
                return;
            }
            Some(ClientMessage::NotUtf8) => {
                let _ = out.send(ServerMessage::Close(1007, "a message was not UTF-8")).await;
                return;
            }
            Some(ClientMessage::Text(text)) => ClientEvent::read(&text),
            Some(ClientMessage::Binary) => {
                Err(ApiError::value("message", "it is binary; allowed: text").into())
            }
        };
        let answer = match asked {
            Ok(ClientEvent::Create(create)) => match queue.add(create) {
                Ok(()) => continue,
                Err(LaneError { lane, error }) => event(lane, error),
            },
            Ok(ClientEvent::Steer(steer)) => ServerMessage::Text(steer.refusal()),
            Err(LaneError { lane, error }) => event(lane, error),
        };
        let _ = out.send(answer).await;
    }
}

#[cfg(test)]
mod tests;
