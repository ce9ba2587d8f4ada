//! What models answer: chat completions, responses, messages, embeddings.

use bytes::Bytes;
use http::{
    HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};

use super::{ApiError, caller::Caller, put};
use crate::{
    body::Body,
    gateway::{self, Task},
    node::Node,
    platform::Platform,
    wire::{Format, Request},
};

/// `POST` of a request in `format`.
pub(super) async fn answer<P: Platform>(
    node: &Node<P>,
    format: Format,
    body: Bytes,
    id: &str,
    caller: &Caller,
) -> Result<Response<Body>, ApiError> {
    let request = Request::parse(format, body)?;
    let model = node.config().model(&request.model).ok_or_else(|| {
        let known: Vec<&str> = node.config().models.iter().map(|model| model.name.as_str()).collect();
        ApiError::unknown_model(&request.model, &known)
    })?;
    let stream = request.stream;
    let answer =
        gateway::answer(node, Task { request, model, id: id.to_owned(), caller: caller.name.clone() })
            .await?;
    let mut response = Response::new(answer.body);
    let headers = response.headers_mut();
    let kind = if stream { "text/event-stream; charset=utf-8" } else { "application/json" };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if stream {
        // Proxies must neither keep nor gather events.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        put(headers, "x-accel-buffering", "no");
    }
    put(headers, "x-outlive-provider", &answer.candidate.provider);
    put(headers, "x-outlive-model", &answer.candidate.model);
    put(headers, "x-outlive-attempts", &answer.attempts.to_string());
    Ok(response)
}
