//! `cargo xtask …`: every chore of the project, on any machine that has Rust, Node, Python and Java.
//!
//! Whatever else a chore needs is installed into `target/tools` when it is first wanted (`tools.rs`).

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

/// The chores of the Outlive project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install every tool that the other chores need into target/tools.
    Tools,
    /// Run one node on its real runtime, in the foreground, until SIGTERM.
    Serve(serve::Options),
    /// Run every test there is; the last line is `N passed, M failed`.
    Test(test::Options),
    /// Check format, lints, documentation, portability and dependency policy; changes nothing.
    Check(check::Options),
    /// Format, and apply the lints' own corrections.
    Fix,
    /// Write the table of models and prices anew, and say where its two sources disagree.
    Prices,
    /// Run the simulation: `--seeds COUNT`, or `--seed N` to replay one.
    #[command(disable_help_flag = true)]
    Sim {
        /// Passed on to the simulation.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure the node beside the upstream alone and beside other gateways, and the Worker and the Lambda function.
    Bench(bench::Options),
}

fn main() -> ExitCode {
    match Arguments::parse().chore.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Chore {
    fn run(self) -> Result<ExitCode> {
        match self {
            Self::Tools => tools::install(&tools::ALL)?,
            Self::Serve(options) => serve::run(options)?,
            Self::Test(options) => return test::run(&options),
            Self::Check(options) => check::run(&options)?,
            Self::Fix => check::fix()?,
            Self::Prices => prices::run()?,
            Self::Sim { arguments } => return release("outlive-simulation", &arguments),
            Self::Bench(options) => return bench::run(&options),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Builds a package's program in release and runs it; its last line is the chore's.
pub(crate) fn release(package: &str, arguments: &[impl AsRef<OsStr>]) -> Result<ExitCode> {
    let mut cargo = workspace::cargo();
    cargo.args(["run", "--release", "--quiet", "--package", package, "--"]).args(arguments);
    let status = cargo.current_dir(std::env::current_dir()?).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
