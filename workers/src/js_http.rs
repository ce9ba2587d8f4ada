//! Converts requests and responses between JavaScript's types and those of the core. Reads no body.

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, request};
use outlive::body::BodyError;
use worker::{Body, Headers, ResponseBuilder, web_sys};

use crate::error::ShellError;

/// The head of a request, without touching its body.
pub(crate) fn request_head(request: &web_sys::Request) -> Result<request::Parts, ShellError> {
    let method = Method::from_bytes(request.method().as_bytes()).map_err(|_| ShellError::InvalidRequest)?;
    let (mut head, ()) = Request::builder()
        .method(method)
        .uri(request.url())
        .body(())
        .map_err(|_| ShellError::InvalidRequest)?
        .into_parts();
    head.headers = headers_from_js(request.headers());
    Ok(head)
}

/// The body of a request, as a stream.
pub(crate) fn request_body(request: &web_sys::Request) -> Body {
    request.body().map_or_else(Body::empty, Body::new)
}

/// A response of the core, for the client. The client pulls a stream, and the runtime drops it when the client
/// disconnects; a complete body is passed on without a stream around it.
pub(crate) fn response_to_js(
    response: Response<outlive::body::Body>,
) -> Result<web_sys::Response, ShellError> {
    let (mut head, body) = response.into_parts();
    let bytes = match body {
        outlive::body::Body::Empty => Bytes::new(),
        outlive::body::Body::Full(bytes) => bytes,
        stream @ (outlive::body::Body::Slices(_) | outlive::body::Body::Stream(_)) => {
            return Ok(worker::response_to_wasm(Response::from_parts(head, stream))?);
        }
    };
    let headers = Headers::from(std::mem::take(&mut head.headers));
    let builder = ResponseBuilder::new().with_status(head.status.as_u16()).with_headers(headers);
    Ok(if bytes.is_empty() { builder.empty() } else { builder.fixed(bytes.into()) }.into())
}

/// A response of another object, for the core.
pub(crate) fn response_from_js(response: web_sys::Response) -> worker::Result<Response<outlive::body::Body>> {
    let (head, body) = worker::response_from_wasm(response)?.into_parts();
    let body = body.map_err(|error| BodyError(error.to_string()));
    Ok(Response::from_parts(head, outlive::body::Body::stream(body)))
}

/// Headers of the core, for JavaScript.
pub(crate) fn headers_to_js(headers: &HeaderMap) -> worker::Result<web_sys::Headers> {
    let js_headers = web_sys::Headers::new()?;
    for (name, value) in headers {
        js_headers.append(name.as_str(), std::str::from_utf8(value.as_bytes())?)?;
    }
    Ok(js_headers)
}

/// Headers of JavaScript, for the core. Drops those that RFC 9110 does not allow, which the core could not represent.
pub(crate) fn headers_from_js(headers: web_sys::Headers) -> HeaderMap {
    let entry = |(name, value): (String, String)| {
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?))
    };
    Headers(headers).entries().filter_map(entry).collect()
}
