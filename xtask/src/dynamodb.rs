//! DynamoDB Local, which stands in for DynamoDB on this machine.

use crate::processes::Processes;
use crate::serve::{free_port, http};
use crate::tools;
use crate::workspace::{command, root};
use anyhow::Result;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long it may take to its first answer.
const START: Duration = Duration::from_secs(60);

/// Starts it on a free port and returns its endpoint; with a directory its tables outlive it. None: told to stop.
pub(crate) fn start(processes: &mut Processes, directory: Option<&Path>) -> Result<Option<String>> {
    let port = free_port()?;
    let endpoint = format!("http://127.0.0.1:{port}");
    processes.start("DynamoDB Local", server(port, directory))?;
    // Any answer will do: an unsigned request is refused.
    let probe = http::Request::get(endpoint.clone());
    let up =
        processes.wait_until("DynamoDB Local's first answer", START, || Ok(probe.send(START).is_ok()))?;
    Ok(up.then_some(endpoint))
}

/// What the AWS SDK needs to talk to it: any credentials do.
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
