//! A child process that ends with the value that owns it.

use std::io::{BufRead, BufReader, Error, Result};
use std::process::{Child, Command, Stdio};

/// A server started by the bench; dropping it kills and reaps it.
pub(crate) struct Server {
    child: Child,
    /// Where it listens, as `127.0.0.1:PORT`.
    pub(crate) address: String,
}

impl Server {
    /// Starts `command` and waits for its `ready http://…` line.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        // The node's lines about requests are written, and nobody reads them.
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.spawn()?;
        // Owned before anything can fail, so that no path leaves it running.
        let mut server = Self { child, address: String::new() };
        let stdout = server.child.stdout.take().ok_or_else(|| Error::other("no standard output"))?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().strip_prefix("ready http://");
        server.address = address.ok_or_else(|| Error::other(format!("not ready: {line:?}")))?.to_owned();
        Ok(server)
    }
}

impl Server {
    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
