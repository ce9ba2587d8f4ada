//! Runs `cargo xtask bench`: installs and builds what is measured, then hands over to the package `outlive-bench`,
//! which measures it.

use crate::dynamodb;
use crate::processes::Processes;
use crate::tools::{self, Tool};
use crate::worker::{self, Flavor};
use crate::workspace::{cargo, run_aside, target};
use anyhow::Result;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// What to measure, and for how long.
#[derive(clap::Args)]
pub(crate) struct BenchOptions {
    /// Write the figures to this file as well, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Duration of the load, over all subjects and rounds.
    #[arg(long)]
    seconds: Option<f64>,
    /// Measure only the native node: no other gateway, no Worker, no Lambda function.
    #[arg(long)]
    alone: bool,
    /// Run one benchmark only.
    #[arg(long, value_name = "BENCHMARK")]
    only: Option<Benchmark>,
}

/// A group of measurements.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Benchmark {
    /// What the node adds to a call.
    Calls,
    /// What sessions cost.
    Sessions,
}

/// Installs and builds what the options select, and measures it.
pub(crate) fn run(options: &BenchOptions) -> Result<ExitCode> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: OsString| arguments.extend([name.into(), value]);
    if let Some(file) = &options.json {
        option("--json", file.into());
    }
    if let Some(seconds) = options.seconds {
        option("--seconds", seconds.to_string().into());
    }
    if let Some(benchmark) = options.only {
        option("--only", if benchmark == Benchmark::Calls { "calls" } else { "sessions" }.into());
    }
    if !options.alone {
        run_aside(cargo().args(["build", "--quiet", "--release", "--package", "outlive-lambda"]))?;
        option("--lambda", target().join("release/bootstrap").into());
    }
    if !options.alone && options.only != Some(Benchmark::Sessions) {
        tools::install(&[Tool::Peers])?;
        option("--portkey", tools::peer_modules().into());
        option("--litellm", tools::peer_program("litellm").into());
        option("--worker-gzip-kib", worker::packed_kib()?.to_string().into());
        let (start, added) = worker::first_answer_ms()?;
        option("--worker-start-ms", start.to_string().into());
        option("--worker-start-added-ms", added.to_string().into());
    }
    // DynamoDB Local must live as long as the bench runs; dropping the value at the end stops it.
    let mut processes = None;
    if !options.alone && options.only != Some(Benchmark::Calls) {
        tools::install(&tools::LAMBDA)?;
        // Built before the bench starts it, since the bench waits for `ready`.
        worker::build(Flavor::Product)?;
        option("--xtask", std::env::current_exe()?.into());
        match dynamodb::start(processes.insert(Processes::new()?), None)? {
            Some(endpoint) => option("--dynamodb", endpoint.into()),
            None => return Ok(ExitCode::FAILURE),
        }
    }
    crate::run_release("outlive-bench", &arguments)
}
