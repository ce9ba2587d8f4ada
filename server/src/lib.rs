//! The native shell: a listener on hyper, the SQLite store and the exporter of spans, around the core.
//!
//! In scope: sockets, the file, signals, the command line.
//! Out of scope: what a node does (the core), and its clock, random bytes and HTTP client (`outlive-machine`).
//!
//! One thread runs the core and all connections; SQLite has a thread of its own, since a commit waits for the disk.

pub mod bind;
pub mod guide;
pub mod listen;
pub mod log;
mod socket;
pub mod store;
pub mod telemetry;
