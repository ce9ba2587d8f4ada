//! Registers the turns that this instance runs, and hands their durable entries to the tasks that follow them. Holds
//! state in memory only: it neither runs a turn nor reads the store.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::poll_fn,
    rc::{Rc, Weak},
    task::{Poll, Waker},
};

use crate::{
    entry::{Entry, Kind, LogId},
    session::turn::TurnId,
};

/// The turns that this instance runs.
#[derive(Default)]
pub(crate) struct Runs(Rc<RefCell<Table>>);

type Table = BTreeMap<(LogId, TurnId), Weak<LiveRun>>;

impl Runs {
    /// Registers a run of a turn; `None` if the turn runs here already. The run is removed when its last `Rc` is
    /// dropped.
    pub(crate) fn begin(&self, log: LogId, turn: TurnId) -> Option<Rc<LiveRun>> {
        let mut table = self.0.borrow_mut();
        if table.get(&(log, turn)).is_some_and(|live| live.strong_count() > 0) {
            return None;
        }
        let live = Rc::new(LiveRun {
            table: Rc::clone(&self.0),
            key: (log, turn),
            entries: RefCell::default(),
            ended: Cell::new(false),
            closed: Cell::new(false),
            watchers: Cell::new(0),
            wakers: RefCell::default(),
        });
        table.insert((log, turn), Rc::downgrade(&live));
        Some(live)
    }

    /// The run of a turn, from its first [`push`](LiveRun::push) to its end.
    pub(crate) fn find(&self, log: LogId, turn: &TurnId) -> Option<Rc<LiveRun>> {
        let live = self.0.borrow().get(&(log, *turn)).and_then(Weak::upgrade);
        live.filter(|live| !live.ended.get() && !live.entries.borrow().is_empty())
    }

    /// Whether a run of the turn is registered, be it before its first entries or after its end.
    pub(crate) fn has(&self, log: LogId, turn: &TurnId) -> bool {
        self.0.borrow().get(&(log, *turn)).is_some_and(|live| live.strong_count() > 0)
    }
}

/// A run of a turn in this instance. The runner pushes the entries that it has written; followers wait for them.
pub(crate) struct LiveRun {
    table: Rc<RefCell<Table>>,
    key: (LogId, TurnId),
    /// The turn's durable entries, from its opening on.
    entries: RefCell<Vec<Entry>>,
    /// Whether the run has ended, with or without closing its turn.
    ended: Cell<bool>,
    /// Whether the turn is closed.
    closed: Cell<bool>,
    /// Followers that stream to a client.
    watchers: Cell<usize>,
    /// Tasks in [`wait_for_more`](Self::wait_for_more).
    wakers: RefCell<Vec<Waker>>,
}

impl LiveRun {
    /// Adds durable entries and wakes the followers. Entries of other turns are left out.
    pub(crate) fn push(&self, entries: Vec<Entry>) {
        let own = entries.into_iter().filter(|entry| entry.header().cause == self.key.1);
        let mut all = self.entries.borrow_mut();
        all.extend(own);
        self.closed.set(all.iter().any(|entry| entry.header().kind == Kind::TURN_CLOSED));
        drop(all);
        self.wake_followers();
    }

    /// Ends the run: it writes nothing more.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.wake_followers();
    }

    /// The entries from index `from` on.
    pub(crate) fn entries(&self, from: usize) -> Vec<Entry> {
        self.entries.borrow().get(from..).unwrap_or_default().to_vec()
    }

    /// Resolves when there are more than `count` entries, or the run has ended.
    pub(crate) async fn wait_for_more(&self, count: usize) {
        poll_fn(|cx| {
            if self.entries.borrow().len() > count || self.ended.get() {
                return Poll::Ready(());
            }
            self.wakers.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Whether the turn is closed, by this run or from outside.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Whether the run has ended, with or without closing its turn.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Counts a client that streams the answer, so that deltas are written at short intervals.
    pub(crate) fn add_watcher(&self) {
        self.watchers.set(self.watchers.get() + 1);
    }

    /// Takes back one [`add_watcher`](Self::add_watcher).
    pub(crate) fn remove_watcher(&self) {
        self.watchers.set(self.watchers.get().saturating_sub(1));
    }

    /// Whether a client streams the answer.
    pub(crate) fn is_watched(&self) -> bool {
        self.watchers.get() > 0
    }

    fn wake_followers(&self) {
        let wakers = std::mem::take(&mut *self.wakers.borrow_mut());
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drop for LiveRun {
    fn drop(&mut self) {
        if let Ok(mut table) = self.table.try_borrow_mut() {
            table.remove(&self.key);
        }
        self.wake_followers();
    }
}
