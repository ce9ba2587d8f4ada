//! Processes that are started together and end together.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often the processes are looked at.
const BEAT: Duration = Duration::from_millis(25);
/// How long they have to end after SIGTERM, before SIGKILL.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long one that may be restarted stays down, so that one that fails at once does not spin.
const PAUSE: Duration = Duration::from_secs(1);

/// The processes of one chore. They stay in its process group, and dropping this ends them all.
pub(crate) struct Processes {
    running: Vec<Process>,
    stop: Arc<AtomicBool>,
}

struct Process {
    name: String,
    child: Child,
    /// What to start anew when it ends; without one, its end is the end of all.
    again: Option<Command>,
    ended: Option<Instant>,
}

impl Processes {
    /// From now on SIGTERM, SIGINT and SIGHUP mean: stop the processes, then this program.
    pub(crate) fn new() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP]
        {
            signal_hook::flag::register(signal, stop.clone()).context("cannot listen for signals")?;
        }
        Ok(Self { running: Vec::new(), stop })
    }

    /// Starts a process whose end is the end of all.
    pub(crate) fn start(&mut self, name: &str, mut command: Command) -> Result<()> {
        let child = spawn(name, &mut command)?;
        self.running.push(Process { name: name.to_owned(), child, again: None, ended: None });
        Ok(())
    }

    /// Starts a process that is started anew whenever it ends.
    pub(crate) fn keep(&mut self, name: &str, mut command: Command) -> Result<()> {
        let child = spawn(name, &mut command)?;
        self.running.push(Process { name: name.to_owned(), child, again: Some(command), ended: None });
        Ok(())
    }

    /// Waits until `done`, as long as every process runs. False: this program was told to stop.
    pub(crate) fn wait_until(
        &mut self,
        what: &str,
        patience: Duration,
        mut done: impl FnMut() -> Result<bool>,
    ) -> Result<bool> {
        let start = Instant::now();
        while !self.told_to_stop() {
            self.fail_on_end()?;
            if done()? {
                return Ok(true);
            }
            if start.elapsed() > patience {
                bail!("{what}: not within {} s", patience.as_secs());
            }
            sleep(BEAT);
        }
        Ok(false)
    }

    /// Calls `beat` many times a second until this program is told to stop, or a process ends that should not.
    pub(crate) fn run(&mut self, mut beat: impl FnMut()) -> Result<()> {
        while !self.told_to_stop() {
            self.restart()?;
            self.fail_on_end()?;
            beat();
            sleep(BEAT);
        }
        Ok(())
    }

    /// Whether this program was told to stop.
    pub(crate) fn told_to_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends all processes, and whatever they started.
    pub(crate) fn stop(&mut self) {
        let family: Vec<Pid> =
            self.running.iter().flat_map(|process| descendants(pid(&process.child))).collect();
        for process in &mut self.running {
            process.terminate();
        }
        let deadline = Instant::now() + PATIENCE;
        for process in &mut self.running {
            process.wait(deadline);
        }
        self.running.clear();
        // A process that was killed could not end its own children; killing one that is gone does nothing.
        for pid in family {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Starts anew what has ended and may.
    fn restart(&mut self) -> Result<()> {
        for process in &mut self.running {
            let Some(again) = &mut process.again else { continue };
            let Some(status) = process.child.try_wait()? else { continue };
            let ended = *process.ended.get_or_insert_with(|| {
                eprintln!("xtask: {} ended with {status}; starting it anew", process.name);
                Instant::now()
            });
            if ended.elapsed() >= PAUSE {
                process.child = spawn(&process.name, again)?;
                process.ended = None;
            }
        }
        Ok(())
    }

    /// An error if a process has ended by itself.
    fn fail_on_end(&mut self) -> Result<()> {
        let Some((name, status)) = self.ended()? else { return Ok(()) };
        // A signal to the whole group may reach the process before it reaches this program.
        sleep(4 * BEAT);
        if self.told_to_stop() {
            return Ok(());
        }
        bail!("{name} ended with {status}")
    }

    fn ended(&mut self) -> Result<Option<(String, ExitStatus)>> {
        for process in &mut self.running {
            if process.again.is_some() && process.ended.is_some() {
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
    fn terminate(&mut self) {
        // One that has been waited for is gone, and its id may be another's by now.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(pid(&self.child), Signal::TERM);
        }
    }

    /// Waits for its end until the deadline, then kills it.
    fn wait(&mut self, deadline: Instant) {
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => sleep(BEAT),
                _ => return,
            }
        }
        eprintln!("xtask: {} did not end; killing it", self.name);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All output goes to stderr: stdout is for the line that says `ready`.
fn spawn(name: &str, command: &mut Command) -> Result<Child> {
    let command = command.stdin(Stdio::null()).stdout(std::io::stderr());
    command.spawn().with_context(|| format!("cannot start {name}"))
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// The processes below one, nearest first; none where the kernel has no `/proc`.
fn descendants(of: Pid) -> Vec<Pid> {
    let parents: Vec<(Pid, Pid)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name in parentheses may itself contain spaces and parentheses.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((Pid::from_raw(pid)?, Pid::from_raw(parent)?))
        })
        .collect();
    let mut family = vec![of];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
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
    fn a_killed_process_takes_its_children_along() {
        let mut processes = Processes::new().unwrap();
        processes.start("shell", shell("sleep 1000 & sleep 1000 & wait")).unwrap();
        let parent = pid(&processes.running[0].child);
        while descendants(parent).len() < 2 {
            sleep(BEAT);
        }
        let family = descendants(parent);
        processes.stop();
        sleep(4 * BEAT);
        assert_eq!(family.iter().filter(|pid| alive(**pid)).count(), 0);
    }

    #[test]
    fn the_end_of_one_is_an_error() {
        let mut processes = Processes::new().unwrap();
        processes.start("sleep", shell("exec sleep 1000")).unwrap();
        processes.start("short", shell("exit 3")).unwrap();
        let error = processes.run(|| ()).unwrap_err();
        assert_eq!(error.to_string(), "short ended with exit status: 3");
    }

    #[test]
    fn a_kept_process_is_started_anew() {
        let mut processes = Processes::new().unwrap();
        processes.keep("kept", shell("exec sleep 1000")).unwrap();
        let first = pid(&processes.running[0].child);
        kill_process(first, Signal::KILL).unwrap();
        let start = Instant::now();
        let stop = processes.stop.clone();
        processes.run(|| stop.store(start.elapsed() > 2 * PAUSE, Ordering::Relaxed)).unwrap();
        assert_ne!(pid(&processes.running[0].child), first);
    }
}
