//! The gate: everything that can be known about the code without running the tests. Fast, and changes nothing.

use crate::floors;
use crate::portability;
use crate::tools::{self, Tool};
use crate::workspace::{cargo, run_aside};
use anyhow::{Result, bail};
use std::process::Command;
use std::time::Instant;

/// What is compiled for this machine: everything but the Worker.
const NATIVE: [&str; 3] = ["--workspace", "--exclude", "outlive-worker"];
/// The Worker, with the store suite in it.
const WORKER: [&str; 5] =
    ["--package", "outlive-worker", "--all-features", "--target", "wasm32-unknown-unknown"];

/// What `cargo xtask check` checks.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only the checks whose names contain this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Runs every check, also after one has failed, and fails if any did.
pub(crate) fn run(options: &Options) -> Result<()> {
    tools::install(&[Tool::WasmTarget])?;
    let mut failed = Vec::new();
    let mut check = |name: &'static str, check: &mut dyn FnMut() -> Result<()>| {
        if options.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            return;
        }
        let start = Instant::now();
        match check() {
            Ok(()) => eprintln!("check: {name}: ok ({:.0} s)", start.elapsed().as_secs_f64()),
            Err(error) => {
                eprintln!("check: {name}: FAILED: {error:#}");
                failed.push(name);
            }
        }
    };
    check("format", &mut || run_aside(cargo().args(["fmt", "--all", "--check"])));
    check("floors", &mut floors::check);
    check("lints", &mut || run_aside(&mut clippy(&NATIVE, &["--all-targets"])));
    check("lints of the Worker", &mut || run_aside(&mut clippy(&WORKER, &[])));
    check("documentation", &mut || run_aside(&mut rustdoc(&NATIVE)));
    check("documentation of the Worker", &mut || run_aside(&mut rustdoc(&WORKER)));
    check("portability", &mut portability::check);
    check("dependency policy", &mut policy);
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Formats, and applies the lints' own corrections.
pub(crate) fn fix() -> Result<()> {
    tools::install(&[Tool::WasmTarget])?;
    let fix = ["--fix", "--allow-dirty", "--allow-staged"];
    run_aside(cargo().args(["clippy", "--quiet"]).args(NATIVE).arg("--all-targets").args(fix))?;
    run_aside(cargo().args(["clippy", "--quiet"]).args(WORKER).args(fix))?;
    run_aside(cargo().args(["fmt", "--all"]))
}

fn clippy(packages: &[&str], targets: &[&str]) -> Command {
    let mut cargo = cargo();
    cargo.args(["clippy", "--quiet"]).args(packages).args(targets).args(["--", "-D", "warnings"]);
    cargo
}

fn rustdoc(packages: &[&str]) -> Command {
    let mut cargo = cargo();
    cargo.args(["doc", "--quiet", "--no-deps", "--document-private-items"]).args(packages);
    cargo.env("RUSTDOCFLAGS", "-D warnings");
    cargo
}

/// Licences, bans and sources by `deny.toml`, where cargo-deny is there to read it.
fn policy() -> Result<()> {
    let installed =
        Command::new("cargo-deny").arg("--version").output().is_ok_and(|output| output.status.success());
    if !installed {
        eprintln!("check: dependency policy: cargo-deny is not installed; skipped");
        return Ok(());
    }
    run_aside(cargo().args(["deny", "--offline", "check", "licenses", "bans", "sources"]))
}
