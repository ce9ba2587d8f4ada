//! Checks that the core is bound to no platform: its source, its dependencies, and its behaviour as WebAssembly.

use crate::tools::{self, Tool};
use crate::workspace::{cargo, command, output, root, run_aside, target};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const WASM: &str = "wasm32-unknown-unknown";

/// Crates that belong to one platform, or that use a clock, randomness or the network by themselves.
const BANNED_CRATES: [&str; 10] = [
    "async-trait",
    "getrandom",
    "hyper",
    "js-sys",
    "mio",
    "socket2",
    "tokio",
    "wasm-bindgen",
    "web-sys",
    "worker",
];
/// The prefix of further banned crates.
const BANNED_PREFIX: &str = "aws-";

/// Text that the core's source must not contain, with the reason.
const BANNED_WORDS: [(&str, &str); 4] = [
    ("cfg(target", "the core behaves alike on every platform"),
    ("async_trait", "ports are plain async functions"),
    ("SystemTime::now", "time is an argument"),
    ("Instant::now", "time is an argument"),
];

/// The seeds whose traces must be equal natively and as WebAssembly.
const SEEDS: [u64; 5] = [1, 2, 3, 7, 42];

/// Runs every check of this file; the fast ones first.
pub(crate) fn check() -> Result<()> {
    check_source()?;
    check_dependencies()?;
    check_simulation()
}

/// Checks that the core's source names no platform and no clock.
fn check_source() -> Result<()> {
    for file in files_below(&root().join("shared/src"))? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
        for (index, line) in code {
            if let Some((word, reason)) = BANNED_WORDS.iter().find(|(word, _)| line.contains(word)) {
                bail!("{}:{}: the core must not use `{word}`: {reason}", file.display(), index + 1);
            }
        }
    }
    Ok(())
}

/// Checks that the core's dependencies are bound to no platform and have the same features on each.
fn check_dependencies() -> Result<()> {
    let host = host_target()?;
    let (wasm, native) = (features_by_package(WASM)?, features_by_package(&host)?);
    for (package, features) in &wasm {
        let name = package.split(' ').next().unwrap_or_default();
        let banned = BANNED_CRATES.contains(&name) || name.starts_with(BANNED_PREFIX);
        ensure!(
            !banned,
            "the core depends on {name}; `cargo tree -p outlive --target {WASM} -i {name}` shows why"
        );
        if let Some(native) = native.get(package) {
            ensure!(
                native == features,
                "{package} has the features [{features}] on {WASM}, but [{native}] on {host}"
            );
        }
    }
    Ok(())
}

/// Checks that the simulation of the core imports nothing from its host, and that its traces are equal everywhere.
fn check_simulation() -> Result<()> {
    tools::install(&[Tool::WasmTarget])?;
    let mut build = cargo();
    build.args(["rustc", "--quiet", "--package", "outlive-simulation", "--lib", "--crate-type", "cdylib"]);
    run_aside(build.args(["--target", WASM, "--release"]))?;
    let module = target().join(WASM).join("release/outlive_simulation.wasm");

    let mut node = command("node");
    node.arg(root().join("xtask/simulate.mjs")).arg(module).args(SEEDS.map(|seed| seed.to_string()));
    let wasm = output(&mut node).context("the simulation as WebAssembly")?;
    let mut native = String::new();
    for seed in SEEDS {
        let mut run = cargo();
        run.args([
            "run",
            "--quiet",
            "--release",
            "--package",
            "outlive-simulation",
            "--",
            "--hash",
            &seed.to_string(),
        ]);
        native += &output(&mut run).context("the simulation, native")?;
    }
    ensure!(
        wasm == native,
        "the traces of the seeds {SEEDS:?} differ: as WebAssembly\n{wasm}natively\n{native}"
    );
    Ok(())
}

/// The packages that the core depends on for a target, with their features.
fn features_by_package(target: &str) -> Result<BTreeMap<String, String>> {
    let mut tree = cargo();
    tree.args([
        "tree",
        "--quiet",
        "--package",
        "outlive",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--no-dedupe",
    ]);
    let text = output(tree.args(["--format", "{p}|{f}", "--target", target]))?;
    let lines = text.lines().filter_map(|line| line.split_once('|'));
    Ok(lines.map(|(package, features)| (package.to_owned(), features.to_owned())).collect())
}

/// This machine's own target.
fn host_target() -> Result<String> {
    Ok(output(command("rustc").args(["--print", "host-tuple"]))?.trim_end().to_owned())
}

fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(files_below(&path)?),
            false => found.push(path),
        }
    }
    Ok(found)
}
