//! The native shell: the ports over hyper, SQLite and tokio.
//!
//! In scope: sockets, the file, signals, the command line. Everything that Outlive *does* is in the core.
//!
//! One thread runs the core and all connections; SQLite has a thread of its own, since a commit waits for the disk.

pub mod http;
#[cfg(feature = "node")]
pub mod listen;
pub mod platform;
#[cfg(feature = "node")]
mod socket;
#[cfg(feature = "node")]
pub mod store;
#[cfg(feature = "node")]
pub mod telemetry;
