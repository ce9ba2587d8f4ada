//! Tests that valid files are read and that every mistake is reported with its line and what is allowed.

use super::*;
use crate::{cron::Rule, session::schedule::MissedPolicy};

fn parse(text: &str) -> Result<Config, Mistakes> {
    let env = |name: &str| (name == "KEY").then(|| "sk-secret".to_owned());
    Config::parse(text, "agent.toml", env)
}

/// The mistakes of `text`, a line each.
fn check(text: &str, expected: &str) {
    let found = parse(text).err().map(|mistakes| mistakes.to_string()).unwrap_or_default();
    assert_eq!(found, expected.trim());
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
fn a_complete_file_is_read() {
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
    assert_eq!(config.model("one/other"), None, "only listed candidates can be requested");
    assert_eq!(config.keys[0].sha256[0], 0x2b);
    assert_eq!(config.retention("me"), None, "for ever");
    assert_eq!(
        config.provider("one").unwrap().base_url.as_ref().unwrap().to_string(),
        "http://127.0.0.1:9/v1"
    );
    assert!(!format!("{config:?} {config}").contains("sk-secret"));
}

#[test]
fn without_providers_the_environment_names_them() {
    let demo = parse("").unwrap();
    assert_eq!(demo.providers[0].vendor.kind, "demo");
    assert_eq!(demo.model("default").unwrap().candidates[0].to_string(), "demo/demo");
    let keyed = Config::parse("", "f", |name| (name == "OPENAI_API_KEY").then(|| "k".into())).unwrap();
    assert_eq!(keyed.model("default").unwrap().candidates[0].to_string(), "openai/gpt-5-mini");
}

#[test]
fn a_key_overrides_the_retention_of_the_agent() {
    let text = GOOD.replace("model = \"fast\"\n[[", "model = \"fast\"\nretention = \"30d\"\n[[");
    let config = parse(&format!("{text}retention = \"90m\"\n")).unwrap();
    assert_eq!(config.retention("me"), Some(Duration::from_secs(90 * 60)));
    assert_eq!(config.retention("a key that was removed"), Some(Duration::from_secs(30 * 24 * 60 * 60)));
    check(
        "[agent]\nretention = \"3651d\"\nname = \"a\"\n[[key]]\nretention = \"1s\"\nname = \"a\"\nscopes = [\"admin\"]\n\
         sha256 = \"2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\"",
        r#"
agent.toml:2: agent.retention: "3651d"; allowed: a time from "1m" to "3650d" in s, m, h or d
agent.toml:5: key[1].retention: "1s"; allowed: a time from "1m" to "3650d" in s, m, h or d"#,
    );
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
agent.toml:4: agent.modle: unknown key; did you mean "model"? allowed: approve, instructions, model, name, retention, tool_hosts, tools, turn_limit_usd
agent.toml:5: provider[1].name: missing; allowed: a string
agent.toml:6: provider[1].kind: "azur"; did you mean "azure"? allowed: openai, azure, anthropic, deepseek, openrouter, ollama, compatible, demo
agent.toml:7: provider[1].base_url: "ftp://x": the scheme is neither https nor http; allowed: https://host[:port]/path
agent.toml:8: provider[1].api_key: a secret must not be in this file; allowed: { env = "NAME" }
agent.toml:12: provider[2].base_url: "http://example.com/v1": http would send the key unencrypted; allowed: https, http to this machine, or http with plain_http = true
agent.toml:13: provider[2].api_key: the environment variable NOT_SET is not set, and without it no provider is left; allowed: the key of "p" in it
agent.toml:16: model[1].candidates: "q/m": there is no provider "q"; allowed: p
agent.toml:16: model[1].candidates: "p": it names no provider; allowed: "provider/model"
agent.toml:17: model[1].prefer: "luck"; allowed: order, cost, latency, weight
agent.toml:18: model[1].timeouts.idle: "5 parsecs"; allowed: a time from "1ms" to "24h" in ms, s, m or h
agent.toml:21: key[1].sha256: not a SHA-256 digest; allowed: 64 hexadecimal digits
agent.toml:22: key[1].scopes: "root"; allowed: inference, admin
agent.toml:23: extra: unknown key; allowed: agent, budget, key, model, price, provider, schedule, telemetry, timeouts, tool"#,
    );
}

#[test]
fn each_name_means_one_model() {
    let models = |text: &str| {
        GOOD.replace(
            "[[key]]",
            &format!("[[model]]\nname = \"slow\"\ncandidates = [\"two/gpt\"]\n{text}\n[[key]]"),
        )
    };
    let wrong = |text: &str, expected: &str| check(&models(text), &format!("agent.toml:{expected}"));
    wrong(
        r#"aliases = ["fast"]"#,
        r#"23: model.aliases: "fast", an alias of "slow", is the name of a model; allowed: other names"#,
    );
    wrong(
        r#"aliases = ["slow"]"#,
        r#"23: model.aliases: "slow", an alias of "slow", is the name of a model; allowed: other names"#,
    );
    wrong(
        "aliases = [\"x\"]\n[[model]]\nname = \"third\"\naliases = [\"x\"]\ncandidates = [\"two/gpt\"]",
        r#"26: model.aliases: "x" is an alias of "slow" and of "third"; allowed: each alias once"#,
    );
    wrong(
        "aliases = [\"third\"]\n[[model]]\nname = \"third\"\naliases = [\"slow\"]\ncandidates = [\"two/gpt\"]",
        r#"23: model.aliases: "third", an alias of "slow", is the name of a model; allowed: other names
agent.toml:26: model.aliases: "slow", an alias of "third", is the name of a model; allowed: other names"#,
    );
}

