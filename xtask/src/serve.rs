//! One node on its real runtime, in the foreground.
//!
//! Prints `ready http://127.0.0.1:PORT` on stdout when the node answers, and nothing else there. SIGTERM ends the node and
//! all that was started for it. After SIGKILL the same `--data` brings the same state back.

pub(crate) mod http;
mod lambda;
mod native;
mod worker;

use crate::clock::Clock;
use crate::environment::Environment;
use crate::processes::Processes;
use crate::worker::{Flavor, build};
use crate::workspace::{root, target};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a node may take from the start of its processes to its first answer.
const START: Duration = Duration::from_secs(90);
/// How long one look at `/healthz` may take.
const PROBE: Duration = Duration::from_secs(2);
/// How long the store suite may take.
const SUITE: Duration = Duration::from_secs(300);
/// How long the port may still be held by a node that was killed just now.
const RELEASE: Duration = Duration::from_secs(5);
/// How long a node may answer `/healthz` with an error before its start counts as failed.
const ERRORS: Duration = Duration::from_secs(3);

/// What to serve, where.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The platform.
    host: Host,
    /// The port on 127.0.0.1.
    #[arg(long)]
    port: u16,
    /// The node's agent.toml.
    #[arg(long)]
    config: PathBuf,
    /// Where the node keeps its state; `data/HOST` if not given.
    #[arg(long)]
    data: Option<PathBuf>,
}

/// A platform that a node runs on.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Host {
    /// The binary `outlive`.
    Native,
    /// wrangler's workerd with Durable Objects.
    Worker,
    /// cargo-lambda's runtime API with DynamoDB Local.
    Lambda,
}

/// A node to be served.
struct Node {
    port: u16,
    config: PathBuf,
    data: PathBuf,
    environment: Environment,
}

/// Serves until told to stop.
pub(crate) fn run(options: Options) -> Result<()> {
    let host = options.host.name();
    let data = options.data.unwrap_or_else(|| root().join("data").join(host));
    fs::create_dir_all(&data).with_context(|| format!("cannot make the directory {}", data.display()))?;
    let node = Node {
        port: options.port,
        environment: Environment::named_in(&options.config)?,
        config: std::path::absolute(&options.config)?,
        data: data.canonicalize()?,
    };
    wait_for_port(node.port)?;
    match options.host {
        Host::Native => native::run(&node),
        Host::Worker => worker::run(&node),
        Host::Lambda => lambda::run(&node),
    }
}

/// Runs the store suite in a Durable Object on workerd and returns what it reports.
pub(crate) fn suite(processes: &mut Processes) -> Result<String> {
    let data = target().join("suite");
    if data.exists() {
        fs::remove_dir_all(&data)?;
    }
    fs::create_dir_all(&data)?;
    let config = root().join("agent.toml");
    let node = Node { port: free_port()?, environment: Environment::named_in(&config)?, config, data };
    if !worker::start(processes, &node, &build(Flavor::Suite)?)? {
        bail!("told to stop");
    }
    let answer = http::Request::get(format!("{}/suite", node.url())).send(SUITE)?;
    ensure!(answer.status == 200, "/suite answers {}: {}", answer.status, answer.body.trim());
    Ok(answer.body)
}

impl Host {
    /// Every platform.
    pub(crate) const ALL: [Self; 3] = [Self::Native, Self::Worker, Self::Lambda];

    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Worker => "worker",
            Self::Lambda => "lambda",
        }
    }
}

impl Node {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Waits until the node answers. False: this program was told to stop.
    fn wait(&self, processes: &mut Processes) -> Result<bool> {
        let health = http::Request::get(format!("{}/healthz", self.url()));
        let mut error_since = None;
        processes.wait_until("the node's first answer", START, || {
            let Ok(answer) = health.send(PROBE) else { return Ok(false) };
            if answer.status == 200 {
                return Ok(true);
            }
            if error_since.get_or_insert_with(Instant::now).elapsed() > ERRORS {
                bail!("/healthz answers {}: {}", answer.status, answer.body.trim());
            }
            Ok(false)
        })
    }

    /// Says that the node serves, and sends it the minute's trigger until told to stop.
    fn serve(&self, processes: &mut Processes, trigger: http::Request) -> Result<()> {
        writeln!(std::io::stdout(), "ready {}", self.url())?;
        std::io::stdout().flush()?;
        let mut clock = Clock::new(trigger);
        processes.run(|| clock.beat())
    }
}

/// Without this, an answer of whoever holds the port could pass for the node's.
fn wait_for_port(port: u16) -> Result<()> {
    let start = Instant::now();
    while let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
        if start.elapsed() > RELEASE {
            return Err(error).with_context(|| format!("cannot listen on port {port}"));
        }
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot find a free port")?;
    Ok(listener.local_addr()?.port())
}
