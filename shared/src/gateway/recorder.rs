//! Collects the record of one request and hands it to the metrics and the platform's log when the request has ended.

use std::{cell::RefCell, rc::Rc, time::Duration};

use super::{Attempt, GatewayRequest};
use crate::{
    names::metric,
    node::Node,
    platform::Platform,
    record::{AttemptRecord, Content, Record},
    wire::Transcript,
};

/// The record of one request, shared by its attempts. It is counted and logged when the last clone is dropped, so also
/// if the client disconnects.
pub(super) struct Recorder<P: Platform>(Rc<RecorderState<P>>);

impl<P: Platform> Clone for Recorder<P> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

struct RecorderState<P: Platform> {
    node: Node<P>,
    /// The model's name in the configuration, for metrics: of names of clients there may be any number.
    model: String,
    record: RefCell<Record>,
    /// The time to first content of the call that brought it.
    time_in_call: RefCell<Option<Duration>>,
}

impl<P: Platform> Recorder<P> {
    /// Starts the record of a request.
    pub(super) fn begin(node: &Node<P>, task: &GatewayRequest) -> Self {
        let GatewayRequest { request, model, id, caller, trace, .. } = task;
        let content = node.config().log_content.then(|| Content {
            request: Content::cut(&String::from_utf8_lossy(request.body())),
            answer: String::new(),
        });
        let record = Record {
            id: id.clone(),
            trace: trace.clone(),
            span: node.random_span_id(),
            format: request.format.name(),
            model: request.model.clone(),
            caller: caller.clone(),
            stream: request.stream,
            // Stays if the client disconnects, since the answer is then dropped without another outcome.
            outcome: "cancelled",
            started_at: node.platform().now(),
            duration: Duration::ZERO,
            time_to_first_content: None,
            rescues: 0,
            calls: Vec::new(),
            content,
        };
        Self(Rc::new(RecorderState {
            node: node.clone(),
            model: model.name.clone(),
            record: RefCell::new(record),
            time_in_call: RefCell::default(),
        }))
    }

    /// Records the time to first content, once for the request.
    pub(super) fn record_first_content(&self, attempt: &Attempt<P>) {
        let RecorderState { node, record, time_in_call, .. } = &*self.0;
        let mut record = record.borrow_mut();
        if record.time_to_first_content.is_none() {
            record.time_to_first_content = Some(node.platform().now().since(record.started_at));
            *time_in_call.borrow_mut() = Some(attempt.age());
        }
    }

    /// Counts a continuation of an interrupted answer.
    pub(super) fn record_rescue(&self) {
        self.0.record.borrow_mut().rescues += 1;
    }

    /// Adds a call that has ended.
    pub(super) fn record_attempt(&self, call: AttemptRecord) {
        self.0.record.borrow_mut().calls.push(call);
    }

    /// Records the answer's text and tool calls, if the configuration sets `log_content`.
    pub(super) fn record_content(&self, transcript: &Transcript) {
        if let Some(content) = &mut self.0.record.borrow_mut().content {
            let calls = transcript.calls().map(|call| format!("\n{}({})", call.name, call.arguments));
            content.answer = Content::cut(&(transcript.text() + &calls.collect::<String>()));
        }
    }

    /// Records how the request ended: `answered`, `failed` or `interrupted`.
    pub(super) fn record_outcome(&self, outcome: &'static str) {
        self.0.record.borrow_mut().outcome = outcome;
    }
}

impl<P: Platform> Drop for RecorderState<P> {
    fn drop(&mut self) {
        let (record, time_in_call) = (self.record.get_mut(), self.time_in_call.get_mut());
        record.duration = self.node.platform().now().since(record.started_at);
        let labels = [("gen_ai_operation_name", record.format), ("model", self.model.as_str())];
        let [format, model] = labels;
        let mut metrics = self.node.metrics().borrow_mut();
        metrics.count(metric::REQUESTS, &[format, model, ("outcome", record.outcome)]);
        metrics.observe_duration(metric::DURATION, &labels, record.duration);
        let sent = record.calls.iter().filter(|call| call.was_sent).count();
        metrics.observe(metric::ATTEMPTS, &labels, u64::try_from(sent).unwrap_or(u64::MAX));
        if let (Some(total), Some(in_call)) = (record.time_to_first_content, *time_in_call) {
            metrics.observe_duration(metric::FIRST_CHUNK, &labels, total);
            metrics.observe_duration(metric::ADDED_LATENCY, &labels, total.saturating_sub(in_call));
        }
        if record.rescues > 0 {
            metrics.add(metric::RESCUES, &labels, record.rescues);
        }
        // The platform's log may be anything, so no borrow is held while it runs.
        drop(metrics);
        self.node.platform().log(record);
    }
}
