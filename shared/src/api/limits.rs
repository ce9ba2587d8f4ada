//! How much each caller, and all together, may ask at once and in a minute. Counted by this instance.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use http::HeaderMap;

use super::{ApiError, Style, caller::Caller, put};
use crate::{
    config::{Config, Limits},
    node::Node,
    platform::Platform,
    routing::rate::Bucket,
    time::Timestamp,
};

/// Requests that are worked on at once. Each holds its request and the text of its answer, so more would only be slow
/// together; whoever comes later is told to come back.
const MAX_RUNNING: usize = 4_000;

/// WebSocket connections, and those of one caller. Each takes about 50 KB natively, where they may be half of all
/// connections, and up to 16 MiB for what is known of it.
const MAX_SOCKETS: usize = 2_048;
const MAX_SOCKETS_OF_ONE: u64 = 512;

/// When to come back to a node that is full.
const FULL: Duration = Duration::from_secs(1);

/// What callers are doing.
#[derive(Debug, Default)]
pub(crate) struct Running {
    total: usize,
    sockets: usize,
    callers: BTreeMap<String, Usage>,
}

/// What one caller is doing.
#[derive(Debug)]
struct Usage {
    running: u64,
    sockets: u64,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

impl Running {
    fn of(&mut self, name: &str, limits: Limits, now: Timestamp) -> &mut Usage {
        self.callers.entry(name.to_owned()).or_insert_with(|| Usage {
            running: 0,
            sockets: 0,
            requests: limits.requests_per_minute.map(|limit| Bucket::new(limit, now)),
            tokens: limits.tokens_per_minute.map(|limit| Bucket::new(limit, now)),
        })
    }

    /// A call for the caller `name` has used so many tokens.
    pub(crate) fn used(&mut self, name: &str, tokens: u64) {
        if let Some(bucket) = self.callers.get_mut(name).and_then(|usage| usage.tokens.as_mut()) {
            bucket.correct(0, tokens);
        }
    }
}

/// A request that may be worked on, until it is dropped.
pub(crate) struct Permit {
    running: Rc<RefCell<Running>>,
    caller: String,
    /// Tokens that were foreseen.
    tokens: u64,
}

/// Lets a request of `caller` in.
pub(super) fn admit<P: Platform>(node: &Node<P>, caller: &Caller) -> Result<Permit, ApiError> {
    let (limits, now) = (limits(node.config(), caller), node.platform().now());
    let mut running = node.running().borrow_mut();
    if running.total >= MAX_RUNNING {
        return Err(ApiError::full(FULL));
    }
    let usage = running.of(&caller.name, limits, now);
    if limits.concurrent.is_some_and(|most| usage.running >= most) {
        return Err(ApiError::limited("requests at once", FULL));
    }
    if let Some(bucket) = &mut usage.requests {
        bucket.take(1, now).map_err(|wait| ApiError::limited("requests in a minute", wait))?;
    }
    usage.running += 1;
    running.total += 1;
    Ok(Permit { running: Rc::clone(node.running()), caller: caller.name.clone(), tokens: 0 })
}

/// A WebSocket connection that may be open, until it is dropped.
pub(super) struct Place {
    running: Rc<RefCell<Running>>,
    caller: String,
}

/// Lets a WebSocket connection of `caller` be opened.
pub(super) fn connect<P: Platform>(node: &Node<P>, caller: &Caller) -> Result<Place, ApiError> {
    let (limits, now) = (limits(node.config(), caller), node.platform().now());
    let mut running = node.running().borrow_mut();
    if running.sockets >= MAX_SOCKETS {
        return Err(ApiError::full(FULL));
    }
    let usage = running.of(&caller.name, limits, now);
    if usage.sockets >= MAX_SOCKETS_OF_ONE {
        return Err(ApiError::limited("WebSocket connections", FULL));
    }
    usage.sockets += 1;
    running.sockets += 1;
    Ok(Place { running: Rc::clone(node.running()), caller: caller.name.clone() })
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut running = self.running.borrow_mut();
        running.sockets = running.sockets.saturating_sub(1);
        if let Some(usage) = running.callers.get_mut(&self.caller) {
            usage.sockets = usage.sockets.saturating_sub(1);
        }
    }
}

impl Permit {
    /// Takes the tokens that the request will use as far as can be told. What it does use is known at its end.
    pub(super) fn tokens(&mut self, count: u64, now: Timestamp) -> Result<(), ApiError> {
        let mut running = self.running.borrow_mut();
        let bucket = running.callers.get_mut(&self.caller).and_then(|usage| usage.tokens.as_mut());
        if let Some(bucket) = bucket {
            bucket.take(count, now).map_err(|wait| ApiError::limited("tokens in a minute", wait))?;
            self.tokens = count;
        }
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut running = self.running.borrow_mut();
        running.total = running.total.saturating_sub(1);
        if let Some(usage) = running.callers.get_mut(&self.caller) {
            usage.running = usage.running.saturating_sub(1);
            if let Some(bucket) = &mut usage.tokens {
                bucket.correct(self.tokens, 0);
            }
        }
    }
}

/// Says in the headers that the vendor's clients look at how much is left.
pub(super) fn tell<P: Platform>(node: &Node<P>, caller: &str, style: Style, headers: &mut HeaderMap) {
    let now = node.platform().now();
    let mut running = node.running().borrow_mut();
    let Some(usage) = running.callers.get_mut(caller) else { return };
    let buckets = [("requests", &mut usage.requests), ("tokens", &mut usage.tokens)];
    for (kind, bucket) in buckets {
        let Some((limit, left, full)) = bucket.as_mut().map(|bucket| bucket.state(now)) else { continue };
        let (names, reset) = match (style, kind) {
            (Style::OpenAi, "requests") => (OPENAI_REQUESTS, format!("{}ms", full.as_millis())),
            (Style::OpenAi, _) => (OPENAI_TOKENS, format!("{}ms", full.as_millis())),
            (Style::Anthropic, "requests") => (ANTHROPIC_REQUESTS, (now + full).to_rfc3339()),
            (Style::Anthropic, _) => (ANTHROPIC_TOKENS, (now + full).to_rfc3339()),
        };
        for (name, value) in names.into_iter().zip([limit.to_string(), left.to_string(), reset]) {
            put(headers, name, &value);
        }
    }
}

/// Limit, what is left, when it is full again.
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

fn limits(config: &Config, caller: &Caller) -> Limits {
    let key = config.keys.iter().find(|key| key.name == caller.name);
    key.map(|key| key.limits).unwrap_or_default()
}
