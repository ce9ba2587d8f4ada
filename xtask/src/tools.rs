//! Installs the tools that are not part of Rust into `target/tools`, each once. The files below know how; this one
//! knows which and when.
//!
//! A tool counts as installed if its stamp contains the required version. The stamp is written last, so an interrupted
//! installation is repeated.

mod browser;
mod cargo;
mod dynamodb;
mod node;
mod python;

use crate::workspace::{locked_version, target};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// A tool that a task needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// Rust's standard library for WebAssembly.
    WasmTarget,
    /// Builds the Worker.
    WorkerBuild,
    /// Writes the Worker's JavaScript; its version must equal the crate's.
    WasmBindgen,
    /// The npm packages of `xtask/npm`: wrangler, esbuild, binaryen, and what the conformance tests use.
    Node,
    /// The PyPI packages of `xtask/python`: cargo-lambda, the SAM CLI, and the clients of the conformance tests.
    Python,
    /// DynamoDB Local, from `xtask/dynamodb`.
    DynamoDb,
    /// The gateways of `xtask/peers` that the bench measures: Portkey, LiteLLM.
    Peers,
    /// The coding agents of `xtask/coding_agents` that the conformance tests run: Claude Code, Codex.
    CodingAgents,
    /// The server and the weights of `xtask/real_model`, for the long tests.
    RealModel,
    /// Chromium, for the tests of the console.
    Browser,
    /// A nightly toolchain, which libFuzzer's instrumentation needs.
    Nightly,
    /// The command `cargo fuzz`.
    CargoFuzz,
}

/// The tools of `serve` and `test`. The bench and the long tests need more, which they install themselves.
pub(crate) const ALL: [Tool; 8] = [
    Tool::WasmTarget,
    Tool::Node,
    Tool::Python,
    Tool::DynamoDb,
    Tool::WorkerBuild,
    Tool::WasmBindgen,
    Tool::Browser,
    Tool::CodingAgents,
];

/// The tools that build and serve the Worker.
pub(crate) const WORKER: [Tool; 4] = [Tool::WasmTarget, Tool::Node, Tool::WorkerBuild, Tool::WasmBindgen];

/// The tools that serve the Lambda function.
pub(crate) const LAMBDA: [Tool; 2] = [Tool::Python, Tool::DynamoDb];

/// The tools that run the fuzz targets.
pub(crate) const FUZZ: [Tool; 2] = [Tool::Nightly, Tool::CargoFuzz];

