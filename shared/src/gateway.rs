//! Gets an answer from the candidates of a model: the one place where a request meets providers.

mod alarm;
mod attempt;
mod relay;
mod rescue;
mod splice;

use std::{rc::Rc, time::Duration};

use bytes::Bytes;

use crate::{
    body::Body,
    config::{Candidate, Model},
    node::Node,
    platform::{Platform, Timestamp},
    provider::{Class, ProviderError},
    routing::{Next, Route},
    wire::{self, Format, Frame, Request},
};
use alarm::Alarm;
use attempt::{Ask, Committed};

/// An answer that has begun. What a failed attempt sent is not in it.
pub(crate) struct Answer {
    /// Who answers.
    pub(crate) candidate: Candidate,
    /// How many upstream calls were made, this one included.
    pub(crate) attempts: u32,
    /// The answer, in the wire format of the request.
    pub(crate) body: Body,
}

/// Why nobody answered.
#[derive(Debug)]
pub(crate) struct Failure {
    /// All attempts, in order. Not empty.
    pub(crate) attempts: Vec<(Candidate, ProviderError)>,
    /// How long until a candidate that asked for a pause is back.
    pub(crate) retry_after: Option<Duration>,
}

/// Largest answer that is not streamed: an isolate on Workers has 128 MB for everything.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// One request, for as long as it is worked on.
pub(crate) struct Task {
    /// What the client asks.
    pub(crate) request: Request,
    /// The model that it asks.
    pub(crate) model: Model,
    /// The request's id.
    pub(crate) id: String,
}

impl Task {
    /// What the answer says besides what the model says.
    fn frame(&self, candidate: &Candidate, now: Timestamp) -> Frame {
        let Self { request, id, .. } = self;
        Frame {
            id: Frame::id(request.format, id),
            created: now.unix_seconds(),
            model: candidate.model.clone(),
            wants_usage: request.wants_usage,
            estimated_input: (request.bytes() as u64).div_ceil(4),
            request: (request.format == Format::Responses).then(|| request.to_json()).flatten(),
        }
    }

    fn ask<'a>(&'a self, candidate: &'a Candidate) -> Ask<'a> {
        Ask {
            request: &self.request,
            prompt: None,
            candidate,
            timeouts: self.model.timeouts,
            id: &self.id,
            thoughtless: false,
        }
    }
}

/// Sends a request to the candidates of its model, one after the other, until one has begun to answer.
pub(crate) async fn answer<P: Platform>(node: &Node<P>, task: Task) -> Result<Answer, Failure> {
    let task = Rc::new(task);
    let model = &task.model;
    let mut alarm = Alarm::new(node.clone(), model.timeouts.total);
    let mut route = Route::new(model, &node.health().borrow(), node.platform().now());
    let mut attempts: Vec<(Candidate, ProviderError)> = Vec::new();
    let mut next = route.first();
    while let Some(candidate) = next {
        alarm.attempt(route.left());
        let thoughtless = attempts.iter().any(|(_, error)| error.class == Class::Bound);
        let ask = Ask { thoughtless, ..task.ask(&candidate) };
        let error = match attempt::start(node, ask, &mut alarm).await {
            Ok(committed) => {
                let attempts = u32::try_from(attempts.len()).unwrap_or(u32::MAX).saturating_add(1);
                let body = match committed {
                    Committed::Whole(format, bytes, transcript) => {
                        node.health().borrow_mut().succeeded(&candidate);
                        if format == task.request.format {
                            Body::Full(bytes)
                        } else {
                            let frame = task.frame(&candidate, node.platform().now());
                            let whole = wire::writer::whole(task.request.format, &frame, &transcript, None);
                            Body::Full(whole.to_string().into())
                        }
                    }
                    Committed::Stream(opening) => {
                        alarm.committed();
                        relay::stream(node.clone(), task, candidate.clone(), opening, attempts, alarm)
                    }
                };
                return Ok(Answer { candidate, attempts, body });
            }
            Err(error) => error,
        };
        failed(node, &candidate, &error);
        let out_of_time = alarm.is_over();
        next = match route.next(candidate.clone(), &error, node.chance()) {
            Next::Try(candidate, pause) if !out_of_time => {
                if !pause.is_zero() {
                    node.platform().sleep(pause).await;
                }
                Some(candidate)
            }
            Next::Try(..) | Next::Stop => None,
        };
        attempts.push((candidate, error));
    }
    let retry_after = soonest(node, model, &attempts);
    Err(Failure { attempts, retry_after })
}

/// Lets the node remember that a candidate failed.
fn failed<P: Platform>(node: &Node<P>, candidate: &Candidate, error: &ProviderError) {
    let (now, chance) = (node.platform().now(), node.chance());
    node.health().borrow_mut().failed(candidate, error, now, chance);
}

/// The time until the first candidate is back, if waiting can help at all.
fn soonest<P: Platform>(
    node: &Node<P>,
    model: &Model,
    attempts: &[(Candidate, ProviderError)],
) -> Option<Duration> {
    let now: Timestamp = node.platform().now();
    let health = node.health().borrow();
    let parked = model.candidates.iter().filter_map(|candidate| health.parked_until(candidate, now));
    let waits = parked.map(|until| until.since(now));
    let asked = attempts.iter().filter_map(|(_, error)| error.retry_after);
    waits.chain(asked).min()
}

/// The error for a clock that ran out.
fn late(which: &str) -> ProviderError {
    ProviderError::new(Class::Timeout, format!("the provider took too long: {which}"))
}

/// Bytes that a provider sent, or the reason why there are none.
type Chunk = Result<Option<Bytes>, ProviderError>;

#[cfg(test)]
mod tests;
