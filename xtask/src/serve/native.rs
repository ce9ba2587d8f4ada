//! Serves the native node: replaces this program by the binary, so there is nothing to supervise.

use super::Node;
use crate::workspace::{cargo, root, run_aside, target};
use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Builds the binary and executes it in place of this program: it prints `ready` and handles SIGTERM by itself.
pub(super) fn run(node: &Node) -> Result<()> {
    run_aside(cargo().args(["build", "--release", "--quiet", "--package", "outlive-server"]))?;
    let mut outlive = Command::new(target().join("release/outlive"));
    outlive.arg("serve").arg("--config").arg(&node.config).arg("--data").arg(&node.data);
    outlive.arg("--listen").arg(format!("127.0.0.1:{}", node.port)).current_dir(root());
    node.environment.apply(&mut outlive);
    Err(outlive.exec()).context("cannot start the node")
}
