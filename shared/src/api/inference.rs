//! Answers requests that store nothing: chat completions, responses, messages, embeddings and token counts. The
//! gateway makes the calls; stored responses are in `responses.rs`.

use std::rc::Rc;

use http::{HeaderValue, Response, header::CONTENT_TYPE};
use serde_json::json;

use super::{
    ApiError,
    caller::Caller,
    headers::{self, set_header},
};
use crate::{
    body::Body,
    gateway::{self, GatewayRequest},
    limits::Permit,
    model::{Candidate, Model},
    node::Node,
    platform::Platform,
    session::turn::AnsweredBy,
    trace::Trace,
    wire::{Format, Request},
};

/// `POST` of a request in any format.
pub(super) async fn answer<P: Platform>(
    node: &Node<P>,
    request: Request,
    id: &str,
    mut permit: Permit,
    caller: &Caller,
    trace: Option<Trace>,
) -> Result<Response<Body>, ApiError> {
    let format = request.format;
    let model = node.config().model(&request.model);
    let mut model = model.ok_or_else(|| ApiError::unknown_model(node.config(), &request.model))?;
    // Counting tokens uses none.
    if format != Format::TokenCount {
        permit.take_tokens(request.estimated_tokens(), node.platform().now())?;
    }
    let stream = request.stream;
    if format == Format::Embeddings {
        keep_one_model(Rc::make_mut(&mut model));
    }
    // Kept back here, since the gateway takes the request.
    let estimate = (format == Format::TokenCount).then(|| request.estimated_tokens());
    let gateway_request = GatewayRequest {
        request,
        model,
        id: id.to_owned(),
        caller: caller.name.clone(),
        conversation: None,
        trace,
        permit: Some(permit),
        delta_sink: None,
        partial_answer: None,
    };
    let answer = match (gateway::answer(node, gateway_request).await, estimate) {
        (Ok(answer), _) => answer,
        (Err(failure), Some(tokens)) if failure.is_unsupported() => return Ok(estimated(tokens)),
        (Err(failure), _) => return Err(ApiError::all_failed(&failure, caller.admin)),
    };
    let mut response = Response::new(answer.body);
    let headers = response.headers_mut();
    if stream {
        headers::set_event_stream(headers);
    } else {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let candidate = answer.candidate.to_string();
    headers::set_answered_by(headers, &AnsweredBy { candidate, attempts: Some(answer.attempts) });
    headers::set_dropped(headers, &answer.dropped);
    Ok(response)
}

/// Keeps the candidates of one model, the first candidate's, at any provider: vectors of two models can't be compared.
fn keep_one_model(model: &mut Model) {
    // Aggregators put the maker before the model: `maker/model`.
    let name = |candidate: &Candidate| candidate.model.rsplit('/').next().unwrap_or_default().to_owned();
    if let Some(first) = model.candidates.first().map(name) {
        model.candidates.retain(|candidate| name(candidate) == first);
    }
}

/// The answer to a token count that no candidate supports: an estimate of about four bytes per token, marked by a
/// header.
fn estimated(tokens: u64) -> Response<Body> {
    let mut response = super::ok(&json!({"input_tokens": tokens}));
    set_header(response.headers_mut(), "x-outlive-estimate", "true");
    response
}
