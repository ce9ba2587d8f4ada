use std::{future::poll_fn, pin::Pin, rc::Rc, time::Duration};

use futures_util::future::{Either, select};
use http_body::Body as _;

use super::{Live, after, history, lease};
use crate::{
    api::{error::ApiError, limits::Permit},
    gateway::{self, Answer, Failure, Task, tap::Tap},
    node::Node,
    platform::{Platform, StoreError, Timestamp},
    provider::ProviderError,
    session::{
        Reply,
        conversation::{Conversation, Place},
        entry::{Draft, Entry, Kind, LogId},
        history as prompt,
        log::{CommitError, Decision},
        turn::{self, Closed, Opened, Outcome, ResponseId, TurnError, TurnId},
    },
    wire::{Delta, Format, Request, Transcript},
};

/// How long what was said may wait until it is written, and so seen: while somebody watches, and while nobody does. Each
/// write costs a flush, or money.
const WATCHED: Duration = Duration::from_millis(200);
const UNWATCHED: Duration = Duration::from_secs(2);

/// Bytes of an answer that are not kept waiting.
const MOST_WAITING: usize = 64 * 1024;

/// How often a run says that it is alive, well within the lease.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// Runs a turn that was opened here, beside everything else.
pub(crate) fn start<P: Platform>(
    node: &Node<P>,
    log: LogId,
    turn: TurnId,
    live: Rc<Live>,
    permit: Permit,
    request: Request,
) {
    let running = node.clone();
    let work = async move { run(&running, log, turn, &live, Some((permit, request))).await };
    node.platform().spawn(Box::pin(work));
}

/// Runs a turn to its end. `live` has the turn's entries so far. Whatever goes wrong ends the turn, except that a store
/// which does not answer leaves it to the next run.
pub(super) async fn run<P: Platform>(
    node: &Node<P>,
    log: LogId,
    turn: TurnId,
    live: &Rc<Live>,
    begun: Option<(Permit, Request)>,
) {
    let run = live.entries(0).iter().filter(|entry| is_run(entry)).map(place).max();
    let runner = Runner { node, log, turn, live, run };
    // What can't be written is not lost: the log wants to be woken.
    let _ = runner.run(begun).await;
    live.end();
}

fn is_run(entry: &Entry) -> bool {
    matches!(entry.header().kind, Kind::TURN_OPENED | Kind::TURN_RUN)
}

fn place(entry: &Entry) -> Place {
    let header = entry.header();
    (header.hlc, header.origin.clone(), header.seq)
}

struct Runner<'a, P: Platform> {
    node: &'a Node<P>,
    log: LogId,
    turn: TurnId,
    live: &'a Rc<Live>,
    /// The entry by which this run began.
    run: Option<Place>,
}

/// Why a run ends without having ended its turn.
enum Left {
    /// The turn has ended, or another run goes on with it.
    Fenced,
    Store,
}

impl From<StoreError> for Left {
    fn from(_: StoreError) -> Self {
        Self::Store
    }
}

/// What a run has heard of the answer.
#[derive(Default)]
struct Heard {
    answer: Transcript,
    /// What is not written yet.
    waiting: Vec<Delta<'static>>,
    bytes: usize,
    candidate: Option<String>,
}

