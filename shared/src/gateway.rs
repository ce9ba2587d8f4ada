//! Gets an answer from the candidates of a model: the one place where a request meets providers.

mod alarm;
mod attempt;
mod relay;

use std::time::Duration;

use bytes::Bytes;

use crate::{
    body::Body,
    config::{Candidate, Model},
    node::Node,
    platform::{Platform, Timestamp},
    provider::{Class, ProviderError, chat::ChatRequest},
    routing::{Next, Route},
};
use alarm::Alarm;
use attempt::Committed;

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

/// Sends `request` to the candidates of `model`, one after the other, until one has begun to answer.
pub(crate) async fn chat<P: Platform>(
    node: &Node<P>,
    request: &ChatRequest,
    model: &Model,
    id: &str,
) -> Result<Answer, Failure> {
    let mut alarm = Alarm::new(node.clone(), model.timeouts.total);
    let mut route = Route::new(model, &node.health().borrow(), node.platform().now());
    let mut attempts = Vec::new();
    let mut next = route.first();
    while let Some(candidate) = next {
        alarm.attempt(route.left());
        let outcome = attempt::start(node, request, &candidate, model.timeouts, id, &mut alarm).await;
        let error = match outcome {
            Ok(committed) => {
                let attempts = u32::try_from(attempts.len()).unwrap_or(u32::MAX).saturating_add(1);
                let body = match committed {
                    Committed::Whole(bytes) => {
                        node.health().borrow_mut().succeeded(&candidate);
                        Body::Full(bytes)
                    }
                    Committed::Stream(opening) => {
                        alarm.committed();
                        relay::stream(node.clone(), candidate.clone(), opening, model.timeouts.idle, alarm)
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
