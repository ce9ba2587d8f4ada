//! One running node: a platform, a configuration, and what it remembers in memory.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    rc::Rc,
};

use bytes::Bytes;
use http::{Request, Response, request};

use crate::{
    agent,
    api::{self, socket::Socket},
    body::Body,
    config::Config,
    entry::{Batch, Draft, Entry, EntryId, Kind, LogId, Origin, VersionVector, Wake},
    gateway,
    hex::hex,
    ledger::Ledger,
    limits::Limiter,
    log::{self, CommitError, Decision, Fold, View},
    metrics::Metrics,
    model::Candidate,
    names::metric,
    platform::{AppendError, Platform, Store, StoreError},
    routing::{
        health::{Health, Seen},
        hedge::HedgeBudget,
        retry::RetryBudget,
    },
    runs::Runs,
    session::{
        conversation::{Cache, Conversation},
        schedule::{Directory, Listing, ScheduleId},
        snapshot,
    },
    time::Timestamp,
};

/// A node. Cloning gives another handle to the same one.
///
/// It is `!Send`: one thread runs it, and shells reach it from others by channels.
pub struct Node<P>(Rc<Inner<P>>);

impl<P> Clone for Node<P> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

struct Inner<P> {
    platform: P,
    config: Config,
    origin: Origin,
    log: LogId,
    health: RefCell<Health>,
    retries: RefCell<RetryBudget>,
    ledger: Rc<RefCell<Ledger>>,
    limiter: Rc<RefCell<Limiter>>,
    metrics: RefCell<Metrics>,
    hedges: RefCell<HedgeBudget>,
    conversations: RefCell<Cache>,
    directory: RefCell<View<Directory>>,
    runs: Runs,
    draining: Cell<bool>,
    /// Whether it has ticked.
    started: Cell<bool>,
}

/// Logs that are woken in one tick: what is more than that waits a minute, so that a healed node is not flooded.
const MOST_DUE: usize = 1_000;

/// How a request came to this node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrival {
    /// It came over the loopback interface of this very machine. A node without keys serves nobody else.
    pub loopback: bool,
    /// Where [`Node::place`] put it, if that was asked in another process.
    pub log: Option<LogId>,
}

/// Where a request must run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It needs no log.
    Anywhere,
    /// Where this log is kept.
    Log(LogId),
    /// Its body says so: see [`Node::place_by_body`].
    InBody,
}

/// Why a tick left no trace. The next one comes in a minute.
#[derive(Debug, thiserror::Error)]
pub enum TickError {
    /// The node's log could not be read.
    #[error(transparent)]
    Read(#[from] StoreError),
    /// The node's log could not be written.
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl<P: Platform> Node<P> {
    /// A node that has just started.
    pub fn new(platform: P, config: Config) -> Self {
        let origin = Origin { node: config.node.clone(), epoch: 0 };
        let log = LogId::derive("node", &[config.node.as_bytes()]);
        Self(Rc::new(Inner {
            platform,
            config,
            origin,
            log,
            health: RefCell::default(),
            retries: RefCell::default(),
            ledger: Rc::default(),
            limiter: Rc::default(),
            metrics: RefCell::default(),
            hedges: RefCell::default(),
            conversations: RefCell::default(),
            directory: RefCell::default(),
            runs: Runs::default(),
            draining: Cell::new(false),
            started: Cell::new(false),
        }))
    }

    /// Answers one request. It never fails, since every failure is an answer too. Dropping the future, or the body of
    /// the answer, cancels what is done for it.
    pub async fn handle<B>(&self, request: Request<B>, arrival: Arrival) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        api::handle(self, request, arrival).await
    }

    /// The WebSocket connection that a request asks for, or the answer that refuses it; `None` if it asks for none. A host
    /// that speaks no WebSockets need not ask: [`Node::handle`] says so to the client.
    pub fn socket(
        &self,
        head: &request::Parts,
        arrival: Arrival,
    ) -> Option<Result<Socket<P>, Response<Body>>> {
        api::socket::open(self, head, arrival)
    }

    /// Where a request must run. It looks at method, path and headers only, and promises nothing about the request
    /// being right or allowed.
    pub fn place(&self, head: &request::Parts) -> Place {
        api::place(self, head)
    }

    /// Reads the body of a request of which [`Node::place`] says that it is needed, and says where the request must run; or
    /// answers it.
    pub async fn place_by_body<B>(
        &self,
        head: &request::Parts,
        body: B,
    ) -> Result<(Place, Bytes), Response<Body>>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        api::place_by_body(self, head, body).await
    }

