//! Serves the Lambda function: instances of the binary `bootstrap` behind cargo-lambda's runtime API, with DynamoDB
//! Local as their store.
//!
//! cargo-lambda does not start the function itself: it would put it into another process group and pass the whole
//! environment. It serves the function URL at the root, so the node's paths reach the function unchanged.

use super::{Node, START_TIMEOUT, http};
use crate::processes::Processes;
use crate::workspace::{cargo, root, run_aside, target};
use crate::{dynamodb, tools};
use anyhow::Result;
use std::fs;
use std::net::TcpStream;
use std::process::Command;

/// Instances, and so concurrent requests: each serves one at a time. AWS starts instances on demand.
const INSTANCES: usize = 8;

/// The event that the schedule in template.yaml sends.
const SCHEDULED_EVENT: &str = r#"{"source":"outlive.tick"}"#;

/// Builds the function and serves it until a stop is requested.
pub(super) fn run(node: &Node) -> Result<()> {
    tools::install(&tools::LAMBDA)?;
    run_aside(cargo().args(["build", "--release", "--quiet", "--package", "outlive-lambda"]))?;
    let tables = node.data.join("dynamodb");
    fs::create_dir_all(&tables)?;

    let mut processes = Processes::new()?;
    let Some(endpoint) = dynamodb::start(&mut processes, Some(&tables))? else { return Ok(()) };
    processes.start("cargo-lambda", runtime_api(node))?;
    // An instance that can't connect to the runtime API exits.
    let is_listening = || Ok(TcpStream::connect(("127.0.0.1", node.port)).is_ok());
    if !processes.wait_until("the runtime API", START_TIMEOUT, is_listening)? {
        return Ok(());
    }
    // The first instance creates the table; the others start only when it exists.
    processes.start_restarting("the function", instance(node, &endpoint))?;
    if !node.wait_until_healthy(&mut processes)? {
        return Ok(());
    }
    for _ in 1..INSTANCES {
        processes.start_restarting("the function", instance(node, &endpoint))?;
    }
    let schedule = format!("{}/2015-03-31/functions/_/invocations", node.url());
    node.serve(&mut processes, http::Request::post(schedule, SCHEDULED_EVENT.to_owned()))
}

/// The platform: function URL and runtime API on the node's port.
fn runtime_api(node: &Node) -> Command {
    let mut lambda = Command::new(tools::python_program("cargo-lambda"));
    lambda.args(["lambda", "watch", "--only-lambda-apis", "--disable-cors", "--package", "outlive-lambda"]);
    lambda.args(["--invoke-address", "127.0.0.1", "--invoke-port", &node.port.to_string()]);
    // Outside the package cargo-lambda would watch every file below the root.
    lambda.current_dir(root().join("lambda"));
    lambda
}

/// One instance of the function, with the environment variables that AWS sets.
fn instance(node: &Node, endpoint: &str) -> Command {
    let mut function = Command::new(target().join("release/bootstrap"));
    node.environment.apply(&mut function);
    function.current_dir(&node.data);
    function.envs(dynamodb::variables(endpoint));
    function.env("AWS_LAMBDA_RUNTIME_API", format!("{}/.rt", node.url()));
    function.envs([
        // cargo-lambda's name for a function that belongs to no package.
        ("AWS_LAMBDA_FUNCTION_NAME", "_"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512"),
        ("OUTLIVE_TABLE", "outlive"),
        ("OUTLIVE_LAMBDA_ENDPOINT", &node.url()),
    ]);
    function.env("OUTLIVE_CONFIG", &node.config);
    function
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_sends_the_same() {
        let template = fs::read_to_string(root().join("template.yaml")).unwrap();
        assert!(template.contains(&format!("Input: '{SCHEDULED_EVENT}'")));
    }
}
