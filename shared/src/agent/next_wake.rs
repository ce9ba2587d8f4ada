//! Computes the next wake of a log from all reasons at once (leases, schedules, erasures, retention), so that none of
//! them overwrites another. Writes nothing.

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

/// Next wake of a log while a turn runs in it.
pub(crate) fn during_turn(session: &Session, now: Timestamp) -> Wake {
    // A schedule that is due already is handled by the wake in progress.
    let due = session.schedules().due_at(None).filter(|due| *due > now);
    earliest([Some(now + LEASE), due.filter(|_| !is_busy(session))])
}

/// Next wake of a log once the turn `ended` is closed.
pub(crate) fn after_turn<P: Platform>(node: &Node<P>, session: &Session, ended: &TurnId) -> Wake {
    let other_turns = || session.turns().open().filter(|(id, _)| *id != ended).map(|(_, turn)| turn);
    if other_turns().next().is_none() {
        return at_rest(node, session, session.owner());
    }
    let busy = other_turns().any(|turn| turn.in_conversation);
    earliest([leases(other_turns()), session.schedules().due_at(None).filter(|_| !busy)])
}

/// Next wake of a log without an open turn, after an entry that is about to be written: at once while something deleted
/// is not erased. Retention counts from now.
pub(crate) fn at_rest<P: Platform>(node: &Node<P>, session: &Session, owner: Option<&str>) -> Wake {
    if !session.pending_erasures().is_empty() {
        return Wake::At(node.platform().now());
    }
    after_erasure(node, session, owner)
}

/// Next wake of a log without an open turn, once everything that was deleted is erased.
pub(super) fn after_erasure<P: Platform>(node: &Node<P>, session: &Session, owner: Option<&str>) -> Wake {
    let expires = expires_at(node.config(), owner, node.platform().now());
    earliest([session.schedules().due_at(None), expires])
}

/// Next wake of a log whose schedule `schedule` will be due at `due`.
pub(super) fn after_reschedule(session: &Session, schedule: &Cause, due: Option<Timestamp>) -> Wake {
    let due = [due, session.schedules().due_at(Some(schedule))].into_iter().flatten().min();
    earliest([leases(session.turns().open().map(|(_, turn)| turn)), due.filter(|_| !is_busy(session))])
}

/// Whether the conversation has an open turn. Fires wait for its end, which sets the next wake.
pub(super) fn is_busy(session: &Session) -> bool {
    session.turns().open().any(|(_, turn)| turn.in_conversation)
}

/// When the first of these turns counts as abandoned unless something is written to it.
fn leases<'a>(open: impl Iterator<Item = &'a Turn>) -> Option<Timestamp> {
    open.map(|turn| turn.moved_at + LEASE).min()
}

fn earliest<const N: usize>(times: [Option<Timestamp>; N]) -> Wake {
    times.into_iter().flatten().min().map_or(Wake::Never, Wake::At)
}
