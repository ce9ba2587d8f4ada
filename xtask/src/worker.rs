//! Builds the Worker as it is deployed: the core compiled to WebAssembly, and the JavaScript around it.
//! `serve/worker.rs` runs it.

use crate::environment::isolate;
use crate::tools;
use crate::workspace::{command, output, root, run_aside, target};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Worker's Cargo profile, the same as in wrangler.toml.
const PROFILE: &str = "worker";

/// Which Worker to build.
#[derive(Clone, Copy)]
pub(crate) enum Flavor {
    /// The deployed Worker.
    Product,
    /// A Worker that runs the store suite inside a Durable Object for `GET /suite`.
    Suite,
}

/// Builds the Worker if something has changed, and returns the directory with `index.js` and the WebAssembly.
pub(crate) fn build(flavor: Flavor) -> Result<PathBuf> {
    tools::install(&tools::WORKER)?;
    let directory = target().join("worker").join(flavor.name());
    fs::create_dir_all(&directory)?;
    let lock = File::create(target().join("worker/lock"))?;
    lock.lock().context("cannot lock target/worker")?;

    // Cargo detects quickly whether the code has changed; the bundling after it takes long and detects nothing.
    run_aside(&mut compile(flavor))?;
    let fingerprint =
        fingerprint(&target().join("wasm32-unknown-unknown").join(PROFILE).join("outlive_worker.wasm"))?;
    let stamp = directory.with_extension("stamp");
    if fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == fingerprint) {
        return Ok(directory);
    }
    run_aside(&mut bundle(flavor, &directory)?)?;
    let mut strip = command("node");
    run_aside(strip.arg(root().join("workers/strip.mjs")).arg(directory.join("index_bg.wasm")))?;
    fs::write(stamp, fingerprint)?;
    Ok(directory)
}

/// Points worker-build at the installed tools: by itself it downloads others.
fn set_tool_variables(command: &mut Command) -> Result<()> {
    let cargo = ["CARGO_HOME", "CARGO_TARGET_DIR", "RUSTUP_HOME"];
    command.envs(cargo.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.env("PATH", tools::path()?);
    command.env("WASM_BINDGEN_BIN", tools::cargo_program("wasm-bindgen"));
    command.env("ESBUILD_BIN", tools::node_program("esbuild"));
    command.env("WASM_OPT_BIN", tools::node_program("wasm-opt"));
    Ok(())
}

/// wrangler without this machine's secrets and without its reports to the network. Its own files go to `home`.
fn wrangler(home: &Path) -> Command {
    let mut wrangler = Command::new(tools::node_program("wrangler"));
    isolate(&mut wrangler);
    wrangler.env("XDG_CONFIG_HOME", home).env("XDG_CACHE_HOME", home);
    wrangler.envs([
        ("CI", "true"),
        ("NO_COLOR", "1"),
        ("WRANGLER_HIDE_BANNER", "true"),
        ("WRANGLER_SEND_ERROR_REPORTS", "false"),
        ("WRANGLER_SEND_METRICS", "false"),
    ]);
    wrangler
}

/// The compressed size of what `wrangler deploy` would upload, built by wrangler itself.
pub(crate) fn packed_kib() -> Result<f64> {
    tools::install(&tools::WORKER)?;
    let directory = target().join("deploy");
    fs::create_dir_all(&directory)?;
    let mut wrangler = wrangler(&directory.join("home"));
    set_tool_variables(&mut wrangler)?;
    wrangler.current_dir(root()).args(["deploy", "--dry-run", "--outdir"]).arg(directory.join("worker"));
    let text = output(&mut wrangler)?;
    eprintln!("{text}");
    gzip_kib(&text).context("wrangler printed no size")
}

/// How long the Worker takes from the start of a fresh workerd to its first answer, and how much of it an empty Worker
/// would not take. Medians, in milliseconds.
pub(crate) fn first_answer_ms() -> Result<(f64, f64)> {
    const STARTS: &str = "15";
    let build = build(Flavor::Product)?;
    let mut node = command("node");
    node.arg(root().join("xtask/worker_start.mjs")).arg(tools::node_modules()).arg(build);
    let text = output(node.arg(root().join("workers/entry.mjs")).arg(STARTS))?;
    let (start, added) = text.trim().split_once(' ').context("worker_start.mjs printed no times")?;
    Ok((start.parse()?, added.parse()?))
}

impl Flavor {
    fn name(self) -> &'static str {
        match self {
            Self::Product => "product",
            Self::Suite => "suite",
        }
    }

    fn features(self) -> &'static [&'static str] {
        match self {
            Self::Product => &[],
            Self::Suite => &["--features", "suite"],
        }
    }
}

/// The compilation, with the same settings as worker-build's own, so that worker-build finds it done.
fn compile(flavor: Flavor) -> Command {
    let mut cargo = command("cargo");
    cargo.current_dir(root().join("workers")).env("WASM_BINDGEN_USE_JS_SYS", "1");
    cargo
        .args(["build", "--quiet", "--lib", "--profile", PROFILE, "--target", "wasm32-unknown-unknown"])
        .args(flavor.features());
    cargo
}

fn bundle(flavor: Flavor, directory: &Path) -> Result<Command> {
    let mut build = command(tools::cargo_program("worker-build"));
    build.current_dir(root().join("workers")).args(["--profile", PROFILE, "--out-dir"]).arg(directory);
    build.args(flavor.features());
    set_tool_variables(&mut build)?;
    Ok(build)
}

/// A digest of the compiled code, and of the tools that bundle it with their settings.
fn fingerprint(wasm: &Path) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    let tools = [
        "xtask/npm/package-lock.json",
        "xtask/src/tools/cargo.rs",
        "workers/Cargo.toml",
        "workers/strip.mjs",
    ]
    .map(|file| root().join(file));
    for file in tools.iter().map(PathBuf::as_path).chain([wasm]) {
        fs::read(file).with_context(|| format!("cannot read {}", file.display()))?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// The compressed size that wrangler prints as `Total Upload: 1.00 KiB / gzip: 0.50 KiB`.
fn gzip_kib(text: &str) -> Option<f64> {
    text.split_once("gzip: ")?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_read() {
        assert_eq!(gzip_kib("x\nTotal Upload: 151.20 KiB / gzip: 60.31 KiB\ny"), Some(60.31));
        assert_eq!(gzip_kib("nothing"), None);
    }
}
