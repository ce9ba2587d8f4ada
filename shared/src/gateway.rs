//! Gets an answer from the candidates of a model: calls one after the other until one has begun to answer.
//!
//! `routing` decides which candidate is next and `provider` how it is called. HTTP towards the client is in `api`.

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

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;

use crate::{
    body::Body,
    deadlines::{Deadlines, SlowAttempt},
    entry::LogId,
    error::{ErrorClass, ProviderDetail, ProviderError},
    limits::Permit,
    model::{Candidate, Model, Prefer, Rescue},
    node::Node,
    platform::Platform,
    routing::{CandidateQueue, NextStep, RequestNeeds, warm::CacheKey},
    time::Timestamp,
    trace::Trace,
    usage,
    wire::{self, Format, Frame, Request, Transcript},
};
use attempt::Attempt;
use delta_sink::DeltaSink;
use dispatch::{AttemptRequest, Committed};
pub(crate) use failure::{Failure, OVERLOADED, Verdict};
use hedge::{FinishedAttempt, HedgeResult, PreparedAttempt};
use recorder::Recorder;
use rescue::Continuation;

/// An answer that has begun. It contains nothing of failed attempts.
pub(crate) struct Answer {
    /// The candidate that answers.
    pub(crate) candidate: Candidate,
    /// Upstream calls so far, this one included.
    pub(crate) attempts: u32,
    /// The fields of the request that the candidate did not get.
    pub(crate) dropped: Vec<String>,
    /// The answer, in the wire format of the request.
    pub(crate) body: Body,
}

/// Largest answer that is not streamed: an isolate on Workers has 128 MB in all.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// One request with everything that its attempts need.
pub(crate) struct GatewayRequest {
    /// The client's request.
    pub(crate) request: Request,
    /// The requested model, with its candidates.
    pub(crate) model: Rc<Model>,
    /// The request's id.
    pub(crate) id: String,
    /// The name of the caller's key.
    pub(crate) caller: String,
    /// The log of the conversation that the request belongs to.
    pub(crate) conversation: Option<LogId>,
    /// The client's trace, if it sent one.
    pub(crate) trace: Option<Trace>,
    /// Counts the request as in flight until the answer has ended. `None` for the calls of a turn and for summaries.
    #[expect(dead_code, reason = "held for its drop")]
    pub(crate) permit: Option<Permit>,
    /// Receives the answer as deltas; `None` if the client gets bytes in the request's format.
    pub(crate) delta_sink: Option<DeltaSink>,
    /// The answer so far, if an earlier process received it and died.
    pub(crate) partial_answer: Option<Transcript>,
}

impl GatewayRequest {
    /// The fields of the answer besides the model's content.
    fn frame(&self, candidate: &Candidate, now: Timestamp) -> Frame {
        let Self { request, id, .. } = self;
        Frame {
            id: Frame::id(request.format, id),
            created: now.unix_seconds(),
            model: candidate.model.clone(),
            wants_usage: request.wants_usage,
            estimated_input: usage::estimate_tokens(request.bytes()),
            completed: Some(now.unix_seconds()),
            request: (request.format == Format::Responses).then(|| request.settings()),
            client_tools: request.client_tools(),
            mark: None,
        }
    }

    /// How the candidate is asked to continue the partial answer. `None` if there is no partial answer, or no safe way
    /// to continue it.
    fn continuation<P: Platform>(&self, node: &Node<P>, candidate: &Candidate) -> Option<Continuation> {
        if self.model.rescue == Rescue::Error {
            return None;
        }
        let vendor = node.config().provider(&candidate.provider)?.vendor;
        rescue::plan(&self.request, self.partial_answer.as_ref()?, vendor, &candidate.model)
    }

