use std::{pin::pin, time::Duration};

use futures_util::{
    FutureExt,
    future::{Either, LocalBoxFuture, select},
};

use crate::{node::Node, platform::Platform, time::Timestamp};

/// Watches one request: a limit for all of it, one for the attempt and one for the phase that it is in.
///
/// One sleep of the platform serves many waits: it is set again only if the limit comes nearer, or when it rings
/// before the limit. So a stream of thousand chunks sets no thousand timers.
pub(super) struct Deadlines<P> {
    node: Node<P>,
    /// When the request as a whole must be done.
    total: Timestamp,
    /// When this attempt must be done, so that time is left for the candidates after it.
    attempt: Option<Timestamp>,
    /// What is waited for, and when that must be done.
    phase: (&'static str, Option<Timestamp>),
    sleep: Option<(Timestamp, LocalBoxFuture<'static, ()>)>,
    over: bool,
}

/// The limit of this name was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeadlineExceeded(pub(super) &'static str);

const TOTAL: &str = "total";

impl<P: Platform> Deadlines<P> {
    pub(super) fn new(node: Node<P>, total: Duration) -> Self {
        let total = node.platform().now() + total;
        Self::until(node, total)
    }

    /// One that watches another attempt of the same request.
    pub(super) fn until(node: Node<P>, total: Timestamp) -> Self {
        Self { node, total, attempt: None, phase: (TOTAL, None), sleep: None, over: false }
    }

    /// When the request as a whole must be done.
    pub(super) fn total(&self) -> Timestamp {
        self.total
    }

    /// Begins an attempt that may take an equal share of the time that is left, with `others` still to come.
    pub(super) fn attempt(&mut self, others: usize) {
        let now = self.node.platform().now();
        let share = self.total.since(now) / u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
        self.attempt = Some(now + share);
    }

    /// The answer has begun: there will be no other attempt.
    pub(super) fn committed(&mut self) {
        self.attempt = None;
    }

    /// Begins a phase that may take `limit`, or one that only the request's limit binds.
    pub(super) fn phase(&mut self, name: &'static str, limit: Option<Duration>) {
        self.phase = (name, limit.map(|limit| self.node.platform().now() + limit));
    }

    /// Whether the request's own time is up.
    pub(super) fn is_over(&self) -> bool {
        self.over || self.node.platform().now() >= self.total
    }

    /// The nearest limit, and its name.
    fn due(&self) -> (&'static str, Timestamp) {
        let (phase, phase_due) = self.phase;
        let attempt = self.attempt.map(|due| ("answer", due));
        let nearer = phase_due.map(|due| (phase, due)).into_iter().chain(attempt).min_by_key(|(_, due)| *due);
        nearer.filter(|(_, due)| *due < self.total).unwrap_or((TOTAL, self.total))
    }

    /// Waits for `future`, but not beyond a limit.
    pub(super) async fn within<T>(&mut self, future: impl Future<Output = T>) -> Result<T, DeadlineExceeded> {
        let mut future = pin!(future);
        // What is ready needs no clock.
        if let Some(value) = future.as_mut().now_or_never() {
            return Ok(value);
        }
        loop {
            let (name, due) = self.due();
            let sleep = match &mut self.sleep {
                Some((rings, sleep)) if *rings <= due => sleep,
                slot => {
                    let (node, wait) = (self.node.clone(), due.since(self.node.platform().now()));
                    let sleep = async move { node.platform().sleep(wait).await }.boxed_local();
                    &mut slot.insert((due, sleep)).1
                }
            };
            match select(future.as_mut(), sleep).await {
                Either::Left((value, _)) => return Ok(value),
                Either::Right(((), _)) => {}
            }
            // Judged by what the sleep was set for and not by the clock, which may have been set back meanwhile.
            let rang = self.sleep.take().map_or(due, |(rings, _)| rings);
            if rang >= due {
                self.over |= name == TOTAL;
                return Err(DeadlineExceeded(name));
            }
        }
    }
}
