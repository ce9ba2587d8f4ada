//! Sets the headers of answers: request, node, candidate, and how proxies must treat a stream. The headers of limits
//! are in `rate_limit.rs`.

use http::{
    HeaderMap, HeaderName, HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};

use super::Style;
use crate::{body::Body, node::Node, platform::Platform, session::turn::AnsweredBy};

/// Sets a header. A value that no header can hold is left out; names and ids never are.
pub(super) fn set_header(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// Names the request and the node, in every answer. Anthropic's clients read the request's id under another name.
pub(super) fn set_request<P: Platform>(
    node: &Node<P>,
    style: Style,
    id: &str,
    response: &mut Response<Body>,
) {
    set_header(response.headers_mut(), "x-request-id", id);
    if style == Style::Anthropic {
        set_header(response.headers_mut(), "request-id", id);
    }
    set_header(response.headers_mut(), "x-outlive-node", &node.config().node);
}

/// Names the candidate that answered, and the number of calls that it took.
pub(super) fn set_answered_by(headers: &mut HeaderMap, answered_by: &AnsweredBy) {
    if let Some((provider, model)) = answered_by.candidate.split_once('/') {
        set_header(headers, "x-outlive-provider", provider);
        set_header(headers, "x-outlive-model", model);
    }
    if let Some(attempts) = answered_by.attempts {
        set_header(headers, "x-outlive-attempts", &attempts.to_string());
    }
}

/// Names the fields of the request that the candidate did not get.
pub(super) fn set_dropped(headers: &mut HeaderMap, dropped: &[String]) {
    if !dropped.is_empty() {
        set_header(headers, "x-outlive-dropped", &dropped.join(", "));
    }
}

/// Marks a stream of server-sent events, which proxies must neither cache nor buffer.
pub(super) fn set_event_stream(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    set_header(headers, "x-accel-buffering", "no");
}