/// Installs the missing tools one after the other, with a line of progress for each.
pub(crate) fn install(tools: &[Tool]) -> Result<()> {
    let mut missing = Vec::new();
    for tool in tools {
        if !tool.installed()? {
            missing.push(*tool);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(directory())?;
    // The kernel releases the lock when this process ends, also after SIGKILL.
    let lock = File::create(directory().join("lock"))?;
    lock.lock().context("cannot lock target/tools")?;
    for tool in missing {
        // Another process may have installed it while this one waited for the lock.
        if !tool.installed()? {
            tool.install()?;
        }
    }
    // The intermediate files of the builds are large and not needed any more.
    let _ = fs::remove_dir_all(cargo::build_directory());
    Ok(())
}

/// The directory of all tools.
pub(crate) fn directory() -> PathBuf {
    target().join("tools")
}

/// A program that Cargo installed.
pub(crate) fn cargo_program(name: &str) -> PathBuf {
    directory().join("bin").join(name)
}

/// A program of one of the npm packages.
pub(crate) fn node_program(name: &str) -> PathBuf {
    node_modules().join(".bin").join(name)
}

/// The npm packages.
pub(crate) fn node_modules() -> PathBuf {
    node::directory().join("node_modules")
}

/// The npm packages of the coding agents.
pub(crate) fn coding_agent_modules() -> PathBuf {
    directory().join("coding_agents/node_modules")
}

/// The virtual environment of the real model.
pub(crate) fn real_model() -> PathBuf {
    directory().join("real_model")
}

/// A program of one of the PyPI packages, or `python` itself.
pub(crate) fn python_program(name: &str) -> PathBuf {
    python::directory().join("bin").join(name)
}

/// The npm packages of the gateways that the bench measures.
pub(crate) fn peer_modules() -> PathBuf {
    peers("npm").join("node_modules")
}

/// A program of the PyPI packages of the gateways that the bench measures.
pub(crate) fn peer_program(name: &str) -> PathBuf {
    peers("venv").join("bin").join(name)
}

fn peers(part: &str) -> PathBuf {
    directory().join("peers").join(part)
}

/// The browser's program.
pub(crate) fn browser_program() -> PathBuf {
    browser::program()
}

/// The jars of DynamoDB Local.
pub(crate) fn dynamodb_jars() -> PathBuf {
    dynamodb::directory()
}

/// `PATH` with the tools in front, for programs that start each other.
pub(crate) fn path() -> Result<std::ffi::OsString> {
    let own = [cargo_program(""), python::directory().join("bin")];
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(own.into_iter().chain(std::env::split_paths(&inherited)))?)
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Self::WasmTarget => "wasm32-unknown-unknown",
            Self::WorkerBuild => "worker-build",
            Self::WasmBindgen => "wasm-bindgen",
            Self::Node => "npm",
            Self::Python => "python",
            Self::DynamoDb => "dynamodb",
            Self::Peers => "peers",
            Self::CodingAgents => "coding_agents",
            Self::RealModel => "real_model",
            Self::Browser => "browser",
            Self::Nightly => "nightly",
            Self::CargoFuzz => "cargo-fuzz",
        }
    }

    /// The required content of its stamp: the version, or the whole file that lists the versions.
    fn version(self) -> Result<String> {
        match self {
            Self::WasmTarget => Ok(cargo::WASM.to_owned()),
            Self::WorkerBuild => Ok(cargo::WORKER_BUILD.to_owned()),
            Self::WasmBindgen => locked_version("wasm-bindgen"),
            Self::Node => read(&node::lock_file("npm")),
            Self::Python => read(&python::requirements("python")),
            Self::DynamoDb => read(&dynamodb::project()),
            Self::Peers => Ok(read(&node::lock_file("peers"))? + &read(&python::requirements("peers"))?),
            Self::CodingAgents => read(&node::lock_file("coding_agents")),
            Self::RealModel => read(&python::requirements("real_model")),
            // The machine's own browser or toolchain serves, in any version.
            Self::Browser | Self::Nightly => Ok("any".to_owned()),
            Self::CargoFuzz => Ok(cargo::CARGO_FUZZ.to_owned()),
        }
    }

    /// What is installed, for the line of progress and for errors.
    fn description(self) -> Result<String> {
        Ok(match self {
            Self::WasmTarget => "Rust's target wasm32-unknown-unknown".to_owned(),
            Self::WorkerBuild => format!("worker-build {} (about 4 min)", self.version()?),
            Self::WasmBindgen => format!("wasm-bindgen {} (about 3 min)", self.version()?),
            Self::Node => "wrangler, esbuild, binaryen, playwright-core and openai from npm".to_owned(),
            Self::Python => "cargo-lambda, sam and openai from PyPI".to_owned(),
            Self::DynamoDb => "DynamoDB Local from Maven Central".to_owned(),
            Self::Peers => "Portkey's gateway from npm and LiteLLM from PyPI".to_owned(),
            Self::CodingAgents => "Claude Code and Codex from npm (660 MB)".to_owned(),
            Self::RealModel => "llama-cpp-python and SmolLM2-135M from PyPI (about 10 min)".to_owned(),
            Self::Browser => "Chromium (if this machine has no browser)".to_owned(),
            Self::Nightly => "Rust's nightly toolchain (if this machine has none)".to_owned(),
            Self::CargoFuzz => format!("cargo-fuzz {} (about 1 min)", self.version()?),
        })
    }

    /// A path that exists if the tool is installed.
    fn path(self) -> PathBuf {
        match self {
            // The stamp is not enough: the toolchain may have changed since.
            Self::WasmTarget => cargo::target_libraries(cargo::WASM),
            Self::WorkerBuild => cargo_program("worker-build"),
            Self::WasmBindgen => cargo_program("wasm-bindgen"),
            Self::Node => node_program("wrangler"),
            Self::Python => python_program("sam"),
            Self::DynamoDb => dynamodb::directory(),
            Self::Peers => peer_program("litellm"),
            Self::CodingAgents => coding_agent_modules().join(".bin/codex"),
            Self::RealModel => real_model().join("bin/python"),
            Self::Browser => browser::program(),
            Self::Nightly => cargo::nightly_compiler(),
            Self::CargoFuzz => cargo_program("cargo-fuzz"),
        }
    }

    fn stamp(self) -> PathBuf {
        directory().join("stamps").join(self.name())
    }

    fn installed(self) -> Result<bool> {
        let stamped = fs::read_to_string(self.stamp()).is_ok_and(|stamp| Some(stamp) == self.version().ok());
        Ok(stamped && self.path().exists())
    }

    fn install(self) -> Result<()> {
        let version = self.version()?;
        let description = self.description()?;
        eprintln!("tools: installing {description}…");
        let start = Instant::now();
        remove(&self.stamp())?;
        match self {
            Self::WasmTarget => cargo::add_target(&version),
            Self::WorkerBuild => cargo::install("worker-build", "worker-build", &version),
            Self::WasmBindgen => cargo::install("wasm-bindgen-cli", "wasm-bindgen", &version),
            Self::Node => node::install("npm", &node::directory()),
            Self::Python => python::install("python", &python::directory()),
            Self::DynamoDb => dynamodb::install(),
            Self::Peers => {
                node::install("peers", &peers("npm")).and_then(|()| python::install("peers", &peers("venv")))
            }
            Self::CodingAgents => node::install("coding_agents", &directory().join("coding_agents")),
            Self::RealModel => python::install("real_model", &real_model()),
            Self::Browser => browser::install(),
            Self::Nightly => cargo::install_nightly(),
            Self::CargoFuzz => cargo::install("cargo-fuzz", "cargo-fuzz", &version),
        }
        .with_context(|| format!("cannot install {description}"))?;
        write_stamp(&self.stamp(), &version)?;
        eprintln!("tools: installed in {:.0} s", start.elapsed().as_secs_f64());
        Ok(())
    }
}

/// Writes a stamp atomically.
fn write_stamp(file: &Path, version: &str) -> Result<()> {
    let Some(parent) = file.parent() else { bail!("{} has no directory", file.display()) };
    fs::create_dir_all(parent)?;
    let draft = file.with_extension("draft");
    fs::write(&draft, version)?;
    fs::rename(&draft, file).with_context(|| format!("cannot write {}", file.display()))
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Removes a file or a directory if it exists.
fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Fails with advice if a program is missing that no task can install.
fn require(program: &str, argument: &str, advice: &str) -> Result<()> {
    let mut probe = Command::new(program);
    if probe.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    {
        bail!("`{program}` is not on this machine: {advice}");
    }
    Ok(())
}
