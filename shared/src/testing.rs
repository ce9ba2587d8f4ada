//! Provides what tests of all crates share: the memory store (also the simulator's reference), the fault injector, a
//! test platform, fuzz targets, and the suite that every store passes. Holds no tests of the core itself.

mod faulty;
pub mod fuzz;
mod memory;
mod platform;
pub mod suite;

use crate::{Node, entry::LogId, log::View, platform::Platform, session::Session};
pub use faulty::{CallKind, Fault, Faulty};
pub use memory::MemoryStore;
pub use platform::{NoHttp, TestPlatform};

/// The folded sessions that `node` has cached, for an invariant that folds them again from the logs.
pub fn views<P: Platform>(node: &Node<P>) -> Vec<(LogId, View<Session>)> {
    node.views()
}
