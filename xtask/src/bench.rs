//! What the node costs, beside what others cost.

use crate::tools::{self, Tool};
use crate::worker;
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
    if !options.alone {
        tools::install(&[Tool::Peers])?;
        run_aside(cargo().args(["build", "--quiet", "--release", "--package", "outlive-lambda"]))?;
        option("--portkey", tools::peer_modules().into());
        option("--litellm", tools::peer_program("litellm").into());
        option("--lambda", target().join("release/bootstrap").into());
        option("--worker-gzip-kib", worker::packed_kib()?.to_string().into());
    }
    crate::release("outlive-bench", &arguments)
}
