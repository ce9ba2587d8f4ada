//! Drives one run of a turn: asks the turn's state for the next action, does it, and appends what came of it, until the
//! turn is closed. The model call is in `ask`, tool calls are in `calls`.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc, time::Duration};

use futures_util::future::select;

use super::{
    Toolbox, after_turn,
    compaction::{snapshot, summarise, truncate_history},
    during_turn, history,
};
use crate::{
    entry::{Draft, Entry, Kind, LogId, Place},
    limits::Permit,
    log::{CommitError, Decision},
    money::NanoUsd,
    node::Node,
    platform::{Platform, StoreError},
    runs::LiveRun,
    session::{
        NextAction, Session, TurnProgress,
        step::StepEnded,
        turn::{MAX_STEPS, ResponseId, TurnClosed, TurnError, TurnId, TurnOpened, TurnOutcome},
    },
    wire::Request,
};

/// Longest pause between two entries of a run: less than half of [`LEASE`](crate::session::turn::LEASE), after which
/// other instances resume the turn.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(20);

/// Runs a turn that this instance has just opened, in a task of its own.
pub(crate) fn start<P: Platform>(
    node: &Node<P>,
    log: LogId,
    turn: TurnId,
    live: Rc<LiveRun>,
    permit: Permit,
    request: Request,
) {
    let running = node.clone();
    let work = async move { run(&running, log, turn, &live, Some((permit, request))).await };
    node.platform().spawn(Box::pin(work));
}

/// Runs a turn to its end. `live` holds the turn's entries so far; `first` is the request of a turn that was opened
/// here. Every error closes the turn as failed, except an error of the store, which leaves the turn to the next run.
pub(super) async fn run<P: Platform>(
    node: &Node<P>,
    log: LogId,
    turn: TurnId,
    live: &Rc<LiveRun>,
    first: Option<(Permit, Request)>,
) {
    let run = live.entries(0).iter().filter(|entry| is_run(entry)).map(Entry::place).max();
    let (progress, started) = (RefCell::default(), RefCell::default());
    let runner = Runner { node, log, turn, live, run, progress, started };
    // An error of the store is dropped: the log's wake is set, and the next run resumes the turn.
    if let Err(RunError::TooLarge(why)) = runner.run(first).await {
        let _ = runner.fail(TurnError::exhausted(why)).await;
    }
    live.end();
}

fn is_run(entry: &Entry) -> bool {
    matches!(entry.header().kind, Kind::TURN_OPENED | Kind::TURN_RUN)
}

/// One run of a turn.
pub(super) struct Runner<'a, P: Platform> {
    pub(super) node: &'a Node<P>,
    pub(super) log: LogId,
    pub(super) turn: TurnId,
    pub(super) live: &'a Rc<LiveRun>,
    /// The entry that began this run. Another one in the turn means that another run has claimed it.
    run: Option<Place>,
    /// The fold of the turn's entries.
    pub(super) progress: RefCell<TurnProgress>,
    /// The tool calls that this run has started, by their items; other started calls are of a run that died.
    pub(super) started: RefCell<BTreeSet<String>>,
}

/// Why a run ends without having closed its turn.
pub(super) enum RunError {
    /// The turn is closed, or another run has claimed it.
    Fenced,
    /// The store failed, or the log is damaged.
    Store,
    /// An entry is larger than the log takes, so a retry would fail as well.
    TooLarge(String),
}

impl From<StoreError> for RunError {
    fn from(_: StoreError) -> Self {
        Self::Store
    }
}

