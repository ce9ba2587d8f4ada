//! Runs tasks one at a time, in an order that the seed chooses. Virtual time moves only when no task is ready.

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures_util::future::LocalBoxFuture;

use crate::random::Random;

/// Tasks that end together: those of one start of the node, when it crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group(pub u32);

/// The executor. Clones share it.
#[derive(Clone)]
pub struct Executor(Rc<RefCell<State>>);

struct State {
    now: u64,
    random: Random,
    tasks: Vec<Task>,
    timers: BinaryHeap<Reverse<(u64, u64)>>,
    sleepers: BTreeMap<u64, Waker>,
    last_timer: u64,
    steps: u64,
}

struct Task {
    group: Group,
    future: LocalBoxFuture<'static, ()>,
    ready: Arc<WakeFlag>,
}

struct WakeFlag(AtomicBool);

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// More steps than any run should need: a task that wakes itself for ever ends here.
const MAX_STEPS: u64 = 5_000_000;

impl Executor {
    pub(crate) fn new(random: Random, now: u64) -> Self {
        let state = State {
            now,
            random,
            tasks: Vec::new(),
            timers: BinaryHeap::new(),
            sleepers: BTreeMap::new(),
            last_timer: 0,
            steps: 0,
        };
        Self(Rc::new(RefCell::new(state)))
    }

    /// Virtual time, in milliseconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        self.0.borrow().now
    }

    /// Begins a task.
    pub fn spawn(&self, group: Group, future: impl Future<Output = ()> + 'static) {
        let ready = Arc::new(WakeFlag(AtomicBool::new(true)));
        self.0.borrow_mut().tasks.push(Task { group, future: Box::pin(future), ready });
    }

    /// Drops all tasks of a group, at whatever await they are.
    pub fn end(&self, group: Group) {
        let mut state = self.0.borrow_mut();
        let tasks = std::mem::take(&mut state.tasks);
        let (ended, left) = tasks.into_iter().partition(|task| task.group == group);
        state.tasks = left;
        // The borrow ends first: dropping a task runs destructors, which may wake other tasks.
        drop(state);
        drop::<Vec<Task>>(ended);
    }

    /// Resolves when `duration` has passed.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        let mut state = self.0.borrow_mut();
        state.last_timer += 1;
        let (id, millis) =
            (state.last_timer, u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX));
        let at = state.now.saturating_add(millis);
        state.timers.push(Reverse((at, id)));
        Sleep { executor: self.clone(), id, at }
    }

    /// Runs until no task is left. `Err` says what keeps the run from ending.
    pub fn run(&self) -> Result<(), String> {
        loop {
            let Some(mut task) = self.choose() else {
                if self.advance() {
                    continue;
                }
                let stuck = self.0.borrow().tasks.len();
                return if stuck == 0 { Ok(()) } else { Err(format!("{stuck} tasks are never woken")) };
            };
            self.0.borrow_mut().steps += 1;
            if self.0.borrow().steps > MAX_STEPS {
                return Err(format!("no end after {MAX_STEPS} steps"));
            }
            task.ready.0.store(false, Ordering::Relaxed);
            let waker = Waker::from(Arc::clone(&task.ready));
            let polled = task.future.as_mut().poll(&mut Context::from_waker(&waker));
            if polled.is_pending() {
                self.0.borrow_mut().tasks.push(task);
            }
        }
    }

    /// Takes one of the tasks that are ready.
    fn choose(&self) -> Option<Task> {
        let mut state = self.0.borrow_mut();
        let ready = |task: &Task| task.ready.0.load(Ordering::Relaxed);
        let count = state.tasks.iter().filter(|task| ready(task)).count() as u64;
        if count == 0 {
            return None;
        }
        let chosen = state.random.range(0..count);
        let mut able = (0_u64..).zip(state.tasks.iter().enumerate().filter(|(_, task)| ready(task)));
        let at = able.find(|(n, _)| *n == chosen).map(|(_, (at, _))| at)?;
        Some(state.tasks.swap_remove(at))
    }

    /// Moves time to the next timer and wakes all tasks that sleep until then. False: there is no timer.
    fn advance(&self) -> bool {
        let mut state = self.0.borrow_mut();
        let Some(Reverse((at, _))) = state.timers.peek().copied() else { return false };
        state.now = state.now.max(at);
        while let Some(Reverse((due, id))) = state.timers.peek().copied()
            && due == at
        {
            state.timers.pop();
            if let Some(waker) = state.sleepers.remove(&id) {
                waker.wake();
            }
        }
        true
    }
}

/// See [`Executor::sleep`].
pub struct Sleep {
    executor: Executor,
    id: u64,
    at: u64,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.executor.0.borrow_mut();
        if state.now >= self.at {
            return Poll::Ready(());
        }
        state.sleepers.insert(self.id, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Ok(mut state) = self.executor.0.try_borrow_mut() {
            state.sleepers.remove(&self.id);
        }
    }
}
