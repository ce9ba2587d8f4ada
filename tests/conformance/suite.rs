//! What every topic shares: the node under test, the providers and servers around it, and the checks.

mod config;

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use outlive_tests::upstream::Upstream;
use serde_json::{Value, json};

use crate::{
    checks::Checks,
    client::{Answer, Client, Request},
    mcp::{Mcp, TOKEN},
    mock::Mock,
    node::{Host, Node, watch_signals},
};

/// Everything that a topic needs.
pub(crate) struct Suite {
    pub(crate) host: Host,
    pub(crate) upstream: Upstream,
    /// Ends with the suite.
    _mock: Mock,
    pub(crate) mcp: Mcp,
    pub(crate) node: Node,
    pub(crate) client: Client,
    pub(crate) checks: Checks,
}

/// The key for the provider. Nobody but the provider may ever see it.
pub(crate) const CANARY: &str = "sk-canary-3f9ac1e07b52";

/// What only those may see whom the node says it to.
const CANARIES: [&str; 2] = [CANARY, TOKEN];

/// A caller's key with every scope.
pub(crate) const FULL: &str = "key-of-full";
/// A caller's key for models and conversations.
pub(crate) const INFERENCE: &str = "key-of-inference";
/// A caller's key for the status only.
pub(crate) const ADMIN: &str = "key-of-admin";

/// A caller's key with a small budget.
pub(crate) const POOR: &str = "key-of-poor";
/// A caller's key that may ask twice in a minute.
pub(crate) const QUICK: &str = "key-of-quick";

/// The callers and their scopes; the key of each is `key-of-` and its name.
const CALLERS: [(&str, &str); 3] =
    [("full", r#""inference", "admin""#), ("inference", r#""inference""#), ("admin", r#""admin""#)];

impl Suite {
    pub(crate) fn start(host: Host) -> io::Result<Self> {
        watch_signals()?;
        let upstream = Upstream::start(0)?;
        let mock = Mock::start()?;
        // A port that nobody listens on any more.
        let dead = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mcp = Mcp::start()?;
        let environment =
            vec![("OUTLIVE_TEST_KEY", CANARY.to_owned()), ("OUTLIVE_TEST_TOKEN", TOKEN.to_owned())];
        let config =
            config::config(&upstream.base_url(), &format!("http://127.0.0.1:{dead}/v1"), mock.port, &mcp);
        let node = Node::start(host, &config, environment)?;
        let client = Client::new(node.port, &CANARIES);
        Ok(Self { host, upstream, _mock: mock, mcp, node, client, checks: Checks::default() })
    }

    /// Checks what must hold for the whole run, stops the node, and prints the result.
    pub(crate) fn end(mut self) -> ExitCode {
        let checks = &self.checks;
        checks.equal(
            "what every answer must have and must not hold",
            self.client.broken_rules(),
            Vec::<String>::new(),
        );
        checks.equal("connections to where the provider redirects to", self.upstream.redirect_hits(), 0);
        match self.node.stop() {
            Ok(status) => {
                checks.that("SIGTERM ends the node", status.is_some(), "an end within a minute", status)
            }
            Err(error) => checks.that("SIGTERM ends the node", false, "an end", error),
        }
        let log = self.node.log();
        for canary in CANARIES {
            checks.that("no key is in the node's log", !log.contains(canary), "a log without it", &log);
        }
        checks.that("nothing panicked", !log.contains("panicked at"), "a log without a panic", &log);
        checks.end()
    }

    /// Sends a request with the key of [`FULL`].
    pub(crate) fn ask(&self, request: Request) -> Answer {
        self.client.send(&request.key(FULL))
    }

    /// Asks a model.
    pub(crate) fn chat(&self, model: &str, stream: bool) -> Answer {
        self.ask(Request::post(CHAT, question(model, stream).to_string()))
    }

    /// Runs `case` for each item, several at a time where the host can serve several.
    pub(crate) fn each<T: Sync>(&self, items: &[T], case: impl Fn(&T) + Sync) {
        // An instance of a function serves one request at a time, so that more would only wait in a queue.
        let at_once = if self.host == Host::Lambda { 1 } else { 16 };
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..at_once.min(items.len()) {
                scope.spawn(|| {
                    while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                        case(item);
                    }
                });
            }
        });
    }
}

pub(crate) const CHAT: &str = "/v1/chat/completions";

/// A request to a model.
pub(crate) fn question(model: &str, stream: bool) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "How are you? é🙂"}]});
    if stream {
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

/// The model with one candidate that behaves like `name`. Each mode has its own, since a node that remembers a failure
/// would try the candidate last the next time.
pub(crate) fn only(name: &str, stream: bool) -> String {
    format!("only-{name}{}", suffix(stream))
}

/// The model whose first candidate behaves like `name` and whose second one works.
pub(crate) fn via(name: &str, stream: bool) -> String {
    format!("via-{name}{}", suffix(stream))
}

/// The vendors of the scripted agent, and the tags of their models: Anthropic's last one has the older way to think.
pub(crate) const AGENTS: [&str; 4] = ["anthropic", "deepseek", "openai", "anthropic-4-5"];

/// The candidate of a vendor.
pub(crate) fn agent(name: &str) -> String {
    format!("{}/agent:{name}", name.split('-').next().unwrap_or_default())
}

fn suffix(stream: bool) -> &'static str {
    if stream { "-streamed" } else { "" }
}