impl<P: Platform> Runner<'_, P> {
    async fn run(&self, begun: Option<(Permit, Request)>) -> Result<(), Left> {
        let mut reply = Reply::new(ResponseId { log: self.log, turn: self.turn }, None);
        for entry in self.live.entries(0) {
            reply.apply(&entry, &mut Vec::new()).map_err(StoreError::from)?;
        }
        let (Some(opened), None) = (reply.opened(), reply.closed()) else { return Err(Left::Fenced) };
        let said = reply.answer().filter(|said| !said.blocks.is_empty()).cloned();
        let task = match self.task(opened, said.clone(), begun).await? {
            Ok(task) => task,
            Err(error) => {
                return self.close(Outcome::Failed, &Heard::default(), Some(error.into_turn_error())).await;
            }
        };
        let mut tap = task.tap.clone().unwrap_or_default();
        let again = said.as_ref().map(|_| (task.request.clone(), task.model.clone()));
        let mut heard = Heard { answer: said.unwrap_or_default(), ..Heard::default() };
        let answer = match (self.answer(task).await?, again) {
            // What was said can't be continued, so it is taken back.
            (Err(failure), Some((request, model))) if failure.is_unsupported() => {
                heard = Heard::default();
                self.append(vec![turn::draft_deltas(self.turn, true, Vec::new())], false).await?;
                tap = Tap::default();
                let task = self.task_of(request, model, opened, None, None, &tap);
                self.answer(task).await?
            }
            (answer, _) => answer,
        };
        match answer {
            Ok(answer) => self.hear(answer, &tap, heard).await,
            Err(failure) => {
                let error = ApiError::from(failure).into_turn_error();
                self.close(Outcome::Failed, &heard, Some(error)).await
            }
        }
    }

    /// What the gateway is asked. The inner error is the caller's.
    async fn task(
        &self,
        opened: &Opened,
        resumes: Option<Transcript>,
        begun: Option<(Permit, Request)>,
    ) -> Result<Result<Task, ApiError>, Left> {
        let Some(model) = self.node.config().model(&opened.model) else {
            return Ok(Err(ApiError::unknown_model(&opened.model, &[])));
        };
        let (permit, request) = match begun {
            Some((permit, request)) => (Some(permit), Ok(request)),
            None => {
                let history = history(self.node, self.log, Some(self.turn), opened).await?;
                (None, Request::parse(Format::Responses, prompt::request(opened, history)))
            }
        };
        let task = |request| self.task_of(request, model, opened, resumes, permit, &Tap::default());
        Ok(request.map(task).map_err(Into::into))
    }

    fn task_of(
        &self,
        request: Request,
        model: crate::config::Model,
        opened: &Opened,
        resumes: Option<Transcript>,
        permit: Option<Permit>,
        tap: &Tap,
    ) -> Task {
        let id = ResponseId { log: self.log, turn: self.turn }.to_string();
        let caller = opened.owner.clone();
        Task { request, model, id, caller, trace: None, permit, tap: Some(tap.clone()), resumes }
    }

    /// Asks the gateway, and says now and then that somebody is still at it.
    async fn answer(&self, task: Task) -> Result<Result<Answer, Failure>, Left> {
        let mut asking = Box::pin(gateway::answer(self.node, task));
        loop {
            let wait = Box::pin(self.pause(SIGN_OF_LIFE));
            match select(asking, wait).await {
                Either::Left((answer, _)) => return Ok(answer),
                Either::Right(((), still)) => {
                    asking = still;
                    self.append(vec![turn::draft_deltas(self.turn, false, Vec::new())], false).await?;
                }
            }
        }
    }

    /// Sleeps, unless the turn is ended from outside meanwhile.
    async fn pause(&self, duration: Duration) {
        let seen = self.live.entries(0).len();
        let stirred = Box::pin(self.live.beyond(seen));
        let slept = Box::pin(self.node.platform().sleep(duration));
        select(stirred, slept).await;
    }

    /// Writes down what the model says, until it has said all.
    async fn hear(&self, answer: Answer, tap: &Tap, mut heard: Heard) -> Result<(), Left> {
        heard.candidate = Some(answer.candidate.to_string());
        let mut body = answer.body;
        let began = self.node.platform().now();
        let mut written: Option<Timestamp> = None;
        loop {
            heard.take(tap);
            if let Some(end) = tap.ended() {
                return self.end(end, &heard).await;
            }
            if self.live.is_closed() {
                return Err(Left::Fenced);
            }
            let rhythm = match (heard.is_worth_it(), self.live.is_watched()) {
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
            let ended = match select(next, Box::pin(self.pause(left))).await {
                Either::Left((frame, _)) => !matches!(frame, Some(Ok(_))),
                Either::Right(_) => false,
            };
            if ended && tap.ended().is_none() {
                heard.take(tap);
                return self.end(Err(gateway::truncated()), &heard).await;
            }
        }
    }

    async fn end(&self, end: Result<(), ProviderError>, heard: &Heard) -> Result<(), Left> {
        match end.and_then(|()| heard.answer.check()) {
            Ok(()) => self.close(Outcome::of(&heard.answer), heard, None).await,
            Err(error) => {
                let message = format!("the answer broke off: {}", error.message);
                let (code, param, retry_after) = ("stream_interrupted".into(), None, None);
                let error = TurnError { status: 502, code, message, param, retry_after };
                self.close(Outcome::Failed, heard, Some(error)).await
            }
        }
    }

    async fn close(&self, outcome: Outcome, heard: &Heard, error: Option<TurnError>) -> Result<(), Left> {
        let closed = Closed::new(outcome, &heard.answer, heard.candidate.clone(), error);
        self.append(vec![closed.draft(self.turn)], true).await
    }

    /// Appends to the turn, if it is still this run's.
    async fn append(&self, drafts: Vec<Draft>, last: bool) -> Result<(), Left> {
        let Self { node, log, turn, live, run } = self;
        let now = node.platform().now();
        let decide = |fold: &Conversation| {
            let mine = fold.turns().find(turn).is_some_and(|turn| turn.outcome.is_none() && turn.run == *run);
            if !mine {
                return Err(());
            }
            let wake = if last { after(fold, turn) } else { lease(fold, now) };
            Ok(Decision::Append(drafts.clone(), wake, ()))
        };
        match node.commit(*log, decide, |_| ()).await {
            Ok(((), entries, ())) => {
                live.push(entries);
                Ok(())
            }
            Err(CommitError::Refused(())) => Err(Left::Fenced),
            Err(_) => Err(Left::Store),
        }
    }
}

impl Heard {
    fn take(&mut self, tap: &Tap) {
        for delta in tap.take() {
            self.answer.apply(&delta);
            self.bytes += delta.bytes();
            self.waiting.push(delta);
        }
    }

    /// Whether there is anything to see.
    fn is_worth_it(&self) -> bool {
        self.waiting.iter().any(|delta| delta.bytes() > 0)
    }

    fn draft(&mut self, turn: TurnId) -> Draft {
        self.bytes = 0;
        turn::draft_deltas(turn, false, std::mem::take(&mut self.waiting))
    }
}
