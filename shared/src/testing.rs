//! What tests of this and other crates share: the memory store (also the oracle of the simulator), the fault
//! injector, and the one suite that every store passes.

mod faulty;
pub mod fuzz;
mod memory;
mod platform;
pub mod suite;

pub use faulty::{Call, Fault, Faulty};
pub use memory::MemoryStore;
pub use platform::{NoHttp, TestPlatform};
