use std::convert::Infallible;

use super::{close, during_turn, entries, next_wake::after_erasure};
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

/// Logs that are asked for to see whether one is due.
const MOST_DUE: usize = 1_000;

/// When a session of `owner` expires that was last active at `active_at`. `None`: never.
pub(crate) fn expires_at(config: &Config, owner: Option<&str>, active_at: Timestamp) -> Option<Timestamp> {
    Some(active_at + config.retention(owner?)?)
}

/// Deletes all of `log` for good, if `may` still says so when it is written down. Turns that go on are cancelled before,
/// so that their clients hear of it.
pub(crate) async fn delete<P: Platform, E: From<StoreError>>(
    node: &Node<P>,
    log: LogId,
    why: DeletionReason,
    may: impl Fn(&Session) -> Result<bool, E>,
) -> Result<(), CommitError<E>> {
    let refused = |error: StoreError| CommitError::Refused(error.into());
    loop {
        let look = |fold: &Session| {
            let open = || fold.turns().open().map(|(id, _)| *id).collect::<Vec<_>>();
            let live = || fold.schedules().live().map(|(schedule, _)| *schedule.id()).collect::<Vec<_>>();
            may(fold).map(|may| may.then(|| (open(), live())))
        };
        let seen = node.read_session(log, look).await.map_err(refused)?.map_err(CommitError::Refused)?;
        let Some((open, schedules)) = seen else { return Ok(()) };
        for turn in open {
            close(node, log, turn, TurnOutcome::Cancelled, None).await.map_err(refused)?;
        }
        let now = node.platform().now();
        let decide = |fold: &Session| {
            Ok(match (may(fold)?, fold.turns().open().next()) {
                (false, _) => Decision::Done(true),
                // One was opened since.
                (true, Some(_)) => Decision::Done(false),
                (true, None) => Decision::Append(vec![deletion::draft_session(why)], Wake::At(now), true),
            })
        };
        if node.commit_session(log, decide, |_| ()).await?.0 {
            for schedule in schedules {
                // One that stays listed is shown to nobody.
                let _ = node.list_schedule(ScheduleId { log, schedule }, None).await;
            }
            break;
        }
    }
    // What fails stays due.
    let _ = erase(node, log).await;
    Ok(())
}

/// Erases what was deleted of `log`, and writes down that it is.
pub(crate) async fn erase<P: Platform>(node: &Node<P>, log: LogId) -> Result<(), StoreError> {
    loop {
        let look = |fold: &Session| (fold.pending_erasures(), fold.stale().to_vec());
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
                    // A summary tells of it in other words.
                    for EntryId { origin, seq } in &stale {
                        erase_between(node, log, origin, *seq, *seq).await?;
                    }
                }
            }
        }
        let now = node.platform().now();
        let decide = |fold: &Session| {
            // Somebody else may have done the same.
            let left = fold.pending_erasures();
            let drafts: Vec<Draft> =
                pending.iter().filter(|erasure| left.contains(erasure)).map(Erasure::draft).collect();
            let wake = match fold.turns().open().next() {
                _ if more => Wake::At(now),
                Some(_) => during_turn(fold, now),
                None => after_erasure(node, fold, fold.owner()),
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

/// Deletes `log` if nothing has happened in it for long enough.
pub(super) async fn expire<P: Platform>(node: &Node<P>, log: LogId) -> Result<(), StoreError> {
    let now = node.platform().now();
    let at = |fold: &Session| {
        let rests = fold.turns().open().next().is_none() && fold.schedules().live().next().is_none();
        Some(expires_at(node.config(), fold.owner(), fold.active_at())).filter(|_| rests)
    };
    match node.read_session(log, at).await? {
        // A turn goes on.
        None => Ok(()),
        Some(Some(due)) if due <= now => {
            let may = |fold: &Session| Ok(at(fold).flatten().is_some_and(|due| due <= now));
            delete(node, log, DeletionReason::Expired, may).await.map_err(|error: CommitError<StoreError>| {
                match error {
                    CommitError::Refused(error) => error,
                    CommitError::Unavailable(why) | CommitError::TooLarge(why) => {
                        StoreError::Unavailable(why)
                    }
                    CommitError::Corrupt(why) => StoreError::Corrupt(why),
                }
            })
        }
        // It was woken early, since the configuration keeps it for longer than it did.
        Some(due) if node.platform().store().due(now, MOST_DUE).await?.contains(&log) => {
            let draft = Draft { kind: Kind::TICKED, cause: [0; 16], body: bytes::Bytes::new() };
            let decide = |fold: &Session| {
                let wake = match fold.turns().open().next() {
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

/// Erases all bodies of a log but those of `kept`.
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
    let known = |fold: &Session| fold.turns().find(&id).is_some();
    let turn = node.read_session_until(log, known, |fold| fold.turns().find(&id).cloned()).await?;
    let Some(turn) = turn else { return Ok(()) };
    let entries = entries(node, log, id, &turn).await?;
    for origin in turn.spans.keys() {
        let own = entries.iter().map(|entry| entry.header()).filter(|header| header.origin == *origin);
        let own = own.filter(|header| header.kind != Kind::TURN_DELETED);
        erase_some(node, log, origin, own.map(|header| header.seq)).await?;
    }
    Ok(())
}

/// Erases the bodies at `places`, which rise, in as few calls as they have gaps.
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
