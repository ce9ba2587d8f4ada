//! The scheduled minute, and what wakes logs in between.

use bytes::Bytes;

use super::{schedules, wake, wake_soon};
use crate::{
    entry::{Batch, Draft, Kind, LogId, VersionVector},
    gateway,
    node::Node,
    platform::{AppendError, Platform, Store, StoreError},
    time::Timestamp,
};

/// Logs that are woken in one tick: what is more than that waits a minute, so that a healed node is not flooded.
const MOST_DUE: usize = 1_000;

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
    /// What is due about once a minute. The host's trigger calls it; coming early, late or twice does no harm.
    pub async fn tick(&self) -> Result<(), TickError> {
        let traced = self.trace().await;
        let synced = schedules::sync(self).await;
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
        schedules::watch(self).await
    }

    /// Sees that what is due in any log is done, by others where the host has them.
    pub async fn wake_due(&self) -> Result<(), StoreError> {
        let platform = self.platform();
        // Whatever sleeps in a process that is alone and does not run it, has been left by the one before.
        let fresh = platform.is_only_instance() && self.is_first_tick();
        let until = if fresh { Timestamp(u64::MAX) } else { platform.now() };
        for log in platform.store().due(until, MOST_DUE).await? {
            wake_soon(self, log).await;
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

    /// Does what is due in `log`: begins the fires of schedules, and goes on with turns whose process died. The host's timers call it; coming early, late or
    /// twice does no harm.
    pub async fn wake(&self, log: LogId) -> Result<(), StoreError> {
        wake(self, log).await
    }
}
