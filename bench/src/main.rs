//! What the node adds to a request: the same load against a constant upstream, with and without something in between; and
//! what sessions cost.

use std::{
    io::{Error, Read, Result},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clap::{Parser, Subcommand};

use crate::{
    load::Question,
    report::{Cases, Report},
    subject::Subject,
};

mod child;
mod cores;
mod lambda;
mod load;
mod meter;
mod relay;
mod report;
mod sessions;
mod streams;
mod subject;
mod upstream;
mod wire;

/// Rounds that count.
const ROUNDS: usize = 5;

/// Measures what the node adds to a request, and what sessions cost.
#[derive(Parser)]
struct Arguments {
    /// Also writes the figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// How long the load runs altogether.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Measures only this.
    #[arg(long)]
    only: Option<Half>,
    /// The endpoint of a DynamoDB Local, to measure what a turn takes of it.
    #[arg(long)]
    dynamodb: Option<String>,
    /// The program of the project's chores, to have it serve the Worker.
    #[arg(long)]
    xtask: Option<PathBuf>,
    /// The npm packages with Portkey's gateway, to be measured beside the node.
    #[arg(long)]
    portkey: Option<PathBuf>,
    /// LiteLLM's program, to be measured beside the node.
    #[arg(long)]
    litellm: Option<PathBuf>,
    /// The Lambda function's program, to measure its start.
    #[arg(long)]
    lambda: Option<PathBuf>,
    /// The size of the Worker, as wrangler says it, to be written with the other figures.
    #[arg(long)]
    worker_gzip_kib: Option<f64>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// One of the two things that are measured.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Half {
    /// What the node adds to a call.
    Calls,
    /// What sessions cost.
    Sessions,
}

#[derive(Subcommand)]
enum Part {
    /// The constant upstream, which the bench starts by itself.
    #[command(hide = true)]
    Upstream,
    /// What only copies bytes, which the bench starts by itself.
    #[command(hide = true)]
    Relay {
        /// Where to.
        upstream: String,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        match arguments.part {
            Some(Part::Upstream) => upstream::serve().await,
            Some(Part::Relay { upstream }) => relay::serve(upstream).await,
            None => tokio::select! {
                done = bench(&arguments) => done,
                stopped = stopped() => stopped,
            },
        }
    })
}

/// Ends this process when standard input closes, which it does when the bench dies, however it dies.
fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
}

/// Waits for a signal to end, so that the children are ended too.
async fn stopped() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        done = tokio::signal::ctrl_c() => done?,
    }
    Err(Error::other("interrupted"))
}

/// A directory that goes with its value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory left behind is no reason to fail a measurement.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn bench(arguments: &Arguments) -> Result<()> {
    if !(arguments.seconds.is_finite() && arguments.seconds > 0.0) {
        return Err(Error::other("--seconds must be above zero"));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let program = build(&root)?;
    let scratch = Scratch(std::env::temp_dir().join(format!("outlive-bench-{}", std::process::id())));
    std::fs::create_dir_all(&scratch.0)?;
    cores::pin(cores::LOAD)?;
    let mut figures = serde_json::Map::new();
    if arguments.only != Some(Half::Sessions) {
        figures = calls(arguments, &program, &scratch.0).await?;
    }
    if arguments.only != Some(Half::Calls) {
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

/// What the node adds to a call.
async fn calls(
    arguments: &Arguments,
    program: &Path,
    scratch: &Path,
) -> Result<serde_json::Map<String, serde_json::Value>> {
    let subjects = subjects(arguments, program, scratch).await?;
    let cases = measure(&subjects, Duration::from_secs_f64(arguments.seconds)).await?;
    let mut resident = Vec::new();
    for subject in &subjects {
        resident.push(streams::resident_mib(subject).await?);
    }
    let lambda = match (&arguments.lambda, subjects.first()) {
        (Some(program), Some(upstream)) => Some(lambda::measure(program, &upstream.address, scratch).await?),
        _ => None,
    };
    let worker_gzip_kib = arguments.worker_gzip_kib;
    let report = Report { subjects, cases, resident, lambda, worker_gzip_kib };
    print!("{}", report.table());
    Ok(report.figures())
}

/// The upstream alone, then what stands in front of it.
async fn subjects(arguments: &Arguments, program: &Path, scratch: &Path) -> Result<Vec<Subject>> {
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

/// Loads all subjects in turn, so that what drifts on the machine hits them alike.
async fn measure(subjects: &[Subject], time: Duration) -> Result<Cases> {
    let mut cases = Cases::new(subjects.len());
    let slice = time / (ROUNDS * cases.all().len() * subjects.len()) as u32;
    for round in 0..=ROUNDS {
        for case in cases.all_mut() {
            for subject in subjects.iter().skip(1) {
                cores::place(
                    subject.process.id(),
                    if case.together { cores::LOAD } else { cores::MEASURED },
                )?;
            }
            for (subject, slices) in subjects.iter().zip(&mut case.slices) {
                let measured =
                    load::run(subject, Question::Chat, case.connections, case.streamed, slice).await?;
                // The first round only warms up.
                if round > 0 {
                    slices.push(measured);
                }
            }
        }
    }
    Ok(cases)
}

fn build(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "-p", "outlive-server"]).current_dir(root);
    // Left in place, these make build scripts believe that their package changed, and half the node is built anew.
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
        return Err(Error::other("the node does not build"));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release").join(format!("outlive{}", std::env::consts::EXE_SUFFIX)))
}
