//! Owns a child process and kills it when the value is dropped. Restarts nothing and reads no output after `ready`.

use std::{
    fs,
    io::{BufRead, BufReader, Error, Result},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// A process that the bench started; dropping it kills and reaps it.
pub(crate) struct Process(Child);

impl Process {
    /// Starts `command`. Its stderr goes to `/dev/null`: the node writes a line for each request, and writing is part
    /// of what is measured.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().map(Self)
    }

    /// Starts `command` and returns the address in its line `ready http://…`.
    pub(crate) fn start_ready(command: &mut Command) -> Result<(Self, String)> {
        // The process is owned before anything can fail, so an error kills it.
        let mut process = Self::start(command.stdout(Stdio::piped()))?;
        let stdout = process.0.stdout.take().ok_or_else(|| Error::other("no standard output"))?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().strip_prefix("ready http://");
        let address = address.ok_or_else(|| Error::other(format!("not ready: {line:?}")))?.to_owned();
        Ok((process, address))
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether the process has exited.
    pub(crate) fn has_exited(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }

    /// Sends SIGTERM and waits for the exit, so that the process can stop its own children.
    pub(crate) fn terminate(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        self.0.wait().map(drop)
    }

    /// Resident memory in MiB.
    pub(crate) fn resident_mib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.map(|kib| kib / 1024.0).ok_or_else(|| Error::other("no VmRSS"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the process has exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
