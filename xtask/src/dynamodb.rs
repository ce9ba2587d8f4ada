//! Runs DynamoDB Local, the substitute for DynamoDB in tests. `tools/dynamodb.rs` installs it.

use crate::processes::Processes;
use crate::serve::{free_port, http};
use crate::tools;
use crate::workspace::{command, root};
use anyhow::Result;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long DynamoDB Local may take from its start to its first response.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts DynamoDB Local on a free port and returns its endpoint, or `None` after a stop signal. Its tables lie in
/// `directory`, without one in memory.
pub(crate) fn start(processes: &mut Processes, directory: Option<&Path>) -> Result<Option<String>> {
    let port = free_port()?;
    let endpoint = format!("http://127.0.0.1:{port}");
    processes.start("DynamoDB Local", server(port, directory))?;
    // Any response shows that it runs: the unsigned request itself is refused.
    let probe = http::Request::get(endpoint.clone());
    let is_up = processes.wait_until("DynamoDB Local's first response", START_TIMEOUT, || {
        Ok(probe.send(START_TIMEOUT).is_ok())
    })?;
    Ok(is_up.then_some(endpoint))
}

/// The environment in which the AWS SDK uses this endpoint. DynamoDB Local accepts any credentials.
pub(crate) fn variables(endpoint: &str) -> [(&'static str, &str); 4] {
    [
        ("OUTLIVE_DYNAMODB_ENDPOINT", endpoint),
        ("AWS_ACCESS_KEY_ID", "local"),
        ("AWS_SECRET_ACCESS_KEY", "local"),
        ("AWS_REGION", "us-east-1"),
    ]
}

fn server(port: u16, directory: Option<&Path>) -> Command {
    let jars = tools::dynamodb_jars();
    let mut java = command("java");
    java.arg(format!("-Djava.library.path={}", jars.display())).arg("-cp").arg(jars.join("*"));
    java.arg(root().join("xtask/dynamodb/Loopback.java"));
    java.args(["-sharedDb", "-disableTelemetry", "-port", &port.to_string()]);
    match directory {
        Some(directory) => java.arg("-dbPath").arg(directory),
        None => java.arg("-inMemory"),
    };
    java
}
