//! WebSockets, which end in the Worker because a connection belongs to no log. Forwards each request of a connection
//! to the object of its session; what messages mean is decided in the core.

use std::pin::pin;

use futures_util::{StreamExt, future::ready};
use http::{Request, Response, StatusCode};
use outlive::{
    Arrival, Node, Placement,
    body::Body,
    socket::{ClientMessage, ServerMessage, Socket},
};
use worker::{
    Env, WebSocket, WebSocketPair, WebsocketEvent, console_error, js_sys::futures::spawn_local, web_sys,
};

use crate::{error::ShellError, js_http, object_call, platform::WorkersPlatform};

/// Accepts the connection and serves it in the background. The runtime keeps the invocation alive while it is open.
pub(crate) fn open(
    node: &Node<WorkersPlatform>,
    socket: Socket<WorkersPlatform>,
    env: &Env,
) -> Result<web_sys::Response, ShellError> {
    let WebSocketPair { client, server } = WebSocketPair::new()?;
    server.accept()?;
    let (node, env) = (node.clone(), env.clone());
    spawn_local(async move {
        if let Err(error) = serve(&node, socket, &env, &server).await {
            console_error!("a WebSocket broke: {error}");
        }
    });
    Ok(worker::Response::from_websocket(client)?.into())
}

async fn serve(
    node: &Node<WorkersPlatform>,
    socket: Socket<WorkersPlatform>,
    env: &Env,
    server: &WebSocket,
) -> worker::Result<()> {
    let messages = server.events()?.map(|event| match event {
        Ok(WebsocketEvent::Message(message)) => {
            Some(message.text().map_or(ClientMessage::Binary, |text| ClientMessage::Text(text.into())))
        }
        // Also the end of a connection whose message was too large: the runtime closes it by itself.
        Ok(WebsocketEvent::Close(_)) | Err(_) => None,
    });
    let messages = messages.take_while(|message| ready(message.is_some())).filter_map(ready);
    let mut frames = pin!(socket.serve(messages, async |request| handle(node, env, request).await));
    while let Some(frame) = frames.next().await {
        let sent = match frame {
            ServerMessage::Text(text) => server.send_with_str(String::from_utf8_lossy(&text)),
            ServerMessage::Close(code, reason) => server.close(Some(code), Some(reason)),
        };
        if sent.is_err() {
            // The client has disconnected.
            break;
        }
    }
    // Fails if the connection is closed already, and then there is nothing to do.
    let _ = server.close(Some(NORMAL_CLOSURE), Some(""));
    Ok(())
}

/// Answers a request here if it needs no log, else in the object of its log.
async fn handle(node: &Node<WorkersPlatform>, env: &Env, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let (log, body) = match node.place_by_body(&head, body).await {
        Ok((Placement::Log(log), body)) => (log, body),
        Ok((Placement::Anywhere | Placement::InBody, body)) => {
            return node.handle(Request::from_parts(head, Body::from(body)), Arrival::default()).await;
        }
        Err(response) => return response,
    };
    let response =
        object_call::forward_buffered(env, log, &head, body).await.or_else(ShellError::into_response);
    response.and_then(js_http::response_from_js).unwrap_or_else(|error| {
        console_error!("a response was lost: {error}");
        let mut unavailable = Response::new(Body::Empty);
        *unavailable.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        unavailable
    })
}

/// The close code of a connection that ends normally (RFC 6455, section 7.4.1).
const NORMAL_CLOSURE: u16 = 1000;
