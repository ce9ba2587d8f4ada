//! Requests and answers, as JavaScript has them and as the core has them.

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, request};
use outlive::body::BodyError;
use worker::{Body, Headers, ResponseBuilder, web_sys};

use crate::error::ShellError;

/// The head of a request; its body is left where it is.
pub(crate) fn head(request: &web_sys::Request) -> Result<request::Parts, ShellError> {
    let method = Method::from_bytes(request.method().as_bytes()).map_err(|_| ShellError::InvalidRequest)?;
    let (mut head, ()) = Request::builder()
        .method(method)
        .uri(request.url())
        .body(())
        .map_err(|_| ShellError::InvalidRequest)?
        .into_parts();
    head.headers = headers(request.headers());
    Ok(head)
}

/// The body of a request, read as it comes.
pub(crate) fn body(request: &web_sys::Request) -> Body {
    request.body().map_or_else(Body::empty, Body::new)
}

/// The answer. A stream is pulled by the client, and dropped when the client leaves; what is whole is handed over
/// whole, without a stream around it.
pub(crate) fn response(response: Response<outlive::body::Body>) -> Result<web_sys::Response, ShellError> {
    let (mut head, body) = response.into_parts();
    let whole = match body {
        outlive::body::Body::Empty => Bytes::new(),
        outlive::body::Body::Full(bytes) => bytes,
        stream @ outlive::body::Body::Stream(_) => {
            return Ok(worker::response_to_wasm(Response::from_parts(head, stream))?);
        }
    };
    let headers = Headers::from(std::mem::take(&mut head.headers));
    let builder = ResponseBuilder::new().with_status(head.status.as_u16()).with_headers(headers);
    Ok(if whole.is_empty() { builder.empty() } else { builder.fixed(whole.into()) }.into())
}

/// An answer that comes from another invocation, for the core.
pub(crate) fn answer(answer: web_sys::Response) -> worker::Result<Response<outlive::body::Body>> {
    let (head, body) = worker::response_from_wasm(answer)?.into_parts();
    let body = body.map_err(|error| BodyError(error.to_string()));
    Ok(Response::from_parts(head, outlive::body::Body::stream(body)))
}

/// Headers for JavaScript.
pub(crate) fn outgoing(headers: &HeaderMap) -> worker::Result<web_sys::Headers> {
    let outgoing = web_sys::Headers::new()?;
    for (name, value) in headers {
        outgoing.append(name.as_str(), std::str::from_utf8(value.as_bytes())?)?;
    }
    Ok(outgoing)
}

/// All headers that can be headers: JavaScript is laxer than RFC 9110, and the rest can't mean anything to the core.
pub(crate) fn headers(headers: web_sys::Headers) -> HeaderMap {
    let entry = |(name, value): (String, String)| {
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?))
    };
    Headers(headers).entries().filter_map(entry).collect()
}
