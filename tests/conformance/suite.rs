//! Starts the node under test with the providers and servers around it, and holds what the topics share.

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
    coding_agents,
    mcp::{McpServers, TOKEN},
    mock::Mock,
    node::{Host, Node, watch_signals},
};

/// What a topic needs.
pub(crate) struct Suite {
    pub(crate) host: Host,
    /// Whether the cases of the long tests are run as well.
    pub(crate) long: bool,
    pub(crate) upstream: Upstream,
    /// Its process ends with the suite.
    _mock: Mock,
    pub(crate) mcp: McpServers,
    pub(crate) node: Node,
    pub(crate) client: Client,
    pub(crate) checks: Checks,
}

/// The key for the provider. It must appear nowhere else.
pub(crate) const CANARY: &str = "sk-canary-3f9ac1e07b52";

/// The secrets that must be in no answer and no log.
const CANARIES: [&str; 2] = [CANARY, TOKEN];

/// A caller's key with every scope.
pub(crate) const FULL: &str = "key-of-full";
/// A caller's key with the scope `inference`.
pub(crate) const INFERENCE: &str = "key-of-inference";
/// A caller's key with the scope `admin`.
pub(crate) const ADMIN: &str = "key-of-admin";

/// A caller's key with a small budget.
pub(crate) const POOR: &str = "key-of-poor";
/// A caller's key whose budget is used while the node is killed.
pub(crate) const KILLED: &str = "key-of-killed";
/// A caller's key that may send two requests a minute.
pub(crate) const QUICK: &str = "key-of-quick";

/// A model for all names with this prefix.
pub(crate) const WILDCARD: &str = "good:any-*";
/// Another name of the model `shared`, whose candidates have weights.
pub(crate) const ALIAS: &str = "gpt-4o";

/// The callers and their scopes; the key of a caller is `key-of-` and its name.
const CALLERS: [(&str, &str); 3] =
    [("full", r#""inference", "admin""#), ("inference", r#""inference""#), ("admin", r#""admin""#)];

impl Suite {
    /// Starts the providers, the servers and the node.
    pub(crate) fn start(host: Host, long: bool) -> io::Result<Self> {
        watch_signals()?;
        let upstream = Upstream::start(0)?;
        let mock = Mock::start()?;
        // A port without a listener: it is freed at once.
        let closed_port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mcp = McpServers::start()?;
        let environment =
            vec![("OUTLIVE_TEST_KEY", CANARY.to_owned()), ("OUTLIVE_TEST_TOKEN", TOKEN.to_owned())];
        let config = config::config(
            &upstream.base_url(),
            &format!("http://127.0.0.1:{closed_port}/v1"),
            mock.port,
            &mcp,
            &coding_agents::models(host, long),
        );
        let node = Node::start(host, &config, environment)?;
        let client = Client::new(node.port, &CANARIES);
        Ok(Self { host, long, upstream, _mock: mock, mcp, node, client, checks: Checks::default() })
    }

    /// Checks what must hold for the whole run, stops the node, and prints the result.
    pub(crate) fn end(mut self) -> ExitCode {
        self.checks.topic = "the whole run";
        let checks = &self.checks;
        checks.equal(
            "answers that lack a header or contain a secret",
            self.client.broken_rules(),
            Vec::<String>::new(),
        );
        checks.equal(
            "connections to the target of the provider's redirect",
            self.upstream.redirect_hits(),
            0,
        );
        match self.node.stop() {
            Ok(status) => {
                checks.that("SIGTERM ends the node", status.is_some(), "an exit within a minute", status)
            }
            Err(error) => checks.that("SIGTERM ends the node", false, "an exit", error),
        }
        let log = self.node.log();
        for canary in CANARIES {
            checks.that("the node's log contains no secret", !log.contains(canary), "a log without it", &log);
        }
        checks.that(
            "the node's log contains no panic",
            !log.contains("panicked at"),
            "a log without a panic",
            &log,
        );
        checks.end()
    }

    /// Sends a request with the key of [`FULL`].
    pub(crate) fn ask(&self, request: Request) -> Answer {
        self.client.send(&request.key(FULL))
    }

    /// Sends a chat request to a model.
    pub(crate) fn chat(&self, model: &str, stream: bool) -> Answer {
        self.ask(Request::post(CHAT, question(model, stream).to_string()))
    }

    /// Runs `case` for each item, several at a time where the host can serve several.
    pub(crate) fn each<T: Sync>(&self, items: &[T], case: impl Fn(&T) + Sync) {
        // An instance of a function serves one request at a time, so more requests would only wait in its queue.
        self.each_of(if self.host == Host::Lambda { 1 } else { 16 }, items, case);
    }

    /// Runs `case` for each item, at most `concurrency` at a time.
    pub(crate) fn each_of<T: Sync>(&self, concurrency: usize, items: &[T], case: impl Fn(&T) + Sync) {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..concurrency.min(items.len()) {
                scope.spawn(|| {
                    while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                        case(item);
                    }
                });
            }
        });
    }
}

/// The path of chat completions.
pub(crate) const CHAT: &str = "/v1/chat/completions";

/// The body of a chat request.
pub(crate) fn question(model: &str, stream: bool) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "How are you? é🙂"}]});
    if stream {
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

/// The model whose one candidate behaves like `name`. JSON and streams have one each, since the node tries a candidate
/// that has failed last.
pub(crate) fn only(name: &str, stream: bool) -> String {
    format!("only-{name}{}", suffix(stream))
}

/// The model whose first candidate behaves like `name` and whose second one works.
pub(crate) fn via(name: &str, stream: bool) -> String {
    format!("via-{name}{}", suffix(stream))
}

/// The vendors of the scripted agent, and the tags of their models: Anthropic's last one has the older thinking mode.
pub(crate) const AGENTS: [&str; 4] = ["anthropic", "deepseek", "openai", "anthropic-4-5"];

/// The candidate of the scripted agent with this tag.
pub(crate) fn agent(name: &str) -> String {
    format!("{}/agent:{name}", name.split('-').next().unwrap_or_default())
}

fn suffix(stream: bool) -> &'static str {
    if stream { "-streamed" } else { "" }
}
