//! Starts, kills and stops the node under test, on its real runtime. Sends it no requests.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};
use tempfile::TempDir;

/// The platform that a node runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Host {
    Native,
    Worker,
    Lambda,
}

impl Host {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Worker => "worker",
            Self::Lambda => "lambda",
        }
    }
}

/// A node on its real runtime, with all its processes.
pub(crate) struct Node {
    host: Host,
    pub(crate) port: u16,
    environment: Vec<(&'static str, String)>,
    /// The configuration, the node's data, and its log.
    directory: TempDir,
    process: Child,
}

/// Long enough for the first build.
const START_TIMEOUT: Duration = Duration::from_secs(1500);

/// Long enough for the requests in flight.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

impl Node {
    /// Starts a node and waits until it serves. Fails with what it printed if it does not.
    pub(crate) fn start(
        host: Host,
        config: &str,
        environment: Vec<(&'static str, String)>,
    ) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("outlive-").tempdir()?;
        fs::write(directory.path().join("agent.toml"), config)?;
        fs::create_dir(directory.path().join("data"))?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let process = spawn(host, port, directory.path(), &environment)?;
        Ok(Self { host, port, environment, directory, process })
    }

    /// Kills all processes at once, as a power cut would, and starts the node again over the same data.
    pub(crate) fn crash(&mut self) -> io::Result<()> {
        self.kill()?;
        self.start_again()
    }

    /// Starts the node again over the same data, after it has ended.
    pub(crate) fn start_again(&mut self) -> io::Result<()> {
        self.process = spawn(self.host, self.port, self.directory.path(), &self.environment)?;
        Ok(())
    }

    /// Kills all processes at once.
    fn kill(&mut self) -> io::Result<()> {
        let group = self.group()?;
        kill_process_group(group, Signal::KILL)?;
        running().retain(|running| *running != group);
        self.process.wait().map(drop)
    }

    /// Sends SIGTERM and waits for the exit. `None`: there was none in time, so the node was killed.
    pub(crate) fn stop(&mut self) -> io::Result<Option<ExitStatus>> {
        kill_process_group(self.group()?, Signal::TERM)?;
        let start = Instant::now();
        while start.elapsed() < STOP_TIMEOUT {
            if let Some(status) = self.process.try_wait()? {
                let group = self.group()?;
                running().retain(|running| *running != group);
                return Ok(Some(status));
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.kill()?;
        Ok(None)
    }

    /// What the node printed on stderr.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The files of the node's data that contain `text`. Useful only on a host that stores plain files.
    pub(crate) fn files_with(&self, text: &str) -> Vec<PathBuf> {
        let contains = |path: &PathBuf| {
            fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
        };
        let (mut files, mut folders) = (Vec::new(), vec![self.directory.path().join("data")]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files.retain(contains);
        files
    }

    fn group(&self) -> io::Result<Pid> {
        Pid::from_raw(self.process.id().cast_signed()).ok_or_else(|| io::Error::other("no process"))
    }
}

/// The process groups of the running nodes.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills the nodes when this program gets a signal to stop: each has its own process group, so it would survive.
pub(crate) fn watch_signals() -> io::Result<()> {
    let is_signalled = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&is_signalled))?;
    }
    thread::spawn(move || {
        while !is_signalled.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
        }
        for group in running().drain(..) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        process::exit(1);
    });
    Ok(())
}

impl Drop for Node {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            drop(self.kill());
        }
    }
}

/// Starts the processes of a node and waits for the line that says it serves.
fn spawn(
    host: Host,
    port: u16,
    directory: &Path,
    environment: &[(&'static str, String)],
) -> io::Result<Child> {
    let log = File::options().create(true).append(true).open(directory.join("log"))?;
    let mut command = Command::new("cargo");
    command
        .args(["xtask", "serve", host.name(), "--port", &port.to_string(), "--config"])
        .arg(directory.join("agent.toml"))
        .arg("--data")
        .arg(directory.join("data"))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0);
    let mut process = command.spawn()?;
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).extend(Pid::from_raw(process.id().cast_signed()));
    let Some(printed) = process.stdout.take() else { return Err(io::Error::other("no stdout")) };
    let (send, receive) = std::sync::mpsc::channel();
    thread::spawn(move || {
        // Read to the end: a full pipe would block the node.
        for line in BufReader::new(printed).lines().map_while(Result::ok) {
            drop(send.send(line));
        }
    });
    let deadline = Instant::now() + START_TIMEOUT;
    let ready = format!("ready http://127.0.0.1:{port}");
    loop {
        match receive.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if line == ready => return Ok(process),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    if let Some(group) = Pid::from_raw(process.id().cast_signed()) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    process.wait()?;
    let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
    let tail: Vec<&str> = log.lines().rev().take(20).collect();
    Err(io::Error::other(format!(
        "no line '{ready}'; it printed: {}",
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    )))
}
