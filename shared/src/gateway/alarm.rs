use std::{pin::pin, time::Duration};

use futures_util::{
    FutureExt,
    future::{Either, LocalBoxFuture, select},
};

use crate::{
    node::Node,
    platform::{Platform, Timestamp},
};

/// Watches one request: a limit for all of it, and one for the phase that it is in.
///
/// One sleep of the platform serves many waits: it is set again only if the limit comes nearer, or when it rings
/// before the limit. So a stream of thousand chunks sets no thousand timers.
pub(super) struct Alarm<P> {
    node: Node<P>,
    /// When the request as a whole must be done.
    total: Timestamp,
    /// What is waited for, and when that must be done.
    phase: (&'static str, Option<Timestamp>),
    sleep: Option<(Timestamp, LocalBoxFuture<'static, ()>)>,
    over: bool,
}

/// The limit of this name was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Late(pub(super) &'static str);

const TOTAL: &str = "total";

impl<P: Platform> Alarm<P> {
    pub(super) fn new(node: Node<P>, total: Duration) -> Self {
        let total = node.platform().now() + total;
        Self { node, total, phase: (TOTAL, None), sleep: None, over: false }
    }

    /// Begins a phase that may take `limit`, or one that only the request's limit binds.
    pub(super) fn phase(&mut self, name: &'static str, limit: Option<Duration>) {
        self.phase = (name, limit.map(|limit| self.node.platform().now() + limit));
    }

    /// Whether the request's own time is up.
    pub(super) fn is_over(&self) -> bool {
        self.over || self.node.platform().now() >= self.total
    }

    /// Waits for `future`, but not beyond a limit.
    pub(super) async fn within<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Late> {
        let mut future = pin!(future);
        // What is ready needs no clock.
        if let Some(value) = future.as_mut().now_or_never() {
            return Ok(value);
        }
        loop {
            let (name, due) = match self.phase {
                (name, Some(due)) if due < self.total => (name, due),
                _ => (TOTAL, self.total),
            };
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
                return Err(Late(name));
            }
        }
    }
}
