//! Makes the model call of a step and appends the answer in pieces while it arrives. Which candidate answers is decided
//! by the gateway.

use std::{future::poll_fn, pin::Pin, rc::Rc, time::Duration};

use futures_util::future::{Either, select};
use http_body::Body as _;

use super::{
    Toolbox,
    run::{HEARTBEAT, RunError, Runner},
};
use crate::{
    entry::Draft,
    error::ProviderError,
    gateway::{self, Answer, Failure, GatewayRequest, Verdict, delta_sink::DeltaSink},
    model::{Candidate, Model},
    platform::Platform,
    session::{
        history,
        step::StepEnded,
        turn::{self, AnsweredBy, TurnError, TurnId, TurnOpened, TurnOutcome},
    },
    time::Timestamp,
    wire::{Delta, Request, Transcript},
};

/// Interval at which deltas are written, and so shown, while a client streams the answer. Each write costs a flush, or
/// money.
const STREAMED_INTERVAL: Duration = Duration::from_millis(200);

/// The interval while no client streams the answer: what a crash may lose of it.
const UNWATCHED_INTERVAL: Duration = Duration::from_secs(2);

/// Unwritten bytes of an answer that are written at once, whatever the interval.
const MAX_UNWRITTEN: usize = 64 * 1024;

/// The answer as far as it has arrived.
#[derive(Default)]
struct PartialAnswer {
    answer: Transcript,
    /// Deltas that are not in the log yet.
    unwritten: Vec<Delta<'static>>,
    /// Bytes in `unwritten`.
    bytes: usize,
    candidate: Option<Candidate>,
    /// Calls of providers that the answer took.
    attempts: Option<u32>,
    /// Whether the log names the candidate already.
    is_announced: bool,
}

