//! Measures what the node adds to a request and what sessions cost, against a constant upstream.
//!
//! Builds the native node; `cargo xtask bench` builds and installs everything else and passes its place as an option.

use std::{
    io::{Error, Read, Result},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clap::{Parser, Subcommand};

use crate::{
    load::RequestKind,
    report::{Cases, Report},
    subject::Subject,
};

mod child;
mod connection;
mod cores;
mod lambda;
mod load;
mod memory;
mod meter;
mod relay;
mod report;
mod sessions;
mod subject;
mod upstream;

/// Measured rounds; one more before them warms everything up.
const ROUNDS: usize = 5;

/// Measures what the node adds to a request and what sessions cost.
#[derive(Parser)]
struct Arguments {
    /// Write the figures to this file as well, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Duration of the load, over all subjects and rounds.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Run one benchmark only.
    #[arg(long, value_name = "BENCHMARK")]
    only: Option<Benchmark>,
    /// Endpoint of a DynamoDB Local, to measure what a turn costs there.
    #[arg(long)]
    dynamodb: Option<String>,
    /// Path of the xtask program, which serves the Worker.
    #[arg(long)]
    xtask: Option<PathBuf>,
    /// Path of the npm packages with Portkey's gateway, to measure it beside the node.
    #[arg(long)]
    portkey: Option<PathBuf>,
    /// Path of LiteLLM's program, to measure it beside the node.
    #[arg(long)]
    litellm: Option<PathBuf>,
    /// Path of the Lambda function's program, to measure its cold start.
    #[arg(long)]
    lambda: Option<PathBuf>,
    #[command(flatten)]
    worker: WorkerFigures,
    #[command(subcommand)]
    server: Option<Server>,
}

/// What xtask measured of the Worker, to print it with the other figures.
#[derive(clap::Args, Clone, Copy)]
struct WorkerFigures {
    /// Its size as wrangler reports it.
    #[arg(long = "worker-gzip-kib")]
    gzip_kib: Option<f64>,
    /// From the start of a fresh workerd to the first answer.
    #[arg(long = "worker-start-ms")]
    start_ms: Option<f64>,
    /// The same, less the time that an empty Worker takes.
    #[arg(long = "worker-start-added-ms")]
    start_added_ms: Option<f64>,
}

/// A group of measurements.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Benchmark {
    /// What the node adds to a call.
    Calls,
    /// What sessions cost.
    Sessions,
}

/// A server that the bench runs in a process of its own, from the same program.
#[derive(Subcommand)]
enum Server {
    /// Serve as the constant upstream; the bench starts it by itself.
    #[command(hide = true)]
    Upstream,
    /// Copy bytes to and from the upstream; the bench starts it by itself.
    #[command(hide = true)]
    Relay {
        /// Address of the upstream.
        upstream: String,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        match arguments.server {
            Some(Server::Upstream) => upstream::serve().await,
            Some(Server::Relay { upstream }) => relay::serve(upstream).await,
            None => tokio::select! {
                done = bench(&arguments) => done,
                stopped = stop_signal() => stopped,
            },
        }
    })
}

/// Exits when standard input closes: the bench holds its other end, so no server outlives the bench, not even after
/// SIGKILL.
fn exit_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
}

/// Waits for SIGTERM or SIGINT and returns an error, so that every child process is dropped and thereby killed.
async fn stop_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        done = tokio::signal::ctrl_c() => done?,
    }
    Err(Error::other("interrupted"))
}

