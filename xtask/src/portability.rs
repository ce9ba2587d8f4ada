//! Proof that nothing bound to a platform has leaked into the core.

use crate::tools::{self, Tool};
use crate::workspace::{cargo, command, output, root, run_aside, target};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const WASM: &str = "wasm32-unknown-unknown";

/// Crates that belong to one platform, or that reach for a clock, randomness or the network by themselves.
const BANNED: [&str; 10] = [
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
/// The same, for whole families.
const BANNED_PREFIX: &str = "aws-";

/// What the core's source must not contain, with the reason.
const BANNED_WORDS: [(&str, &str); 4] = [
    ("cfg(target", "the core behaves alike on every platform"),
    ("async_trait", "ports are plain async functions"),
    ("SystemTime::now", "time is an argument"),
    ("Instant::now", "time is an argument"),
];

/// Seeds of which the simulation must tell the same story natively and as WebAssembly.
const SEEDS: [u64; 5] = [1, 2, 3, 7, 42];

/// All the checks of this file.
pub(crate) fn check() -> Result<()> {
    source()?;
    dependencies()?;
    simulation()
}

/// The core's source names no platform and no clock.
fn source() -> Result<()> {
    for file in files(&root().join("shared/src"))? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        for (number, line) in
            text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            if let Some((word, reason)) = BANNED_WORDS.iter().find(|(word, _)| line.contains(word)) {
                bail!("{}:{}: `{word}` is not for the core: {reason}", file.display(), number + 1);
            }
        }
    }
    Ok(())
}

/// The core's dependencies are bound to no platform, and have the same features on each.
fn dependencies() -> Result<()> {
    let host = host()?;
    let (wasm, native) = (tree(WASM)?, tree(&host)?);
    for (package, features) in &wasm {
        let name = package.split(' ').next().unwrap_or_default();
        let banned = BANNED.contains(&name) || name.starts_with(BANNED_PREFIX);
        ensure!(
            !banned,
            "the core depends on {name}; `cargo tree -p outlive --target {WASM} -i {name}` says why"
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

/// The simulation of the core needs nothing from its host, and tells the same story everywhere.
fn simulation() -> Result<()> {
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
        "the simulation differs: as WebAssembly\n{wasm}natively\n{native}for the seeds {SEEDS:?}"
    );
    Ok(())
}

/// The packages that the core needs on a target, with their features.
fn tree(target: &str) -> Result<BTreeMap<String, String>> {
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

/// The target that this machine's programs are built for.
fn host() -> Result<String> {
    Ok(output(command("rustc").args(["--print", "host-tuple"]))?.trim_end().to_owned())
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    Ok(found)
}
