use std::{cell::RefCell, rc::Rc, time::Duration};

use super::{Attempt, GatewayRequest};
use crate::{
    names::metric,
    node::Node,
    platform::Platform,
    record::{AttemptRecord, Content, Record},
    wire::Transcript,
};

/// Follows one request. It is counted and logged when the last that has to do with it is gone, however that comes about.
pub(super) struct Recorder<P: Platform>(Rc<RecorderState<P>>);

impl<P: Platform> Clone for Recorder<P> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

struct RecorderState<P: Platform> {
    node: Node<P>,
    record: RefCell<Record>,
    /// From the call that brought the first content to that content.
    call: RefCell<Option<Duration>>,
}

impl<P: Platform> Recorder<P> {
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
            model: model.name.clone(),
            caller: caller.clone(),
            stream: request.stream,
            // Nothing else is said if the client leaves.
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
            record: RefCell::new(record),
            call: RefCell::default(),
        }))
    }

    /// A call has its first content.
    pub(super) fn record_first_content(&self, flight: &Attempt<P>) {
        let RecorderState { node, record, call } = &*self.0;
        let mut record = record.borrow_mut();
        if record.time_to_first_content.is_none() {
            record.time_to_first_content = Some(node.platform().now().since(record.started_at));
            *call.borrow_mut() = Some(flight.age());
        }
    }

    /// The answer broke off and is taken up again.
    pub(super) fn record_rescue(&self) {
        self.0.record.borrow_mut().rescues += 1;
    }

    /// A call has ended.
    pub(super) fn record_attempt(&self, call: AttemptRecord) {
        self.0.record.borrow_mut().calls.push(call);
    }

    /// What the answer says, if that is to be known.
    pub(super) fn record_content(&self, transcript: &Transcript) {
        if let Some(content) = &mut self.0.record.borrow_mut().content {
            let calls = transcript.calls().map(|call| format!("\n{}({})", call.name, call.arguments));
            content.answer = Content::cut(&(transcript.text() + &calls.collect::<String>()));
        }
    }

    /// How the request ended: `answered`, `failed` or `interrupted`.
    pub(super) fn record_outcome(&self, outcome: &'static str) {
        self.0.record.borrow_mut().outcome = outcome;
    }
}

impl<P: Platform> Drop for RecorderState<P> {
    fn drop(&mut self) {
        let (record, call) = (self.record.get_mut(), self.call.get_mut());
        record.duration = self.node.platform().now().since(record.started_at);
        let format =
            || vec![("gen_ai_operation_name", record.format.to_owned()), ("model", record.model.clone())];
        let mut metrics = self.node.metrics().borrow_mut();
        let outcome = [("outcome", record.outcome.to_owned())];
        metrics.count(metric::REQUESTS, format().into_iter().chain(outcome).collect());
        metrics.observe_duration(metric::DURATION, format(), record.duration);
        let made = record.calls.iter().filter(|call| call.was_sent).count();
        metrics.observe(metric::ATTEMPTS, format(), u64::try_from(made).unwrap_or(u64::MAX));
        if let (Some(first), Some(call)) = (record.time_to_first_content, *call) {
            metrics.observe_duration(metric::FIRST_CHUNK, format(), first);
            metrics.observe_duration(metric::ADDED, format(), first.saturating_sub(call));
        }
        for _ in 0..record.rescues {
            metrics.count(metric::RESCUES, format());
        }
        drop(metrics);
        self.node.platform().log(record);
    }
}
