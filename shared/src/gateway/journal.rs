use std::time::Duration;

use serde_json::{Value, json};

use super::{Flight, Task};
use crate::{
    config::Candidate,
    metrics::name,
    node::Node,
    platform::{Platform, Timestamp},
    provider::{ProviderError, usage::Usage},
    routing::price::NanoUsd,
    wire::Format,
};

/// Follows one request to its end, and then counts it and writes a line about it. However the end comes about.
pub(super) struct Journal<P: Platform> {
    node: Node<P>,
    id: String,
    trace: Option<String>,
    format: Format,
    model: String,
    caller: String,
    stream: bool,
    began: Timestamp,
    /// Until the first content: for the request, and for the call that brought it.
    first: Option<(Duration, Duration)>,
    attempts: Vec<Value>,
    calls: u64,
    rescues: u64,
    usage: Usage,
    cost: NanoUsd,
    outcome: &'static str,
}

impl<P: Platform> Journal<P> {
    pub(super) fn begin(node: &Node<P>, task: &Task) -> Self {
        Self {
            node: node.clone(),
            id: task.id.clone(),
            trace: task.trace.as_ref().map(|trace| trace.id.clone()),
            format: task.request.format,
            model: task.model.name.clone(),
            caller: task.caller.clone(),
            stream: task.request.stream,
            began: node.platform().now(),
            first: None,
            attempts: Vec::new(),
            calls: 0,
            rescues: 0,
            usage: Usage::default(),
            cost: NanoUsd(0),
            // Nothing else is said if the client leaves.
            outcome: "cancelled",
        }
    }

    /// A call failed before its first content.
    pub(super) fn failed(&mut self, flight: &Flight<P>, error: &ProviderError) {
        self.attempt(&flight.candidate, error.class.name(), error.status.map(|status| status.as_u16()));
        self.calls += u64::from(!error.class.is_ours());
        self.paid(flight);
    }

    /// A call has its first content.
    pub(super) fn answered(&mut self, flight: &Flight<P>) {
        self.calls += 1;
        if self.first.is_none() {
            let since = self.node.platform().now().since(self.began);
            self.first = Some((since, flight.age()));
        }
    }

    /// A call that was counted as answered broke off.
    pub(super) fn broke(&mut self, candidate: &Candidate, error: &ProviderError) {
        self.attempt(candidate, error.class.name(), None);
    }

    /// The answer that broke off is taken up again.
    pub(super) fn rescued(&mut self) {
        self.rescues += 1;
    }

    /// A call has ended, at what it cost.
    pub(super) fn paid(&mut self, flight: &Flight<P>) {
        let (usage, cost) = flight.cost();
        self.usage += usage;
        self.cost = self.cost.saturating_add(cost);
    }

    /// How it ended: `answered`, `failed` or `interrupted`.
    pub(super) fn ended(&mut self, candidate: Option<&Candidate>, outcome: &'static str) {
        if let Some(candidate) = candidate {
            self.attempt(candidate, "ok", None);
        }
        self.outcome = outcome;
    }

    fn attempt(&mut self, candidate: &Candidate, outcome: &'static str, status: Option<u16>) {
        self.attempts.push(json!({"candidate": candidate.to_string(), "outcome": outcome, "status": status}));
        let labels = vec![("candidate", candidate.to_string()), ("outcome", outcome.to_owned())];
        self.node.metrics().borrow_mut().count(name::CALLS, labels);
    }
}

impl<P: Platform> Drop for Journal<P> {
    fn drop(&mut self) {
        let took = self.node.platform().now().since(self.began);
        let format =
            || vec![("gen_ai_operation_name", self.format.name().to_owned()), ("model", self.model.clone())];
        let mut metrics = self.node.metrics().borrow_mut();
        let outcome = [("outcome", self.outcome.to_owned())];
        metrics.count(name::REQUESTS, format().into_iter().chain(outcome).collect());
        metrics.took(name::DURATION, format(), took);
        metrics.was(name::ATTEMPTS, format(), self.calls);
        if let Some((since, after)) = self.first {
            metrics.took(name::FIRST_CHUNK, format(), since);
            metrics.took(name::ADDED, format(), since.saturating_sub(after));
        }
        for _ in 0..self.rescues {
            metrics.count(name::RESCUES, format());
        }
        drop(metrics);
        let line = json!({
            "event": "request",
            "id": self.id,
            "trace_id": self.trace,
            "format": self.format.name(),
            "model": self.model,
            "key": self.caller,
            "stream": self.stream,
            "outcome": self.outcome,
            "attempts": self.attempts,
            "rescues": self.rescues,
            "input_tokens": self.usage.total_input(),
            "output_tokens": self.usage.output,
            "cost_usd": self.cost.to_string(),
            "first_ms": self.first.map(|(since, _)| since.as_millis() as u64),
            "total_ms": took.as_millis() as u64,
        });
        self.node.platform().log(&line.to_string());
    }
}
