//! Tests the MCP client against servers in processes of their own: one built with the official Python package, and one
//! that violates the protocol. What a turn makes of the results is tested elsewhere.
//!
//! `OUTLIVE_PYTHON` names a Python that has the package. Without the variable the tests pass without testing anything.

// A panic is how a test fails.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

use std::{
    env, io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command},
    thread::sleep,
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue};
use outlive::{
    mcp::{Endpoint, McpError, McpSession, McpTimeouts, ToolOutput},
    testing::MemoryStore,
};
use outlive_machine::Machine;
use serde_json::{Map, Value, json};
use tokio::task::LocalSet;

/// An MCP server in a process of its own.
struct ServerProcess {
    process: Child,
    port: u16,
}

/// Longest wait for Python to start and listen.
const START_TIMEOUT: Duration = Duration::from_secs(60);

impl ServerProcess {
    /// Starts a script; `None` without a Python to run it.
    fn start(script: &str, arguments: &[&str]) -> io::Result<Option<Self>> {
        let Ok(python) = env::var("OUTLIVE_PYTHON") else { return Ok(None) };
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/sdk").join(script);
        let mut command = Command::new(python);
        command.arg(script).arg(port.to_string()).args(arguments);
        let mut server = Self { process: command.spawn()?, port };
        let started = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if started.elapsed() > START_TIMEOUT || server.process.try_wait()?.is_some() {
                return Err(io::Error::other("the server does not start"));
            }
            sleep(Duration::from_millis(50));
        }
        Ok(Some(server))
    }

    fn endpoint(&self, path: &str, call_timeout: Duration) -> Endpoint {
        endpoint(self.port, path, call_timeout)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Errors are ignored: the process has already exited.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn endpoint(port: u16, path: &str, call_timeout: Duration) -> Endpoint {
    let headers = vec![(HeaderName::from_static("authorization"), HeaderValue::from_static("Bearer secret"))];
    let url = format!("http://127.0.0.1:{port}/{path}").parse().unwrap_or_default();
    let timeouts = McpTimeouts { connect: Duration::from_secs(5), call: call_timeout };
    Endpoint { label: "tests".into(), url, headers, timeouts }
}

type TestSession<'a> = McpSession<'a, Machine<MemoryStore>>;

async fn call(
    session: &TestSession<'_>,
    function: &str,
    arguments: Value,
    key: &str,
) -> Result<ToolOutput, McpError> {
    let arguments = if let Value::Object(map) = arguments { map } else { Map::new() };
    session.call(function, &arguments, key).await
}

fn output(text: &str) -> Result<ToolOutput, McpError> {
    Ok(ToolOutput { text: text.into(), failed: false, truncated: false })
}

/// Longer than any call of these tests takes.
const LONG_TIMEOUT: Duration = Duration::from_secs(30);

/// Checks the list, the outputs, the effects and the errors of the official server.
async fn check_official_server(arguments: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("effects");
    let arguments = [&[path.to_str().unwrap()], arguments].concat();
    let Some(server) = ServerProcess::start("mcp_server.py", &arguments).unwrap() else { return };
    let machine = Machine::new(MemoryStore::default());
    let session = McpSession::new(&machine, server.endpoint("mcp", LONG_TIMEOUT));

    let functions = session.list().await.unwrap();
    let names: Vec<&str> = functions.iter().map(|function| function.name.as_str()).collect();
    assert_eq!(names, ["lookup", "charge", "deploy", "ship", "slow", "big", "fail", "inject", "vanish"]);
    assert_eq!(functions[0].description.as_deref(), Some("Tells the weather in a city."));
    assert_eq!(functions[0].input_schema["required"], json!(["city"]));
    assert_eq!(functions[0].annotations["readOnlyHint"], true);

    let sunny = call(&session, "lookup", json!({"city": "Ulm"}), "1").await;
    assert_eq!(sunny, output("It is sunny in Ulm."));
    // Twice with one key: the effect happens once.
    for _ in 0..2 {
        let charged = call(&session, "charge", json!({"order": "o", "amount": 3}), "2").await;
        assert_eq!(charged, output("charged 3 for o"));
    }
    // At once with two keys: each effect happens.
    let both = futures_util::join!(
        call(&session, "deploy", json!({"target": "a"}), "3"),
        call(&session, "deploy", json!({"target": "a"}), "4"),
    );
    assert_eq!(both, (output("deployed to a"), output("deployed to a")));
    let effects = std::fs::read_to_string(&path).unwrap();
    let effects = effects.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["key"].clone());
    let mut effects: Vec<Value> = effects.collect();
    effects.sort_by_key(Value::to_string);
    assert_eq!(effects, ["2", "3", "4"]);

    let failed = call(&session, "fail", json!({}), "5").await.unwrap();
    assert!(failed.failed && failed.text.contains("it was to fail"), "{failed:?}");
    let big = call(&session, "big", json!({"bytes": 200_000}), "6").await.unwrap();
    assert_eq!((big.text.len(), big.truncated), (64 * 1024, true));
    let huge = call(&session, "big", json!({"bytes": 2_000_000}), "7").await;
    assert!(matches!(huge, Err(McpError::Unknown(_))), "{huge:?}");
    let slow = call(&session, "slow", json!({"seconds": 0.5}), "8").await;
    assert_eq!(slow, output("waited for 0.5 s"));
    let vanished = call(&session, "vanish", json!({}), "9").await;
    assert_eq!(vanished, output("still there"));
    session.close().await;

    // A session of its own, because this timeout is too short for the calls above.
    let with_short_timeout = McpSession::new(&machine, server.endpoint("mcp", Duration::from_secs(2)));
    let late = call(&with_short_timeout, "slow", json!({"seconds": 5}), "10").await;
    assert_eq!(late, Err(McpError::Unknown("the MCP server \"tests\" gave no answer in time".into())));
}

