//! Which core a process runs on. Left to the scheduler, a request over one connection takes one core or two, and the
//! upstream alone shows 6 µs or 62 µs by chance.

use std::{fs, io::Result, sync::OnceLock, thread};

use rustix::{
    process::Pid,
    thread::{CpuSet, sched_setaffinity},
};

/// The core of the load and of the upstream.
pub(crate) const LOAD: usize = 0;

/// The core of what is measured, where it has one of its own.
pub(crate) const MEASURED: usize = 1;

/// Keeps this thread, and what it starts from now on, on a core.
pub(crate) fn pin(core: usize) -> Result<()> {
    Ok(sched_setaffinity(None, &set(core))?)
}

/// Moves all threads of a process to a core.
pub(crate) fn place(process: u32, core: usize) -> Result<()> {
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let name = thread?.file_name();
        let thread = name.to_str().and_then(|name| Pid::from_raw(name.parse().ok()?));
        match thread.map(|thread| sched_setaffinity(Some(thread), &set(core))) {
            // It has ended since the directory was read.
            Some(Err(rustix::io::Errno::SRCH)) | None => {}
            Some(placed) => placed?,
        }
    }
    Ok(())
}

/// The core of this number, modulo the cores there are.
fn set(core: usize) -> CpuSet {
    // The first call decides how many there are: later ones see only where they were put.
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = CORES.get_or_init(|| thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let mut set = CpuSet::new();
    set.set(core % cores);
    set
}
