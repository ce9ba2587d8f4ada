//! Checks the list of models, health, readiness, status, metrics, and the tick.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    client::Request,
    mock,
    providers::KINDS,
    suite::{ADMIN, ALIAS, CHAT, Suite, WILDCARD, question},
};

/// A minute until the next tick, and some time to see it.
const TICK_TIMEOUT: Duration = Duration::from_secs(70);

pub(crate) fn run(suite: &Suite) {
    let checks = &suite.checks;
    let list = suite.ask(Request::get("/v1/models")).json();
    checks.equal("models: object", list["object"].as_str(), Some("list"));
    let models = list["data"].as_array().cloned().unwrap_or_default();
    let ids: Vec<&str> = models.iter().filter_map(|model| model["id"].as_str()).collect();
    checks.that(
        "models: the configured ones are listed",
        ids.contains(&"plain") && ids.contains(&"via-limited"),
        "plain and via-limited",
        &ids,
    );
    let shaped = |model: &Value| {
        model["object"] == "model" && model["created"].is_u64() && model["owned_by"].is_string()
    };
    checks.that(
        "models: fields of each",
        !models.is_empty() && models.iter().all(shaped),
        "object, created, owned_by",
        &models,
    );
    let model = suite.ask(Request::get("/v1/models/plain"));
    let listed = models.iter().find(|model| model["id"] == "plain");
    checks.equal("models: one equals its entry in the list", Some(&model.json()), listed);
    let expected = (404, "model_not_found".to_owned(), Some("model".to_owned()));
    checks.equal(
        "models: error for an unknown one",
        suite.ask(Request::get("/v1/models/nope")).error(),
        expected,
    );

    names(suite, &ids);

    for path in ["/healthz", "/readyz", "/v1/models", "/v1/status"] {
        let get = suite.ask(Request::get(path));
        checks.equal(
            &format!("status and content type of GET {path}"),
            (get.status, get.header("content-type")),
            (200, "application/json"),
        );
        let head = suite.ask(Request::get(path).method("HEAD"));
        checks.equal(
            &format!("status and body of HEAD {path}"),
            (head.status, head.text().as_str()),
            (200, ""),
        );
    }
    let ready = suite.ask(Request::get("/readyz")).json();
    checks.equal(
        "readiness: node and store",
        (&ready["ready"], &ready["store"]),
        (&Value::from(true), &Value::from(true)),
    );

    let status = suite.ask(Request::get("/v1/status")).json();
    checks.equal("status: name of the node", status["node"].as_str(), Some("conformance"));
    let names = |list: &Value| -> Vec<String> {
        list.as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| Some(one["name"].as_str()?.to_owned()))
            .collect()
    };
    let mocks = mock::KINDS.map(|(kind, _)| format!("mock-{kind}"));
    let providers = ["bad", "good", "dead"].into_iter().chain(KINDS).chain(mocks.iter().map(String::as_str));
    let providers: Vec<&str> = providers.collect();
    metrics(suite);
    checks.equal("status: names of the providers", names(&status["providers"]), providers);
    let mut in_status = names(&status["models"]);
    in_status.retain(|name| *name != WILDCARD);
    let listed: Vec<&str> = ids.iter().copied().filter(|id| *id != ALIAS).collect();
    checks.equal("status: names of the models", in_status, listed);

    let ids: Vec<String> = (0..3)
        .map(|_| suite.ask(Request::get("/healthz")).header("x-request-id").to_owned())
        .chain([suite.ask(Request::post(CHAT, "{")).header("x-request-id").to_owned()])
        .collect();
    let mut distinct = ids.clone();
    distinct.sort_unstable();
    distinct.dedup();
    checks.that("request ids are distinct", distinct.len() == ids.len(), "four distinct ids", ids);

    // Last, so that the tick may come during the other checks.
    let start = Instant::now();
    let last_tick = || suite.ask(Request::get("/v1/status")).json()["last_tick"].clone();
    while !last_tick().is_u64() && start.elapsed() < TICK_TIMEOUT {
        thread::sleep(Duration::from_millis(250));
    }
    let (tick, now) = (last_tick(), suite.ask(Request::get("/v1/status")).json()["now"].clone());
    let recent = tick.as_u64().zip(now.as_u64()).is_some_and(|(tick, now)| now.abs_diff(tick) <= 120);
    checks.that("status: last_tick is recent", recent, "at most 120 s ago", (tick, now));
}

