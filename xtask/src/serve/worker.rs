//! The Worker: wrangler's workerd with Durable Objects.
//!
//! It runs a project made for this node: the deployed Worker's settings, code and entry, with the node's own configuration
//! in place of the project's.

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

/// Builds the Worker and serves it until told to stop.
pub(super) fn run(node: &Node) -> Result<()> {
    let build = worker::build(Flavor::Product)?;
    let mut processes = Processes::new()?;
    if !start(&mut processes, node, &build)? {
        return Ok(());
    }
    let schedule = format!("{}/cdn-cgi/handler/scheduled?cron=*+*+*+*+*", node.url());
    node.serve(&mut processes, http::Request::get(schedule))
}

/// Starts a Worker that was built, and waits until it answers. False: this program was told to stop.
pub(super) fn start(processes: &mut Processes, node: &Node, build: &Path) -> Result<bool> {
    let project = node.data.join("project");
    lay_out(&project, node, build)?;
    processes.start("workerd", workerd(node, &project))?;
    node.wait(processes)
}

fn workerd(node: &Node, project: &Path) -> Command {
    let mut workerd = Command::new("node");
    isolate(&mut workerd);
    workerd.env("XDG_CONFIG_HOME", project.join("home"));
    workerd.arg(root().join("xtask/workerd.mjs")).arg(tools::node_modules()).arg(project);
    workerd.arg(node.data.join("state")).arg(node.port.to_string()).current_dir(project);
    workerd
}

/// Writes the project anew: what the last node left in it would only mislead this one.
fn lay_out(project: &Path, node: &Node, build: &Path) -> Result<()> {
    match fs::remove_dir_all(project) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).context("cannot clear the last project");
        }
        _ => fs::create_dir_all(project)?,
    }
    fs::write(project.join("wrangler.json"), settings()?.to_string())?;
    fs::copy(root().join("workers/entry.mjs"), project.join("entry.mjs"))
        .context("cannot copy workers/entry.mjs")?;
    fs::copy(&node.config, project.join("agent.toml"))?;
    copy(build, &project.join("build"))?;
    let mut secrets =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(project.join(".dev.vars"))?;
    Ok(secrets.write_all(node.environment.dev_vars()?.as_bytes())?)
}

/// The settings of wrangler.toml, less the build, which is done, and with a date that this workerd knows.
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

/// Copies a directory and all below it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
