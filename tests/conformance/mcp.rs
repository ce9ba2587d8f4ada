//! The MCP servers that the node may use: one made with the official package, in its newest and in an older revision, and one
//! that lies.

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

/// What the node says to the servers that want to know who it is. Nobody else may ever see it.
pub(crate) const TOKEN: &str = "tok-canary-51c8e20da94f";

/// The lies about a call, each at a path of its own.
pub(crate) const LIES: [&str; 8] =
    ["stall", "endless-sse", "megabytes", "wrong-id", "not-json", "redirect", "half", "sampling"];

/// The running servers.
pub(crate) struct Mcp {
    pub(crate) shop: Server,
    old: Server,
    pub(crate) liar: Server,
    /// What they did.
    _effects: TempDir,
}

/// One of them, a process that ends with this.
pub(crate) struct Server {
    process: Child,
    pub(crate) port: u16,
}

/// How long Python may need to start.
const START: Duration = Duration::from_secs(90);

impl Mcp {
    /// Starts them, and waits until they listen.
    pub(crate) fn start() -> io::Result<Self> {
        let effects = tempfile::tempdir()?;
        let file = |name: &str| effects.path().join(name).display().to_string();
        let mcp = Self {
            shop: Server::spawn("mcp_server.py", &[&file("shop")])?,
            old: Server::spawn("mcp_server.py", &[&file("old"), "--sessions"])?,
            liar: Server::spawn("mcp_liar.py", &[])?,
            _effects: effects,
        };
        [&mcp.shop, &mcp.old, &mcp.liar].into_iter().try_for_each(Server::wait)?;
        Ok(mcp)
    }

    /// How the node is told of them. `shop` is reached in several ways.
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
        // Nobody listens there.
        tool("nobody", 1, "mcp", "");
        for lie in LIES {
            tool(&format!("liar-{lie}"), self.liar.port, lie, "timeout = \"5s\"");
        }
        out
    }
}

impl Server {
    fn spawn(script: &str, arguments: &[&str]) -> io::Result<Self> {
        let python = env::var("OUTLIVE_PYTHON").unwrap_or_else(|_| "python3".into());
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let process = Command::new(python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk").join(script))
            .arg(port.to_string())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // It tells of every client that goes away.
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { process, port })
    }

    fn wait(&self) -> io::Result<()> {
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if start.elapsed() > START {
                return Err(io::Error::other("an MCP server does not start"));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// What it says of itself; null if it says nothing.
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

    /// What it did for the business `name`: an order, or a target.
    pub(crate) fn effects(&self, name: &str) -> Vec<Value> {
        let all = self.get("/effects").as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|effect| effect["order"] == name || effect["target"] == name).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
