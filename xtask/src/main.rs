//! Runs the project's tasks, as `cargo xtask …`, on any machine that has Rust, Node, Python and Java. Parses the
//! command line; each task has a file of its own.
//!
//! Other tools are installed into `target/tools` when a task first needs them (`tools.rs`).

mod bench;
mod check;
mod clock;
mod dynamodb;
mod environment;
mod floors;
mod portability;
mod prices;
mod processes;
mod serve;
mod test;
mod tools;
mod worker;
mod workspace;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::ffi::OsStr;
use std::process::ExitCode;

/// The tasks of the Outlive project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install every tool that serving and testing need into target/tools.
    Tools,
    /// Run one node on its real runtime, in the foreground, until SIGTERM.
    Serve(serve::ServeOptions),
    /// Run the tests; the last line is `N passed, M failed`.
    Test(test::TestOptions),
    /// Check format, floors, lints, documentation, portability and dependency policy, without changing a file.
    Check(check::Options),
    /// Format the code and apply the fixes that the lints suggest.
    Fix,
    /// Update the table of models and prices, and list where its two sources disagree.
    Prices,
    /// Run the simulation: `--seeds COUNT`, or `--seed N` to replay one seed.
    #[command(disable_help_flag = true)]
    Sim {
        /// Options of the simulation; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure the native node, the Worker and the Lambda function beside other gateways.
    Bench(bench::BenchOptions),
}

fn main() -> ExitCode {
    match Arguments::parse().task.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Task {
    fn run(self) -> Result<ExitCode> {
        match self {
            Self::Tools => tools::install(&tools::ALL)?,
            Self::Serve(options) => serve::run(options)?,
            Self::Test(options) => return test::run(&options),
            Self::Check(options) => check::run(&options)?,
            Self::Fix => check::fix()?,
            Self::Prices => prices::run()?,
            Self::Sim { arguments } => return run_release("outlive-simulation", &arguments),
            Self::Bench(options) => return bench::run(&options),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Builds a package's program in release and runs it in the current directory. Prints nothing after it, so the
/// program's last line is the task's.
pub(crate) fn run_release(package: &str, arguments: &[impl AsRef<OsStr>]) -> Result<ExitCode> {
    let mut cargo = workspace::cargo();
    cargo.args(["run", "--release", "--quiet", "--package", package, "--"]).args(arguments);
    let status = cargo.current_dir(std::env::current_dir()?).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
