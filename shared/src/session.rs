//! Sessions: what a log means.

pub mod conversation;
pub mod entry;
pub mod log;