    /// What is due about once a minute. The host's trigger calls it; coming early, late or twice does no harm.
    pub async fn tick(&self) -> Result<(), TickError> {
        let traced = self.trace().await;
        let synced = agent::schedules::sync(self).await;
        let woken = self.wake_due().await;
        // They need no store, so they are made though it fails.
        gateway::probe::run(self).await;
        traced?;
        synced?;
        Ok(woken?)
    }

    /// Looks at some of the logs that schedules are in, others each minute. For a host where each log wakes itself, should
    /// that have failed; others need only the tick.
    pub async fn watch(&self) -> Result<(), StoreError> {
        agent::schedules::watch(self).await
    }

    /// Sees that what is due in any log is done, by others where the host has them.
    pub async fn wake_due(&self) -> Result<(), StoreError> {
        let platform = self.platform();
        // Whatever sleeps in a process that is alone and does not run it, has been left by the one before.
        let fresh = platform.is_alone() && !self.0.started.replace(true);
        let until = if fresh { Timestamp(u64::MAX) } else { platform.now() };
        for log in platform.store().due(until, MOST_DUE).await? {
            agent::rouse(self, log).await;
        }
        Ok(())
    }

    /// Leaves a trace of the tick in the node's log.
    async fn trace(&self) -> Result<(), TickError> {
        let heads = self.platform().store().heads(self.log()).await?;
        let head = heads.iter().find(|head| head.origin == *self.origin());
        let now = self.platform().now();
        let cause = LogId::derive("tick", &[&now.0.to_be_bytes()]).0;
        let draft = Draft { kind: Kind::TICKED, cause, body: Bytes::new() };
        let Ok(batch) = Batch::build(self.log(), self.origin(), head, &VersionVector::new(), now, [draft])
        else {
            return Ok(());
        };
        match self.platform().store().append(&batch).await {
            // Another instance of this node ticked in the same moment, so the trace is there.
            Ok(()) | Err(AppendError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// When any instance of this node last ticked.
    pub async fn last_tick(&self) -> Result<Option<Timestamp>, StoreError> {
        // The node's log holds nothing else, so its newest entry is the newest tick.
        let heads = self.platform().store().heads(self.log()).await?;
        Ok(heads.iter().map(|head| head.hlc.timestamp()).max())
    }

    /// From now on the node says that it is not ready, so that no new work is sent to it.
    pub fn drain(&self) {
        self.0.draining.set(true);
    }

    /// Whether [`Node::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.0.draining.get()
    }

    /// What this instance has seen of a candidate.
    pub fn seen(&self, candidate: &Candidate) -> Seen {
        self.health().borrow().seen(candidate)
    }

    /// The machine.
    pub fn platform(&self) -> &P {
        &self.0.platform
    }

    /// What the operator wants.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The node's own log.
    pub fn log(&self) -> LogId {
        self.0.log
    }

    /// As whom it writes.
    pub fn origin(&self) -> &Origin {
        &self.0.origin
    }

    pub(crate) fn health(&self) -> &RefCell<Health> {
        &self.0.health
    }

    pub(crate) fn retries(&self) -> &RefCell<RetryBudget> {
        &self.0.retries
    }

    pub(crate) fn ledger(&self) -> &Rc<RefCell<Ledger>> {
        &self.0.ledger
    }

    pub(crate) fn limiter(&self) -> &Rc<RefCell<Limiter>> {
        &self.0.limiter
    }

    pub(crate) fn metrics(&self) -> &RefCell<Metrics> {
        &self.0.metrics
    }

    pub(crate) fn hedges(&self) -> &RefCell<HedgeBudget> {
        &self.0.hedges
    }

    /// The turns that this instance runs.
    pub(crate) fn runs(&self) -> &Runs {
        &self.0.runs
    }

    /// [`log::commit`] on a session's log, with the fold that is kept of it. Also gives what `look` sees afterwards.
    pub(crate) async fn commit<T, E, S>(
        &self,
        log: LogId,
        decide: impl FnMut(&Conversation) -> Result<Decision<T>, E>,
        look: impl FnOnce(&Conversation) -> S,
    ) -> Result<(T, Vec<Entry>, S), CommitError<E>> {
        self.commit_back(log, |_| true, decide, look).await
    }

    /// The same, after as much of the session's past has been read as `enough` asks for, or all of it.
    pub(crate) async fn commit_back<T, E, S>(
        &self,
        log: LogId,
        enough: impl Fn(&Conversation) -> bool,
        decide: impl FnMut(&Conversation) -> Result<Decision<T>, E>,
        look: impl FnOnce(&Conversation) -> S,
    ) -> Result<(T, Vec<Entry>, S), CommitError<E>> {
        let mut view = self.0.conversations.borrow_mut().take(log);
        // What is known suffices mostly, and a commit catches up by itself.
        let read = match view.is_empty() || !enough(&view.fold) {
            true => match view.catch_up(self.platform().store(), log).await {
                Ok(()) => self.read_back(log, &mut view, enough).await,
                Err(error) => Err(error),
            },
            false => Ok(()),
        };
        let result = match read {
            Ok(()) => log::commit(self.platform(), log, self.origin(), &mut view, decide).await,
            Err(error) => Err(error.into()),
        };
        let seen = look(&view.fold);
        self.0.conversations.borrow_mut().put(log, view);
        let (then, entries) = result?;
        self.count(&entries);
        Ok((then, entries, seen))
    }

    /// Counts an append, if there was one.
    fn count(&self, appended: &[Entry]) {
        if !appended.is_empty() {
            let mut metrics = self.metrics().borrow_mut();
            metrics.count(metric::APPENDS, Vec::new());
            metrics.add(metric::APPEND_ENTRIES, Vec::new(), appended.len() as u64);
        }
    }

    /// Writes a snapshot of a session if it wants one. If somebody else writes meanwhile it waits for another occasion.
    pub(crate) async fn snapshot(&self, log: LogId) -> Result<(), CommitError<Infallible>> {
        // Whoever has just written to it knows.
        let wants = self.peek(log, Conversation::wants_snapshot);
        if wants != Some(true) {
            return Ok(());
        }
        let mut view = self.0.conversations.borrow_mut().take(log);
        let mut result = view.catch_up(self.platform().store(), log).await.map_err(CommitError::from);
        if result.is_ok() && view.fold.wants_snapshot() {
            let draft = snapshot::draft(&view.fold, view.heads());
            let wake = agent::rest(self, &view.fold, view.fold.owner());
            let extended = log::extend(self.platform(), log, self.origin(), &mut view, vec![draft], wake);
            result = extended.await.map(|appended| self.count(&appended.unwrap_or_default()));
        }
        self.0.conversations.borrow_mut().put(log, view);
        result
    }

    /// What `look` sees in what is known of a session without a look at the store, if anything is.
    pub(crate) fn peek<T>(&self, log: LogId, look: impl FnOnce(&Conversation) -> T) -> Option<T> {
        self.0.conversations.borrow().peek(log).map(look)
    }

    /// What `look` sees in the newest state of a session.
    pub(crate) async fn look<T>(
        &self,
        log: LogId,
        look: impl FnOnce(&Conversation) -> T,
    ) -> Result<T, StoreError> {
        self.look_back(log, |_| true, look).await
    }

    /// The same, after as much of the session's past has been read as `enough` asks for, or all of it.
    pub(crate) async fn look_back<T>(
        &self,
        log: LogId,
        enough: impl Fn(&Conversation) -> bool,
        look: impl FnOnce(&Conversation) -> T,
    ) -> Result<T, StoreError> {
        let mut view = self.0.conversations.borrow_mut().take(log);
        let mut result = view.catch_up(self.platform().store(), log).await;
        if result.is_ok() {
            result = self.read_back(log, &mut view, enough).await;
        }
        let seen = look(&view.fold);
        self.0.conversations.borrow_mut().put(log, view);
        result.map(|()| seen)
    }

    /// What `look` sees in the newest state of the schedules' directory.
    pub(crate) async fn directory<T>(&self, look: impl FnOnce(&Directory) -> T) -> Result<T, StoreError> {
        let mut view = self.0.directory.take();
        let result = view.catch_up(self.platform().store(), Directory::log()).await;
        let seen = look(&view.fold);
        self.keep(view);
        result.map(|()| seen)
    }

    /// Lists a schedule in the directory, or takes it out.
    pub(crate) async fn list(&self, id: ScheduleId, listing: Option<Listing>) -> Result<(), StoreError> {
        let mut view = self.0.directory.take();
        let decide = |directory: &Directory| {
            Ok::<_, Infallible>(if directory.find(&id) == listing.as_ref() {
                Decision::Done(())
            } else {
                Decision::Append(vec![Directory::draft(id, listing.clone())], Wake::Keep, ())
            })
        };
        let done = log::commit(self.platform(), Directory::log(), self.origin(), &mut view, decide).await;
        self.keep(view);
        done.map(drop).map_err(agent::store_error)
    }

    /// Whoever asked meanwhile may have read more.
    fn keep(&self, view: View<Directory>) {
        let mut kept = self.0.directory.borrow_mut();
        if kept.len() < view.len() {
            *kept = view;
        }
    }

    /// Reads older parts of a session until `enough` is there.
    async fn read_back(
        &self,
        log: LogId,
        view: &mut View<Conversation>,
        enough: impl Fn(&Conversation) -> bool,
    ) -> Result<(), StoreError> {
        while !enough(&view.fold)
            && let Some(EntryId { origin, seq }) = view.fold.older().cloned()
        {
            let entries = log::between(self.platform().store(), log, &origin, seq, seq).await?;
            let missing = || StoreError::Corrupt(format!("the snapshot {} of {origin} is missing", seq.0));
            let (part, _) =
                Conversation::restore(entries.first().ok_or_else(missing)?)?.ok_or_else(missing)?;
            view.fold.prepend(part);
        }
        Ok(())
    }

    /// Does what is due in `log`: begins the fires of schedules, and goes on with turns whose process died. The host's timers call it; coming early, late or
    /// twice does no harm.
    pub async fn wake(&self, log: LogId) -> Result<(), StoreError> {
        agent::wake(self, log).await
    }

    /// The folds of sessions that this instance keeps.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn views(&self) -> Vec<(LogId, log::View<Conversation>)> {
        self.0.conversations.borrow().views()
    }

    /// A random number for a decision.
    pub(crate) fn chance(&self) -> u32 {
        let mut bytes = [0; 4];
        self.platform().random(&mut bytes);
        u32::from_be_bytes(bytes)
    }

    /// The id of a call within a trace: 16 hexadecimal digits, not all zero.
    pub(crate) fn span(&self) -> String {
        let [first, rest @ ..] = self.random_bytes();
        let span = [&[first | 1], rest.get(..7).unwrap_or_default()].concat();
        hex(&span)
    }

    /// 32 hexadecimal digits that nobody can guess.
    pub(crate) fn random_id(&self) -> String {
        hex(&self.random_bytes())
    }

    pub(crate) fn random_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.platform().random(&mut bytes);
        bytes
    }
}
