//! The core of Outlive: everything the agent does, without any platform code.
//!
//! In scope: the HTTP surface, routing over providers, the log and its folds, configuration.
//! Out of scope: sockets, clocks, randomness, files, keys. Each shell provides them through the ports of [`platform`].
//!
//! The crate runs on one thread and is `!Send` by contract: shells cross threads with channels only.

mod agent;
mod api;
pub mod body;
pub mod config;
pub mod cron;
mod deadlines;
pub mod entry;
pub mod error;
mod gateway;
pub mod hex;
mod json;
mod ledger;
mod limits;
pub mod log;
pub mod mcp;
mod metrics;
pub mod model;
pub mod money;
pub mod names;
pub mod node;
pub mod platform;
pub mod price;
pub mod provider;
pub mod record;
pub mod routing;
mod runs;
pub mod secret;
pub mod session;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;
pub mod trace;
pub mod usage;
pub mod wire;

pub use agent::TickError;
pub use api::{Arrival, Placement, socket};
pub use config::Config;
pub use ledger::coverage::Coverage;
pub use node::Node;
