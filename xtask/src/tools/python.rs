//! Installs PyPI packages into a virtual environment.

use crate::workspace::{command, root, run_aside};
use anyhow::Result;
use std::path::{Path, PathBuf};

pub(super) fn directory() -> PathBuf {
    super::directory().join("venv")
}

/// The list of packages in one of the directories in `xtask`.
pub(super) fn requirements(source: &str) -> PathBuf {
    root().join("xtask").join(source).join("requirements.txt")
}

/// Installs the packages that a directory in `xtask` lists into `directory`.
pub(super) fn install(source: &str, directory: &Path) -> Result<()> {
    super::require("python3", "--version", "install Python 3.11 or later")?;
    create(directory).or_else(|_| {
        // Debian ships virtual environments in a package of their own.
        eprintln!("tools: python3 cannot create a virtual environment; installing python3-venv…");
        let mut apt = command("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        run_aside(apt.args(["install", "--yes", "--quiet", "python3-venv"]))
            .or_else(|_| {
                run_aside(command("apt-get").args(["update", "--quiet"]))?;
                run_aside(&mut apt)
            })
            .and_then(|()| create(directory))
    })?;
    let mut pip = command(directory.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    run_aside(pip.arg(requirements(source)))
}

/// Creates an empty virtual environment in place of an earlier one.
fn create(directory: &Path) -> Result<()> {
    super::remove(directory)?;
    run_aside(command("python3").args(["-m", "venv"]).arg(directory))
}