    /// How long the candidate may think before its next content; `None` if it does not think.
    ///
    /// The operator's word counts most, then the request's, then what is known of the model.
    fn thinking<P: Platform>(&self, node: &Node<P>, candidate: &Candidate) -> Option<Duration> {
        let thinks = self.model.thinks.or(self.request.thinks);
        let thinks = thinks.unwrap_or_else(|| node.config().facts(candidate).thinks);
        thinks.then_some(self.model.timeouts.thinking)
    }

    /// The share of the time that a call of the candidate needs if it thinks.
    fn slow_attempt<P: Platform>(&self, node: &Node<P>, candidate: &Candidate) -> Option<SlowAttempt> {
        let left_to_others = self.model.timeouts.first_token;
        self.thinking(node, candidate).map(|takes| SlowAttempt { takes, left_to_others })
    }

    /// The request as a first attempt sends it to the candidate.
    fn attempt_request<P: Platform>(&self, node: &Node<P>, candidate: &Candidate) -> AttemptRequest<'_> {
        let (request, timeouts, id) = (&self.request, self.model.timeouts, self.id.as_str());
        AttemptRequest {
            request,
            caller: &self.caller,
            prompt: None,
            translation: &self.model.translation,
            timeouts,
            thinking: self.thinking(node, candidate),
            id,
            without_thoughts: false,
            trace: self.trace.as_ref(),
        }
    }

    /// Identifies the prompt cache of the request's session: by its conversation, by the client's own key, or by the
    /// beginning of the prompt. `None` if the order of the candidates does not depend on it.
    fn cache_key(&self) -> Option<CacheKey> {
        let has_cache = matches!(self.request.format, Format::Chat | Format::Responses | Format::Messages);
        if !has_cache || self.model.prefer == Prefer::Order || self.model.candidates.len() < 2 {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (&self.caller, &self.model.name).hash(&mut hasher);
        match self.conversation {
            Some(log) => log.to_string().hash(&mut hasher),
            None => self.request.digest_prefix(&mut hasher),
        }
        Some(CacheKey(hasher.finish()))
    }

    /// Orders the candidates by their health now and by what the request needs.
    async fn route<P: Platform>(&self, node: &Node<P>, cache_key: Option<CacheKey>) -> CandidateQueue {
        let (request, facts) = (&self.request, |candidate: &Candidate| node.config().facts(candidate));
        let input = usage::estimate_tokens(request.bytes());
        // Finding images means parsing the whole request, so that is done only if a candidate can't take them.
        let images_matter = self.model.candidates.iter().any(|candidate| !facts(candidate).images);
        let needs = RequestNeeds {
            input_tokens: input,
            output_tokens: request.max_output.unwrap_or(input),
            tools: request.has_tools,
            images: images_matter && !node.in_pieces(request.find_extras()).await.images.is_empty(),
        };
        let (health, now) = (node.health().borrow(), node.platform().now());
        let warm_caches = node.warm_caches().borrow();
        let warm = cache_key.and_then(|key| warm_caches.candidate(key, now));
        CandidateQueue::new(&self.model, &health, facts, &needs, now, warm, || node.random_u32())
    }
}

