//! Cuts a future off at the nearest of its deadlines: the request's, the attempt's, the phase's, and that of a silence.
//!
//! Knows neither providers nor tools: the caller names the phases and turns [`DeadlineExceeded`] into its own error.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{FutureExt, future::LocalBoxFuture};

use crate::{platform::Platform, time::Timestamp};

/// A handle to a platform that a sleep can own: a reference or a node.
pub(crate) trait Host: Clone {
    /// The platform.
    type Platform: Platform;

    /// The platform behind the handle.
    fn platform(&self) -> &Self::Platform;
}

impl<P: Platform> Host for &P {
    type Platform = P;

    fn platform(&self) -> &P {
        self
    }
}

/// The deadlines of one request, or of one call of a tool.
///
/// Waits share one sleep of the platform. It is replaced only if a nearer deadline is set, or if it ends before the
/// deadline, so a stream of a thousand chunks does not set a thousand timers.
pub(crate) struct Deadlines<'a, H> {
    host: H,
    /// When the request as a whole must be done.
    total: Timestamp,
    /// When the current attempt must be done, so that time is left for later candidates. `None` once an answer is
    /// committed.
    attempt: Option<Timestamp>,
    /// The name of the current phase and its deadline; `None` if only the other deadlines bound it.
    phase: (&'static str, Option<Timestamp>),
    /// The longest silence within the phase, its name, and when the present one is too long.
    silence: Option<(&'static str, Duration, Timestamp)>,
    /// The running sleep and the deadline that it was set for.
    sleep: Option<(Timestamp, LocalBoxFuture<'a, ()>)>,
    /// Remembers that the total has passed, even if the wall clock is set back afterwards.
    total_exceeded: bool,
}

/// An attempt that may need more than an equal share of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlowAttempt {
    /// The time that it may need.
    pub(crate) takes: Duration,
    /// The time that each later attempt keeps nevertheless.
    pub(crate) left_to_others: Duration,
}

/// The deadline with this name has passed: a phase, a silence, `answer` for the attempt's share, or `total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeadlineExceeded(pub(crate) &'static str);

/// Name of the attempt's deadline in errors.
const ATTEMPT: &str = "answer";

/// Name of the request's deadline in errors.
const TOTAL: &str = "total";

impl<'a, H: Host + 'a> Deadlines<'a, H> {
    /// Starts the deadlines of a request that may take `total` from now.
    pub(crate) fn new(host: H, total: Duration) -> Self {
        let total = host.platform().now() + total;
        Self::until(host, total)
    }

    /// Starts the deadlines of a request that must be done at `total`, such as a hedged second attempt.
    pub(crate) fn until(host: H, total: Timestamp) -> Self {
        let phase = (TOTAL, None);
        Self { host, total, attempt: None, phase, silence: None, sleep: None, total_exceeded: false }
    }

    /// When the request as a whole must be done.
    pub(crate) fn total(&self) -> Timestamp {
        self.total
    }

    /// Begins an attempt that may take an equal share of the time left; `others` is the number of untried candidates.
    ///
    /// An attempt that may be `slow` gets its time even if that is more than an equal share, as long as each of the
    /// others is left a little.
    pub(crate) fn begin_attempt(&mut self, others: usize, slow: Option<SlowAttempt>) {
        let now = self.host.platform().now();
        let (left, others) = (self.total.since(now), u32::try_from(others).unwrap_or(u32::MAX));
        let equal = left / others.saturating_add(1);
        let own =
            slow.map(|slow| slow.takes.min(left.saturating_sub(slow.left_to_others.saturating_mul(others))));
        self.attempt = Some(now + equal.max(own.unwrap_or_default()));
    }

    /// Lifts the attempt's deadline: the answer is committed, so no other attempt needs the time.
    pub(crate) fn commit(&mut self) {
        self.attempt = None;
    }

    /// Begins a phase that may take `limit`; with `None`, only the attempt's and the request's deadlines bound it.
    pub(crate) fn begin_phase(&mut self, name: &'static str, limit: Option<Duration>) {
        self.phase = (name, limit.map(|limit| self.host.platform().now() + limit));
        self.silence = None;
    }

    /// Begins a phase that may take `limit`, in which something must arrive at least every `silence`: the caller reports
    /// it with [`heard`](Self::heard). `names` are those of the silence and of the phase.
    pub(crate) fn begin_slow_phase(&mut self, names: [&'static str; 2], silence: Duration, limit: Duration) {
        let ([name, phase], now) = (names, self.host.platform().now());
        self.phase = (phase, Some(now + limit.max(silence)));
        self.silence = Some((name, silence, now + silence));
    }

    /// Ends a silence: something has arrived.
    pub(crate) fn heard(&mut self) {
        if let Some((_, silence, until)) = &mut self.silence {
            *until = self.host.platform().now() + *silence;
        }
    }

    /// Whether the request's own deadline has passed.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.total_exceeded || self.host.platform().now() >= self.total
    }

    /// The nearest deadline and its name.
    fn nearest(&self) -> (&'static str, Timestamp) {
        let (phase, phase_due) = self.phase;
        let attempt = self.attempt.map(|due| (ATTEMPT, due));
        let silence = self.silence.map(|(name, _, due)| (name, due));
        let phase = phase_due.map(|due| (phase, due));
        let first_due = phase.into_iter().chain(silence).chain(attempt).min_by_key(|(_, due)| *due);
        first_due.filter(|(_, due)| *due < self.total).unwrap_or((TOTAL, self.total))
    }

    /// Waits for `future`, at most until the nearest deadline. A result that is ready passes even after a deadline.
    ///
    /// The future is `Unpin`, so that it is kept in one place only: a copy of each would be part of every request's
    /// state.
    pub(crate) fn within<T>(
        &mut self,
        mut future: impl Future<Output = T> + Unpin,
    ) -> impl Future<Output = Result<T, DeadlineExceeded>> {
        poll_fn(move |cx| match future.poll_unpin(cx) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending => self.poll_exceeded(cx).map(Err),
        })
    }

    /// Resolves at the nearest deadline. Only here is a timer set: most waits are over before they begin.
    fn poll_exceeded(&mut self, cx: &mut Context<'_>) -> Poll<DeadlineExceeded> {
        loop {
            let (name, due) = self.nearest();
            let sleep = match &mut self.sleep {
                Some((set_for, sleep)) if *set_for <= due => sleep,
                slot => {
                    let (host, wait) = (self.host.clone(), due.since(self.host.platform().now()));
                    let sleep = async move { host.platform().sleep(wait).await }.boxed_local();
                    &mut slot.insert((due, sleep)).1
                }
            };
            ready!(sleep.as_mut().poll(cx));
            // The sleep's own deadline decides, not the wall clock, which may have been set back meanwhile.
            let slept_until = self.sleep.take().map_or(due, |(set_for, _)| set_for);
            if slept_until >= due {
                self.total_exceeded |= name == TOTAL;
                return Poll::Ready(DeadlineExceeded(name));
            }
        }
    }
}
