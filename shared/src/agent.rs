//! The agent at work: it runs turns, goes on with those that were left, and lets clients follow them.

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

pub(crate) use deletion::{delete, erase, expires_at};
pub(crate) use follow::Follower;
pub(crate) use history::{entries, history};
pub(crate) use next_wake::{after_turn, at_rest, during_turn};
pub(crate) use run::start;
pub use tick::TickError;
pub(crate) use toolbox::Toolbox;

/// Sees that what is due in `log` is done, without waiting for it.
pub(crate) async fn wake_soon<P: Platform>(node: &Node<P>, log: LogId) {
    if node.platform().wake_elsewhere(log).await {
        return;
    }
    let waking = node.clone();
    let work = async move {
        // What fails stays due.
        let _ = waking.wake(log).await;
    };
    node.platform().spawn(Box::pin(work));
}

/// Erases what was deleted of `log`, deletes it if its time is over, begins what is due, goes on with the turns that nobody
/// runs, and waits for their ends.
pub(crate) async fn wake<P: Platform>(node: &Node<P>, log: LogId) -> Result<(), StoreError> {
    erase(node, log).await?;
    deletion::expire(node, log).await?;
    // Turns go on whatever becomes of it.
    let settled = schedules::apply_configured(node, log).await;
    while {
        let begun = fires::begin_due(node, log).await?;
        resume_abandoned(node, log).await?;
        // What waited for these turns is due now.
        begun
    } {}
    settled
}

async fn resume_abandoned<P: Platform>(node: &Node<P>, log: LogId) -> Result<(), StoreError> {
    let now = node.platform().now();
    let left = |turn: &Turn| node.platform().is_only_instance() || turn.is_abandoned(now);
    let open = node
        .read_session(log, |fold| {
            let open = fold.turns().open().filter(|(id, turn)| left(turn) && !node.runs().has(log, id));
            open.map(|(id, turn)| (*id, turn.is_exhausted(now))).collect::<Vec<_>>()
        })
        .await?;
    let runs = open.into_iter().map(|(turn, exhausted)| resume_turn(node, log, turn, exhausted));
    join_all(runs).await.into_iter().collect()
}

/// Begins another run of a turn, or ends it if there have been enough.
async fn resume_turn<P: Platform>(
    node: &Node<P>,
    log: LogId,
    turn: TurnId,
    exhausted: Option<String>,
) -> Result<(), StoreError> {
    if let Some(message) = exhausted {
        let error = Some(TurnError::exhausted(message));
        return close(node, log, turn, TurnOutcome::Failed, error).await.map(drop);
    }
    let Some(live) = node.runs().begin(log, turn) else { return Ok(()) };
    let now = node.platform().now();
    let claim = |fold: &Session| match fold.turns().find(&turn) {
        Some(open)
            if open.outcome.is_none() && (node.platform().is_only_instance() || open.is_abandoned(now)) =>
        {
            Ok::<_, std::convert::Infallible>(Decision::Append(
                vec![turn::draft_run(turn)],
                during_turn(fold, now),
                true,
            ))
        }
        _ => Ok(Decision::Done(false)),
    };
    let (claimed, _, spans) =
        node.commit_session(log, claim, |fold| fold.turns().find(&turn).cloned()).await?;
    if let (true, Some(found)) = (claimed, spans) {
        live.push(entries(node, log, turn, &found).await?);
        run::run(node, log, turn, &live, None).await;
    }
    Ok(())
}

/// Ends a turn from outside, with what its runs have said so far. Gives the outcome that it has then.
pub(crate) async fn close<P: Platform>(
    node: &Node<P>,
    log: LogId,
    turn: TurnId,
    outcome: TurnOutcome,
    error: Option<TurnError>,
) -> Result<Option<TurnOutcome>, StoreError> {
    loop {
        let look = |fold: &Session| Some((fold.turns().find(&turn)?.clone(), fold.snapshot().cloned()));
        let known = |fold: &Session| fold.turns().find(&turn).is_some();
        let Some((found, snapshot)) = node.read_session_until(log, known, look).await? else {
            return Ok(None);
        };
        if found.outcome.is_some() {
            return Ok(found.outcome);
        }
        let mut progress = TurnProgress::default();
        for entry in entries(node, log, turn, &found).await? {
            progress.apply(&entry)?;
        }
        let id = ResponseId { log, turn };
        let last = StepEnded::new(id, progress.block_count(), progress.partial_answer(), &BTreeMap::new());
        let mut drafts = progress.close_open_calls(turn);
        drafts.push(TurnClosed { outcome, last, error: error.clone(), snapshot }.draft(turn));
        // More may have been said since.
        let same = |now: &Turn| now.outcome.is_none() && now.spans == found.spans;
        let decide = |fold: &Session| {
            let unmoved = fold.turns().find(&turn).is_some_and(same);
            Ok::<_, std::convert::Infallible>(if unmoved {
                Decision::Append(drafts.clone(), after_turn(node, fold, &turn), true)
            } else {
                Decision::Done(false)
            })
        };
        let (done, entries, ()) = node.commit_session(log, decide, |_| ()).await?;
        if let Some(live) = node.runs().find(log, &turn).filter(|_| done) {
            live.push(entries);
        }
    }
}

#[cfg(test)]
mod tests;
