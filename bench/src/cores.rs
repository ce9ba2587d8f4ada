//! Pins threads and processes to cores. Left to the scheduler, a request over one connection runs on one core or on
//! two, and the upstream alone takes 6 µs or 62 µs by chance.

use std::{fs, io::Result, sync::OnceLock, thread};

use rustix::{
    process::Pid,
    thread::{CpuSet, sched_setaffinity},
};

/// The core of the load generator and of the upstream.
pub(crate) const LOAD: usize = 0;

/// The core of the measured subject when it does not share [`LOAD`].
pub(crate) const SUBJECT: usize = 1;

/// Pins this thread, and the processes that it starts later, to a core.
pub(crate) fn pin_thread(core: usize) -> Result<()> {
    Ok(sched_setaffinity(None, &cpu_set(core))?)
}

/// Moves all threads of a process to a core.
pub(crate) fn move_process(process: u32, core: usize) -> Result<()> {
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let name = thread?.file_name();
        let thread = name.to_str().and_then(|name| Pid::from_raw(name.parse().ok()?));
        match thread.map(|thread| sched_setaffinity(Some(thread), &cpu_set(core))) {
            // The thread has ended since the directory was read.
            Some(Err(rustix::io::Errno::SRCH)) | None => {}
            Some(result) => result?,
        }
    }
    Ok(())
}

/// The set of one core: `core` modulo the number of cores.
fn cpu_set(core: usize) -> CpuSet {
    // Only the first call sees every core: once this thread is pinned, the system reports one.
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = CORES.get_or_init(|| thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let mut set = CpuSet::new();
    set.set(core % cores);
    set
}
