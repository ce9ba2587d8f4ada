//! Serves one node on its real runtime, in the foreground. Each host has a file below; this one does what all share.
//!
//! Prints `ready http://127.0.0.1:PORT` on stdout when the node responds, and nothing else there. SIGTERM stops the
//! node and every process that was started for it. After SIGKILL the same `--data` restores the same state.

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

/// How long a node may take from the start of its processes to its first response.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// How long one request for `/healthz` may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the store suite may take.
const SUITE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a node that was just killed may still hold the port.
const PORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long `/healthz` may return errors before the start counts as failed.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// Which node to serve, and where.
#[derive(clap::Args)]
pub(crate) struct ServeOptions {
    /// The platform to run the node on.
    host: Host,
    /// The port to listen on, at 127.0.0.1.
    #[arg(long)]
    port: u16,
    /// The node's configuration file.
    #[arg(long)]
    config: PathBuf,
    /// The directory for the node's state [default: data/HOST].
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

/// The node to serve.
struct Node {
    port: u16,
    config: PathBuf,
    data: PathBuf,
    environment: Environment,
}

/// Serves the node until a stop is requested.
pub(crate) fn run(options: ServeOptions) -> Result<()> {
    let host = options.host.name();
    let data = options.data.unwrap_or_else(|| root().join("data").join(host));
    fs::create_dir_all(&data).with_context(|| format!("cannot make the directory {}", data.display()))?;
    let node = Node {
        port: options.port,
        environment: Environment::from_config(&options.config)?,
        config: std::path::absolute(&options.config)?,
        data: data.canonicalize()?,
    };
    // Before the build: a port in use should fail at once.
    wait_for_port(node.port)?;
    match options.host {
        Host::Native => native::run(&node),
        Host::Worker => worker::run(&node),
        Host::Lambda => lambda::run(&node),
    }
}

/// Runs the store suite in a Durable Object on workerd and returns its report.
pub(crate) fn run_store_suite(processes: &mut Processes) -> Result<String> {
    let data = target().join("suite");
    if data.exists() {
        fs::remove_dir_all(&data)?;
    }
    fs::create_dir_all(&data)?;
    let config = root().join("agent.toml");
    let node = Node { port: free_port()?, environment: Environment::from_config(&config)?, config, data };
    if !worker::start(processes, &node, &build(Flavor::Suite)?)? {
        bail!("stopped by a signal");
    }
    let response = http::Request::get(format!("{}/suite", node.url())).send(SUITE_TIMEOUT)?;
    ensure!(response.status == 200, "/suite returned {}: {}", response.status, response.body.trim());
    Ok(response.body)
}

impl Host {
    /// Every platform.
    pub(crate) const ALL: [Self; 3] = [Self::Native, Self::Worker, Self::Lambda];

    /// Its name on the command line.
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

    /// Waits until `/healthz` returns 200. False: a stop was requested.
    fn wait_until_healthy(&self, processes: &mut Processes) -> Result<bool> {
        let health = http::Request::get(format!("{}/healthz", self.url()));
        let mut first_error_at = None;
        processes.wait_until("the node's first response", START_TIMEOUT, || {
            let Ok(response) = health.send(PROBE_TIMEOUT) else { return Ok(false) };
            if response.status == 200 {
                return Ok(true);
            }
            if first_error_at.get_or_insert_with(Instant::now).elapsed() > HEALTH_TIMEOUT {
                bail!("/healthz returned {}: {}", response.status, response.body.trim());
            }
            Ok(false)
        })
    }

    /// Prints that the node is ready, and sends it the scheduled trigger each minute until a stop is requested.
    fn serve(&self, processes: &mut Processes, trigger: http::Request) -> Result<()> {
        writeln!(std::io::stdout(), "ready {}", self.url())?;
        std::io::stdout().flush()?;
        let mut clock = Clock::new(trigger);
        processes.run(|| clock.send_if_due())
    }
}

/// Waits until the port is free: the response of another process could pass for the node's.
fn wait_for_port(port: u16) -> Result<()> {
    let start = Instant::now();
    while let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
        if start.elapsed() > PORT_TIMEOUT {
            return Err(error).with_context(|| format!("cannot listen on port {port}"));
        }
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A port that was free at the time of the call.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot find a free port")?;
    Ok(listener.local_addr()?.port())
}
