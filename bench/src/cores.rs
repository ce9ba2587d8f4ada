//! Which core a process runs on. Left to the scheduler, a request over one connection takes one core or two, and the
//! upstream alone shows 6 µs or 62 µs by chance.

use std::io::Result;

use rustix::thread::{CpuSet, sched_setaffinity};

/// Runs `start` so that the processes it starts stay on the core of this number, modulo the cores there are.
pub(crate) fn on<T>(core: usize, start: impl FnOnce() -> Result<T>) -> Result<T> {
    pin(core)?;
    let started = start();
    pin(LOAD)?;
    started
}

/// The core of the load, and of the upstream.
pub(crate) const LOAD: usize = 0;

/// The core of what is measured.
pub(crate) const MEASURED: usize = 1;

/// Keeps this thread on a core.
pub(crate) fn pin(core: usize) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // The first call decides how many there are: later ones see only where they were put.
    static CORES: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    let mut set = CpuSet::new();
    set.set(core % CORES.get_or_init(|| cores));
    Ok(sched_setaffinity(None, &set)?)
}
