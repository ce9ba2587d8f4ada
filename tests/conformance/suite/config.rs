//! Writes the configuration of the node under test. The topics name the models that stand in it.

use std::fmt::Write;

use outlive_tests::upstream::Behaviour;
use sha2::{Digest, Sha256};

use super::{AGENTS, ALIAS, CALLERS, WILDCARD, agent, only, via};
use crate::{
    mcp::McpServers,
    mock,
    providers::{FAILING, KINDS, SINGLE, single_candidate, with_second_candidate},
};

pub(super) fn config(
    upstream: &str,
    closed_port: &str,
    mock: u16,
    mcp: &McpServers,
    coding_agents: &[(String, Vec<String>)],
) -> String {
    let mut out = String::from("[agent]\nname = \"conformance\"\nmodel = \"plain\"\n");
    let _ = writeln!(out, "tool_hosts = [\"127.0.0.1:{}\"]\n", mcp.shop.port);
    out += &mcp.config();
    for (name, url) in [("bad", upstream), ("good", upstream), ("dead", closed_port)] {
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
    // Each model of a failing candidate has a tag of its own, so that no failure of another check parks it.
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
    model("killed", &["good/good:killed".into()], "");
    model("rescued", &["bad/halfway:rescued".into(), "bad/halfway:again".into(), good()], "");
    model("only-broken-stored", &["bad/broken:stored".into()], "");
    model("patient", &["good/thinks:patient".into()], "thinks = true");
    model("hasty", &["good/thinks:hasty".into()], "thinks = false");
    let all_limited = ["bad/limited:one".into(), "bad/limited:two".into()];
    model("all-limited", &all_limited, "");
    model("all-down", &["bad/broken:all".into(), "bad/limited:all".into(), "bad/gone:all".into()], "");
    for kind in KINDS {
        for behaviour in SINGLE {
            let name = single_candidate(kind, behaviour);
            model(&name, &[format!("{kind}/{behaviour}:{name}")], "");
        }
        for behaviour in FAILING {
            let name = with_second_candidate(kind, behaviour);
            model(&name, &[format!("{kind}/{behaviour}:{name}"), good()], "");
        }
    }
    for (kind, _) in mock::KINDS {
        for name in ["plain", "tools"] {
            model(&mock::single_candidate(kind, name), &[format!("mock-{kind}/{name}")], "");
        }
        for name in mock::FAILING {
            model(&mock::with_second_candidate(kind, name), &[format!("mock-{kind}/{name}"), good()], "");
        }
    }
    for (name, candidates) in coding_agents {
        model(name, candidates, "drop_tools = [\"web_search\"]");
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
            // An answer that is not streamed has no timeout of the first token, so its total one is short.
            let timeouts = if stream { "" } else { "timeouts = { total = \"6s\" }" };
            let timeouts = &format!("{timeouts}\nrescue = \"error\"");
            let only_it = [format!("bad/{name}:{}", only(name, stream))];
            model(&only(name, stream), &only_it, timeouts);
            model(&via(name, stream), &[format!("bad/{name}:{}", via(name, stream)), good()], timeouts);
        }
    }
    let _ = writeln!(out, "[[model]]\nname = {WILDCARD:?}\ncandidates = [\"good/*\"]\n");
    let _ = writeln!(
        out,
        "[[model]]\nname = \"shared\"\naliases = [{ALIAS:?}]\nprefer = \"weight\"\ncandidates = [\"good/good:light\", \
         {{ candidate = \"good/good:heavy\", weight = 3 }}, {{ candidate = \"good/good:spare\", weight = 0 }}]\n"
    );
    for (name, scopes) in CALLERS {
        let digest = Sha256::digest(format!("key-of-{name}"));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(out, "[[key]]\nname = {name:?}\nsha256 = {digest:?}\nscopes = [{scopes}]\n");
    }
    for (name, more) in [
        ("poor", "budget = { limit_usd = \"40\", per = \"month\" }"),
        ("killed", "budget = { limit_usd = \"10000\", per = \"month\" }"),
        ("quick", "limits = { requests_per_minute = 2 }"),
    ] {
        let digest = Sha256::digest(format!("key-of-{name}"));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(
            out,
            "[[key]]\nname = {name:?}\nsha256 = {digest:?}\nscopes = [\"inference\"]\n{more}\n"
        );
    }
    for candidate in ["good/good:paid", "good/good:killed"] {
        let _ = writeln!(out, "[[price]]\ncandidate = {candidate:?}\ninput = \"1\"\noutput = \"1000000\"\n");
    }
    out + "[timeouts]\nconnect = \"1s\"\nfirst_token = \"2s\"\nidle = \"3s\"\ntotal = \"20s\"\n"
}
