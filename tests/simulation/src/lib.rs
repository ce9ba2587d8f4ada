//! Runs the real core on a simulated platform: one thread, virtual time, one seed. The hosts' shells are not simulated.
//!
//! A seed decides everything: the faults, and which of the ready tasks runs next. So a failed run is replayed by its
//! seed, and a repeated run gives the same trace.
//!
//! Each run has a phase with faults and one without, after which everything must work again.

mod client;
pub mod executor;
mod fault_plan;
mod invariants;
mod machine;
mod model;
mod provider;
mod random;
mod remote;
mod turns;
mod work;
mod world;

pub use world::{Report, run};

/// The digest of a run's trace, for hosts that load this crate as a WebAssembly module.
#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "exporting a function by its name is the one way out of a module")]
#[unsafe(no_mangle)]
pub extern "C" fn simulate(seed: u64) -> u64 {
    run(seed).digest
}