#[tokio::test]
async fn the_newest_revision() {
    LocalSet::new().run_until(check_official_server(&[])).await;
}

#[tokio::test]
async fn the_revisions_with_sessions() {
    LocalSet::new().run_until(check_official_server(&["--sessions"])).await;
}

#[tokio::test]
async fn protocol_violations_are_errors() {
    LocalSet::new().run_until(check_violations()).await;
}

async fn check_violations() {
    let Some(server) = ServerProcess::start("mcp_liar.py", &[]).unwrap() else { return };
    let machine = Machine::new(MemoryStore::default());
    let unknown = |why: &str| Err(McpError::Unknown(format!("the MCP server \"tests\" gave no answer{why}")));
    for (path, expected) in [
        ("stall", unknown(" in time")),
        ("endless-sse", unknown(" in time")),
        ("megabytes", unknown(": it sent a longer answer than the client reads")),
        ("wrong-id", unknown(": it sent an answer with the id of no open request")),
        ("not-json", unknown(": it sent something other than one JSON object")),
        ("redirect", Err(McpError::NotSent("the MCP server \"tests\" answered with status 307".into()))),
    ] {
        let session = McpSession::new(&machine, server.endpoint(path, Duration::from_secs(2)));
        assert_eq!(call(&session, "charge", json!({}), "k").await, expected, "{path}");
    }
    let session = McpSession::new(&machine, server.endpoint("half", LONG_TIMEOUT));
    let half = call(&session, "charge", json!({}), "k").await;
    assert!(matches!(half, Err(McpError::Unknown(_))), "{half:?}");
    let session = McpSession::new(&machine, server.endpoint("sampling", LONG_TIMEOUT));
    let answers = call(&session, "charge", json!({}), "k").await.unwrap().text;
    let answers: Value = serde_json::from_str(&answers).unwrap();
    let no_method = json!({"code": -32601, "message": "method not found"});
    assert_eq!(
        answers,
        json!([{"jsonrpc": "2.0", "id": "s", "error": no_method}, {"jsonrpc": "2.0", "id": 7, "result": {}}])
    );
    // No server listens on port 1.
    let session = McpSession::new(&machine, endpoint(1, "mcp", LONG_TIMEOUT));
    let refused = call(&session, "charge", json!({}), "k").await;
    assert!(matches!(refused, Err(McpError::NotSent(_))), "{refused:?}");
}
