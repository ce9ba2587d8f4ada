//! What callers have in flight, and how much each may ask at once and in a minute. Counted by this instance alone.

mod token_bucket;

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use crate::{config::Limits, time::Timestamp};
use token_bucket::TokenBucket;

/// Requests in flight. Each holds its request and the text of its answer, so more would only be slow together; later ones
/// are told to retry.
const MAX_REQUESTS: usize = 4_000;

/// WebSocket connections, and those of one caller. Each takes about 50 KB natively, where they may be half of all
/// connections, and up to 16 MiB for its context.
const MAX_SOCKETS: usize = 2_048;
const MAX_SOCKETS_OF_CALLER: u64 = 512;

/// When to retry at a node that is full.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Counts what callers have in flight, and what is left of their limits.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    requests: usize,
    sockets: usize,
    callers: BTreeMap<String, CallerLoad>,
}

/// What one caller has in flight, and what is left of its limits.
#[derive(Debug)]
struct CallerLoad {
    requests: u64,
    sockets: u64,
    request_bucket: Option<TokenBucket>,
    token_bucket: Option<TokenBucket>,
}

/// Why a caller must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitError {
    /// The node has as much in flight as it can hold.
    NodeFull {
        /// How long to wait.
        retry_after: Duration,
    },
    /// The caller has reached a limit.
    Caller {
        /// What is limited.
        limit: &'static str,
        /// How long to wait.
        retry_after: Duration,
    },
}

/// What is left of one limit for each minute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remaining {
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// Until all of it is there again.
    pub(crate) resets_in: Duration,
}

impl Limiter {
    fn caller(&mut self, name: &str, limits: Limits, now: Timestamp) -> &mut CallerLoad {
        self.callers.entry(name.to_owned()).or_insert_with(|| CallerLoad {
            requests: 0,
            sockets: 0,
            request_bucket: limits.requests_per_minute.map(|limit| TokenBucket::new(limit, now)),
            token_bucket: limits.tokens_per_minute.map(|limit| TokenBucket::new(limit, now)),
        })
    }

    /// Counts tokens that a call for the caller `name` has used.
    pub(crate) fn count_tokens(&mut self, name: &str, tokens: u64) {
        if let Some(bucket) = self.callers.get_mut(name).and_then(|load| load.token_bucket.as_mut()) {
            bucket.correct(0, tokens);
        }
    }

    /// What is left of the caller's requests and tokens, where they are limited.
    pub(crate) fn remaining(&mut self, name: &str, now: Timestamp) -> [Option<Remaining>; 2] {
        let Some(load) = self.callers.get_mut(name) else { return [None; 2] };
        [&mut load.request_bucket, &mut load.token_bucket].map(|bucket| {
            let (limit, remaining, resets_in) = bucket.as_mut()?.state(now);
            Some(Remaining { limit, remaining, resets_in })
        })
    }
}

/// Lets one request run until it is dropped.
pub(crate) struct Permit {
    limiter: Rc<RefCell<Limiter>>,
    caller: String,
    /// Tokens that were taken for it in advance.
    tokens: u64,
}

/// Lets a request of `caller` in, whose key has `limits`.
pub(crate) fn admit(
    limiter: &Rc<RefCell<Limiter>>,
    caller: &str,
    limits: Limits,
    now: Timestamp,
) -> Result<Permit, LimitError> {
    let mut counts = limiter.borrow_mut();
    if counts.requests >= MAX_REQUESTS {
        return Err(LimitError::NodeFull { retry_after: RETRY_AFTER });
    }
    let load = counts.caller(caller, limits, now);
    if limits.concurrent.is_some_and(|most| load.requests >= most) {
        return Err(LimitError::Caller { limit: "requests at once", retry_after: RETRY_AFTER });
    }
    if let Some(bucket) = &mut load.request_bucket {
        let limited = |retry_after| LimitError::Caller { limit: "requests in a minute", retry_after };
        bucket.take(1, now).map_err(limited)?;
    }
    load.requests += 1;
    counts.requests += 1;
    Ok(Permit { limiter: Rc::clone(limiter), caller: caller.to_owned(), tokens: 0 })
}

impl Permit {
    /// Takes the tokens that the request will use, by an estimate. What it did use is counted at its end.
    pub(crate) fn take_tokens(&mut self, estimate: u64, now: Timestamp) -> Result<(), LimitError> {
        let mut counts = self.limiter.borrow_mut();
        let bucket = counts.callers.get_mut(&self.caller).and_then(|load| load.token_bucket.as_mut());
        if let Some(bucket) = bucket {
            let limited = |retry_after| LimitError::Caller { limit: "tokens in a minute", retry_after };
            bucket.take(estimate, now).map_err(limited)?;
            self.tokens = estimate;
        }
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.limiter.borrow_mut();
        counts.requests = counts.requests.saturating_sub(1);
        if let Some(load) = counts.callers.get_mut(&self.caller) {
            load.requests = load.requests.saturating_sub(1);
            if let Some(bucket) = &mut load.token_bucket {
                bucket.correct(self.tokens, 0);
            }
        }
    }
}

/// Lets one WebSocket connection be open until it is dropped.
pub(crate) struct SocketPermit {
    limiter: Rc<RefCell<Limiter>>,
    caller: String,
}

/// Lets `caller` open a WebSocket connection.
pub(crate) fn connect(
    limiter: &Rc<RefCell<Limiter>>,
    caller: &str,
    limits: Limits,
    now: Timestamp,
) -> Result<SocketPermit, LimitError> {
    let mut counts = limiter.borrow_mut();
    if counts.sockets >= MAX_SOCKETS {
        return Err(LimitError::NodeFull { retry_after: RETRY_AFTER });
    }
    let load = counts.caller(caller, limits, now);
    if load.sockets >= MAX_SOCKETS_OF_CALLER {
        return Err(LimitError::Caller { limit: "WebSocket connections", retry_after: RETRY_AFTER });
    }
    load.sockets += 1;
    counts.sockets += 1;
    Ok(SocketPermit { limiter: Rc::clone(limiter), caller: caller.to_owned() })
}

impl Drop for SocketPermit {
    fn drop(&mut self) {
        let mut counts = self.limiter.borrow_mut();
        counts.sockets = counts.sockets.saturating_sub(1);
        if let Some(load) = counts.callers.get_mut(&self.caller) {
            load.sockets = load.sockets.saturating_sub(1);
        }
    }
}
