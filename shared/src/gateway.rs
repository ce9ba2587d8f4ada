//! Gets an answer from the candidates of a model: the one place where a request meets providers.

mod answer_writer;
mod attempt;
pub(crate) mod delta_sink;
mod dispatch;
mod failure;
mod hedge;
pub(crate) mod probe;
mod recorder;
mod relay;
mod rescue;
mod reservation;
mod splice;

use std::{rc::Rc, time::Duration};

use bytes::Bytes;

use crate::{
    body::Body,
    deadlines::Deadlines,
    error::{ErrorClass, ProviderError},
    limits::Permit,
    model::{Candidate, Model, Rescue},
    node::Node,
    platform::Platform,
    routing::{CandidateQueue, NextStep, RequestNeeds},
    time::Timestamp,
    trace::Trace,
    usage,
    wire::{self, Format, Frame, Request, Transcript},
};
use attempt::Attempt;
use delta_sink::DeltaSink;
use dispatch::{AttemptRequest, Committed};
pub(crate) use failure::{Failure, Verdict};
use hedge::{FinishedAttempt, HedgeResult};
use recorder::Recorder;
use rescue::Continuation;

/// An answer that has begun. What a failed attempt sent is not in it.
pub(crate) struct Answer {
    /// Who answers.
    pub(crate) candidate: Candidate,
    /// How many upstream calls were made, this one included.
    pub(crate) attempts: u32,
    /// The answer, in the wire format of the request.
    pub(crate) body: Body,
}

/// Largest answer that is not streamed: an isolate on Workers has 128 MB for everything.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// One request, for as long as it is worked on.
pub(crate) struct GatewayRequest {
    /// What the client asks.
    pub(crate) request: Request,
    /// The model that it asks.
    pub(crate) model: Model,
    /// The request's id.
    pub(crate) id: String,
    /// Who asks.
    pub(crate) caller: String,
    /// The trace it belongs to.
    pub(crate) trace: Option<Trace>,
    /// Lets it run; given back at the end. A turn that is taken up again needs none.
    #[expect(dead_code, reason = "held for its drop")]
    pub(crate) permit: Option<Permit>,
    /// Who wants the answer as deltas, and not as the bytes of the request's format.
    pub(crate) delta_sink: Option<DeltaSink>,
    /// What was said before the process that heard it died.
    pub(crate) partial_answer: Option<Transcript>,
}

impl GatewayRequest {
    /// What the answer says besides what the model says.
    fn frame(&self, candidate: &Candidate, now: Timestamp) -> Frame {
        let Self { request, id, .. } = self;
        Frame {
            id: Frame::id(request.format, id),
            created: now.unix_seconds(),
            model: candidate.model.clone(),
            wants_usage: request.wants_usage,
            estimated_input: usage::estimate(request.bytes()),
            completed: Some(now.unix_seconds()),
            request: (request.format == Format::Responses).then(|| request.to_json()).flatten(),
            about: None,
        }
    }

    /// How the candidate is asked to go on with what was said before.
    fn continuation<P: Platform>(&self, node: &Node<P>, candidate: &Candidate) -> Option<Continuation> {
        if self.model.rescue == Rescue::Error {
            return None;
        }
        let vendor = node.config().provider(&candidate.provider)?.vendor;
        rescue::plan(&self.request, self.partial_answer.as_ref()?, vendor, &candidate.model)
    }

    /// Bytes that are sent besides the request: what was said before, and its quoted end.
    fn extra_bytes(&self) -> usize {
        self.partial_answer.as_ref().map_or(0, |said| said.bytes().saturating_mul(2))
    }

    fn attempt_request(&self) -> AttemptRequest<'_> {
        let (request, timeouts, id) = (&self.request, self.model.timeouts, self.id.as_str());
        AttemptRequest {
            request,
            prompt: None,
            timeouts,
            id,
            without_thoughts: false,
            trace: self.trace.as_ref(),
        }
    }

    /// The way through the candidates, as they are now.
    fn route<P: Platform>(&self, node: &Node<P>) -> CandidateQueue {
        let (request, facts) = (&self.request, |candidate: &Candidate| node.config().facts(candidate));
        let input = usage::estimate(request.bytes());
        // To look for images costs a reading of the whole request, so it is done only where it matters.
        let matters = self.model.candidates.iter().any(|candidate| !facts(candidate).images);
        let needs = RequestNeeds {
            input,
            output: request.max_output.unwrap_or(input),
            tools: request.has_tools,
            images: matters && request.extras().images > 0,
        };
        CandidateQueue::new(&self.model, &node.health().borrow(), facts, &needs, node.platform().now())
    }
}

