//! Calls candidates that have had no request for a while, so that the next request finds their health up to date.
//!
//! Runs in the tick. Probes that decide about an open breaker are also made by ordinary requests.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Attempt, RequestDeadlines,
    dispatch::{self, AttemptRequest},
};
use crate::{
    model::{Candidate, Timeouts, Translation},
    node::Node,
    platform::Platform,
    routing::breaker::BreakerState,
    wire::{Format, Request},
};

/// A small real request: a vendor may list its models although they do not answer.
const PROBE_REQUEST: &[u8] =
    br#"{"model":"probe","max_completion_tokens":16,"messages":[{"role":"user","content":"Say ok."}]}"#;

/// How long a candidate that has been called may go without a call.
const MAX_IDLE: Duration = Duration::from_secs(15 * 60);

/// Most probes of one tick; the next tick makes the others.
const MAX_PROBES: usize = 4;

/// How long a probe may take: those of one tick, one after the other, fit into the minute until the next.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Probes the candidates whose breaker is not closed until it is, and those that this instance has not called for long.
/// The budgets pay for it.
pub(crate) async fn run<P: Platform>(node: &Node<P>) {
    let mut due = due(node).into_iter();
    let mut next = due.next();
    for _ in 0..MAX_PROBES {
        let Some(candidate) = next else { break };
        // A request may have started a probe of this candidate meanwhile.
        let is_admitted = node.health().borrow().admits(&candidate, node.platform().now());
        let works = is_admitted && probe(node, &candidate).await;
        // A breaker closes after several probes, and no request may come until the next tick.
        let needs_another = works && node.candidate_health(&candidate).breaker.open_until().is_some();
        next = if needs_another { Some(candidate) } else { due.next() };
    }
}

/// The candidates to probe now.
fn due<P: Platform>(node: &Node<P>) -> Vec<Candidate> {
    let (config, now, health) = (node.config(), node.platform().now(), node.health().borrow());
    let mut due = Vec::new();
    for candidate in config.models.iter().flat_map(|model| &model.candidates) {
        let built_in =
            config.provider(&candidate.provider).is_some_and(|provider| provider.vendor.is_built_in());
        // Embedding models don't answer chat requests, built-in vendors can't fail, and wildcards are no models.
        let is_excluded = built_in || candidate.model.contains("embed") || candidate.is_wildcard();
        let state = health.candidate(candidate);
        let last_called = state.last_success.max(state.last_failure.map(|(_, at)| at));
        let is_due = match state.breaker.state(now) {
            BreakerState::HalfOpen => state.breaker.admits(now),
            // A pause that the provider asked for is kept.
            BreakerState::Open => state.breaker.admits(now) && state.parked_until(now).is_none(),
            // A candidate that was never called stays unprobed: a probe costs money.
            BreakerState::Closed => {
                last_called.is_some_and(|at| now.since(at) >= MAX_IDLE) && state.in_flight == 0
            }
        };
        if is_due && !is_excluded && !due.contains(candidate) {
            due.push(candidate.clone());
        }
    }
    due
}

/// Makes one probe. Returns whether the candidate answered.
async fn probe<P: Platform>(node: &Node<P>, candidate: &Candidate) -> bool {
    let Ok(request) = Request::parse(Format::Chat, Bytes::from_static(PROBE_REQUEST)) else { return false };
    let timeouts = Timeouts { total: PROBE_TIMEOUT, ..node.config().timeouts };
    let mut deadlines = RequestDeadlines::new(node.clone(), PROBE_TIMEOUT);
    let mut attempt = Attempt::begin(node, candidate, None);
    let attempt_request = AttemptRequest {
        request: &request,
        // For no caller: the node probes for itself.
        caller: "",
        prompt: None,
        translation: &Translation::default(),
        timeouts,
        // The request leaves no tokens for thoughts.
        thinking: None,
        id: "probe",
        without_thoughts: false,
        trace: None,
    };
    let result = match dispatch::prepare(node, &mut attempt, attempt_request).await {
        Ok(prepared) => dispatch::start(node, &mut attempt, prepared, attempt_request, &mut deadlines).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(_) => attempt.record_success(),
        Err(error) => {
            attempt.record_failure(&error);
            return false;
        }
    }
    true
}
