//! Installs tools with Cargo and rustup.

use crate::workspace::{command, output, run_aside};
use anyhow::Result;
use std::path::PathBuf;

/// The version of worker-build. Major and minor must equal those of the crate `worker`.
pub(super) const WORKER_BUILD: &str = "0.8.7";

/// The version of cargo-fuzz.
pub(super) const CARGO_FUZZ: &str = "0.13.2";

/// The Worker's target.
pub(super) const WASM: &str = "wasm32-unknown-unknown";

/// The target directory of installations. It is not the workspace's, so that neither waits for the other's lock.
pub(super) fn build_directory() -> PathBuf {
    super::directory().join("build")
}

/// Installs one program of a package into `target/tools/bin`.
pub(super) fn install(package: &str, program: &str, version: &str) -> Result<()> {
    let install = |locked: Option<&str>| {
        let mut cargo = command("cargo");
        cargo
            .args(["install", package, "--version", version, "--bin", program, "--force", "--quiet"])
            .args(locked);
        cargo.arg("--root").arg(super::directory()).env("CARGO_TARGET_DIR", build_directory());
        run_aside(&mut cargo)
    };
    // A registry mirror may lack the versions of the package's lock file; compatible versions serve as well.
    install(Some("--locked")).or_else(|_| {
        eprintln!("tools: the locked dependencies of {package} are not available; using compatible ones…");
        install(None)
    })
}

/// Adds a target to the toolchain. Without rustup, the system has to provide it.
pub(super) fn add_target(target: &str) -> Result<()> {
    super::require(
        "rustup",
        "--version",
        "install Rust with rustup, which also adds the WebAssembly target",
    )?;
    run_aside(command("rustup").args(["target", "add", target]))
}

/// Installs the nightly toolchain unless the machine has one, which is not updated: any version serves.
pub(super) fn install_nightly() -> Result<()> {
    super::require(
        "rustup",
        "--version",
        "install Rust with rustup, which also installs the nightly toolchain",
    )?;
    if nightly_compiler().exists() {
        return Ok(());
    }
    run_aside(command("rustup").args(["toolchain", "install", "nightly", "--profile", "minimal"]))
}

/// The nightly toolchain's compiler; an empty path if there is no such toolchain.
pub(super) fn nightly_compiler() -> PathBuf {
    output(command("rustup").args(["which", "--toolchain", "nightly", "rustc"]))
        .unwrap_or_default()
        .trim_end()
        .into()
}

/// The directory of a target's standard library; it exists only if the target is installed.
pub(super) fn target_libraries(target: &str) -> PathBuf {
    output(command("rustc").args(["--print", "target-libdir", "--target", target]))
        .unwrap_or_default()
        .trim_end()
        .into()
}
