//! The `Http` port over `fetch`.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use outlive::{
    body::Body,
    platform::{Http, HttpError},
};
use worker::{
    Error, Fetch,
    js_sys::Uint8Array,
    web_sys::{self, AbortController, RequestInit, RequestRedirect},
};

use crate::js_http;

/// The runtime's client: it keeps the connections, and does not show when one stands.
pub(crate) struct HttpClient;

impl Http for HttpClient {
    type Body = Answer;

    async fn send(&self, request: Request<Body>, _connect: Duration) -> Result<Response<Answer>, HttpError> {
        let call = Call::new().map_err(|error| broken(&error))?;
        let request = outgoing(request).map_err(|error| HttpError::Connect(text(&error)))?;
        let fetch = Fetch::Request(request.into());
        let answer = fetch.send_with_signal(&call.0.signal().into()).await.map_err(|error| broken(&error))?;
        incoming(answer.into(), call)
    }
}

/// The body of a provider's answer.
pub(crate) struct Answer {
    body: worker::Body,
    _call: Call,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        Pin::new(&mut self.body).poll_frame(cx).map_err(|error| broken(&error))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A call that ends when nobody waits for it any more.
struct Call(AbortController);

impl Call {
    fn new() -> worker::Result<Self> {
        Ok(Self(AbortController::new()?))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn outgoing(request: Request<Body>) -> worker::Result<web_sys::Request> {
    let (head, body) = request.into_parts();
    let headers = js_http::headers_to_js(&head.headers)?;
    let init = RequestInit::new();
    init.set_method(head.method.as_str());
    init.set_headers(&headers);
    init.set_redirect(RequestRedirect::Manual);
    match body {
        Body::Empty => (),
        Body::Full(bytes) => init.set_body(&Uint8Array::from(bytes.as_ref())),
        Body::Stream(stream) => {
            if let Some(stream) = worker::Body::from_stream(stream)?.into_inner() {
                init.set_body(&stream);
            }
        }
    }
    Ok(web_sys::Request::new_with_str_and_init(&head.uri.to_string(), &init)?)
}

fn incoming(answer: web_sys::Response, call: Call) -> Result<Response<Answer>, HttpError> {
    let not_http = |_| HttpError::Broken("the answer has no status".into());
    let mut response = Response::new(Answer {
        body: answer.body().map_or_else(worker::Body::empty, worker::Body::new),
        _call: call,
    });
    *response.status_mut() = StatusCode::from_u16(answer.status()).map_err(not_http)?;
    *response.headers_mut() = decoded(js_http::headers_from_js(answer.headers()));
    Ok(response)
}

/// The runtime decompresses bodies, but leaves the headers that say they are compressed.
fn decoded(mut headers: HeaderMap) -> HeaderMap {
    if headers.remove(header::CONTENT_ENCODING).is_some() {
        headers.remove(header::CONTENT_LENGTH);
    }
    headers
}

/// The runtime does not tell a connection that never stood from one that broke.
fn broken(error: &Error) -> HttpError {
    HttpError::Broken(text(error))
}

/// What the runtime says, unless it may hold a URL.
fn text(error: &Error) -> String {
    let text = error.to_string();
    if text.contains("://") { "the runtime refused the call".into() } else { text }
}