/// A temporary directory; dropping it removes the directory.
struct ScratchDirectory(PathBuf);

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        // A directory that can't be removed must not fail the measurement.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the selected benchmarks, and prints and writes their figures.
async fn bench(arguments: &Arguments) -> Result<()> {
    if !(arguments.seconds.is_finite() && arguments.seconds > 0.0) {
        return Err(Error::other("--seconds must be above zero"));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let program = build_node(&root)?;
    let scratch =
        ScratchDirectory(std::env::temp_dir().join(format!("outlive-bench-{}", std::process::id())));
    std::fs::create_dir_all(&scratch.0)?;
    // After the build, which may use every core; before the servers, which inherit the core.
    cores::pin_thread(cores::LOAD)?;
    let mut figures = serde_json::Map::new();
    if arguments.only != Some(Benchmark::Sessions) {
        figures = measure_calls(arguments, &program, &scratch.0).await?;
    }
    if arguments.only != Some(Benchmark::Calls) {
        let hosts = sessions::Hosts {
            lambda: arguments.lambda.as_deref(),
            dynamodb: arguments.dynamodb.as_deref(),
            xtask: arguments.xtask.as_deref(),
        };
        let time = Duration::from_secs_f64(arguments.seconds / 2.0);
        let sessions = sessions::measure(&program, &hosts, &scratch.0, time).await?;
        print!("{}", sessions.table());
        figures.insert("sessions".into(), sessions.figures());
    }
    match &arguments.json {
        Some(file) => std::fs::write(file, format!("{:#}\n", serde_json::Value::Object(figures))),
        None => Ok(()),
    }
}

/// Measures what each subject adds to a call, prints the table and returns the figures.
async fn measure_calls(
    arguments: &Arguments,
    program: &Path,
    scratch: &Path,
) -> Result<serde_json::Map<String, serde_json::Value>> {
    let subjects = start_subjects(arguments, program, scratch).await?;
    let cases = load_subjects(&subjects, Duration::from_secs_f64(arguments.seconds)).await?;
    let mut memory = Vec::new();
    for subject in &subjects {
        memory.push(memory::measure(subject).await?);
    }
    let lambda = match (&arguments.lambda, subjects.first()) {
        (Some(program), Some(upstream)) => Some(lambda::measure(program, &upstream.address, scratch).await?),
        _ => None,
    };
    let report = Report { subjects, cases, memory, lambda, worker: arguments.worker };
    print!("{}", report.table());
    Ok(report.figures())
}

/// Starts the upstream, then every server in front of it, in the order that [`Report`] expects.
async fn start_subjects(arguments: &Arguments, program: &Path, scratch: &Path) -> Result<Vec<Subject>> {
    let upstream = Subject::upstream()?;
    let address = upstream.address.clone();
    let mut subjects = vec![upstream, Subject::relay(&address)?, Subject::node(program, &address, scratch)?];
    if let Some(modules) = &arguments.portkey {
        subjects.push(Subject::portkey(modules, &address).await?);
    }
    if let Some(program) = &arguments.litellm {
        subjects.push(Subject::litellm(program, &address, scratch).await?);
    }
    Ok(subjects)
}

/// Loads all subjects in rotation, so that the machine's drift affects them alike.
async fn load_subjects(subjects: &[Subject], time: Duration) -> Result<Cases> {
    let mut cases = Cases::new(subjects.len());
    let slice = time / (ROUNDS * cases.all().len() * subjects.len()) as u32;
    for round in 0..=ROUNDS {
        for case in cases.all_mut() {
            for subject in subjects.iter().skip(1) {
                cores::move_process(
                    subject.process.id(),
                    if case.one_core { cores::LOAD } else { cores::SUBJECT },
                )?;
            }
            for (subject, slices) in subjects.iter().zip(&mut case.slices) {
                let measured =
                    load::run(subject, RequestKind::Chat, case.connections, case.streamed, slice).await?;
                // The first round only warms up.
                if round > 0 {
                    slices.push(measured);
                }
            }
        }
    }
    Ok(cases)
}

/// Builds the native node and returns its program.
fn build_node(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "-p", "outlive-server"]).current_dir(root);
    // `cargo run` sets these; if they are inherited, build scripts take their package for changed and rebuild half
    // the node.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
    }
    let status = command.status()?;
    if !status.success() {
        return Err(Error::other("the build of the node failed"));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release").join(format!("outlive{}", std::env::consts::EXE_SUFFIX)))
}
