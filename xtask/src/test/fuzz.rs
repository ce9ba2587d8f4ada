//! Runs each fuzz target of `fuzz/` for a bounded time. Installs nothing, and adds nothing to the corpus in the tree.

use super::count::Count;
use crate::tools;
use crate::workspace::{self, command, root, target};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::process::Command;

/// How long each target runs: new inputs for a minute, and all targets together within a quarter of an hour.
const SECONDS: u64 = 60;

/// Runs every target; one that finds a failure, or does not build, counts as failed.
pub(super) fn run() -> Result<Count> {
    let mut count = Count::default();
    for name in target_names()? {
        println!("\nfuzzing {name} for {SECONDS} s");
        match fuzz(&name).and_then(|mut command| workspace::run(&mut command)) {
            Ok(()) => count.passed += 1,
            Err(error) => {
                println!("{name}: {error:#}");
                count.failed += 1;
            }
        }
    }
    ensure!(count != Count::default(), "fuzz/fuzz_targets has no target");
    Ok(count)
}

/// The names of all targets, in alphabetical order.
fn target_names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("fuzz/fuzz_targets")).context("cannot read fuzz/fuzz_targets")? {
        let path = entry?.path();
        names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}

/// The command that runs a target. Inputs that cause a failure go to `target/artifacts/fuzz/NAME`.
fn fuzz(name: &str) -> Result<Command> {
    // libFuzzer writes what it finds into the first directory, and reads all of them.
    let corpus = target().join("fuzz/corpus").join(name);
    let artifacts = target().join("artifacts/fuzz").join(name);
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&artifacts)?;
    let mut fuzz = command("cargo");
    fuzz.env("PATH", tools::path()?).args(["+nightly", "fuzz", "run", "--target-dir"]);
    fuzz.arg(target().join("fuzz"))
        .arg(name)
        .arg(corpus)
        .arg(root().join("fuzz/corpus").join(name))
        .arg("--");
    fuzz.arg(format!("-max_total_time={SECONDS}")).arg(format!("-artifact_prefix={}/", artifacts.display()));
    Ok(fuzz)
}
