//! What must hold, one file for each.

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
pub(crate) use healed::{closed, healed};
pub(crate) use notes::{noted, notes};
pub(crate) use one_end::{Outcome, one_end};
