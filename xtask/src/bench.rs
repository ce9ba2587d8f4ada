//! What the node costs, beside what others cost.

use crate::dynamodb;
use crate::processes::Processes;
use crate::tools::{self, Tool};
use crate::worker::{self, Flavor};
use crate::workspace::{cargo, run_aside, target};
use anyhow::Result;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Also write the figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// How long the load runs altogether.
    #[arg(long)]
    seconds: Option<f64>,
    /// Only the native node: no other gateway, no Worker, no Lambda function.
    #[arg(long)]
    alone: bool,
    /// Only what the node adds to a call, or what sessions cost.
    #[arg(long)]
    only: Option<Half>,
}

/// One of the two things that are measured.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Half {
    /// What the node adds to a call.
    Calls,
    /// What sessions cost.
    Sessions,
}

/// Installs and builds what is measured, and measures it.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: OsString| arguments.extend([name.into(), value]);
    if let Some(file) = &options.json {
        option("--json", file.into());
    }
    if let Some(seconds) = options.seconds {
        option("--seconds", seconds.to_string().into());
    }
    if let Some(half) = options.only {
        option("--only", if half == Half::Calls { "calls" } else { "sessions" }.into());
    }
    if !options.alone {
        run_aside(cargo().args(["build", "--quiet", "--release", "--package", "outlive-lambda"]))?;
        option("--lambda", target().join("release/bootstrap").into());
    }
    if !options.alone && options.only != Some(Half::Sessions) {
        tools::install(&[Tool::Peers])?;
        option("--portkey", tools::peer_modules().into());
        option("--litellm", tools::peer_program("litellm").into());
        option("--worker-gzip-kib", worker::packed_kib()?.to_string().into());
    }
    // What it starts ends with this.
    let mut processes = None;
    if !options.alone && options.only != Some(Half::Calls) {
        tools::install(&tools::LAMBDA)?;
        // Built now, it is served at once.
        worker::build(Flavor::Product)?;
        option("--xtask", std::env::current_exe()?.into());
        match dynamodb::start(processes.insert(Processes::new()?), None)? {
            Some(endpoint) => option("--dynamodb", endpoint.into()),
            None => return Ok(ExitCode::FAILURE),
        }
    }
    crate::release("outlive-bench", &arguments)
}