#[test]
fn wildcards_and_weights_are_checked() {
    let wrong = |model: &str, expected: &str| {
        let text = GOOD.replace("name = \"fast\"\ncandidates = [\"one/org/m\", \"two/gpt\"]", model);
        check(&text.replace("model = \"fast\"", "model = \"claude-1\""), expected);
    };
    wrong(
        r#"name = "cl*ude-*"
candidates = ["one/*", "two/x*y"]"#,
        r#"
agent.toml:17: model[1].name: "cl*ude-*": it has a '*' elsewhere; allowed: one '*', at the end
agent.toml:18: model[1].candidates: "one/*": a '*' stands for the name that the client requests; allowed: only if the name of the [[model]] ends with '*'
agent.toml:18: model[1].candidates: "two/x*y": it has a '*' elsewhere; allowed: one '*', at the end"#,
    );
    wrong(
        r#"name = "claude-*"
aliases = ["opus"]
candidates = ["one/*", { candidate = "two/gpt", weight = 2 }, { weight = 1001, heavy = true }]"#,
        r#"
agent.toml:18: model[1].aliases: a wildcard has none, since the client's name goes on to the provider; allowed: only with a name without '*'
agent.toml:19: model[1].candidates[3].candidate: missing; allowed: a string
agent.toml:19: model[1].candidates[3].weight: 1001; allowed: 0 to 1000
agent.toml:19: model[1].candidates[3].heavy: unknown key; allowed: candidate, weight
agent.toml:19: model[1].candidates: a candidate has a weight, but prefer is "order"; allowed: only with "weight""#,
    );
    wrong(
        r#"name = "claude-1"
prefer = "weight"
candidates = [{ candidate = "two/gpt", weight = 0 }]"#,
        r#"agent.toml:19: model[1].candidates: every weight is 0; allowed: at least one above 0"#,
    );
}

#[test]
fn invalid_toml_is_reported_without_quoting_it() {
    let mistakes = parse("[agent]\nname = \"a\napi_key = sk-oops\n").unwrap_err();
    assert_eq!(mistakes.list()[0].line, 2);
    assert!(!mistakes.to_string().contains("sk-oops"), "{mistakes}");
}

#[test]
fn schedules_are_read() {
    let schedule =
        |fields: &str| format!("{GOOD}\n[[schedule]]\nname = \"digest\"\nprompt = \"Well?\"\n{fields}");
    let config = parse(&schedule(
        "cron = \"0 7 * * MON-FRI\"\ntime_zone = \"Europe/Berlin\"\nmissed = \"all\"\njitter = \"5m\"\n\
         model = \"one/org/m\"\nmax_runs_per_day = 3",
    ))
    .unwrap();
    let expected = Terms {
        zone: "Europe/Berlin".into(),
        missed: MissedPolicy::All,
        jitter: 300_000,
        model: Some("one/org/m".into()),
        max_runs_per_day: 3,
        ..Terms::new("digest", Rule::Cron("0 7 * * MON-FRI".into()), "Well?")
    };
    assert_eq!(config.schedules, [expected]);
    let wrong = |fields: &str, expected: &str| check(&schedule(fields), &format!("agent.toml:{expected}"));
    wrong("", "25: schedule[1].cron: none or several are given; allowed: exactly one of cron, at and every");
    wrong(
        "cron = \"0 7 * *\"",
        "28: schedule[1].cron: \"0 7 * *\" has 4 fields; allowed: five: minute hour day month weekday",
    );
    wrong(
        "every = \"1h\"\ntime_zone = \"Berlin\"",
        "29: schedule[1].time_zone: \"Berlin\"; allowed: an IANA name such as \"Europe/Berlin\", or \"UTC\"",
    );
    wrong(
        "every = \"1h\"\nmodel = \"nope\"",
        "29: schedule[1].model: there is no model \"nope\"; allowed: fast",
    );
    wrong(
        "every = \"1h\"\nmax_usd_per_day = \"1\"",
        "29: schedule[1].max_usd_per_day: the price of one/org/m is unknown; allowed: only with a [[price]] for each candidate",
    );
}

