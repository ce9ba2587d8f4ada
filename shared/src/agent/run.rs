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

/// How often a run says that it is alive, well within the lease.
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// Runs a turn that was opened here, beside everything else.
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

/// Runs a turn to its end. `live` has the turn's entries so far. Whatever goes wrong ends the turn, except that a store
/// which does not answer leaves it to the next run.
pub(super) async fn run<P: Platform>(
    node: &Node<P>,
    log: LogId,
    turn: TurnId,
    live: &Rc<LiveRun>,
    begun: Option<(Permit, Request)>,
) {
    let run = live.entries(0).iter().filter(|entry| is_run(entry)).map(Entry::place).max();
    let (progress, started) = (RefCell::default(), RefCell::default());
    let runner = Runner { node, log, turn, live, run, progress, started };
    // What can't be written is not lost: the log wants to be woken.
    if let Err(RunError::TooLarge(why)) = runner.run(begun).await {
        let _ = runner.fail(TurnError::exhausted(why)).await;
    }
    live.end();
}

fn is_run(entry: &Entry) -> bool {
    matches!(entry.header().kind, Kind::TURN_OPENED | Kind::TURN_RUN)
}

pub(super) struct Runner<'a, P: Platform> {
    pub(super) node: &'a Node<P>,
    pub(super) log: LogId,
    pub(super) turn: TurnId,
    pub(super) live: &'a Rc<LiveRun>,
    /// The entry by which this run began.
    run: Option<Place>,
    pub(super) progress: RefCell<TurnProgress>,
    /// The calls that this run itself has started.
    pub(super) started: RefCell<BTreeSet<String>>,
}

/// Why a run ends without having ended its turn.
pub(super) enum RunError {
    /// The turn has ended, or another run goes on with it.
    Fenced,
    Store,
    /// What came can't be written down, and never can.
    TooLarge(String),
}

impl From<StoreError> for RunError {
    fn from(_: StoreError) -> Self {
        Self::Store
    }
}

impl<P: Platform> Runner<'_, P> {
    async fn run(&self, begun: Option<(Permit, Request)>) -> Result<(), RunError> {
        let (permit, mut request) = begun.unzip();
        self.apply(&self.live.entries(0))?;
        let opened = self.progress.borrow().opened().cloned().ok_or(RunError::Fenced)?;
        let toolbox = match Toolbox::for_turn(self.node, self.id(), &opened) {
            Ok(toolbox) => toolbox,
            Err(error) => return self.fail(error).await,
        };
        if toolbox.has_servers() {
            request = None;
        }
        loop {
            let next = self.progress.borrow().next(toolbox.has_servers());
            match next {
                NextAction::Nothing => break,
                NextAction::List => {
                    let known = history(self.node, self.log, Some(self.turn), &opened).await?;
                    let listed = toolbox.list(&known).await;
                    self.append(vec![listed.draft(self.turn)], false).await?;
                }
                NextAction::Approve(requests) => self.start_approved(&requests).await?,
                NextAction::Call(calls) => self.run_calls(&toolbox, calls).await?,
                NextAction::Ask => match self.exhausted() {
                    Some(error) => self.fail(error).await?,
                    None => self.ask_model(&toolbox, &opened, request.take()).await?,
                },
                NextAction::Close(outcome) => self.close(outcome, self.empty_step(), None).await?,
            }
        }
        drop(permit);
        toolbox.close().await;
        self.tidy(&opened).await;
        Ok(())
    }

    /// Keeps the log quick to open and a conversation short, now that nobody waits. What fails is tried after the next turn.
    async fn tidy(&self, opened: &TurnOpened) {
        snapshot(self.node, self.log).await;
        if !opened.in_conversation {
            return;
        }
        let tokens = {
            let progress = self.progress.borrow();
            let last = progress.closed().map(|closed| &closed.last);
            progress.steps().iter().chain(last).filter_map(|said| said.usage).next_back()
        };
        if let (Some(tokens), Some(model)) = (tokens, self.node.config().model(&opened.model)) {
            let _ = summarise(self.node, self.log, &model, &opened.owner, tokens.total()).await;
        }
    }

    pub(super) fn id(&self) -> ResponseId {
        ResponseId { log: self.log, turn: self.turn }
    }

    /// Why no model is asked once more, if none is.
    fn exhausted(&self) -> Option<TurnError> {
        let progress = self.progress.borrow();
        let spent =
            progress.steps().iter().filter_map(StepEnded::cost).fold(NanoUsd(0), NanoUsd::saturating_add);
        let limit = self.node.config().agent.turn_limit;
        if let Some(limit) = limit.filter(|limit| spent >= *limit) {
            return Some(TurnError::exhausted(format!("the turn has cost {spent} of {limit} dollars")));
        }
        (progress.steps().len() >= MAX_STEPS)
            .then(|| TurnError::exhausted(format!("the turn asked {MAX_STEPS} times and had not ended")))
    }

    /// An answer that says nothing more.
    pub(super) fn empty_step(&self) -> StepEnded {
        StepEnded { at: self.progress.borrow().block_count(), ..StepEnded::default() }
    }

    /// Ends the turn for a reason that no model gave.
    pub(super) async fn fail(&self, error: TurnError) -> Result<(), RunError> {
        self.close(TurnOutcome::Failed, self.empty_step(), Some(error)).await
    }

    /// Sleeps, unless the turn is ended from outside meanwhile.
    pub(super) async fn wait(&self, duration: Duration) {
        let seen = self.live.entries(0).len();
        let stirred = Box::pin(self.live.wait_for_more(seen));
        let slept = Box::pin(self.node.platform().sleep(duration));
        select(stirred, slept).await;
    }

    pub(super) async fn close(
        &self,
        outcome: TurnOutcome,
        last: StepEnded,
        error: Option<TurnError>,
    ) -> Result<(), RunError> {
        let mut drafts = self.progress.borrow().close_open_calls(self.turn);
        // Without it a reader has to look a little further back.
        let snapshot = self.node.peek_session(self.log, |fold| fold.snapshot().cloned()).flatten();
        drafts.push(TurnClosed { outcome, last, error, snapshot }.draft(self.turn));
        self.append(drafts, true).await
    }

    /// Appends to the turn, if it is still this run's.
    pub(super) async fn append(&self, drafts: Vec<Draft>, last: bool) -> Result<(), RunError> {
        let Self { node, log, turn, live, run, .. } = self;
        let now = node.platform().now();
        let decide = |fold: &Session| {
            let mine = fold.turns().find(turn).is_some_and(|turn| turn.outcome.is_none() && turn.run == *run);
            if !mine {
                return Err(());
            }
            let wake = if last { after_turn(node, fold, turn) } else { during_turn(fold, now) };
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

    fn apply(&self, entries: &[Entry]) -> Result<(), RunError> {
        let mut progress = self.progress.borrow_mut();
        let own = entries.iter().filter(|entry| entry.header().cause == self.turn);
        own.into_iter().try_for_each(|entry| progress.apply(entry)).map_err(|_| RunError::Store)
    }

    /// What the model is told: all that was said before, and in this turn.
    pub(super) async fn items(&self, opened: &TurnOpened) -> Result<Vec<serde_json::Value>, RunError> {
        let mut items = history(self.node, self.log, Some(self.turn), opened).await?;
        items.extend(opened.input.iter().cloned());
        items.extend(self.progress.borrow().prompt_items().iter().cloned());
        Ok(truncate_history(self.node.config(), opened, items))
    }
}
