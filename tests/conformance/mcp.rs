//! Starts the MCP servers of the node: one of the official package, in its newest and in an older revision, and one
//! that answers calls wrongly.

use std::{
    env,
    fmt::Write as _,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// The node's token for the servers that demand one. It must appear nowhere else.
pub(crate) const TOKEN: &str = "tok-canary-51c8e20da94f";

/// The wrong answers to a call, each at its own path.
pub(crate) const WRONG_ANSWERS: [&str; 8] =
    ["stall", "endless-sse", "megabytes", "wrong-id", "not-json", "redirect", "half", "sampling"];

/// The running servers.
pub(crate) struct McpServers {
    pub(crate) shop: McpServer,
    old: McpServer,
    pub(crate) faulty_server: McpServer,
    /// The files of their effects.
    _effects: TempDir,
}

/// A server, whose process ends when this is dropped.
pub(crate) struct McpServer {
    process: Child,
    pub(crate) port: u16,
}

/// How long Python may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(90);

impl McpServers {
    /// Starts the servers and waits until they listen.
    pub(crate) fn start() -> io::Result<Self> {
        let effects = tempfile::tempdir()?;
        let file = |name: &str| effects.path().join(name).display().to_string();
        let mcp = Self {
            shop: McpServer::spawn("mcp_server.py", &[&file("shop")])?,
            old: McpServer::spawn("mcp_server.py", &[&file("old"), "--sessions"])?,
            faulty_server: McpServer::spawn("mcp_liar.py", &[])?,
            _effects: effects,
        };
        [&mcp.shop, &mcp.old, &mcp.faulty_server].into_iter().try_for_each(McpServer::wait)?;
        Ok(mcp)
    }

    /// The servers' sections of the configuration. `shop` has several, with different declarations of effects.
    pub(crate) fn config(&self) -> String {
        let mut out = String::new();
        let mut tool = |name: &str, port: u16, path: &str, more: &str| {
            let _ = writeln!(
                out,
                "[[tool]]\nname = {name:?}\nurl = \"http://127.0.0.1:{port}/{path}\"\n{more}\n"
            );
        };
        let effects = "pure = [\"lookup\", \"big\", \"fail\", \"inject\", \"vanish\"]\nkeyed = [\"charge\", \"ship\"]\n\
                       key = [\"order\"]\nauthorization = { env = \"OUTLIVE_TEST_TOKEN\" }";
        tool("shop", self.shop.port, "mcp", effects);
        tool("old", self.old.port, "mcp", effects);
        tool("guarded", self.shop.port, "mcp", "approve = [\"deploy\", \"charge\"]");
        tool("once", self.shop.port, "mcp", "functions = [\"ship\"]");
        tool("again", self.shop.port, "mcp", "functions = [\"ship\"]\neffect = \"pure\"");
        // A port without a listener.
        tool("nobody", 1, "mcp", "");
        for lie in WRONG_ANSWERS {
            tool(&format!("liar-{lie}"), self.faulty_server.port, lie, "timeout = \"5s\"");
        }
        out
    }
}

impl McpServer {
    fn spawn(script: &str, arguments: &[&str]) -> io::Result<Self> {
        let python = env::var("OUTLIVE_PYTHON").unwrap_or_else(|_| "python3".into());
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let process = Command::new(python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk").join(script))
            .arg(port.to_string())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // It logs every client that disconnects.
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { process, port })
    }

    fn wait(&self) -> io::Result<()> {
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if start.elapsed() > START_TIMEOUT {
                return Err(io::Error::other("an MCP server does not start"));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The JSON at a path of the server's own; null if there is none.
    pub(crate) fn get(&self, path: &str) -> Value {
        let ask = || -> io::Result<String> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            let head = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = ask().unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_default()
    }

    /// The effects for the order or target `name`.
    pub(crate) fn effects(&self, name: &str) -> Vec<Value> {
        let all = self.get("/effects").as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|effect| effect["order"] == name || effect["target"] == name).collect()
    }
}

impl Drop for McpServer {
    fn drop(&mut self) {
        // Both fail only if the process has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
