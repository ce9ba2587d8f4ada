//! What models answer: chat completions, responses, messages, embeddings.

use bytes::Bytes;
use http::{
    HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};

use serde_json::json;

use super::{ApiError, caller::Caller, put};
use crate::{
    body::Body,
    gateway::{self, GatewayRequest},
    limits::Permit,
    model::{Candidate, Model},
    node::Node,
    platform::Platform,
    trace::Trace,
    wire::{Format, Request},
};

/// `POST` of a request in `format`.
pub(super) async fn answer<P: Platform>(
    node: &Node<P>,
    format: Format,
    body: Bytes,
    id: &str,
    mut permit: Permit,
    caller: &Caller,
    trace: Option<Trace>,
) -> Result<Response<Body>, ApiError> {
    let request = Request::parse(format, body)?;
    let model = node.config().model(&request.model);
    let mut model = model.ok_or_else(|| ApiError::unknown_model(node.config(), &request.model))?;
    permit.take_tokens(request.estimated_tokens(), node.platform().now())?;
    let stream = request.stream;
    if format == Format::Embeddings {
        one_vector_space(&mut model);
    }
    let estimate = (format == Format::TokenCount).then(|| request.estimated_tokens());
    let task = GatewayRequest {
        request,
        model,
        id: id.to_owned(),
        caller: caller.name.clone(),
        trace,
        permit: Some(permit),
        delta_sink: None,
        partial_answer: None,
    };
    let answer = match (gateway::answer(node, task).await, estimate) {
        (Ok(answer), _) => answer,
        (Err(failure), Some(tokens)) if failure.is_unsupported() => return Ok(estimated(tokens)),
        (Err(failure), _) => return Err(failure.into()),
    };
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

/// Vectors of two models can't be compared, so only the first candidate's model answers, wherever it runs.
fn one_vector_space(model: &mut Model) {
    // Providers that gather others' models put their names in front.
    let name = |candidate: &Candidate| candidate.model.rsplit('/').next().unwrap_or_default().to_owned();
    if let Some(first) = model.candidates.first().map(name) {
        model.candidates.retain(|candidate| name(candidate) == first);
    }
}

/// A count of tokens where no candidate counts them: about four bytes for each, and said to be a guess.
fn estimated(tokens: u64) -> Response<Body> {
    let mut response = super::ok(&json!({"input_tokens": tokens}));
    put(response.headers_mut(), "x-outlive-estimate", "true");
    response
}
