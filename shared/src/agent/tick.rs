//! Does the work of the scheduled minute: records the tick, syncs schedules, wakes due logs and probes candidates. What
//! a wake does in a log is in `agent.rs`.

use bytes::Bytes;

use super::{schedules, wake, wake_soon};
use crate::{
    entry::{Batch, Draft, Kind, LogId, VersionVector},
    gateway,
    node::Node,
    platform::{AppendError, Platform, Store, StoreError},
    time::Timestamp,
};

/// Logs woken in one tick. The rest waits for the next one, so that a node is not flooded after an outage.
const MOST_DUE: usize = 1_000;

/// Why a tick failed. The host calls the next one in about a minute.
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
    /// Does what is due about once a minute. The host's trigger calls it; an early, late or second call does no harm.
    /// Each part is tried even if another fails; the first error is returned.
    pub async fn tick(&self) -> Result<(), TickError> {
        let recorded = self.record_tick().await;
        let synced = schedules::sync(self).await;
        let woken = self.wake_due().await;
        // Probes need no store, so they run even if the store fails.
        gateway::probe::run(self).await;
        recorded?;
        synced?;
        Ok(woken?)
    }

    /// Wakes some of the logs that have schedules, other ones each minute. For a host on which each log wakes itself by
    /// an alarm, in case an alarm was lost; other hosts need only the tick.
    pub async fn watch(&self) -> Result<(), StoreError> {
        schedules::watch(self).await
    }

    /// Starts a wake of every log that is due or whose last wake failed, at most a thousand, in this process or where the
    /// host runs them.
    pub async fn wake_due(&self) -> Result<(), StoreError> {
        let platform = self.platform();
        // The only instance resumes every turn that the process before it left, whatever its lease.
        let takes_over = platform.is_only_instance() && !self.has_taken_over().get();
        let until = if takes_over { Timestamp(u64::MAX) } else { platform.now() };
        let mut logs = platform.store().due(until, MOST_DUE).await?;
        // Not before the store has answered: a log that the process before left may be due only long after.
        self.has_taken_over().set(true);
        while logs.len() < MOST_DUE
            && let Some(log) = self.failed_wakes().borrow_mut().pop_first()
        {
            if !logs.contains(&log) {
                logs.push(log);
            }
        }
        for log in logs {
            wake_soon(self, log).await;
        }
        Ok(())
    }

    /// Appends an entry for this tick to the node's log.
    async fn record_tick(&self) -> Result<(), TickError> {
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
            // Another instance of this node ticked in the same moment, and its entry serves as well.
            Ok(()) | Err(AppendError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// When an instance of this node last ticked; `None` before the first tick.
    pub async fn last_tick(&self) -> Result<Option<Timestamp>, StoreError> {
        // The node's log holds nothing else, so its newest entry is the newest tick.
        let heads = self.platform().store().heads(self.log()).await?;
        Ok(heads.iter().map(|head| head.hlc.timestamp()).max())
    }

    /// Does what is due in `log`: erases what was deleted, begins the fires of schedules, and resumes turns whose
    /// process died. Returns when those turns have ended. The host's timers call it; an early, late or second call does
    /// no harm.
    pub async fn wake(&self, log: LogId) -> Result<(), StoreError> {
        wake(self, log).await
    }
}
