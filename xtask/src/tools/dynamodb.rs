//! Installs DynamoDB Local and its dependencies with Maven, in the versions of `xtask/dynamodb/pom.xml`.

use crate::workspace::{command, root, run_aside};
use anyhow::Result;
use std::path::PathBuf;

pub(super) fn directory() -> PathBuf {
    super::directory().join("dynamodb")
}

pub(super) fn project() -> PathBuf {
    root().join("xtask/dynamodb/pom.xml")
}

pub(super) fn install() -> Result<()> {
    super::require("java", "-version", "install a JDK, version 17 or later")?;
    super::require("mvn", "--version", "install Maven 3.8 or later")?;
    super::remove(&directory())?;
    let mut maven = command("mvn");
    maven
        .args(["--quiet", "--batch-mode", "-Dstyle.color=never", "--file"])
        .arg(project())
        .arg("dependency:copy-dependencies");
    run_aside(maven.arg(format!("-DoutputDirectory={}", directory().display())))
}
