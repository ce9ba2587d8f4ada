//! Sessions: what a log means.


pub mod entry;
pub mod log;
