//! Deletes a log, erases the bodies of what was deleted, and deletes logs whose retention is over. What counts as
//! deleted and what is left to erase is computed in `session::deletion`.

use std::convert::Infallible;

use super::{close_turn, during_turn, next_wake::after_erasure, turn_entries};
use crate::{
    config::Config,
    entry::{Draft, EntryId, Kind, LogId, MAX_BATCH_ENTRIES, Origin, Seq, Wake},
    log::{CommitError, Decision},
    node::Node,
    platform::{MAX_ERASED_ENTRIES, Platform, Store, StoreError},
    session::{
        Session,
        deletion::{self, DeletionReason, Erasure},
        schedule::ScheduleId,
        turn::{TurnId, TurnOutcome},
    },
    time::Timestamp,
};

/// Due logs that are read to see whether a certain log is among them.
const MAX_DUE: usize = 1_000;

/// When a session of `owner` that was last active at `active_at` expires; `None` if it never does.
pub(crate) fn expires_at(config: &Config, owner: Option<&str>, active_at: Timestamp) -> Option<Timestamp> {
    Some(active_at + config.retention(owner?)?)
}

/// Deletes all of `log`, if `may_delete` allows it at that moment. Open turns are cancelled first, so that their
/// clients get a last event.
pub(crate) async fn delete_log<P: Platform, E: From<StoreError>>(
    node: &Node<P>,
    log: LogId,
    reason: DeletionReason,
    may_delete: impl Fn(&Session) -> Result<bool, E>,
) -> Result<(), CommitError<E>> {
    let refused = |error: StoreError| CommitError::Refused(error.into());
    loop {
        let look = |session: &Session| {
            let open = || session.turns().open().map(|(id, _)| *id).collect::<Vec<_>>();
            let live = || session.schedules().live().map(|(schedule, _)| *schedule.id()).collect::<Vec<_>>();
            may_delete(session).map(|may| may.then(|| (open(), live())))
        };
        let found = node.read_session(log, look).await.map_err(refused)?.map_err(CommitError::Refused)?;
        let Some((open, schedules)) = found else { return Ok(()) };
        for turn in open {
            close_turn(node, log, turn, TurnOutcome::Cancelled, None).await.map_err(refused)?;
        }
        let now = node.platform().now();
        let decide = |session: &Session| {
            Ok(match (may_delete(session)?, session.turns().open().next()) {
                (false, _) => Decision::Done(true),
                // A turn was opened meanwhile: cancel that one, too.
                (true, Some(_)) => Decision::Done(false),
                (true, None) => Decision::Append(vec![deletion::draft_session(reason)], Wake::At(now), true),
            })
        };
        if node.commit_session(log, decide, |_| ()).await?.0 {
            for schedule in schedules {
                // The error is dropped: a schedule that stays listed is not found in its log, so it is not shown.
                let _ = node.list_schedule(ScheduleId { log, schedule }, None).await;
            }
            break;
        }
    }
    // The error is dropped: the log is deleted, and its wake erases what is left.
    let _ = erase_deleted(node, log).await;
    Ok(())
}

/// Erases the bodies of what was deleted of `log`, and then records that they are erased. After a crash in between the
/// next wake erases them again.
pub(crate) async fn erase_deleted<P: Platform>(node: &Node<P>, log: LogId) -> Result<(), StoreError> {
    loop {
        let look = |session: &Session| (session.pending_erasures(), session.stale_summaries().to_vec());
        let (mut pending, stale) = node.read_session_until(log, Session::covers_deletions, look).await?;
        let more = pending.len() > MAX_BATCH_ENTRIES;
        pending.truncate(MAX_BATCH_ENTRIES);
        if pending.is_empty() {
            return Ok(());
        }
        for erasure in &pending {
            match erasure {
                Erasure::Session(kept) => erase_all(node, log, |place| kept.contains(place)).await?,
                Erasure::Turn(turn) => erase_turn(node, log, *turn).await?,
                Erasure::Item(_, entry) => {
                    if let Some((origin, seq)) = entry {
                        erase_between(node, log, origin, *seq, *seq).await?;
                    }
                    // Summaries that may repeat the item in other words.
                    for EntryId { origin, seq } in &stale {
                        erase_between(node, log, origin, *seq, *seq).await?;
                    }
                }
            }
        }
        let now = node.platform().now();
        let decide = |session: &Session| {
            // Another instance may have recorded some of them meanwhile.
            let left = session.pending_erasures();
            let drafts: Vec<Draft> =
                pending.iter().filter(|erasure| left.contains(erasure)).map(Erasure::draft).collect();
            let wake = match session.turns().open().next() {
                _ if more => Wake::At(now),
                Some(_) => during_turn(session, now),
                None => after_erasure(node, session, session.owner()),
            };
            Ok::<_, Infallible>(if drafts.is_empty() {
                Decision::Done(())
            } else {
                Decision::Append(drafts, wake, ())
            })
        };
        node.commit_session(log, decide, |_| ()).await?;
    }
}