/// Sends a request to the candidates of its model, one after the other, until one has begun to answer.
pub(crate) async fn answer<P: Platform>(node: &Node<P>, task: GatewayRequest) -> Result<Answer, Failure> {
    let task = Rc::new(task);
    let mut deadlines = RequestDeadlines::new(node.clone(), task.model.timeouts.total);
    let mut route = task.route(node);
    let journal = Recorder::begin(node, &task);
    let mut attempts: Vec<(Candidate, ProviderError)> = Vec::new();
    node.retries().borrow_mut().deposit(node.platform().now());
    let mut next = route.first(&node.health().borrow());
    loop {
        let candidate = match next {
            NextStep::Try(candidate) => candidate,
            NextStep::Wait(pause) if !deadlines.is_exceeded() => {
                node.platform().sleep(pause).await;
                next = route.first(&node.health().borrow());
                continue;
            }
            NextStep::Wait(_) | NextStep::Stop => break,
        };
        let called = attempts.iter().any(|(_, error)| !error.class.is_local());
        // Only who has failed is spared: to fail over to the others is what all this is for.
        let is_retry = called && node.candidate_health(&candidate).is_suspect();
        if is_retry && !node.retries().borrow_mut().withdraw(node.platform().now()) {
            next = route.skip(&node.health().borrow());
            continue;
        }
        deadlines.begin_attempt(route.candidates_left());
        let thoughtless = attempts.iter().any(|(_, error)| error.class == ErrorClass::Bound);
        let mut flight = Attempt::begin(node, &candidate, Some(&journal));
        let HedgeResult {
            call: FinishedAttempt { attempt: flight, deadlines: passed_back, result },
            failed: lost,
        } = match flight.reserve(&task.caller, &task.request, task.extra_bytes()).await {
            Ok(()) if task.partial_answer.is_some() => {
                let result = resume(node, &task, &flight, &mut deadlines).await;
                HedgeResult { call: FinishedAttempt { attempt: flight, deadlines, result }, failed: None }
            }
            Ok(()) => hedge::start(node, &task, flight, deadlines, thoughtless, &mut route, &journal).await,
            Err(error) => HedgeResult {
                call: FinishedAttempt { attempt: flight, deadlines, result: Err(error) },
                failed: None,
            },
        };
        deadlines = passed_back;
        if let Some((flight, error)) = lost {
            attempts.push((flight.candidate.clone(), error));
        }
        let candidate = flight.candidate.clone();
        match result {
            Ok(committed) => {
                journal.record_first_content(&flight);
                let attempts = u32::try_from(attempts.len()).unwrap_or(u32::MAX).saturating_add(1);
                let body = begin(node, task, flight, committed, attempts, deadlines, journal);
                return Ok(Answer { candidate, attempts, body });
            }
            Err(error) => {
                let another_key = flight.record_failure(&error);
                drop(flight);
                if another_key {
                    route.retry_with_next_key(candidate.clone());
                }
                let over = deadlines.is_exceeded();
                next = route.next(candidate.clone(), &error, &node.health().borrow(), node.random_u32());
                attempts.push((candidate, error));
                if over {
                    break;
                }
            }
        }
    }
    journal.record_outcome("failed");
    let retry_after = soonest_retry(node, &task.model, &attempts);
    Err(Failure { attempts, retry_after })
}

/// Asks the candidate of `flight` for the rest of an answer whose beginning is known.
async fn resume<P: Platform>(
    node: &Node<P>,
    task: &GatewayRequest,
    flight: &Attempt<P>,
    deadlines: &mut RequestDeadlines<P>,
) -> Result<Committed<P>, ProviderError> {
    let unable = |why: &str| ProviderError::new(ErrorClass::Unsupported, why.to_owned());
    let Some(plan) = task.continuation(node, &flight.candidate) else {
        flight.meter.borrow_mut().mark_unbilled();
        return Err(unable("what was said can't be continued"));
    };
    let ask = AttemptRequest { prompt: Some(&plan.prompt), ..task.attempt_request() };
    dispatch::start(node, flight, ask, deadlines).await
}

/// The body of an answer that has begun.
fn begin<P: Platform>(
    node: &Node<P>,
    task: Rc<GatewayRequest>,
    flight: Attempt<P>,
    committed: Committed<P>,
    attempts: u32,
    mut deadlines: RequestDeadlines<P>,
    journal: Recorder<P>,
) -> Body {
    match committed {
        Committed::Whole(format, bytes, transcript) => {
            flight.record_success();
            journal.record_outcome("answered");
            journal.record_content(&transcript);
            if format == task.request.format {
                return Body::Full(bytes);
            }
            let frame = task.frame(&flight.candidate, node.platform().now());
            let whole = wire::writer::whole(task.request.format, &frame, &transcript);
            Body::Full(whole.to_string().into())
        }
        Committed::Stream(opening) => {
            deadlines.commit();
            relay::stream(node.clone(), task, flight, opening, attempts, deadlines, journal)
        }
    }
}

/// The time until the first candidate is back, if waiting can help at all.
fn soonest_retry<P: Platform>(
    node: &Node<P>,
    model: &Model,
    attempts: &[(Candidate, ProviderError)],
) -> Option<Duration> {
    let now: Timestamp = node.platform().now();
    let health = node.health().borrow();
    let parked = model.candidates.iter().filter_map(|candidate| health.back_at(candidate, now));
    let waits = parked.map(|until| until.since(now));
    let asked = attempts.iter().filter_map(|(_, error)| error.retry_after);
    waits.chain(asked).min()
}

/// The error for a clock that ran out.
fn deadline_error(which: &str) -> ProviderError {
    ProviderError::new(ErrorClass::Timeout, format!("the provider took too long: {which}"))
}

/// The error for an answer that ended without an end.
pub(crate) fn truncated() -> ProviderError {
    dispatch::truncated()
}

/// The deadlines of one request, and of its attempts.
type RequestDeadlines<P> = Deadlines<'static, Node<P>>;

/// Bytes that a provider sent, or the reason why there are none.
type NextChunk = Result<Option<Bytes>, ProviderError>;

#[cfg(test)]
mod tests;