/// Sends a request to the candidates of its model, one after the other, until one has begun to answer.
pub(crate) async fn answer<P: Platform>(node: &Node<P>, task: GatewayRequest) -> Result<Answer, Failure> {
    let task = Rc::new(task);
    let mut deadlines = RequestDeadlines::new(node.clone(), task.model.timeouts.total);
    let cache_key = task.cache_key();
    let mut route = task.route(node, cache_key).await;
    let recorder = Recorder::begin(node, &task);
    let mut failed: Vec<(Candidate, ProviderError)> = Vec::new();
    node.retries().borrow_mut().deposit(node.platform().now());
    let mut next = route.take(&node.health().borrow(), node.platform().now());
    loop {
        let candidate = match next {
            NextStep::Try(candidate) => candidate,
            NextStep::Wait(pause) if !deadlines.is_exceeded() => {
                let left = deadlines.total().since(node.platform().now());
                node.platform().sleep(pause.min(left)).await;
                next = route.take(&node.health().borrow(), node.platform().now());
                continue;
            }
            NextStep::Wait(_) | NextStep::Stop => break,
        };
        // A call counts as a retry only if its candidate has failed lately: failover to a healthy candidate must not
        // depend on the retry budget.
        let was_called = failed.iter().any(|(_, error)| !error.class.is_local());
        let is_retry = was_called && node.candidate_health(&candidate).is_suspect();
        if is_retry && !node.retries().borrow_mut().withdraw(node.platform().now()) {
            next = route.skip(&node.health().borrow(), node.platform().now());
            continue;
        }
        deadlines.begin_attempt(route.candidates_left(), task.slow_attempt(node, &candidate));
        // Thoughts that one account refuses as bound to another are left out of all later attempts.
        let without_thoughts = failed.iter().any(|(_, error)| error.class == ErrorClass::BoundThoughts);
        let attempt = Attempt::begin(node, &candidate, Some(&recorder));
        let HedgeResult { finished, failed: failed_beside } =
            call(node, &task, attempt, deadlines, without_thoughts, &mut route, &recorder).await;
        let attempt = finished.attempt;
        deadlines = finished.deadlines;
        if let Some((attempt, error)) = failed_beside {
            failed.push((attempt.candidate.clone(), error));
        }
        // With a hedge, this may be another candidate than the one that the route gave.
        let candidate = attempt.candidate.clone();
        match finished.result {
            Ok(committed) => {
                recorder.record_first_content(&attempt);
                if let Some(key) = cache_key {
                    node.warm_caches().borrow_mut().record(key, &candidate, node.platform().now());
                }
                let attempts = u32::try_from(failed.len()).unwrap_or(u32::MAX).saturating_add(1);
                let dropped = attempt.dropped.clone();
                let body = answer_body(node, task, attempt, committed, attempts, deadlines, recorder);
                return Ok(Answer { candidate, attempts, dropped, body });
            }
            Err(error) => {
                let (has_another_key, key) = (attempt.record_failure(&error), attempt.key);
                // Dropping the attempt settles its reservation, so that the next one can use the money.
                drop(attempt);
                let is_exceeded = deadlines.is_exceeded();
                let (health, now) = (node.health().borrow(), node.platform().now());
                next = if has_another_key {
                    route.after_refused_key(candidate.clone(), key, &health, now)
                } else {
                    route.after_failure(candidate.clone(), &error, &health, now, node.random_u32())
                };
                drop(health);
                failed.push((candidate, error));
                if is_exceeded {
                    break;
                }
            }
        }
    }
    recorder.record_outcome("failed");
    let retry_after = soonest_retry(node, &task.model, &failed);
    let attempts = failed.into_iter().map(|(candidate, error)| {
        let error = without_secrets(node, &candidate, error);
        (candidate, error)
    });
    Err(Failure { attempts: attempts.collect(), retry_after })
}

/// Encodes the call of `attempt`, reserves its cost, and makes it. A partial answer is continued; any other call may be
/// hedged.
async fn call<P: Platform>(
    node: &Node<P>,
    task: &Rc<GatewayRequest>,
    mut attempt: Attempt<P>,
    mut deadlines: RequestDeadlines<P>,
    without_thoughts: bool,
    route: &mut CandidateQueue,
    recorder: &Recorder<P>,
) -> HedgeResult<P> {
    let result = if task.partial_answer.is_some() {
        // Boxed, since it is rare, and its state would be part of every request's.
        Box::pin(resume(node, task, &mut attempt, &mut deadlines)).await
    } else {
        let attempt_request =
            AttemptRequest { without_thoughts, ..task.attempt_request(node, &attempt.candidate) };
        match dispatch::prepare(node, &mut attempt, attempt_request).await {
            Ok(prepared) => {
                let first = PreparedAttempt { attempt, prepared, deadlines };
                return hedge::start(node, task, first, without_thoughts, route, recorder).await;
            }
            Err(error) => Err(error),
        }
    };
    HedgeResult { finished: FinishedAttempt { attempt, deadlines, result }, failed: None }
}

