//! What tests of this and other crates share: the memory store (also the oracle of the simulator), the fault
//! injector, and the one suite that every store passes.

mod faulty;
pub mod fuzz;
mod memory;
mod platform;
pub mod suite;

use crate::{Node, entry::LogId, log::View, platform::Platform, session::Session};
pub use faulty::{Call, Fault, Faulty};
pub use memory::MemoryStore;
pub use platform::{NoHttp, TestPlatform};

/// The folds of sessions that `node` keeps, for an invariant that makes them anew.
pub fn views<P: Platform>(node: &Node<P>) -> Vec<(LogId, View<Session>)> {
    node.views()
}
