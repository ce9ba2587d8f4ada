//! The ports of a process with an operating system and tokio, for the shells that run as one.
//!
//! In scope: the clock, random bytes, the log line, tasks, and an HTTP client over hyper.
//! Out of scope: the store, which each shell passes in, and the listener or runtime that feeds a node its requests.

mod http;
mod platform;

pub use http::{HttpClient, ResponseBody};
pub use platform::Machine;