/// Names that no model of the configuration has itself: those of a wildcard, and an alias of a model with weights.
fn names(suite: &Suite, listed: &[&str]) {
    let checks = &suite.checks;
    checks.that(
        "models: aliases are listed, wildcards are not",
        listed.contains(&ALIAS) && !listed.iter().any(|name| name.contains('*')),
        "an alias and no '*'",
        listed,
    );
    for name in ["good:any-1", "good:any-2[1m]", "good/good:any-3"] {
        let answer = suite.chat(name, false);
        let sent = name.trim_start_matches("good/").trim_end_matches("[1m]");
        checks.equal(
            &format!("name {name}: status and the model that was called"),
            (answer.status, answer.header("x-outlive-model")),
            (200, sent),
        );
        let shown = suite.ask(Request::get(format!("/v1/models/{name}")));
        checks.equal(&format!("name {name}: id in the list of models"), &shown.json()["id"], name);
    }
    for name in ["good:any-..%2f", "good:any-a/../b", "good:any-a b", "good:any-a\nb", WILDCARD] {
        let answer = suite.chat(name, false);
        let expected = (404, "model_not_found".to_owned(), Some("model".to_owned()));
        checks.equal(&format!("name {name:?}: error"), answer.error(), expected);
    }
    let page = suite.client.send(&Request::get("/metrics").key(ADMIN)).text();
    let calls = page.lines().filter(|line| line.starts_with("outlive_calls_total"));
    let of_names: Vec<&str> = calls.filter(|line| line.contains(":any-")).collect();
    checks.equal("metrics: series of calls for a name of a wildcard", of_names, Vec::<&str>::new());
    // Sessions of their own, since one session stays with the candidate that has its prompt cached.
    let ask = |session: u32| {
        let mut body = question(ALIAS, false);
        body["prompt_cache_key"] = session.to_string().into();
        suite.ask(Request::post(CHAT, body.to_string())).header("x-outlive-model").to_owned()
    };
    let called: Vec<String> = (0..40).map(ask).collect();
    let count = |name: &str| called.iter().filter(|model| *model == name).count();
    let shares = (count("good:heavy"), count("good:light"), count("good:spare"));
    // Of 40 draws with a chance of a quarter, at least one and at most half succeed in all but one of 10,000 runs.
    checks.that(
        "weights: answers of each candidate",
        shares.0 + shares.1 == 40 && (1..=20).contains(&shares.1),
        "about 30, 10, 0",
        shares,
    );
}

/// Checks the metrics in Prometheus' format. Each instance has its own, so on a host with several it may take more
/// requests until the one that answers has counted something.
fn metrics(suite: &Suite) {
    let counted_page = (0..20).find_map(|_| {
        suite.ask(Request::post(CHAT, question("plain", false).to_string()));
        let page = suite.client.send(&Request::get("/metrics").key(ADMIN));
        let counted =
            page.text().contains("outlive_requests_total{gen_ai_operation_name=\"chat\",model=\"plain\"");
        counted.then_some(page)
    });
    let kind = counted_page.as_ref().map(|page| page.header("content-type").to_owned()).unwrap_or_default();
    suite.checks.that(
        "metrics: content type of a page with a counted request",
        kind.starts_with("text/plain; version=0.0.4"),
        "text/plain; version=0.0.4",
        &counted_page,
    );
}
