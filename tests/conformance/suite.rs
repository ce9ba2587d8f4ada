use std::{
    fmt::Write,
    io,
    net::{Ipv4Addr, TcpListener},
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use outlive_tests::upstream::{Behaviour, Upstream};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    checks::Checks,
    client::{Answer, Client, Request},
    mcp::{Mcp, TOKEN},
    mock::{self, Mock},
    node::{Host, Node, watch_signals},
    providers::{ALONE, FAILING, KINDS, alone, backed},
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
        let config = config(&upstream.base_url(), &format!("http://127.0.0.1:{dead}/v1"), mock.port, &mcp);
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
        checks.equal("connections to where the provider redirects to", self.upstream.redirected(), 0);
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

fn config(upstream: &str, dead: &str, mock: u16, mcp: &Mcp) -> String {
    let mut out = String::from("[agent]\nname = \"conformance\"\nmodel = \"plain\"\n");
    let _ = writeln!(out, "tool_hosts = [\"127.0.0.1:{}\"]\n", mcp.shop.port);
    out += &mcp.config();
    for (name, url) in [("bad", upstream), ("good", upstream), ("dead", dead)] {
        let key = r#"{ env = "OUTLIVE_TEST_KEY" }"#;
        let _ = writeln!(
            out,
            "[[provider]]\nname = {name:?}\nkind = \"compatible\"\nbase_url = {url:?}\napi_key = {key}\n"
        );
    }
    for kind in KINDS {
        let base = kind.trim_end_matches("-old");
        let version = if kind == base { "" } else { "api_version = \"2024-10-21\"\n" };
        let _ = writeln!(
            out,
            "[[provider]]\nname = {kind:?}\nkind = {base:?}\nbase_url = {upstream:?}\n{version}\
             api_key = {{ env = \"OUTLIVE_TEST_KEY\" }}\n"
        );
    }
    for (kind, path) in mock::KINDS {
        let _ = writeln!(
            out,
            "[[provider]]\nname = \"mock-{kind}\"\nkind = {kind:?}\nbase_url = \"http://127.0.0.1:{mock}{path}\"\n\
             api_key = {{ env = \"OUTLIVE_TEST_KEY\" }}\n"
        );
    }
    let mut model = |name: &str, candidates: &[String], timeouts: &str| {
        let _ = writeln!(out, "[[model]]\nname = {name:?}\ncandidates = {candidates:?}\n{timeouts}\n");
    };
    let good = || "good/good".to_owned();
    model("plain", &[good()], "");
    model("slow", &["good/slow".into()], "");
    model("steady", &["good/steady".into()], "");
    model("only-dead", &["dead/good".into()], "");
    model("via-dead", &["dead/good:via".into(), good()], "");
    model("paid", &["good/good:paid".into()], "");
    model("rescued", &["bad/halfway:rescued".into(), "bad/halfway:again".into(), good()], "");
    let all_limited = ["bad/limited:one".into(), "bad/limited:two".into()];
    model("all-limited", &all_limited, "");
    model("all-down", &["bad/broken:all".into(), "bad/limited:all".into(), "bad/gone:all".into()], "");
    for kind in KINDS {
        for behaviour in ALONE {
            let name = alone(kind, behaviour);
            model(&name, &[format!("{kind}/{behaviour}:{name}")], "");
        }
        for behaviour in FAILING {
            let name = backed(kind, behaviour);
            model(&name, &[format!("{kind}/{behaviour}:{name}"), good()], "");
        }
    }
    for (kind, _) in mock::KINDS {
        for name in ["plain", "tools"] {
            model(&mock::alone(kind, name), &[format!("mock-{kind}/{name}")], "");
        }
        for name in mock::FAILING {
            model(&mock::backed(kind, name), &[format!("mock-{kind}/{name}"), good()], "");
        }
    }
    model("agent", &["good/agent".into()], "");
    for name in AGENTS {
        model(&format!("agent-{name}"), &[agent(name)], "");
    }
    model("agents", &AGENTS.map(agent), "attempts = 16");
    let flaky = ["openai", "anthropic"].map(|kind| format!("mock-{kind}/flaky"));
    model("flaky", &flaky, "");
    let [one, other] = flaky;
    model("via-flaky", &[one, other, good()], "");
    for (name, _) in Behaviour::ALL.into_iter().filter(|(_, behaviour)| *behaviour != Behaviour::Steady) {
        for stream in [false, true] {
            // What is not streamed has no clock for its first token, so the total one is kept short.
            let timeouts = if stream { "" } else { "timeouts = { total = \"6s\" }" };
            let timeouts = &format!("{timeouts}\nrescue = \"error\"");
            let only_it = [format!("bad/{name}:{}", only(name, stream))];
            model(&only(name, stream), &only_it, timeouts);
            model(&via(name, stream), &[format!("bad/{name}:{}", via(name, stream)), good()], timeouts);
        }
    }
    for (name, scopes) in CALLERS {
        let digest = Sha256::digest(format!("key-of-{name}"));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(out, "[[key]]\nname = {name:?}\nsha256 = {digest:?}\nscopes = [{scopes}]\n");
    }
    for (name, more) in [
        ("poor", "budget = { limit_usd = \"40\", per = \"month\" }"),
        ("quick", "limits = { requests_per_minute = 2 }"),
    ] {
        let digest = Sha256::digest(format!("key-of-{name}"));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(
            out,
            "[[key]]\nname = {name:?}\nsha256 = {digest:?}\nscopes = [\"inference\"]\n{more}\n"
        );
    }
    out += "[[price]]\ncandidate = \"good/good:paid\"\ninput = \"1\"\noutput = \"1000000\"\n";
    out + "[timeouts]\nconnect = \"1s\"\nfirst_token = \"2s\"\nidle = \"3s\"\ntotal = \"20s\"\n"
}
