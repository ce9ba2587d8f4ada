use std::{future::poll_fn, pin::Pin, time::Duration};

use futures_util::future::{Either, select};
use http_body::Body as _;

use super::{
    Toolbox,
    run::{RunError, Runner, SIGN_OF_LIFE},
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
        turn::{self, TurnError, TurnId, TurnOpened, TurnOutcome},
    },
    time::Timestamp,
    wire::{Delta, Request, Transcript},
};

/// How long what was said may wait until it is written, and so seen: while somebody watches, and while nobody does. Each
/// write costs a flush, or money.
const WATCHED: Duration = Duration::from_millis(200);
const UNWATCHED: Duration = Duration::from_secs(2);

/// Bytes of an answer that are not kept waiting.
const MOST_WAITING: usize = 64 * 1024;

/// What a run has heard of the answer.
#[derive(Default)]
struct PartialAnswer {
    answer: Transcript,
    /// What is not written yet.
    waiting: Vec<Delta<'static>>,
    bytes: usize,
    candidate: Option<Candidate>,
}

impl<P: Platform> Runner<'_, P> {
    /// Asks a model, or asks for the rest of what one has begun to say, and writes down what it says. `prepared` is what it
    /// is asked, where that is known.
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
                let goes_on = !self.progress.borrow().steps().is_empty();
                match history::request(opened, items, functions, goes_on) {
                    Ok(request) => request,
                    Err(error) => return self.fail(error.into()).await,
                }
            }
        };
        let said = self.progress.borrow().partial_answer().clone();
        let said = Some(said).filter(|said| !said.blocks.is_empty());
        let again = said.is_some();
        let mut tap = DeltaSink::default();
        let mut heard =
            PartialAnswer { answer: said.clone().unwrap_or_default(), ..PartialAnswer::default() };
        let task = self.gateway_request(request.clone(), model.clone(), opened, said, &tap);
        let mut answer = self.answer(task).await?;
        // What was said can't be continued, so it is taken back.
        if again && answer.as_ref().is_err_and(Failure::is_unsupported) {
            (heard, tap) = (PartialAnswer::default(), DeltaSink::default());
            self.append(vec![turn::draft_deltas(self.turn, true, Vec::new())], false).await?;
            answer = self.answer(self.gateway_request(request, model, opened, None, &tap)).await?;
        }
        match answer {
            Ok(answer) => self.record_answer(answer, &tap, heard).await,
            Err(failure) => self.finish(TurnOutcome::Failed, &heard, Some(turn_error(&failure))).await,
        }
    }

    /// The functions that the model may have the node run, while the request allows more calls.
    fn functions(
        &self,
        toolbox: &Toolbox<'_, P>,
        opened: &TurnOpened,
        items: &[serde_json::Value],
    ) -> Vec<serde_json::Value> {
        let progress = self.progress.borrow();
        let most = opened.request.get("max_tool_calls").and_then(serde_json::Value::as_u64);
        if most.is_some_and(|most| progress.call_count() as u64 >= most) {
            return Vec::new();
        }
        progress.tools().map(|listed| toolbox.functions(listed, items)).unwrap_or_default()
    }

    fn gateway_request(
        &self,
        request: Request,
        model: Model,
        opened: &TurnOpened,
        resumes: Option<Transcript>,
        tap: &DeltaSink,
    ) -> GatewayRequest {
        let (id, caller) = (self.id().to_string(), opened.owner.clone());
        GatewayRequest {
            request,
            model,
            id,
            caller,
            trace: None,
            permit: None,
            delta_sink: Some(tap.clone()),
            partial_answer: resumes,
        }
    }

    /// Asks the gateway, and says now and then that somebody is still at it.
    async fn answer(&self, task: GatewayRequest) -> Result<Result<Answer, Failure>, RunError> {
        let mut asking = Box::pin(gateway::answer(self.node, task));
        loop {
            let wait = Box::pin(self.wait(SIGN_OF_LIFE));
            match select(asking, wait).await {
                Either::Left((answer, _)) => return Ok(answer),
                Either::Right(((), still)) => {
                    asking = still;
                    self.append(vec![turn::draft_deltas(self.turn, false, Vec::new())], false).await?;
                }
            }
        }
    }

    /// Writes down what the model says, until it has said all.
    async fn record_answer(
        &self,
        answer: Answer,
        tap: &DeltaSink,
        mut heard: PartialAnswer,
    ) -> Result<(), RunError> {
        heard.candidate = Some(answer.candidate);
        let mut body = answer.body;
        let began = self.node.platform().now();
        let mut written: Option<Timestamp> = None;
        loop {
            heard.drain(tap);
            if let Some(end) = tap.ended() {
                return self.end(end, &heard).await;
            }
            if self.live.is_closed() {
                return Err(RunError::Fenced);
            }
            let rhythm = match (heard.has_content(), self.live.is_watched()) {
                (false, _) => SIGN_OF_LIFE,
                (true, false) => UNWATCHED,
                // The first words are seen at once.
                (true, true) if written.is_none() => Duration::ZERO,
                (true, true) => WATCHED,
            };
            let now = self.node.platform().now();
            let left = rhythm.saturating_sub(now.since(written.unwrap_or(began)));
            if left.is_zero() || heard.bytes > MOST_WAITING {
                self.append(vec![heard.draft(self.turn)], false).await?;
                written = Some(self.node.platform().now());
                continue;
            }
            let next = Box::pin(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)));
            let ended = match select(next, Box::pin(self.wait(left))).await {
                Either::Left((frame, _)) => !matches!(frame, Some(Ok(_))),
                Either::Right(_) => false,
            };
            if ended && tap.ended().is_none() {
                heard.drain(tap);
                return self.end(Err(gateway::truncated()), &heard).await;
            }
        }
    }

    async fn end(&self, end: Result<(), ProviderError>, heard: &PartialAnswer) -> Result<(), RunError> {
        match end.and_then(|()| heard.answer.check()) {
            Ok(()) => self.finish(TurnOutcome::of(&heard.answer), heard, None).await,
            Err(error) => {
                let message = format!("the answer broke off: {}", error.message);
                let (code, param, retry_after) = ("stream_interrupted".into(), None, None);
                let error = TurnError { status: 502, code, message, param, retry_after };
                self.finish(TurnOutcome::Failed, heard, Some(error)).await
            }
        }
    }

    /// Ends the step: and the turn with it, unless there are calls to be made.
    async fn finish(
        &self,
        outcome: TurnOutcome,
        heard: &PartialAnswer,
        error: Option<TurnError>,
    ) -> Result<(), RunError> {
        let answered = self.answered(heard);
        if outcome == TurnOutcome::Completed && answered.calls.iter().any(|call| !call.awaits_approval()) {
            return self.append(vec![answered.draft(self.turn)], false).await;
        }
        self.close(outcome, answered, error).await
    }

    fn answered(&self, heard: &PartialAnswer) -> StepEnded {
        let progress = self.progress.borrow();
        let (none, at) = (std::collections::BTreeMap::new(), progress.block_count());
        let routes = progress.tools().map_or(&none, |listed| &listed.routes);
        let (answer, now) = (&heard.answer, self.node.platform().now());
        let price = heard.candidate.as_ref().and_then(|candidate| self.node.config().facts(candidate).price);
        let cost = price.zip(answer.usage).map(|(price, usage)| price.cost(&usage, now));
        StepEnded {
            candidate: heard.candidate.as_ref().map(Candidate::to_string),
            nano_usd: cost.map(|cost| cost.0),
            ..StepEnded::new(self.id(), at, answer, routes)
        }
    }
}

/// The error of a turn that no candidate answered.
fn turn_error(failure: &Failure) -> TurnError {
    let Verdict { status, code, message, param, retry_after, .. } = failure.verdict();
    let retry_after = retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    TurnError { status: status.as_u16(), code, message, param, retry_after }
}

impl PartialAnswer {
    fn drain(&mut self, tap: &DeltaSink) {
        for delta in tap.take() {
            self.answer.apply(&delta);
            self.bytes += delta.bytes();
            self.waiting.push(delta);
        }
    }

    /// Whether there is anything to see.
    fn has_content(&self) -> bool {
        self.waiting.iter().any(|delta| delta.bytes() > 0)
    }

    fn draft(&mut self, turn: TurnId) -> Draft {
        self.bytes = 0;
        turn::draft_deltas(turn, false, std::mem::take(&mut self.waiting))
    }
}
