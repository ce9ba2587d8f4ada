//! Admits callers by the limits of their keys, and reports the remaining limits in the vendors' headers. The counters
//! are in `limits.rs`.

use std::time::Duration;

use http::HeaderMap;

use super::{ApiError, Style, caller::Caller, headers::set_header};
use crate::{
    config::{Config, Limits},
    limits::{self, LimitError, Permit, SocketPermit},
    node::Node,
    platform::Platform,
};

/// Counts a request of `caller` until the permit is dropped, or refuses it if a limit is reached.
pub(super) fn admit<P: Platform>(node: &Node<P>, caller: &Caller) -> Result<Permit, ApiError> {
    let limits = limits(node.config(), caller);
    Ok(limits::admit(node.limiter(), &caller.name, limits, node.platform().now())?)
}

/// Counts a WebSocket connection of `caller` until the permit is dropped, or refuses it if a limit is reached.
pub(super) fn connect<P: Platform>(node: &Node<P>, caller: &Caller) -> Result<SocketPermit, ApiError> {
    let limits = limits(node.config(), caller);
    Ok(limits::connect(node.limiter(), &caller.name, limits, node.platform().now())?)
}

impl From<LimitError> for ApiError {
    fn from(error: LimitError) -> Self {
        match error {
            LimitError::NodeFull { retry_after } => Self::full(retry_after),
            LimitError::Caller { limit, retry_after } => Self::limited(limit, retry_after),
        }
    }
}

/// Sets the headers in which the vendor's clients find their remaining limits. Limits that the key lacks have none.
pub(super) fn set_headers<P: Platform>(node: &Node<P>, caller: &str, style: Style, headers: &mut HeaderMap) {
    let now = node.platform().now();
    let [requests, tokens] = node.limiter().borrow_mut().remaining(caller, now);
    let names = match style {
        Style::OpenAi => [OPENAI_REQUESTS, OPENAI_TOKENS],
        Style::Anthropic => [ANTHROPIC_REQUESTS, ANTHROPIC_TOKENS],
    };
    let resets_at = |wait: Duration| match style {
        Style::OpenAi => format!("{}ms", wait.as_millis()),
        Style::Anthropic => (now + wait).to_rfc3339(),
    };
    for (names, left) in names.into_iter().zip([requests, tokens]) {
        let Some(left) = left else { continue };
        let values = [left.limit.to_string(), left.remaining.to_string(), resets_at(left.resets_in)];
        for (name, value) in names.into_iter().zip(values) {
            set_header(headers, name, &value);
        }
    }
}

// Names of the headers for a limit, what remains of it, and the time at which it is full again.
const OPENAI_REQUESTS: [&str; 3] =
    ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
const OPENAI_TOKENS: [&str; 3] =
    ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];
const ANTHROPIC_REQUESTS: [&str; 3] = [
    "anthropic-ratelimit-requests-limit",
    "anthropic-ratelimit-requests-remaining",
    "anthropic-ratelimit-requests-reset",
];
const ANTHROPIC_TOKENS: [&str; 3] = [
    "anthropic-ratelimit-tokens-limit",
    "anthropic-ratelimit-tokens-remaining",
    "anthropic-ratelimit-tokens-reset",
];

/// The limits of the caller's key; the defaults without a key.
fn limits(config: &Config, caller: &Caller) -> Limits {
    let key = config.keys.iter().find(|key| key.name == caller.name);
    key.map(|key| key.limits).unwrap_or_default()
}
