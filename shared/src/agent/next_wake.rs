//! When a log wants to be looked at: the one place where all reasons meet, so that none is forgotten for another.

use super::expires_at;
use crate::{
    entry::{Cause, Wake},
    node::Node,
    platform::Platform,
    session::{
        Session,
        turn::{LEASE, Turn, TurnId},
    },
    time::Timestamp,
};

/// When a log with a turn that runs wants to be looked at.
pub(crate) fn during_turn(fold: &Session, now: Timestamp) -> Wake {
    // What is due already is being seen to.
    let due = fold.schedules().due_at(None).filter(|due| *due > now);
    first([Some(now + LEASE), due.filter(|_| !is_busy(fold))])
}

/// When a log wants to be looked at once the turn `ended` needs nobody any more.
pub(crate) fn after_turn<P: Platform>(node: &Node<P>, fold: &Session, ended: &TurnId) -> Wake {
    let others = || fold.turns().open().filter(|(id, _)| *id != ended).map(|(_, turn)| turn);
    if others().next().is_none() {
        return at_rest(node, fold, fold.owner());
    }
    let busy = others().any(|turn| turn.in_conversation);
    first([leases(others()), fold.schedules().due_at(None).filter(|_| !busy)])
}

/// When a log in which no turn goes on wants to be looked at, after an entry that is about to be written.
pub(crate) fn at_rest<P: Platform>(node: &Node<P>, fold: &Session, owner: Option<&str>) -> Wake {
    if !fold.pending_erasures().is_empty() {
        return Wake::At(node.platform().now());
    }
    after_erasure(node, fold, owner)
}

/// The same, once everything that was deleted is erased.
pub(super) fn after_erasure<P: Platform>(node: &Node<P>, fold: &Session, owner: Option<&str>) -> Wake {
    let expires = expires_at(node.config(), owner, node.platform().now());
    first([fold.schedules().due_at(None), expires])
}

/// When a log wants to be looked at if `schedule` is due at `due` next.
pub(super) fn after_reschedule(fold: &Session, schedule: &Cause, due: Option<Timestamp>) -> Wake {
    let due = [due, fold.schedules().due_at(Some(schedule))].into_iter().flatten().min();
    first([leases(fold.turns().open().map(|(_, turn)| turn)), due.filter(|_| !is_busy(fold))])
}

/// Whether the conversation has a turn that goes on. Fires wait for its end, which says when to look again.
pub(super) fn is_busy(fold: &Session) -> bool {
    fold.turns().open().any(|(_, turn)| turn.in_conversation)
}

/// When the first of these turns is given up unless something is written to it.
fn leases<'a>(open: impl Iterator<Item = &'a Turn>) -> Option<Timestamp> {
    open.map(|turn| turn.moved_at + LEASE).min()
}

fn first<const N: usize>(times: [Option<Timestamp>; N]) -> Wake {
    times.into_iter().flatten().min().map_or(Wake::Never, Wake::At)
}
