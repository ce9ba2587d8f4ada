//! What must hold, one file for each.

mod acknowledged;
mod available;
pub(crate) mod budget;
mod healed;
mod one_end;

pub(crate) use acknowledged::Acknowledged;
pub(crate) use available::available;
pub(crate) use healed::healed;
pub(crate) use one_end::{Outcome, one_end};
