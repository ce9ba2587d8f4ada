//! Finds Chromium, or installs it from the system's packages: it needs dozens of system libraries.

use crate::workspace::{command, run_aside};
use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};

/// The program's names on different systems.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// The program's path, or the path where it would be installed.
pub(super) fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = || std::env::split_paths(&path);
    let found = NAMES.iter().flat_map(|name| places().map(move |place| place.join(name)));
    found
        .into_iter()
        .find(|program| program.is_file())
        .unwrap_or_else(|| Path::new("/usr/bin").join("chromium"))
}

/// Installs Chromium unless the machine has a browser of [`NAMES`].
pub(super) fn install() -> Result<()> {
    if !program().is_file() {
        let mut apt = command("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt.args(["install", "--yes", "--quiet", "--no-install-recommends", "chromium"]);
        // The list of packages may be missing or too old.
        run_aside(&mut apt).or_else(|_| {
            run_aside(command("apt-get").args(["update", "--quiet"]))?;
            run_aside(&mut apt)
        })?;
    }
    ensure!(program().is_file(), "there is no Chromium on this machine: install Chromium or Chrome");
    Ok(())
}
