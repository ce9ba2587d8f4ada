//! Installs npm packages, in exactly the versions of a lock file.

use crate::workspace::{command, root, run_aside};
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};

pub(super) fn directory() -> PathBuf {
    super::directory().join("npm")
}

/// The lock file of one of the directories in `xtask`.
pub(super) fn lock_file(source: &str) -> PathBuf {
    root().join("xtask").join(source).join("package-lock.json")
}

/// Installs the packages that a directory in `xtask` lists into `directory`.
pub(super) fn install(source: &str, directory: &Path) -> Result<()> {
    super::require("npm", "--version", "install Node.js 20.3 or later, which brings npm")?;
    super::remove(directory)?;
    fs::create_dir_all(directory)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(root().join("xtask").join(source).join(file), directory.join(file))?;
    }
    // The packages' scripts only download what this platform's packages contain already.
    let options = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
    run_aside(command("npm").args(options).current_dir(directory))
}