impl<P: Platform> Runner<'_, P> {
    /// Calls the model and records its answer. If a run that died left a partial answer, the model continues that.
    /// `prepared` is the client's request, if it can be sent as it is.
    pub(super) async fn ask_model(
        &self,
        toolbox: &Toolbox<'_, P>,
        opened: &TurnOpened,
        prepared: Option<Request>,
    ) -> Result<(), RunError> {
        let Some(model) = self.node.config().model(&opened.model) else {
            return self
                .fail(TurnError::unknown_model(self.node.config().unknown_model(&opened.model)))
                .await;
        };
        let request = match prepared {
            Some(request) => request,
            None => {
                let items = self.items(opened).await?;
                let functions = self.functions(toolbox, opened, &items);
                let is_continued = !self.progress.borrow().steps().is_empty();
                match history::request(opened, items, functions, is_continued) {
                    Ok(request) => request,
                    Err(error) => return self.fail(error.into()).await,
                }
            }
        };
        let earlier = self.progress.borrow().partial_answer().clone();
        let earlier = Some(earlier).filter(|earlier| !earlier.blocks.is_empty());
        let continues = earlier.is_some();
        let mut sink = DeltaSink::default();
        let mut partial =
            PartialAnswer { answer: earlier.clone().unwrap_or_default(), ..PartialAnswer::default() };
        let call = self.gateway_request(request.clone(), model.clone(), opened, earlier, &sink);
        let mut answer = self.call_gateway(call).await?;
        // No candidate can continue the partial answer. It is withdrawn in the log, so that clients discard it, before
        // the model starts over.
        if continues && answer.as_ref().is_err_and(Failure::is_unsupported) {
            (partial, sink) = (PartialAnswer::default(), DeltaSink::default());
            self.append(vec![turn::draft_deltas(self.turn, true, None, Vec::new())], false).await?;
            answer = self.call_gateway(self.gateway_request(request, model, opened, None, &sink)).await?;
        }
        match answer {
            Ok(answer) => self.record_answer(answer, &sink, partial).await,
            Err(failure) => self.finish(TurnOutcome::Failed, &partial, Some(turn_error(&failure))).await,
        }
    }

    /// The functions of the turn's servers; none once the request's `max_tool_calls` is reached.
    fn functions(
        &self,
        toolbox: &Toolbox<'_, P>,
        opened: &TurnOpened,
        items: &[serde_json::Value],
    ) -> Vec<serde_json::Value> {
        let progress = self.progress.borrow();
        let max_calls = opened.request.get("max_tool_calls").and_then(serde_json::Value::as_u64);
        if max_calls.is_some_and(|max| progress.call_count() as u64 >= max) {
            return Vec::new();
        }
        progress.tools().map(|listed| toolbox.functions(listed, items)).unwrap_or_default()
    }

    /// The call of the gateway, without a permit: the turn holds the one of its client.
    fn gateway_request(
        &self,
        request: Request,
        model: Rc<Model>,
        opened: &TurnOpened,
        partial_answer: Option<Transcript>,
        sink: &DeltaSink,
    ) -> GatewayRequest {
        let (id, caller) = (self.id().to_string(), opened.owner.clone());
        GatewayRequest {
            request,
            model,
            id,
            caller,
            conversation: opened.in_conversation.then_some(self.log),
            trace: None,
            permit: None,
            delta_sink: Some(sink.clone()),
            partial_answer,
        }
    }

    /// Waits for the gateway's answer and appends an empty entry every [`HEARTBEAT`], so that the turn keeps its lease.
    async fn call_gateway(&self, request: GatewayRequest) -> Result<Result<Answer, Failure>, RunError> {
        let mut pending = Box::pin(gateway::answer(self.node, request));
        loop {
            let wait = Box::pin(self.wait(HEARTBEAT));
            match select(pending, wait).await {
                Either::Left((answer, _)) => return Ok(answer),
                Either::Right(((), unfinished)) => {
                    pending = unfinished;
                    self.append(vec![turn::draft_heartbeat(self.turn)], false).await?;
                }
            }
        }
    }

    /// Appends the answer's deltas while they arrive, and ends the step with the answer.
    async fn record_answer(
        &self,
        answer: Answer,
        sink: &DeltaSink,
        mut partial: PartialAnswer,
    ) -> Result<(), RunError> {
        partial.candidate = Some(answer.candidate);
        partial.attempts = Some(answer.attempts);
        let mut body = answer.body;
        let started_at = self.node.platform().now();
        let mut written_at: Option<Timestamp> = None;
        loop {
            // The end is read after the deltas, so that none of them is missing from the step.
            partial.drain(sink);
            if let Some(end) = sink.ended() {
                return self.end(end, &partial).await;
            }
            // Without deltas to append, the run would learn only at the next heartbeat that its turn was closed.
            if self.live.is_closed() {
                return Err(RunError::Fenced);
            }
            let interval = match (partial.has_content(), self.live.is_watched()) {
                (false, _) => HEARTBEAT,
                (true, false) => UNWATCHED_INTERVAL,
                // The first words are shown at once.
                (true, true) if written_at.is_none() => Duration::ZERO,
                (true, true) => STREAMED_INTERVAL,
            };
            let now = self.node.platform().now();
            let left = interval.saturating_sub(now.since(written_at.unwrap_or(started_at)));
            if left.is_zero() || partial.bytes > MAX_UNWRITTEN {
                self.append(vec![partial.draft(self.turn)], false).await?;
                written_at = Some(self.node.platform().now());
                continue;
            }
            // The body's frames carry no deltas; each only says that the sink has news.
            let next = Box::pin(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)));
            let body_ended = match select(next, Box::pin(self.wait(left))).await {
                Either::Left((frame, _)) => !matches!(frame, Some(Ok(_))),
                Either::Right(_) => false,
            };
            if body_ended && sink.ended().is_none() {
                partial.drain(sink);
                return self.end(Err(gateway::truncated()), &partial).await;
            }
        }
    }

    /// Ends the step after an answer that ended as `end`. An answer that broke off or fails its check fails the turn.
    async fn end(&self, end: Result<(), ProviderError>, partial: &PartialAnswer) -> Result<(), RunError> {
        match end.and_then(|()| partial.answer.check()) {
            Ok(()) => self.finish(TurnOutcome::of(&partial.answer), partial, None).await,
            Err(error) => {
                let message = format!("the answer broke off: {}", error.message);
                let (code, param, retry_after) = ("stream_interrupted".into(), None, None);
                let error = TurnError { status: 502, code, message, param, retry_after };
                self.finish(TurnOutcome::Failed, partial, Some(error)).await
            }
        }
    }

    /// Ends the step, and closes the turn with it unless the node has calls to make.
    async fn finish(
        &self,
        outcome: TurnOutcome,
        partial: &PartialAnswer,
        error: Option<TurnError>,
    ) -> Result<(), RunError> {
        let step = self.step(partial);
        if outcome == TurnOutcome::Completed && step.calls.iter().any(|call| !call.awaits_approval()) {
            return self.append(vec![step.draft(self.turn)], false).await;
        }
        self.close(outcome, step, error).await
    }

    /// The step's entry: the answer, its candidate, and its cost if the price is known.
    fn step(&self, partial: &PartialAnswer) -> StepEnded {
        let progress = self.progress.borrow();
        let (no_routes, at) = (std::collections::BTreeMap::new(), progress.block_count());
        let routes = progress.tools().map_or(&no_routes, |listed| &listed.routes);
        let (answer, now) = (&partial.answer, self.node.platform().now());
        let used = partial.candidate.as_ref().zip(answer.usage);
        let cost = used.and_then(|(candidate, usage)| self.node.config().cost(candidate, &usage, now));
        StepEnded {
            candidate: partial.candidate.as_ref().map(Candidate::to_string),
            attempts: partial.attempts,
            nano_usd: cost.map(|cost| cost.0),
            ..StepEnded::new(self.id(), at, answer, routes)
        }
    }
}

/// The error of a turn whose model call failed at every candidate.
fn turn_error(failure: &Failure) -> TurnError {
    let Verdict { status, code, message, param, retry_after, .. } = failure.verdict();
    let retry_after = retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    TurnError { status: status.as_u16(), code, message, param, retry_after }
}

impl PartialAnswer {
    /// Takes over the deltas that have arrived in `sink`.
    fn drain(&mut self, sink: &DeltaSink) {
        for delta in sink.take() {
            self.answer.apply(&delta);
            self.bytes += delta.bytes();
            self.unwritten.push(delta);
        }
    }

    /// Whether an unwritten delta adds to the answer. Others, such as usage, can wait for the heartbeat.
    fn has_content(&self) -> bool {
        self.unwritten.iter().any(|delta| delta.bytes() > 0)
    }

    /// The entry of the unwritten deltas; the first one names the candidate. Without deltas it is a heartbeat.
    fn draft(&mut self, turn: TurnId) -> Draft {
        self.bytes = 0;
        let is_announced = std::mem::replace(&mut self.is_announced, self.candidate.is_some());
        let candidate = self.candidate.as_ref().filter(|_| !is_announced);
        let answered_by = candidate
            .map(|candidate| AnsweredBy { candidate: candidate.to_string(), attempts: self.attempts });
        turn::draft_deltas(turn, false, answered_by, std::mem::take(&mut self.unwritten))
    }
}
