//! The invariants, one file for each. A check reports a violation to the world and changes nothing.

mod acknowledged;
mod answered;
mod approvals;
mod available;
pub(crate) mod bounded;
pub(crate) mod budget;
mod effects;
pub(crate) mod fires;
mod folded;
mod healed;
mod notes;
mod one_end;
pub(crate) mod turns;

pub(crate) use acknowledged::Acknowledged;
pub(crate) use answered::answered;
pub(crate) use approvals::{Approvals, approvals};
pub(crate) use available::available;
pub(crate) use effects::{Effects, effects};
pub(crate) use folded::folded;
pub(crate) use healed::{breakers_closed, healed};
pub(crate) use notes::{completed_note, notes};
pub(crate) use one_end::{ChatOutcome, one_end};
