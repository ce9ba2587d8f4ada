//! WebSockets that end in the Worker. A connection belongs to no log: what it asks for goes where its session is.

use std::pin::pin;

use futures_util::{StreamExt, future::ready};
use http::{Request, Response, StatusCode};
use outlive::{
    Node,
    body::Body,
    node::{Arrival, Place},
    socket::{Heard, Said, Socket},
};
use worker::{
    Env, WebSocket, WebSocketPair, WebsocketEvent, console_error, js_sys::futures::spawn_local, web_sys,
};

use crate::{error::ShellError, js_http, object_call, platform::WorkersPlatform};

/// Opens the connection. The runtime keeps this invocation for as long as it is open.
pub(crate) fn open(
    node: &Node<WorkersPlatform>,
    socket: Socket<WorkersPlatform>,
    env: &Env,
) -> Result<web_sys::Response, ShellError> {
    let WebSocketPair { client, server } = WebSocketPair::new()?;
    server.accept()?;
    let (node, env) = (node.clone(), env.clone());
    spawn_local(async move {
        if let Err(error) = talk(&node, socket, &env, &server).await {
            console_error!("a WebSocket broke: {error}");
        }
    });
    Ok(worker::Response::from_websocket(client)?.into())
}

async fn talk(
    node: &Node<WorkersPlatform>,
    socket: Socket<WorkersPlatform>,
    env: &Env,
    server: &WebSocket,
) -> worker::Result<()> {
    let heard = server.events()?.map(|event| match event {
        Ok(WebsocketEvent::Message(message)) => {
            Some(message.text().map_or(Heard::Binary, |text| Heard::Text(text.into())))
        }
        // The runtime closes a connection by itself over which too much was sent.
        Ok(WebsocketEvent::Close(_)) | Err(_) => None,
    });
    let heard = heard.take_while(|heard| ready(heard.is_some())).filter_map(ready);
    let mut said = pin!(socket.talk(heard, async |request| ask(node, env, request).await));
    while let Some(said) = said.next().await {
        let told = match said {
            Said::Text(text) => server.send_with_str(String::from_utf8_lossy(&text)),
            Said::Close(code, why) => server.close(Some(code), Some(why)),
        };
        if told.is_err() {
            // The client left in this moment.
            break;
        }
    }
    // A connection that is closed already is left alone.
    let _ = server.close(Some(NORMAL), Some(""));
    Ok(())
}

/// Has a request answered where its session is.
async fn ask(node: &Node<WorkersPlatform>, env: &Env, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let (log, body) = match node.place_by_body(&head, body).await {
        Ok((Place::Log(log), body)) => (log, body),
        Ok((Place::Anywhere | Place::InBody, body)) => {
            return node.handle(Request::from_parts(head, Body::from(body)), Arrival::default()).await;
        }
        Err(answer) => return answer,
    };
    let answer =
        object_call::forward_buffered(env, log, &head, body).await.or_else(ShellError::into_response);
    answer.and_then(js_http::response_from_js).unwrap_or_else(|error| {
        console_error!("an answer was lost: {error}");
        let mut lost = Response::new(Body::Empty);
        *lost.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        lost
    })
}

/// The code of a connection that ends as it should (RFC 6455, section 7.4.1).
const NORMAL: u16 = 1000;
