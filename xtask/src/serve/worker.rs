//! Serves the Worker on wrangler's workerd, with Durable Objects. `crate::worker` builds it.
//!
//! workerd runs a project that is made for this node: the settings, code and entry of the deployed Worker, with this
//! node's configuration.

use super::{Node, http};
use crate::environment::isolate;
use crate::processes::Processes;
use crate::tools;
use crate::worker::{self, Flavor};
use crate::workspace::root;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

/// The last compatibility date that the pinned workerd knows.
const LAST_COMPATIBILITY_DATE: &str = "2026-05-03";

/// Builds the Worker and serves it until a stop is requested.
pub(super) fn run(node: &Node) -> Result<()> {
    let build = worker::build(Flavor::Product)?;
    let mut processes = Processes::new()?;
    if !start(&mut processes, node, &build)? {
        return Ok(());
    }
    let schedule = format!("{}/cdn-cgi/handler/scheduled?cron=*+*+*+*+*", node.url());
    node.serve(&mut processes, http::Request::get(schedule))
}

/// Starts a Worker that is built, and waits until it is healthy. False: a stop was requested.
pub(super) fn start(processes: &mut Processes, node: &Node, build: &Path) -> Result<bool> {
    let project = node.data.join("project");
    write_project(&project, node, build)?;
    processes.start("workerd", workerd(node, &project))?;
    node.wait_until_healthy(processes)
}

fn workerd(node: &Node, project: &Path) -> Command {
    let mut workerd = Command::new("node");
    isolate(&mut workerd);
    workerd.env("XDG_CONFIG_HOME", project.join("home"));
    workerd.arg(root().join("xtask/workerd.mjs")).arg(tools::node_modules()).arg(project);
    workerd.arg(node.data.join("state")).arg(node.port.to_string()).current_dir(project);
    workerd
}

/// Writes the project from nothing, so that no file of an earlier node stays in it.
fn write_project(project: &Path, node: &Node, build: &Path) -> Result<()> {
    match fs::remove_dir_all(project) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).context("cannot remove the earlier project");
        }
        _ => fs::create_dir_all(project)?,
    }
    fs::write(project.join("wrangler.json"), settings()?.to_string())?;
    fs::copy(root().join("workers/entry.mjs"), project.join("entry.mjs"))
        .context("cannot copy workers/entry.mjs")?;
    fs::copy(&node.config, project.join("agent.toml"))?;
    copy_directory(build, &project.join("build"))?;
    // The file holds secrets, so it is created with its final permissions.
    let mut secrets =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(project.join(".dev.vars"))?;
    Ok(secrets.write_all(node.environment.dev_vars()?.as_bytes())?)
}

/// The settings of wrangler.toml without the build, which is done already, and with a compatibility date that the
/// pinned workerd knows.
fn settings() -> Result<Value> {
    let text = fs::read_to_string(root().join("wrangler.toml")).context("cannot read wrangler.toml")?;
    let mut settings: Value = toml::from_str(&text).context("wrangler.toml")?;
    let fields = settings.as_object_mut().context("wrangler.toml is not a table")?;
    fields.remove("build");
    fields.insert("main".to_owned(), "entry.mjs".into());
    let date = fields.get("compatibility_date").and_then(Value::as_str).unwrap_or_default();
    let date = date.min(LAST_COMPATIBILITY_DATE).to_owned();
    fields.insert("compatibility_date".to_owned(), date.into());
    Ok(settings)
}

/// Copies a directory with everything below it.
fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
