//! One attempt, or two at once where the first is slow.

use std::rc::Rc;

use futures_util::future::{Either, select};

use super::{
    Attempt, GatewayRequest, Recorder, RequestDeadlines,
    dispatch::{self, AttemptRequest, Committed},
};
use crate::{
    error::ProviderError, model::Candidate, node::Node, platform::Platform, routing::CandidateQueue,
};

/// What came of it: the call that counts, and the one that failed beside it.
pub(super) struct HedgeResult<P: Platform> {
    pub(super) call: FinishedAttempt<P>,
    pub(super) failed: Option<(Attempt<P>, ProviderError)>,
}

/// One call and what came of it.
pub(super) struct FinishedAttempt<P: Platform> {
    pub(super) attempt: Attempt<P>,
    pub(super) deadlines: RequestDeadlines<P>,
    pub(super) result: Result<Committed<P>, ProviderError>,
}

/// Makes the call of `flight`, which has been paid for. If the model allows it, and the call takes longer than it usually
/// does, the next candidate is called too; who has content first wins, and the other is cut off.
pub(super) async fn start<P: Platform>(
    node: &Node<P>,
    task: &Rc<GatewayRequest>,
    flight: Attempt<P>,
    deadlines: RequestDeadlines<P>,
    thoughtless: bool,
    route: &mut CandidateQueue,
    journal: &Recorder<P>,
) -> HedgeResult<P> {
    let total = deadlines.total();
    let slow = slow_after(node, task, &flight.candidate);
    let first = Box::pin(call(node.clone(), Rc::clone(task), flight, deadlines, thoughtless));
    let Some(after) = slow else { return HedgeResult { call: first.await, failed: None } };
    let first = match select(first, Box::pin(node.platform().sleep(after))).await {
        Either::Left((call, _)) => return HedgeResult { call, failed: None },
        Either::Right(((), first)) => first,
    };
    let Some(second) = second(node, task, route, journal).await else {
        return HedgeResult { call: first.await, failed: None };
    };
    let mut deadlines = RequestDeadlines::until(node.clone(), total);
    deadlines.begin_attempt(route.candidates_left());
    let second = Box::pin(call(node.clone(), Rc::clone(task), second, deadlines, thoughtless));
    let (call, other) = match select(first, second).await {
        Either::Left((call, other)) | Either::Right((call, other)) => (call, other),
    };
    match call {
        FinishedAttempt { attempt: flight, result: Err(error), .. } => {
            flight.record_failure(&error);
            HedgeResult { call: other.await, failed: Some((flight, error)) }
        }
        won => HedgeResult { call: won, failed: None },
    }
}

async fn call<P: Platform>(
    node: Node<P>,
    task: Rc<GatewayRequest>,
    flight: Attempt<P>,
    mut deadlines: RequestDeadlines<P>,
    thoughtless: bool,
) -> FinishedAttempt<P> {
    let result = dispatch::start(
        &node,
        &flight,
        AttemptRequest { without_thoughts: thoughtless, ..task.attempt_request() },
        &mut deadlines,
    )
    .await;
    FinishedAttempt { attempt: flight, deadlines, result }
}

/// When a candidate is slow, if the model wants it overtaken.
fn slow_after<P: Platform>(
    node: &Node<P>,
    task: &GatewayRequest,
    candidate: &Candidate,
) -> Option<std::time::Duration> {
    if !task.model.hedge {
        return None;
    }
    node.hedges().borrow_mut().deposit();
    node.health().borrow().p95(candidate)
}

/// The candidate that overtakes: one that is well, and that there is money and leave for.
async fn second<P: Platform>(
    node: &Node<P>,
    task: &GatewayRequest,
    route: &mut CandidateQueue,
    journal: &Recorder<P>,
) -> Option<Attempt<P>> {
    let candidate = route.hedge(|candidate| {
        let health = node.health().borrow();
        health.is_proven(candidate) && health.admits(candidate) && node.hedges().borrow_mut().withdraw()
    })?;
    let mut flight = Attempt::begin(node, &candidate, Some(journal));
    flight.reserve(&task.caller, &task.request, 0).await.ok()?;
    Some(flight)
}
