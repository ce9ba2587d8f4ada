//! What must hold, one file for each.

mod acknowledged;
mod available;
pub(crate) mod bounded;
pub(crate) mod budget;
mod healed;
mod one_end;
pub(crate) mod turns;

pub(crate) use acknowledged::Acknowledged;
pub(crate) use available::available;
pub(crate) use healed::{closed, healed};
pub(crate) use one_end::{Outcome, one_end};
