//! Runs several processes for one task and stops them together. Does not read their output.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often the processes are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(25);
/// How long a process may take to exit after SIGTERM, before SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a process stays down before its restart, so that one that fails at once does not spin.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// The processes of one task. They stay in its process group; dropping this stops them all.
pub(crate) struct Processes {
    running: Vec<Process>,
    stop_requested: Arc<AtomicBool>,
}

struct Process {
    name: String,
    child: Child,
    /// The command that restarts it when it exits; without one, its exit is an error.
    restart: Option<Command>,
    /// When its exit was noticed, until it is restarted.
    exited_at: Option<Instant>,
}

impl Processes {
    /// Starts with no process. From now on SIGTERM, SIGINT and SIGHUP only set a flag: the task stops the processes,
    /// then itself.
    pub(crate) fn new() -> Result<Self> {
        let stop_requested = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP]
        {
            signal_hook::flag::register(signal, stop_requested.clone())
                .context("cannot listen for signals")?;
        }
        Ok(Self { running: Vec::new(), stop_requested })
    }

    /// Starts a process whose exit is an error.
    pub(crate) fn start(&mut self, name: &str, mut command: Command) -> Result<()> {
        let child = spawn(name, &mut command)?;
        self.running.push(Process { name: name.to_owned(), child, restart: None, exited_at: None });
        Ok(())
    }

    /// Starts a process that is restarted whenever it exits.
    pub(crate) fn start_restarting(&mut self, name: &str, mut command: Command) -> Result<()> {
        let child = spawn(name, &mut command)?;
        self.running.push(Process { name: name.to_owned(), child, restart: Some(command), exited_at: None });
        Ok(())
    }

    /// Waits until `done` returns true; an exit of a process or `timeout` is an error. False: a stop was requested.
    pub(crate) fn wait_until(
        &mut self,
        event: &str,
        timeout: Duration,
        mut done: impl FnMut() -> Result<bool>,
    ) -> Result<bool> {
        let start = Instant::now();
        while !self.stop_requested() {
            self.fail_on_exit()?;
            if done()? {
                return Ok(true);
            }
            if start.elapsed() > timeout {
                bail!("{event}: not within {} s", timeout.as_secs());
            }
            sleep(POLL_INTERVAL);
        }
        Ok(false)
    }

    /// Calls `poll` many times a second until a stop is requested. The exit of a process that is not restarted is an
    /// error.
    pub(crate) fn run(&mut self, mut poll: impl FnMut()) -> Result<()> {
        while !self.stop_requested() {
            self.restart_exited()?;
            self.fail_on_exit()?;
            poll();
            sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Whether a signal has requested this program to stop.
    pub(crate) fn stop_requested(&self) -> bool {
        self.stop_requested.load(Ordering::Relaxed)
    }

    /// Stops all processes and their descendants.
    pub(crate) fn stop(&mut self) {
        // Before any process exits: then its children have another parent and are not found.
        let descendants: Vec<Pid> =
            self.running.iter().flat_map(|process| descendants(pid(&process.child))).collect();
        for process in &mut self.running {
            process.terminate();
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for process in &mut self.running {
            process.wait(deadline);
        }
        self.running.clear();
        // A process that was killed did not stop its own children. Killing a process that has exited does nothing.
        for pid in descendants {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Restarts the processes that may be restarted and have been down for [`RESTART_DELAY`].
    fn restart_exited(&mut self) -> Result<()> {
        for process in &mut self.running {
            let Some(restart) = &mut process.restart else { continue };
            let Some(status) = process.child.try_wait()? else { continue };
            let exited_at = *process.exited_at.get_or_insert_with(|| {
                eprintln!("xtask: {} ended with {status}; restarting it", process.name);
                Instant::now()
            });
            if exited_at.elapsed() >= RESTART_DELAY {
                process.child = spawn(&process.name, restart)?;
                process.exited_at = None;
            }
        }
        Ok(())
    }

    /// Fails if a process has exited by itself.
    fn fail_on_exit(&mut self) -> Result<()> {
        let Some((name, status)) = self.first_exit()? else { return Ok(()) };
        // A signal to the whole group may reach the process before it reaches this program.
        sleep(4 * POLL_INTERVAL);
        if self.stop_requested() {
            return Ok(());
        }
        bail!("{name} ended with {status}")
    }

    /// The first process that has exited and does not wait for its restart.
    fn first_exit(&mut self) -> Result<Option<(String, ExitStatus)>> {
        for process in &mut self.running {
            if process.restart.is_some() && process.exited_at.is_some() {
                continue;
            }
            if let Some(status) = process.child.try_wait()? {
                return Ok(Some((process.name.clone(), status)));
            }
        }
        Ok(None)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Process {
    /// Sends SIGTERM.
    fn terminate(&mut self) {
        // A reaped process must not be signalled: its id may belong to another process by now.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(pid(&self.child), Signal::TERM);
        }
    }

    /// Waits for the exit until the deadline, then kills the process.
    fn wait(&mut self, deadline: Instant) {
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => sleep(POLL_INTERVAL),
                _ => return,
            }
        }
        eprintln!("xtask: {} did not end; killing it", self.name);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a process with all output on stderr: stdout carries nothing but the line `ready …`.
fn spawn(name: &str, command: &mut Command) -> Result<Child> {
    let command = command.stdin(Stdio::null()).stdout(std::io::stderr());
    command.spawn().with_context(|| format!("cannot start {name}"))
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// The descendants of a process, children first; none on a system without `/proc`.
fn descendants(ancestor: Pid) -> Vec<Pid> {
    let parents: Vec<(Pid, Pid)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name in parentheses may contain spaces and parentheses, so fields are counted after the last one.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((Pid::from_raw(pid)?, Pid::from_raw(parent)?))
        })
        .collect();
    let mut family = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|(_, its_parent)| *its_parent == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    family.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn alive(pid: Pid) -> bool {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }

    #[test]
    fn stopping_a_process_stops_its_children() {
        let mut processes = Processes::new().unwrap();
        processes.start("shell", shell("sleep 1000 & sleep 1000 & wait")).unwrap();
        let parent = pid(&processes.running[0].child);
        while descendants(parent).len() < 2 {
            sleep(POLL_INTERVAL);
        }
        let family = descendants(parent);
        processes.stop();
        sleep(4 * POLL_INTERVAL);
        assert_eq!(family.iter().filter(|pid| alive(**pid)).count(), 0);
    }

    #[test]
    fn the_exit_of_one_is_an_error() {
        let mut processes = Processes::new().unwrap();
        processes.start("sleep", shell("exec sleep 1000")).unwrap();
        processes.start("short", shell("exit 3")).unwrap();
        let error = processes.run(|| ()).unwrap_err();
        assert_eq!(error.to_string(), "short ended with exit status: 3");
    }

    #[test]
    fn a_restarting_process_is_restarted() {
        let mut processes = Processes::new().unwrap();
        processes.start_restarting("restarting", shell("exec sleep 1000")).unwrap();
        let first = pid(&processes.running[0].child);
        kill_process(first, Signal::KILL).unwrap();
        let start = Instant::now();
        let stop_requested = processes.stop_requested.clone();
        processes
            .run(|| stop_requested.store(start.elapsed() > 2 * RESTART_DELAY, Ordering::Relaxed))
            .unwrap();
        assert_ne!(pid(&processes.running[0].child), first);
    }
}
