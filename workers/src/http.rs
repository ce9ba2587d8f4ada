//! The `Http` port over `fetch`: sends one call and streams its bodies. Retries and deadlines are the core's.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use outlive::{
    body::{Body, Slices},
    platform::{Http, HttpError},
};
use worker::{
    Error, Fetch,
    js_sys::Uint8Array,
    web_sys::{self, AbortController, RequestInit, RequestRedirect},
};

use crate::js_http;

/// The client of the runtime. The runtime pools connections and does not report when one is established, so the connect
/// deadline is ignored.
pub(crate) struct HttpClient;

impl Http for HttpClient {
    type Body = ResponseBody;

    async fn send(
        &self,
        request: Request<Body>,
        _connect: Duration,
    ) -> Result<Response<ResponseBody>, HttpError> {
        let abort = AbortOnDrop::new().map_err(|error| broken(&error))?;
        let request = request_to_js(request).map_err(|error| HttpError::Connect(message(&error)))?;
        let fetch = Fetch::Request(request.into());
        let response =
            fetch.send_with_signal(&abort.0.signal().into()).await.map_err(|error| broken(&error))?;
        response_from_js(response.into(), abort)
    }
}

/// The body of a provider's response. Dropping it ends the call.
pub(crate) struct ResponseBody {
    body: worker::Body,
    _abort: AbortOnDrop,
}

impl http_body::Body for ResponseBody {
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

/// Aborts its call when it is dropped, with the future of `send` or with the body of the response.
struct AbortOnDrop(AbortController);

impl AbortOnDrop {
    fn new() -> worker::Result<Self> {
        Ok(Self(AbortController::new()?))
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn request_to_js(request: Request<Body>) -> worker::Result<web_sys::Request> {
    let (head, body) = request.into_parts();
    let headers = js_http::headers_to_js(&head.headers)?;
    let init = RequestInit::new();
    init.set_method(head.method.as_str());
    init.set_headers(&headers);
    init.set_redirect(RequestRedirect::Manual);
    match body {
        Body::Empty => (),
        Body::Full(bytes) => init.set_body(&Uint8Array::from(bytes.as_ref())),
        Body::Slices(slices) => init.set_body(&joined(&slices)),
        Body::Stream(stream) => {
            if let Some(stream) = worker::Body::from_stream(stream)?.into_inner() {
                init.set_body(&stream);
            }
        }
    }
    Ok(web_sys::Request::new_with_str_and_init(&head.uri.to_string(), &init)?)
}

/// Copies slices into one buffer outside of the WebAssembly memory.
fn joined(slices: &Slices) -> Uint8Array {
    let whole = Uint8Array::new_with_length(u32::try_from(slices.bytes()).unwrap_or_default());
    let mut start = 0;
    for slice in slices.iter() {
        let end = start + u32::try_from(slice.len()).unwrap_or_default();
        whole.subarray(start, end).copy_from(slice);
        start = end;
    }
    whole
}

fn response_from_js(
    js_response: web_sys::Response,
    abort: AbortOnDrop,
) -> Result<Response<ResponseBody>, HttpError> {
    let no_status = |_| HttpError::Broken("the response has no status".into());
    let mut response = Response::new(ResponseBody {
        body: js_response.body().map_or_else(worker::Body::empty, worker::Body::new),
        _abort: abort,
    });
    *response.status_mut() = StatusCode::from_u16(js_response.status()).map_err(no_status)?;
    *response.headers_mut() = without_encoding(js_http::headers_from_js(js_response.headers()));
    Ok(response)
}

/// Removes the headers of a compressed body: the runtime decompresses bodies, but leaves those headers.
fn without_encoding(mut headers: HeaderMap) -> HeaderMap {
    if headers.remove(header::CONTENT_ENCODING).is_some() {
        headers.remove(header::CONTENT_LENGTH);
    }
    headers
}

/// Always `Broken`: the runtime reports a connection that was refused like one that broke later.
fn broken(error: &Error) -> HttpError {
    HttpError::Broken(message(error))
}

/// The runtime's message, unless it may contain a URL.
fn message(error: &Error) -> String {
    let message = error.to_string();
    if message.contains("://") { "the runtime refused the call".into() } else { message }
}
