//! A child process that ends with the value that owns it.

use std::{
    fs,
    io::{BufRead, BufReader, Error, Result},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// A process started by the bench; dropping it kills and reaps it.
pub(crate) struct Process(Child);

impl Process {
    /// Starts `command`. What it prints about requests is written, and nobody reads it.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().map(Self)
    }

    /// Starts `command`, and returns the address in its line `ready http://…`.
    pub(crate) fn start_ready(command: &mut Command) -> Result<(Self, String)> {
        // Owned before anything can fail, so that no path leaves it running.
        let mut process = Self::start(command.stdout(Stdio::piped()))?;
        let stdout = process.0.stdout.take().ok_or_else(|| Error::other("no standard output"))?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().strip_prefix("ready http://");
        let address = address.ok_or_else(|| Error::other(format!("not ready: {line:?}")))?.to_owned();
        Ok((process, address))
    }

    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }

    /// Lets it end in its own way, and what it has started with it.
    pub(crate) fn terminate(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        self.0.wait().map(drop)
    }

    /// Its resident memory in MiB.
    pub(crate) fn resident_mib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.map(|kib| kib / 1024.0).ok_or_else(|| Error::other("no VmRSS"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