/// Asks the candidate of `attempt` for the rest of the partial answer.
async fn resume<P: Platform>(
    node: &Node<P>,
    task: &GatewayRequest,
    attempt: &mut Attempt<P>,
    deadlines: &mut RequestDeadlines<P>,
) -> Result<Committed<P>, ProviderError> {
    let Some(continuation) = task.continuation(node, &attempt.candidate) else {
        let message = "the partial answer can't be continued at this provider";
        return Err(ProviderError::new(ErrorClass::Unsupported, message));
    };
    let prompt = Some(&continuation.prompt);
    let attempt_request = AttemptRequest { prompt, ..task.attempt_request(node, &attempt.candidate) };
    let prepared = dispatch::prepare(node, attempt, attempt_request).await?;
    dispatch::start(node, attempt, prepared, attempt_request, deadlines).await
}

/// The body of an answer that has begun, in the request's format.
fn answer_body<P: Platform>(
    node: &Node<P>,
    task: Rc<GatewayRequest>,
    attempt: Attempt<P>,
    committed: Committed<P>,
    attempts: u32,
    mut deadlines: RequestDeadlines<P>,
    recorder: Recorder<P>,
) -> Body {
    match committed {
        Committed::Whole(format, bytes, mut transcript) => {
            attempt.record_success();
            recorder.record_outcome("answered");
            recorder.record_content(&transcript);
            if format == task.request.format {
                return Body::Full(bytes);
            }
            let frame = task.frame(&attempt.candidate, node.platform().now());
            transcript.usage.get_or_insert_with(|| attempt.meter.borrow().reported_usage());
            let whole = wire::writer::whole(task.request.format, &frame, &transcript);
            Body::Full(whole.to_string().into())
        }
        Committed::Stream(opened) => {
            deadlines.commit();
            relay::stream(node.clone(), task, attempt, opened, attempts, deadlines, recorder)
        }
    }
}

/// How long until a retry may succeed: until the first parked candidate is back, or as a provider requested. `None` if
/// waiting doesn't help.
fn soonest_retry<P: Platform>(
    node: &Node<P>,
    model: &Model,
    failed: &[(Candidate, ProviderError)],
) -> Option<Duration> {
    let now = node.platform().now();
    let health = node.health().borrow();
    let parked = model.candidates.iter().filter_map(|candidate| health.available_at(candidate, now));
    let pauses = parked.map(|back_at| back_at.since(now));
    let requested = failed.iter().filter_map(|(_, error)| error.retry_after);
    pauses.chain(requested).min()
}

/// The error of a candidate without its provider's keys, which the provider may have repeated.
fn without_secrets<P: Platform>(
    node: &Node<P>,
    candidate: &Candidate,
    mut error: ProviderError,
) -> ProviderError {
    let keys = node.config().provider_keys(&candidate.provider);
    if let Some(ProviderDetail { message, kind, param, code }) = error.detail.as_deref_mut() {
        for text in [Some(message), kind.as_mut(), param.as_mut(), code.as_mut()].into_iter().flatten() {
            *text = keys.iter().fold(std::mem::take(text), |text, key| key.remove_from(&text));
        }
    }
    error
}

/// The error for a deadline that has passed.
fn deadline_error(deadline: &str) -> ProviderError {
    ProviderError::new(ErrorClass::Timeout, format!("the provider took too long: {deadline}"))
}

/// The error for an answer that stopped before its end.
pub(crate) fn truncated() -> ProviderError {
    dispatch::truncated()
}

/// The deadlines of a request and its attempts.
type RequestDeadlines<P> = Deadlines<'static, Node<P>>;

/// The provider's next bytes, or `None` at the end of its answer.
type NextChunk = Result<Option<Bytes>, ProviderError>;

#[cfg(test)]
mod tests;