#[test]
fn a_provider_without_its_key_is_left_out_while_another_has_one() {
    let file = |second: &str| {
        format!(
            r#"
[[provider]]
name = "one"
kind = "openai"
api_keys = [{{ env = "NOT_SET" }}, {{ env = "{second}" }}]
[[provider]]
name = "two"
kind = "deepseek"
api_key = {{ env = "UNSET" }}
[[model]]
name = "default"
candidates = ["two/a", "one/b"]
[[model]]
name = "other"
candidates = ["two/a"]
[[price]]
candidate = "two/a"
input = "1"
output = "2"
"#
        )
    };
    let config = parse(&file("KEY")).unwrap();
    assert_eq!(config.providers.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["one"]);
    assert_eq!(config.models.len(), 1);
    assert_eq!(config.models[0].candidates[0].to_string(), "one/b");
    assert_eq!(
        config.warnings,
        [
            r#"agent.toml: model: "other" is left out, because each of its candidates is"#,
            r#"agent.toml:5: provider[1].api_keys: the environment variable NOT_SET is not set, so the provider "one" is used with its other keys"#,
            r#"agent.toml:9: provider[2].api_key: the environment variable UNSET is not set, so the provider "two" and its candidates are left out"#,
        ]
    );
    assert!(config.to_string().contains("warning: agent.toml:9"), "{config}");
    // What needs the model that is left out can't run.
    check(
        &format!("[agent]\nname = \"a\"\nmodel = \"other\"{}", file("KEY")),
        r#"
agent.toml: model: "other" is left out, because each of its candidates is
agent.toml:3: agent.model: no candidate is left of the model "other"; allowed: default
agent.toml:7: provider[1].api_keys: the environment variable NOT_SET is not set, so the provider "one" is used with its other keys
agent.toml:11: provider[2].api_key: the environment variable UNSET is not set, so the provider "two" and its candidates are left out"#,
    );
    check(
        &file("UNSET_TOO"),
        r#"
agent.toml:5: provider[1].api_keys: the environment variable NOT_SET is not set, and without it no provider is left; allowed: the key of "one" in it
agent.toml:5: provider[1].api_keys: the environment variable UNSET_TOO is not set, and without it no provider is left; allowed: the key of "one" in it
agent.toml:9: provider[2].api_key: the environment variable UNSET is not set, and without it no provider is left; allowed: the key of "two" in it"#,
    );
}

#[test]
fn a_wrong_type_is_answered_with_the_form_that_is_allowed() {
    let file = r#"budgets = 1
timeout = { idle = "1s" }
[[agent]]
name = "a"
[[provider]]
name = "demo"
kind = "demo"
[provider.budget]
limit_usd = 20
per = "dya"
[[model]]
name = "default"
candidates = "demo/m"
attempts = "3"
hedge = "true"
timeouts = { idle = 30, total = true }
[[model]]
name = "default"
candidates = [
    "demo/m",
    "deno/m",
    7,
]
[key]
name = "me"
[[schedule]]
name = "s"
prompt = "p"
at = 2027-01-31T07:00:00
"#;
    check(
        file,
        r#"
agent.toml:1: budgets: unknown key; did you mean "budget"? allowed: agent, budget, key, model, price, provider, schedule, telemetry, timeouts, tool
agent.toml:2: timeout: unknown key; did you mean "timeouts"? allowed: agent, budget, key, model, price, provider, schedule, telemetry, timeouts, tool
agent.toml:3: agent: a list; allowed: one table: [agent]
agent.toml:9: provider[1].budget.limit_usd: a number; allowed: a string, such as limit_usd = "20"
agent.toml:10: provider[1].budget.per: "dya"; did you mean "day"? allowed: hour, day, month
agent.toml:13: model[1].candidates: a string; allowed: a list of strings: candidates = ["demo/m"]
agent.toml:14: model[1].attempts: a string; allowed: a whole number from 1 to 16, without quotes: attempts = 3
agent.toml:15: model[1].hedge: a string; allowed: hedge = true, or hedge = false
agent.toml:16: model[1].timeouts.idle: a number; allowed: a string, such as idle = "30s"
agent.toml:16: model[1].timeouts.total: true; allowed: a string
agent.toml:18: model[2].name: "default" is used twice; allowed: each name once
agent.toml:21: model[2].candidates: "deno/m": there is no provider "deno"; did you mean "demo"? allowed: demo
agent.toml:22: model[2].candidates: a number; allowed: a list of strings, each in quotes
agent.toml:24: key: a table; allowed: a list of tables, each under [[key]]
agent.toml:29: schedule[1].at: a time without quotes; allowed: a string, such as at = "2027-01-31T07:00:00""#,
    );
}

#[test]
fn a_base_url_is_no_endpoint() {
    for endpoint in ["chat/completions", "responses", "messages/"] {
        let text = format!(
            "[[provider]]\nname = \"p\"\nkind = \"compatible\"\nbase_url = \"https://x/v1/{endpoint}\"\n\
             [[model]]\nname = \"default\"\ncandidates = [\"p/m\"]\n"
        );
        let mistakes = Config::parse(&text, "agent.toml", |_| None).unwrap_err().to_string();
        assert!(mistakes.contains("allowed: the URL without it"), "{mistakes}");
    }
}
