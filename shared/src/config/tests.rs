use super::*;

fn parse(text: &str) -> Result<Config, Mistakes> {
    let env = |name: &str| (name == "KEY").then(|| "sk-secret".to_owned());
    Config::parse(text, "agent.toml", env)
}

/// The mistakes of `text`, a line each.
fn check(text: &str, expected: &str) {
    let seen = parse(text).err().map(|mistakes| mistakes.to_string()).unwrap_or_default();
    assert_eq!(seen, expected.trim());
}

const GOOD: &str = r#"
[agent]
name = "scout"
model = "fast"
[[provider]]
name = "one"
kind = "compatible"
base_url = "http://127.0.0.1:9/v1/"
api_key = { env = "KEY" }
[[provider]]
name = "two"
kind = "openai"
api_key = { env = "KEY" }
[timeouts]
idle = "500ms"
[[model]]
name = "fast"
candidates = ["one/org/m", "two/gpt"]
timeouts = { total = "2m" }
[[key]]
name = "me"
sha256 = "2BB80D537B1DA3E38BD30361AA855686BDE0EACD7162FEF6A25FE97BF527A25B"
scopes = ["inference", "admin"]
"#;

#[test]
fn a_whole_file() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.node, "scout");
    let model = config.model("fast").unwrap();
    assert_eq!(
        model.candidates,
        [
            Candidate { provider: "one".into(), model: "org/m".into() },
            Candidate { provider: "two".into(), model: "gpt".into() },
        ]
    );
    let default = Timeouts::default();
    let expected = Timeouts { idle: Duration::from_millis(500), total: Duration::from_secs(120), ..default };
    assert_eq!(model.timeouts, expected);
    assert_eq!(config.model("one/org/m").unwrap().candidates.len(), 1);
    assert_eq!(config.model("one/other"), None, "only what is listed can be asked for");
    assert_eq!(config.keys[0].sha256[0], 0x2b);
    assert_eq!(
        config.provider("one").unwrap().base_url.as_ref().unwrap().to_string(),
        "http://127.0.0.1:9/v1"
    );
    assert!(!format!("{config:?} {config}").contains("sk-secret"));
}

#[test]
fn without_providers_the_environment_decides() {
    let demo = parse("").unwrap();
    assert_eq!(demo.providers[0].kind, ProviderKind::Demo);
    assert_eq!(demo.model("default").unwrap().candidates[0].to_string(), "demo/demo");
    let keyed = Config::parse("", "f", |name| (name == "OPENAI_API_KEY").then(|| "k".into())).unwrap();
    assert_eq!(keyed.model("default").unwrap().candidates[0].to_string(), "openai/gpt-5-mini");
}

#[test]
fn every_mistake_is_reported_with_its_line() {
    check(
        r#"
[agent]
name = "a b"
modle = "x"
[[provider]]
kind = "azur"
base_url = "ftp://x"
api_key = "sk-written-down"
[[provider]]
name = "p"
kind = "compatible"
base_url = "http://example.com/v1"
api_key = { env = "NOT_SET" }
[[model]]
name = "default"
candidates = ["q/m", "p"]
prefer = "luck"
timeouts = { idle = "5 parsecs" }
[[key]]
name = "k"
sha256 = "abc"
scopes = ["root"]
[extra]
"#,
        r#"
agent.toml:3: agent.name: "a b" is not a name; allowed: 1 to 64 of a-z A-Z 0-9 - _
agent.toml:4: agent.modle: unknown key; allowed: instructions, model, name, retention, tool_hosts, tools, turn_limit_usd
agent.toml:5: provider[1].name: missing; allowed: a string
agent.toml:6: provider[1].kind: "azur"; allowed: openai, azure, anthropic, deepseek, compatible, demo
agent.toml:7: provider[1].base_url: "ftp://x": allowed: https://host[:port]/path
agent.toml:8: provider[1].api_key: a secret is named, never written here; allowed: { env = "NAME" }
agent.toml:12: provider[2].base_url: "http://example.com/v1": the key would travel in the clear; allowed: https, http to this machine, or http with plain_http = true
agent.toml:13: provider[2].api_key: the environment variable NOT_SET is not set
agent.toml:16: model[1].candidates: "q/m": there is no provider "q"; allowed: p
agent.toml:16: model[1].candidates: "p": allowed: "provider/model"
agent.toml:17: model[1].prefer: "luck"; allowed: order, cost, latency
agent.toml:18: model[1].timeouts.idle: "5 parsecs"; allowed: a time from "1ms" to "24h" in ms, s, m or h
agent.toml:21: key[1].sha256: allowed: the key's SHA-256 as 64 hexadecimal digits
agent.toml:22: key[1].scopes: "root"; allowed: inference, admin
agent.toml:23: extra: unknown key; allowed: agent, budget, key, model, price, provider, telemetry, timeouts, tool"#,
    );
}

#[test]
fn what_is_not_toml_is_reported_without_quoting_it() {
    let mistakes = parse("[agent]\nname = \"a\napi_key = sk-oops\n").unwrap_err();
    assert_eq!(mistakes.list()[0].line, 2);
    assert!(!mistakes.to_string().contains("sk-oops"), "{mistakes}");
}
