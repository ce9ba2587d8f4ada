//! Deadlines of one request: one for all of it, one for an attempt, one for the phase that it is in.

use std::{pin::pin, time::Duration};

use futures_util::{
    FutureExt,
    future::{Either, LocalBoxFuture, select},
};

use crate::{platform::Platform, time::Timestamp};

/// A handle to a platform that a sleep can own: a reference, or a node.
pub(crate) trait Host: Clone {
    /// The platform.
    type Platform: Platform;

    /// The platform that the handle leads to.
    fn platform(&self) -> &Self::Platform;
}

impl<P: Platform> Host for &P {
    type Platform = P;

    fn platform(&self) -> &P {
        self
    }
}

/// Watches the deadlines of one request.
///
/// One sleep of the platform serves many waits: it is replaced only if a deadline comes nearer, or when it ends before the
/// deadline. So a stream of a thousand chunks sets no thousand timers.
pub(crate) struct Deadlines<'a, H> {
    host: H,
    /// When the request as a whole must be done.
    total: Timestamp,
    /// When this attempt must be done, so that time is left for the candidates after it.
    attempt: Option<Timestamp>,
    /// The name of the phase, and when it must be done.
    phase: (&'static str, Option<Timestamp>),
    /// The sleep that is under way, and the deadline that it was set for.
    sleep: Option<(Timestamp, LocalBoxFuture<'a, ()>)>,
    total_exceeded: bool,
}

/// The deadline of this name has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeadlineExceeded(pub(crate) &'static str);

const TOTAL: &str = "total";

impl<'a, H: Host + 'a> Deadlines<'a, H> {
    /// Deadlines of a request that may take `total` from now on.
    pub(crate) fn new(host: H, total: Duration) -> Self {
        let total = host.platform().now() + total;
        Self::until(host, total)
    }

    /// Deadlines of another attempt of the same request.
    pub(crate) fn until(host: H, total: Timestamp) -> Self {
        Self { host, total, attempt: None, phase: (TOTAL, None), sleep: None, total_exceeded: false }
    }

    /// When the request as a whole must be done.
    pub(crate) fn total(&self) -> Timestamp {
        self.total
    }

    /// Begins an attempt that may take an equal share of the time left, with `others` still to come.
    pub(crate) fn begin_attempt(&mut self, others: usize) {
        let now = self.host.platform().now();
        let share = self.total.since(now) / u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
        self.attempt = Some(now + share);
    }

    /// The answer has begun: there will be no other attempt.
    pub(crate) fn commit(&mut self) {
        self.attempt = None;
    }

    /// Begins a phase that may take `limit`, or one that only the request's deadline bounds.
    pub(crate) fn begin_phase(&mut self, name: &'static str, limit: Option<Duration>) {
        self.phase = (name, limit.map(|limit| self.host.platform().now() + limit));
    }

    /// Whether the request's own deadline has passed.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.total_exceeded || self.host.platform().now() >= self.total
    }

    /// The nearest deadline, and its name.
    fn nearest(&self) -> (&'static str, Timestamp) {
        let (phase, phase_due) = self.phase;
        let attempt = self.attempt.map(|due| ("answer", due));
        let nearer = phase_due.map(|due| (phase, due)).into_iter().chain(attempt).min_by_key(|(_, due)| *due);
        nearer.filter(|(_, due)| *due < self.total).unwrap_or((TOTAL, self.total))
    }

    /// Waits for `future`, but not beyond a deadline.
    pub(crate) async fn within<T>(&mut self, future: impl Future<Output = T>) -> Result<T, DeadlineExceeded> {
        let mut future = pin!(future);
        // A result that is ready needs no clock.
        if let Some(value) = future.as_mut().now_or_never() {
            return Ok(value);
        }
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
            match select(future.as_mut(), sleep).await {
                Either::Left((value, _)) => return Ok(value),
                Either::Right(((), _)) => {}
            }
            // Judged by the deadline that the sleep was set for: the wall clock may have been set back meanwhile.
            let slept_until = self.sleep.take().map_or(due, |(set_for, _)| set_for);
            if slept_until >= due {
                self.total_exceeded |= name == TOTAL;
                return Err(DeadlineExceeded(name));
            }
        }
    }
}
