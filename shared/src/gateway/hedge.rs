//! Makes one call, and a second one beside it if the first is slow. Knows nothing of what is sent.

use std::{rc::Rc, time::Duration};

use futures_util::future::{Either, select};

use super::{
    Attempt, GatewayRequest, Recorder, RequestDeadlines,
    dispatch::{self, AttemptRequest, Committed, PreparedCall},
};
use crate::{
    error::ProviderError, model::Candidate, node::Node, platform::Platform, routing::CandidateQueue,
};

/// The call that counts, and the one that failed beside it, if two were made.
pub(super) struct HedgeResult<P: Platform> {
    pub(super) finished: FinishedAttempt<P>,
    pub(super) failed: Option<(Attempt<P>, ProviderError)>,
}

/// One call whose cost is reserved.
pub(super) struct PreparedAttempt<P: Platform> {
    pub(super) attempt: Attempt<P>,
    pub(super) prepared: PreparedCall,
    pub(super) deadlines: RequestDeadlines<P>,
}

/// One call and its result.
pub(super) struct FinishedAttempt<P: Platform> {
    pub(super) attempt: Attempt<P>,
    pub(super) deadlines: RequestDeadlines<P>,
    pub(super) result: Result<Committed<P>, ProviderError>,
}

/// Makes the call of `first`.
///
/// If the model allows hedges and the call is slower than usual, the next candidate is called too. The first of both
/// that has content wins, and the other call is cancelled.
pub(super) async fn start<P: Platform>(
    node: &Node<P>,
    task: &Rc<GatewayRequest>,
    first: PreparedAttempt<P>,
    without_thoughts: bool,
    route: &mut CandidateQueue,
    recorder: &Recorder<P>,
) -> HedgeResult<P> {
    let total = first.deadlines.total();
    let usual = usual_latency(node, task, &first.attempt.candidate);
    let first = Box::pin(call(node.clone(), Rc::clone(task), first, without_thoughts));
    let Some(usual) = usual else { return HedgeResult { finished: first.await, failed: None } };
    let first = match select(first, Box::pin(node.platform().sleep(usual))).await {
        Either::Left((finished, _)) => return HedgeResult { finished, failed: None },
        Either::Right(((), first)) => first,
    };
    // The first call is not polled while the money of the second is reserved, which may take an append to a log.
    // Boxed, since it is rare, and its state would be part of every request's.
    let second = Box::pin(begin_second(node, task, without_thoughts, route, recorder));
    let Some((attempt, prepared)) = second.await else {
        return HedgeResult { finished: first.await, failed: None };
    };
    // The second call has its own share of the same total.
    let mut deadlines = RequestDeadlines::until(node.clone(), total);
    deadlines.begin_attempt(route.candidates_left(), task.slow_attempt(node, &attempt.candidate));
    let second = PreparedAttempt { attempt, prepared, deadlines };
    let second = Box::pin(call(node.clone(), Rc::clone(task), second, without_thoughts));
    let (finished, other) = match select(first, second).await {
        Either::Left((finished, other)) | Either::Right((finished, other)) => (finished, other),
    };
    match finished {
        FinishedAttempt { attempt, result: Err(error), .. } => {
            attempt.record_failure(&error);
            HedgeResult { finished: other.await, failed: Some((attempt, error)) }
        }
        // Dropping `other` closes its connection and settles its reservation.
        winner => HedgeResult { finished: winner, failed: None },
    }
}

/// Makes the call, and gives the attempt and its deadlines back with the result.
async fn call<P: Platform>(
    node: Node<P>,
    task: Rc<GatewayRequest>,
    PreparedAttempt { mut attempt, prepared, mut deadlines }: PreparedAttempt<P>,
    without_thoughts: bool,
) -> FinishedAttempt<P> {
    let attempt_request =
        AttemptRequest { without_thoughts, ..task.attempt_request(&node, &attempt.candidate) };
    let result = dispatch::start(&node, &mut attempt, prepared, attempt_request, &mut deadlines).await;
    FinishedAttempt { attempt, deadlines, result }
}

/// The 95th percentile of the candidate's time to first content; `None` if the model allows no hedges or too few times
/// are known. Also counts the call towards the share of calls that may be hedged.
fn usual_latency<P: Platform>(
    node: &Node<P>,
    task: &GatewayRequest,
    candidate: &Candidate,
) -> Option<Duration> {
    if !task.model.hedge {
        return None;
    }
    node.hedges().borrow_mut().deposit();
    node.health().borrow().p95(candidate)
}

/// Begins the attempt of the next proven candidate, within the limit of hedges and the budgets.
async fn begin_second<P: Platform>(
    node: &Node<P>,
    task: &GatewayRequest,
    without_thoughts: bool,
    route: &mut CandidateQueue,
    recorder: &Recorder<P>,
) -> Option<(Attempt<P>, PreparedCall)> {
    let candidate = route.hedge(|candidate| {
        let health = node.health().borrow();
        health.is_proven(candidate)
            && health.admits(candidate, node.platform().now())
            && node.hedges().borrow_mut().withdraw()
    })?;
    let mut attempt = Attempt::begin(node, &candidate, Some(recorder));
    let attempt_request = AttemptRequest { without_thoughts, ..task.attempt_request(node, &candidate) };
    let prepared = dispatch::prepare(node, &mut attempt, attempt_request).await.ok()?;
    Some((attempt, prepared))
}
