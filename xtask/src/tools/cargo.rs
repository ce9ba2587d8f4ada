//! What Cargo and rustup install.

use crate::workspace::{command, output, run_aside};
use anyhow::Result;
use std::path::PathBuf;

/// The version of worker-build; it must share major and minor with the `worker` crate.
pub(super) const WORKER_BUILD: &str = "0.8.7";

/// The target of the Worker.
pub(super) const WASM: &str = "wasm32-unknown-unknown";

/// A target directory of its own, so that an installation does not wait for the workspace's builds, nor they for it.
pub(super) fn build_directory() -> PathBuf {
    super::directory().join("build")
}

pub(super) fn install(package: &str, program: &str, version: &str) -> Result<()> {
    let install = |locked: Option<&str>| {
        let mut cargo = command("cargo");
        cargo
            .args(["install", package, "--version", version, "--bin", program, "--force", "--quiet"])
            .args(locked);
        cargo.arg("--root").arg(super::directory()).env("CARGO_TARGET_DIR", build_directory());
        run_aside(&mut cargo)
    };
    // A registry mirror may lag behind a package's own lock file; any compatible versions do as well.
    install(Some("--locked")).or_else(|_| {
        eprintln!("tools: the locked dependencies of {package} are not to be had; taking compatible ones…");
        install(None)
    })
}

/// A machine without rustup must have brought the target itself; the build says so if not.
pub(super) fn add_target(target: &str) -> Result<()> {
    super::require(
        "rustup",
        "--version",
        "install Rust with rustup, which also adds the WebAssembly target",
    )?;
    run_aside(command("rustup").args(["target", "add", target]))
}

/// Where the toolchain keeps the standard library of a target, if it has one.
pub(super) fn target_libraries(target: &str) -> PathBuf {
    output(command("rustc").args(["--print", "target-libdir", "--target", target]))
        .unwrap_or_default()
        .trim_end()
        .into()
}
