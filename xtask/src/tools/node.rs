//! What npm installs: the packages of `xtask/npm`, with exactly the versions of its lock file.

use crate::workspace::{command, root, run_aside};
use anyhow::Result;
use std::fs;
use std::path::PathBuf;

pub(super) fn directory() -> PathBuf {
    super::directory().join("npm")
}

pub(super) fn lock_file() -> PathBuf {
    source().join("package-lock.json")
}

pub(super) fn install() -> Result<()> {
    super::require("npm", "--version", "install Node.js 20.3 or later, which brings npm")?;
    super::remove(&directory())?;
    fs::create_dir_all(directory())?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(source().join(file), directory().join(file))?;
    }
    // The scripts only download what the packages for this platform already contain.
    let options = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
    run_aside(command("npm").args(options).current_dir(directory()))
}

fn source() -> PathBuf {
    root().join("xtask/npm")
}
