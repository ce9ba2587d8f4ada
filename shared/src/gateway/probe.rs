//! Asks candidates that nobody asks, so that the next request finds them as they are.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Attempt, RequestDeadlines,
    dispatch::{self, AttemptRequest},
};
use crate::{
    model::{Candidate, Timeouts},
    node::Node,
    platform::Platform,
    routing::breaker::BreakerState,
    wire::{Format, Request},
};

/// A small real request: that a vendor lists its models does not say that they answer.
const QUESTION: &[u8] =
    br#"{"model":"probe","max_completion_tokens":16,"messages":[{"role":"user","content":"Say ok."}]}"#;

/// How long a candidate that was asked before may be left alone.
const IDLE: Duration = Duration::from_secs(15 * 60);

/// Probes of one tick: what is left comes with the next.
const MAX_PROBES: usize = 4;

/// How long a probe may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Probes the candidates whose breaker waits for one, and those that this instance has not asked for long. What it costs
/// is counted in the budgets.
pub(crate) async fn run<P: Platform>(node: &Node<P>) {
    for candidate in due(node).into_iter().take(MAX_PROBES) {
        // A request may have begun to probe it meanwhile.
        if node.health().borrow().admits(&candidate) {
            probe(node, &candidate).await;
        }
    }
}

fn due<P: Platform>(node: &Node<P>) -> Vec<Candidate> {
    let (config, now, health) = (node.config(), node.platform().now(), node.health().borrow());
    let mut due = Vec::new();
    for candidate in config.models.iter().flat_map(|model| &model.candidates) {
        let built_in =
            config.provider(&candidate.provider).is_some_and(|provider| provider.vendor.is_built_in());
        // A model for vectors does not talk.
        let silent = built_in || candidate.model.contains("embed");
        let seen = health.candidate(candidate);
        let asked = seen.last_success.max(seen.last_failure.map(|(_, at)| at));
        let waits = match seen.breaker.state(now) {
            BreakerState::HalfOpen => seen.breaker.admits(),
            BreakerState::Open => false,
            BreakerState::Closed => asked.is_some_and(|at| now.since(at) >= IDLE) && seen.in_flight == 0,
        };
        if waits && !silent && !due.contains(candidate) {
            due.push(candidate.clone());
        }
    }
    due
}

async fn probe<P: Platform>(node: &Node<P>, candidate: &Candidate) {
    let Ok(request) = Request::parse(Format::Chat, Bytes::from_static(QUESTION)) else { return };
    let timeouts = Timeouts { total: PATIENCE, ..node.config().timeouts };
    let mut deadlines = RequestDeadlines::new(node.clone(), PATIENCE);
    let mut flight = Attempt::begin(node, candidate, None);
    let ask = AttemptRequest {
        request: &request,
        prompt: None,
        timeouts,
        id: "probe",
        without_thoughts: false,
        trace: None,
    };
    // Nobody's key: the node asks for itself.
    let probed = match flight.reserve("", &request, 0).await {
        Ok(()) => dispatch::start(node, &flight, ask, &mut deadlines).await,
        Err(error) => Err(error),
    };
    match probed {
        Ok(_) => flight.record_success(),
        Err(error) => drop(flight.record_failure(&error)),
    }
}
