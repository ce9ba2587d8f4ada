//! Runs `cargo xtask prices`: downloads two public price lists and has `xtask/python/prices.py` write the core's
//! table of models from them.

use crate::{
    tools::{self, Tool},
    workspace::{self, command, root, run_aside, target},
};
use anyhow::{Context, Result};
use std::{fs, path::Path};

/// Downloads LiteLLM's newest table, and pydantic's to compare with, and writes the core's.
pub(crate) fn run() -> Result<()> {
    tools::install(&[Tool::Python])?;
    let directory = target().join("prices");
    // pip keeps a package that is there already, so an old download would stay.
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    let python = tools::python_program("python");
    let pip = |arguments: &[&str], package: &str| {
        let mut pip = command(&python);
        pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]).args(arguments);
        run_aside(pip.arg(&directory).arg(package))
    };
    // Only LiteLLM's table is used, so none of its many dependencies is installed.
    pip(&["install", "--no-deps", "--target"], "litellm")?;
    pip(&["install", "--target"], "genai-prices")?;
    let version = version(&directory)?;
    let table = root().join("shared/src/price/table.rs");
    workspace::run(
        command(&python)
            .arg(root().join("xtask/python/prices.py"))
            .arg(directory.join("litellm/model_prices_and_context_window_backup.json"))
            .arg(&directory)
            .arg(version)
            .arg(&table),
    )
}

/// The version of LiteLLM, from the name of the directory that pip made.
fn version(directory: &Path) -> Result<String> {
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(version) = name.strip_prefix("litellm-").and_then(|rest| rest.strip_suffix(".dist-info"))
        {
            return Ok(version.to_owned());
        }
    }
    None.context("pip installed no litellm")
}
