//! The turns that this instance runs, and the tasks that wait for their entries. Kept in memory only.

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
    /// Begins a run of a turn, unless there is one. It ends when the last hold on it is dropped.
    pub(crate) fn begin(&self, log: LogId, turn: TurnId) -> Option<Rc<LiveRun>> {
        let mut table = self.0.borrow_mut();
        if table.get(&(log, turn)).is_some_and(|live| live.strong_count() > 0) {
            return None;
        }
        let live = Rc::new(LiveRun {
            table: Rc::clone(&self.0),
            key: (log, turn),
            entries: RefCell::default(),
            over: Cell::new(false),
            closed: Cell::new(false),
            watchers: Cell::new(0),
            waiting: RefCell::default(),
        });
        table.insert((log, turn), Rc::downgrade(&live));
        Some(live)
    }

    /// The run of a turn, once it knows what was written before it.
    pub(crate) fn find(&self, log: LogId, turn: &TurnId) -> Option<Rc<LiveRun>> {
        let live = self.0.borrow().get(&(log, *turn)).and_then(Weak::upgrade);
        live.filter(|live| !live.over.get() && !live.entries.borrow().is_empty())
    }

    /// Whether a turn is run here, or about to be.
    pub(crate) fn has(&self, log: LogId, turn: &TurnId) -> bool {
        self.0.borrow().get(&(log, *turn)).is_some_and(|live| live.strong_count() > 0)
    }
}

/// A turn that is run here. Who runs it puts in what has been written, who follows it waits for that.
pub(crate) struct LiveRun {
    table: Rc<RefCell<Table>>,
    key: (LogId, TurnId),
    entries: RefCell<Vec<Entry>>,
    over: Cell<bool>,
    closed: Cell<bool>,
    watchers: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
}

impl LiveRun {
    /// These entries of the turn are durable.
    pub(crate) fn push(&self, entries: Vec<Entry>) {
        let own = entries.into_iter().filter(|entry| entry.header().cause == self.key.1);
        let mut all = self.entries.borrow_mut();
        all.extend(own);
        self.closed.set(all.iter().any(|entry| entry.header().kind == Kind::TURN_CLOSED));
        drop(all);
        self.wake_followers();
    }

    /// The run writes nothing more.
    pub(crate) fn end(&self) {
        self.over.set(true);
        self.wake_followers();
    }

    /// The entries from the one at `from` on.
    pub(crate) fn entries(&self, from: usize) -> Vec<Entry> {
        self.entries.borrow().get(from..).unwrap_or_default().to_vec()
    }

    /// Resolves when there are more than `seen` entries, or there will be no more.
    pub(crate) async fn wait_for_more(&self, seen: usize) {
        poll_fn(|cx| {
            if self.entries.borrow().len() > seen || self.over.get() {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Whether the turn has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Whether the run writes nothing more.
    pub(crate) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Somebody wants to see what is said as soon as it is.
    pub(crate) fn watch(&self, more: bool) {
        let count = self.watchers.get();
        self.watchers.set(if more { count + 1 } else { count.saturating_sub(1) });
    }

    /// Whether anybody does.
    pub(crate) fn is_watched(&self) -> bool {
        self.watchers.get() > 0
    }

    fn wake_followers(&self) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
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
