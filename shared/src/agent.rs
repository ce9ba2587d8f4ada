//! Runs the agent: does what is due in a log, resumes turns whose process died, and closes turns from outside. How one
//! turn runs is in `run`; how a client follows it is in `follow`.

mod ask;
pub(crate) mod built_in;
mod calls;
pub(crate) mod compaction;
mod deletion;
mod fires;
mod follow;
mod history;
mod next_wake;
mod run;
pub(crate) mod schedules;
mod tick;
mod toolbox;

use std::collections::BTreeMap;

use crate::{
    entry::LogId,
    log::Decision,
    node::Node,
    platform::{Platform, StoreError},
    session::{
        Session, TurnProgress,
        step::StepEnded,
        turn::{self, ResponseId, Turn, TurnClosed, TurnError, TurnId, TurnOutcome},
    },
};
use futures_util::future::join_all;

pub(crate) use deletion::{delete_log, erase_deleted, expires_at};
pub(crate) use follow::Follower;
pub(crate) use history::{history, turn_entries};
pub(crate) use next_wake::{after_turn, at_rest, during_turn};
pub(crate) use run::start;
pub use tick::TickError;
pub(crate) use toolbox::Toolbox;

/// Starts a wake of `log` without waiting for its end: by the host's own waker if it has one, else in a task of this
/// process. Errors are dropped: what failed stays due.
pub(crate) async fn wake_soon<P: Platform>(node: &Node<P>, log: LogId) {
    if node.platform().wake_elsewhere(log).await {
        return;
    }
    let waking = node.clone();
    let work = async move {
        if let Err(StoreError::Unavailable(_)) = waking.wake(log).await {
            // The log need not be due at the next tick: the clock that set its wake may have been ahead.
            waking.failed_wakes().borrow_mut().insert(log);
        }
    };
    node.platform().spawn(Box::pin(work));
}

/// Does what is due in `log`: erases what was deleted, deletes the log if its retention is over, applies the schedules
/// of the configuration, begins fires, and resumes abandoned turns. Returns when those turns have ended.
pub(crate) async fn wake<P: Platform>(node: &Node<P>, log: LogId) -> Result<(), StoreError> {
    erase_deleted(node, log).await?;
    deletion::expire(node, log).await?;
    // Its error is returned last, so that turns are resumed even if the schedules can't be written.
    let configured = schedules::apply_configured(node, log).await;
    loop {
        let fired = fires::begin_due(node, log).await?;
        resume_abandoned(node, log).await?;
        // Other fires of the conversation waited for these turns and are due now.
        if !fired {
            return configured;
        }
    }
}

/// Starts another run of each open turn that no process runs any more, and waits for the ends of these runs.
async fn resume_abandoned<P: Platform>(node: &Node<P>, log: LogId) -> Result<(), StoreError> {
    let now = node.platform().now();
    // If this is the only instance, a turn that does not run here runs nowhere, so its lease does not matter.
    let is_abandoned = |turn: &Turn| node.platform().is_only_instance() || turn.is_abandoned(now);
    let abandoned = node
        .read_session(log, |session| {
            let open = session.turns().open();
            let abandoned = open.filter(|(id, turn)| is_abandoned(turn) && !node.runs().has(log, id));
            abandoned.map(|(id, turn)| (*id, turn.exhaustion(now))).collect::<Vec<_>>()
        })
        .await?;
    let runs = abandoned.into_iter().map(|(turn, exhausted)| resume_turn(node, log, turn, exhausted));
    join_all(runs).await.into_iter().collect()
}

/// Claims a turn and runs it to its end. If `exhausted` says why the turn may have no further run, the turn fails with
/// that message instead.
async fn resume_turn<P: Platform>(
    node: &Node<P>,
    log: LogId,
    turn: TurnId,
    exhausted: Option<String>,
) -> Result<(), StoreError> {
    if let Some(message) = exhausted {
        let error = Some(TurnError::exhausted(message));
        return close_turn(node, log, turn, TurnOutcome::Failed, error).await.map(drop);
    }
    // Registered before the claim is written, so that a concurrent wake of this process does not claim the turn, too.
    let Some(live) = node.runs().begin(log, turn) else { return Ok(()) };
    let now = node.platform().now();
    let claim = |session: &Session| match session.turns().find(&turn) {
        Some(open)
            if open.outcome.is_none() && (node.platform().is_only_instance() || open.is_abandoned(now)) =>
        {
            Ok::<_, std::convert::Infallible>(Decision::Append(
                vec![turn::draft_run(turn)],
                during_turn(session, now),
                true,
            ))
        }
        _ => Ok(Decision::Done(false)),
    };
    let (claimed, _, found) =
        node.commit_session(log, claim, |session| session.turns().find(&turn).cloned()).await?;
    if let (true, Some(found)) = (claimed, found) {
        live.push(turn_entries(node, log, turn, &found).await?);
        run::run(node, log, turn, &live, None).await;
    }
    Ok(())
}

/// Closes a turn from outside its run, with the partial answer that the log holds. Returns the turn's outcome, which is
/// an earlier one if the turn was closed already; `None` if the log has no such turn.
pub(crate) async fn close_turn<P: Platform>(
    node: &Node<P>,
    log: LogId,
    turn: TurnId,
    outcome: TurnOutcome,
    error: Option<TurnError>,
) -> Result<Option<TurnOutcome>, StoreError> {
    loop {
        let Some(found) = node.read_turn(log, &turn).await? else { return Ok(None) };
        let snapshot = node.peek_session(log, |session| session.snapshot().cloned()).flatten();
        if found.outcome.is_some() {
            return Ok(found.outcome);
        }
        let mut progress = TurnProgress::default();
        for entry in turn_entries(node, log, turn, &found).await? {
            progress.apply(&entry)?;
        }
        let id = ResponseId { log, turn };
        let last = StepEnded::new(id, progress.block_count(), progress.partial_answer(), &BTreeMap::new());
        let mut drafts = progress.close_open_calls(turn);
        drafts.push(TurnClosed { outcome, last, error: error.clone(), snapshot }.draft(turn));
        // If the run has written more since, the drafts miss a part of the answer: read the turn again.
        let is_current = |turn: &Turn| turn.outcome.is_none() && turn.spans == found.spans;
        let decide = |session: &Session| {
            let unchanged = session.turns().find(&turn).is_some_and(is_current);
            Ok::<_, std::convert::Infallible>(if unchanged {
                Decision::Append(drafts.clone(), after_turn(node, session, &turn), true)
            } else {
                Decision::Done(false)
            })
        };
        let (closed, entries, ()) = node.commit_session(log, decide, |_| ()).await?;
        // Tells a run in this process that its turn is closed. The next round of the loop returns the outcome.
        if let Some(live) = node.runs().find(log, &turn).filter(|_| closed) {
            live.push(entries);
        }
    }
}

#[cfg(test)]
mod tests;
