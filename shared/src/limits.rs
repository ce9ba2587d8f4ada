//! Limits what each caller and all together have in flight, and each caller's requests and tokens per minute.
//!
//! Each instance counts for itself; limits are not shared between instances.

mod token_bucket;

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use crate::{config::Limits, time::Timestamp};
use token_bucket::TokenBucket;

/// Most requests in flight. Each holds its body and the text of its answer in memory; more would only slow all of them
/// down, so later ones are refused with a time to retry.
const MAX_REQUESTS: usize = 4_000;

/// Most WebSocket connections: half of a native shell's connections. Each takes about 50 KB, and up to 16 MiB for its
/// context.
const MAX_SOCKETS: usize = 2_048;

/// Most WebSocket connections of one caller, so that others have room.
const MAX_SOCKETS_OF_CALLER: u64 = 512;

/// When to retry if requests or connections in flight are at their limit: they end at any time, so soon.
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
    /// The instance has reached its own limit of requests or connections.
    NodeFull {
        /// How long to wait before a retry.
        retry_after: Duration,
    },
    /// The caller has reached a limit.
    Caller {
        /// What is limited, as it follows "limit of" in the error's message.
        limit: &'static str,
        /// How long to wait before a retry.
        retry_after: Duration,
    },
}

/// What is left of a caller's limit per minute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remaining {
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// How long until the whole limit is available again.
    pub(crate) resets_in: Duration,
}

impl Limiter {
    /// The caller's load; its buckets are full at its first request.
    fn caller(&mut self, name: &str, limits: Limits, now: Timestamp) -> &mut CallerLoad {
        self.callers.entry(name.to_owned()).or_insert_with(|| CallerLoad {
            requests: 0,
            sockets: 0,
            request_bucket: limits.requests_per_minute.map(|limit| TokenBucket::new(limit, now)),
            token_bucket: limits.tokens_per_minute.map(|limit| TokenBucket::new(limit, now)),
        })
    }

    /// Counts the tokens that a call for the caller `name` has used.
    pub(crate) fn count_tokens(&mut self, name: &str, tokens: u64) {
        if let Some(bucket) = self.callers.get_mut(name).and_then(|load| load.token_bucket.as_mut()) {
            bucket.correct(0, tokens);
        }
    }

    /// What is left of the caller's requests and tokens per minute; `None` where the key has no limit.
    pub(crate) fn remaining(&mut self, name: &str, now: Timestamp) -> [Option<Remaining>; 2] {
        let Some(load) = self.callers.get_mut(name) else { return [None; 2] };
        [&mut load.request_bucket, &mut load.token_bucket].map(|bucket| {
            let (limit, remaining, resets_in) = bucket.as_mut()?.state(now);
            Some(Remaining { limit, remaining, resets_in })
        })
    }
}

/// Counts one request as in flight until it is dropped.
pub(crate) struct Permit {
    limiter: Rc<RefCell<Limiter>>,
    caller: String,
    /// The estimate that was taken from the caller's tokens in advance.
    tokens: u64,
}

/// Admits a request of `caller`, whose key has `limits`, or says why not and when to retry.
pub(crate) fn admit(
    limiter: &Rc<RefCell<Limiter>>,
    caller: &str,
    limits: Limits,
    now: Timestamp,
) -> Result<Permit, LimitError> {
    let mut state = limiter.borrow_mut();
    if state.requests >= MAX_REQUESTS {
        return Err(LimitError::NodeFull { retry_after: RETRY_AFTER });
    }
    let load = state.caller(caller, limits, now);
    if limits.concurrent.is_some_and(|limit| load.requests >= limit) {
        return Err(LimitError::Caller { limit: "concurrent requests", retry_after: RETRY_AFTER });
    }
    if let Some(bucket) = &mut load.request_bucket {
        let limited = |retry_after| LimitError::Caller { limit: "requests per minute", retry_after };
        bucket.take(1, now).map_err(limited)?;
    }
    load.requests += 1;
    state.requests += 1;
    Ok(Permit { limiter: Rc::clone(limiter), caller: caller.to_owned(), tokens: 0 })
}

impl Permit {
    /// Takes the estimated tokens of the request in advance. [`Limiter::count_tokens`] counts the actual ones, and the
    /// estimate is given back when the permit is dropped.
    pub(crate) fn take_tokens(&mut self, estimate: u64, now: Timestamp) -> Result<(), LimitError> {
        let mut state = self.limiter.borrow_mut();
        let bucket = state.callers.get_mut(&self.caller).and_then(|load| load.token_bucket.as_mut());
        if let Some(bucket) = bucket {
            let limited = |retry_after| LimitError::Caller { limit: "tokens per minute", retry_after };
            bucket.take(estimate, now).map_err(limited)?;
            self.tokens = estimate;
        }
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.limiter.borrow_mut();
        state.requests = state.requests.saturating_sub(1);
        if let Some(load) = state.callers.get_mut(&self.caller) {
            load.requests = load.requests.saturating_sub(1);
            if let Some(bucket) = &mut load.token_bucket {
                bucket.correct(self.tokens, 0);
            }
        }
    }
}

/// Counts one WebSocket connection as open until it is dropped.
pub(crate) struct SocketPermit {
    limiter: Rc<RefCell<Limiter>>,
    caller: String,
}

/// Admits a WebSocket connection of `caller`, whose key has `limits`.
pub(crate) fn connect(
    limiter: &Rc<RefCell<Limiter>>,
    caller: &str,
    limits: Limits,
    now: Timestamp,
) -> Result<SocketPermit, LimitError> {
    let mut state = limiter.borrow_mut();
    if state.sockets >= MAX_SOCKETS {
        return Err(LimitError::NodeFull { retry_after: RETRY_AFTER });
    }
    let load = state.caller(caller, limits, now);
    if load.sockets >= MAX_SOCKETS_OF_CALLER {
        return Err(LimitError::Caller { limit: "WebSocket connections", retry_after: RETRY_AFTER });
    }
    load.sockets += 1;
    state.sockets += 1;
    Ok(SocketPermit { limiter: Rc::clone(limiter), caller: caller.to_owned() })
}

impl Drop for SocketPermit {
    fn drop(&mut self) {
        let mut state = self.limiter.borrow_mut();
        state.sockets = state.sockets.saturating_sub(1);
        if let Some(load) = state.callers.get_mut(&self.caller) {
            load.sockets = load.sockets.saturating_sub(1);
        }
    }
}