impl<P: Platform> Runner<'_, P> {
    async fn run(&self, first: Option<(Permit, Request)>) -> Result<(), RunError> {
        let (permit, mut request) = first.unzip();
        self.apply(&self.live.entries(0))?;
        let opened = self.progress.borrow().opened().cloned().ok_or(RunError::Fenced)?;
        let toolbox = match Toolbox::for_turn(self.node, self.id(), &opened) {
            Ok(toolbox) => toolbox,
            Err(error) => return self.fail(error).await,
        };
        // The client's request lacks the functions of the servers, so the model's request is built from the log.
        if toolbox.has_servers() {
            request = None;
        }
        loop {
            let next = self.progress.borrow().next(toolbox.has_servers());
            match next {
                NextAction::Nothing => break,
                NextAction::ListTools => {
                    let items = history(self.node, self.log, Some(self.turn), &opened).await?;
                    let listed = toolbox.list(&items).await;
                    self.append(vec![listed.draft(self.turn)], false).await?;
                }
                NextAction::StartApproved(requests) => self.start_approved(&requests).await?,
                NextAction::RunCalls(calls) => self.run_calls(&toolbox, calls).await?,
                NextAction::CallModel => match self.exhausted() {
                    Some(error) => self.fail(error).await?,
                    None => self.ask_model(&toolbox, &opened, request.take()).await?,
                },
                NextAction::Close(outcome) => self.close(outcome, self.empty_step(), None).await?,
            }
        }
        // The client has its answer: what follows must not count against its limit.
        drop(permit);
        toolbox.close().await;
        self.tidy(&opened).await;
        Ok(())
    }

    /// Writes a snapshot and summarises the conversation if either is due. Runs after the turn's end, so that no client
    /// waits for it; what fails is tried again after the next turn.
    async fn tidy(&self, opened: &TurnOpened) {
        snapshot(self.node, self.log).await;
        if !opened.in_conversation {
            return;
        }
        let tokens = {
            let progress = self.progress.borrow();
            let last = progress.closed().map(|closed| &closed.last);
            progress.steps().iter().chain(last).filter_map(|step| step.usage).next_back()
        };
        if let (Some(tokens), Some(model)) = (tokens, self.node.config().model(&opened.model)) {
            let _ = summarise(self.node, self.log, &model, &opened.owner, tokens.total()).await;
        }
    }

    pub(super) fn id(&self) -> ResponseId {
        ResponseId { log: self.log, turn: self.turn }
    }

    /// The limit that forbids another model call, if one does: the turn's cost or its number of steps.
    fn exhausted(&self) -> Option<TurnError> {
        let progress = self.progress.borrow();
        let spent =
            progress.steps().iter().filter_map(StepEnded::cost).fold(NanoUsd(0), NanoUsd::saturating_add);
        let limit = self.node.config().agent.turn_limit;
        if let Some(limit) = limit.filter(|limit| spent >= *limit) {
            let why =
                format!("agent.turn_limit: the turn has cost {spent} dollars; allowed: less than {limit}");
            return Some(TurnError::exhausted(why));
        }
        let why =
            || format!("the turn has not ended after {MAX_STEPS} model calls, the most that a turn may make");
        (progress.steps().len() >= MAX_STEPS).then(|| TurnError::exhausted(why()))
    }

    /// A last step without an answer, for a turn that is closed between two model calls.
    pub(super) fn empty_step(&self) -> StepEnded {
        StepEnded { at: self.progress.borrow().block_count(), ..StepEnded::default() }
    }

    /// Closes the turn as failed, without an answer of a model.
    pub(super) async fn fail(&self, error: TurnError) -> Result<(), RunError> {
        self.close(TurnOutcome::Failed, self.empty_step(), Some(error)).await
    }

    /// Sleeps for `duration`, or until the turn is closed from outside.
    pub(super) async fn wait(&self, duration: Duration) {
        let count = self.live.entries(0).len();
        let more = Box::pin(self.live.wait_for_more(count));
        let sleep = Box::pin(self.node.platform().sleep(duration));
        select(more, sleep).await;
    }

    /// Closes the turn, and before it every tool call that is still open.
    pub(super) async fn close(
        &self,
        outcome: TurnOutcome,
        last: StepEnded,
        error: Option<TurnError>,
    ) -> Result<(), RunError> {
        let mut drafts = self.progress.borrow().close_open_calls(self.turn);
        // Only a hint to readers, so it is not worth a read of the store: without it they start further back.
        let snapshot = self.node.peek_session(self.log, |session| session.snapshot().cloned()).flatten();
        drafts.push(TurnClosed { outcome, last, error, snapshot }.draft(self.turn));
        self.append(drafts, true).await
    }

    /// Appends to the turn, or fails with [`RunError::Fenced`] if this run does not own it any more. `closes` says that
    /// the drafts close the turn.
    pub(super) async fn append(&self, drafts: Vec<Draft>, closes: bool) -> Result<(), RunError> {
        let Self { node, log, turn, live, run, .. } = self;
        let now = node.platform().now();
        let decide = |session: &Session| {
            let owned =
                session.turns().find(turn).is_some_and(|turn| turn.outcome.is_none() && turn.run == *run);
            if !owned {
                return Err(());
            }
            let wake = if closes { after_turn(node, session, turn) } else { during_turn(session, now) };
            Ok(Decision::Append(drafts.clone(), wake, ()))
        };
        match node.commit_session(*log, decide, |_| ()).await {
            Ok(((), entries, ())) => {
                self.apply(&entries)?;
                live.push(entries);
                Ok(())
            }
            Err(CommitError::Refused(())) => Err(RunError::Fenced),
            Err(CommitError::TooLarge(why)) => Err(RunError::TooLarge(why)),
            Err(_) => Err(RunError::Store),
        }
    }

    /// Applies those of `entries` that belong to the turn.
    fn apply(&self, entries: &[Entry]) -> Result<(), RunError> {
        let mut progress = self.progress.borrow_mut();
        let own = entries.iter().filter(|entry| entry.header().cause == self.turn);
        own.into_iter().try_for_each(|entry| progress.apply(entry)).map_err(|_| RunError::Store)
    }

    /// The input items of the next model call: the history and this turn's items, truncated to the model's context.
    pub(super) async fn items(&self, opened: &TurnOpened) -> Result<Vec<serde_json::Value>, RunError> {
        let mut items = history(self.node, self.log, Some(self.turn), opened).await?;
        items.extend(opened.input.iter().cloned());
        items.extend(self.progress.borrow().prompt_items().iter().cloned());
        Ok(truncate_history(self.node.config(), opened, items))
    }
}