/// Deletes `log` if it was inactive for as long as the configuration keeps it. A log with an open turn or a schedule
/// does not expire.
pub(super) async fn expire<P: Platform>(node: &Node<P>, log: LogId) -> Result<(), StoreError> {
    let now = node.platform().now();
    // Outer `None`: the log can't expire now. Inner `None`: it never expires.
    let expiry = |session: &Session| {
        let is_idle = session.turns().open().next().is_none() && session.schedules().live().next().is_none();
        Some(expires_at(node.config(), session.owner(), session.active_at())).filter(|_| is_idle)
    };
    match node.read_session(log, expiry).await? {
        None => Ok(()),
        Some(Some(due)) if due <= now => {
            let may_delete = |session: &Session| Ok(expiry(session).flatten().is_some_and(|due| due <= now));
            delete_log(node, log, DeletionReason::Expired, may_delete).await.map_err(
                |error: CommitError<StoreError>| match error {
                    CommitError::Refused(error) => error,
                    CommitError::Unavailable(why) | CommitError::TooLarge(why) => {
                        StoreError::Unavailable(why)
                    }
                    CommitError::Corrupt(why) => StoreError::Corrupt(why),
                },
            )
        }
        // The wake came too early, since the retention was lengthened. An entry sets the new wake; without it the log
        // would be due at every tick.
        Some(due) if node.platform().store().due(now, MAX_DUE).await?.contains(&log) => {
            let draft = Draft { kind: Kind::TICKED, cause: [0; 16], body: bytes::Bytes::new() };
            let decide = |session: &Session| {
                let wake = match session.turns().open().next() {
                    Some(_) => Wake::Keep,
                    None => due.map_or(Wake::Never, Wake::At),
                };
                Ok::<_, Infallible>(Decision::Append(vec![draft.clone()], wake, ()))
            };
            node.commit_session(log, decide, |_| ()).await.map(drop).map_err(StoreError::from)
        }
        Some(_) => Ok(()),
    }
}

/// Erases all bodies of a log except those of `kept`.
async fn erase_all<P: Platform>(
    node: &Node<P>,
    log: LogId,
    kept: impl Fn(&(Origin, Seq)) -> bool,
) -> Result<(), StoreError> {
    for head in node.platform().store().heads(log).await? {
        let all = (Seq::FIRST.0..=head.seq.0).map(Seq);
        erase_some(node, log, &head.origin, all.filter(|seq| !kept(&(head.origin.clone(), *seq)))).await?;
    }
    Ok(())
}

/// Erases all bodies of a turn.
async fn erase_turn<P: Platform>(node: &Node<P>, log: LogId, id: TurnId) -> Result<(), StoreError> {
    let turn = node.read_turn(log, &id).await?;
    let Some(turn) = turn else { return Ok(()) };
    let entries = turn_entries(node, log, id, &turn).await?;
    for origin in turn.spans.keys() {
        let own = entries.iter().map(|entry| entry.header()).filter(|header| header.origin == *origin);
        // The entry of the deletion stays: it says what is erased.
        let own = own.filter(|header| header.kind != Kind::TURN_DELETED);
        erase_some(node, log, origin, own.map(|header| header.seq)).await?;
    }
    Ok(())
}

/// Erases the bodies at `places`, which must be ascending, with one call of the store for each run without a gap.
async fn erase_some<P: Platform>(
    node: &Node<P>,
    log: LogId,
    origin: &Origin,
    places: impl Iterator<Item = Seq>,
) -> Result<(), StoreError> {
    let mut range: Option<(Seq, Seq)> = None;
    for seq in places {
        range = match range {
            Some((from, to)) if to.next() == seq => Some((from, seq)),
            Some((from, to)) => {
                erase_between(node, log, origin, from, to).await?;
                Some((seq, seq))
            }
            None => Some((seq, seq)),
        };
    }
    match range {
        Some((from, to)) => erase_between(node, log, origin, from, to).await,
        None => Ok(()),
    }
}

/// Erases the bodies from `from` to `to`, in steps that the store takes.
async fn erase_between<P: Platform>(
    node: &Node<P>,
    log: LogId,
    origin: &Origin,
    mut from: Seq,
    to: Seq,
) -> Result<(), StoreError> {
    while from <= to {
        node.platform().store().erase(log, origin, from, to).await?;
        from = Seq(from.0.saturating_add(MAX_ERASED_ENTRIES));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
