use bytes::Bytes;
use http::{
    HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};

use super::{ApiError, put};
use crate::{body::Body, gateway, node::Node, platform::Platform, provider::chat::ChatRequest};

/// `POST /v1/chat/completions`
pub(super) async fn complete<P: Platform>(
    node: &Node<P>,
    body: Bytes,
    id: &str,
) -> Result<Response<Body>, ApiError> {
    let request = ChatRequest::parse(body)?;
    let model = node.config().model(&request.model).ok_or_else(|| {
        let known: Vec<&str> = node.config().models.iter().map(|model| model.name.as_str()).collect();
        ApiError::unknown_model(&request.model, &known)
    })?;
    let answer = gateway::chat(node, &request, &model, id).await?;
    let mut response = Response::new(answer.body);
    let headers = response.headers_mut();
    let kind = if request.stream { "text/event-stream; charset=utf-8" } else { "application/json" };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if request.stream {
        // Proxies must neither keep nor gather events.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        put(headers, "x-accel-buffering", "no");
    }
    put(headers, "x-outlive-provider", &answer.candidate.provider);
    put(headers, "x-outlive-model", &answer.candidate.model);
    put(headers, "x-outlive-attempts", &answer.attempts.to_string());
    Ok(response)
}
