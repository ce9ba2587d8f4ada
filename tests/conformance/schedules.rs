//! Checks schedules: their API, runs by hand, other callers' keys, and a fire at its time.

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::{
    client::{Answer, Request},
    suite::{ADMIN, FULL, INFERENCE, POOR, Suite},
};

pub(crate) fn run(suite: &Suite) {
    creating(suite);
    refused_schedules(suite);
    idempotency(suite);
    runs_by_hand(suite);
    other_callers(suite);
    existing_conversation(suite);
    fire_at_its_time(suite);
}

const PATH: &str = "/v1/schedules";

/// A minute until the next tick, and a turn after it.
const FIRE_TIMEOUT: Duration = Duration::from_secs(100);

/// The terms of a schedule of this name.
fn terms(name: &str) -> Value {
    json!({"name": name, "cron": "0 7 * * MON-FRI", "time_zone": "Europe/Berlin", "prompt": "How are you?"})
}

fn create(suite: &Suite, body: &Value) -> Answer {
    suite.ask(Request::post(PATH, body.to_string()))
}

/// Creates a schedule and returns its path.
fn new(suite: &Suite, body: &Value) -> String {
    format!("{PATH}/{}", create(suite, body).json()["id"].as_str().unwrap_or_default())
}

fn get(suite: &Suite, path: &str) -> Value {
    suite.ask(Request::get(path)).json()
}

fn post(suite: &Suite, path: String) -> Answer {
    suite.ask(Request::post(path, ""))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The fires, once the newest has ended.
fn wait_until_fired(suite: &Suite, path: &str) -> Value {
    let start = Instant::now();
    loop {
        let fires = get(suite, &format!("{path}/fires"));
        let over = fires["data"][0]["ended_at"].is_u64();
        if over || start.elapsed() > FIRE_TIMEOUT {
            return fires;
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Creates, retrieves, pauses, lists and deletes. The first checks expect that no other schedule exists yet.
fn creating(suite: &Suite) {
    let checks = &suite.checks;
    let answer = create(suite, &terms("morning"));
    let made = answer.json();
    checks.equal("create: status", answer.status, 200);
    let expected = json!({
        "object": "schedule", "name": "morning", "cron": "0 7 * * MON-FRI", "at": null, "every": null,
        "time_zone": "Europe/Berlin", "prompt": "How are you?", "missed": "once", "paused": false,
        "source": "api", "owner": "full", "last_fire": null,
    });
    for (name, value) in expected.as_object().into_iter().flatten() {
        checks.equal(&format!("create: {name}"), &made[name.as_str()], value);
    }
    let id = made["id"].as_str().unwrap_or_default();
    checks.that("create: id", id.starts_with("sched_") && id.len() == 70, "sched_ and 64 digits", id);
    let next = made["next_fire_at"].as_u64().unwrap_or_default();
    let hour = next % 86_400 / 3600;
    checks.that(
        "create: next_fire_at",
        next > now() && next.is_multiple_of(3600) && (hour == 5 || hour == 6),
        "seven in Berlin",
        &made,
    );
    let path = format!("{PATH}/{id}");
    let retrieved = suite.ask(Request::get(path.as_str()));
    checks.equal("retrieve: status and body", (retrieved.status, retrieved.json()), (200, made.clone()));
    let conversation = format!("/v1/conversations/{}", made["conversation"].as_str().unwrap_or_default());
    checks.equal("create: status of its conversation", suite.ask(Request::get(conversation)).status, 200);

    let paused = post(suite, format!("{path}/pause")).json();
    checks.equal(
        "pause: paused and next_fire_at",
        (&paused["paused"], &paused["next_fire_at"]),
        (&json!(true), &Value::Null),
    );
    let resumed = post(suite, format!("{path}/resume")).json();
    checks.equal(
        "resume: paused and next_fire_at",
        (&resumed["paused"], &resumed["next_fire_at"]),
        (&json!(false), &json!(next)),
    );

    // The second one has every optional field, so that it is shown and listed with them.
    let second = new(
        suite,
        &json!({"name": "often", "every": "90s", "prompt": "x", "jitter": "30s",
        "missed": "all", "model": "plain", "max_runs_per_day": 5, "time_zone": null}),
    );
    let frequent = get(suite, &second);
    let shown = [
        &frequent["every"],
        &frequent["jitter"],
        &frequent["missed"],
        &frequent["model"],
        &frequent["max_runs_per_day"],
    ];
    checks.equal(
        "retrieve: interval, jitter, policy, model and limit",
        shown,
        [&json!("90s"), &json!("30s"), &json!("all"), &json!("plain"), &json!(5)],
    );
    let names = |query: &str| {
        let list = get(suite, &format!("{PATH}{query}"));
        let names: Vec<Value> =
            list["data"].as_array().into_iter().flatten().map(|one| one["name"].clone()).collect();
        (names, list["has_more"].clone())
    };
    checks.equal("list: default order", names(""), (vec![json!("often"), json!("morning")], json!(false)));
    checks.equal(
        "list: first page of one",
        names("?order=asc&limit=1"),
        (vec![json!("morning")], json!(true)),
    );
    checks.equal(
        "list: the page after it",
        names(&format!("?order=asc&after={id}")),
        (vec![json!("often")], json!(false)),
    );

    let deleted = suite.ask(Request::get(second.as_str()).method("DELETE"));
    checks.equal(
        "delete: status and answer",
        (deleted.status, &deleted.json()["deleted"]),
        (200, &json!(true)),
    );
    checks.equal(
        "delete: error code of a request afterwards",
        suite.ask(Request::get(second)).error().1.as_str(),
        "schedule_not_found",
    );
    checks.equal("delete: list afterwards", names(""), (vec![json!("morning")], json!(false)));
}

/// Terms that are refused, each with the field that the error names.
fn refused_schedules(suite: &Suite) {
    let with = |name: &str, value: Value| {
        let mut body = terms("bad");
        body[name] = value;
        body
    };
    let without = |name: &str| {
        let mut body = terms("bad");
        body.as_object_mut().map(|body| body.remove(name));
        body
    };
    let cases = [
        (with("cron", json!("0 7 * * *  *")), "invalid_value", "cron"),
        (with("cron", json!("0 0 30 2 *")), "invalid_value", "cron"),
        (with("cron", json!("0 25 * * *")), "invalid_value", "cron"),
        (with("cron", json!(7)), "invalid_value", "cron"),
        (with("every", json!("90s")), "invalid_value", "cron"),
        (without("cron"), "invalid_value", "cron"),
        (with("time_zone", json!("Europe/Atlantis")), "invalid_value", "time_zone"),
        (with("missed", json!("never")), "invalid_value", "missed"),
        (with("jitter", json!("2h")), "invalid_value", "jitter"),
        (with("jitter", json!(5)), "invalid_value", "jitter"),
        (with("max_runs_per_day", json!(0)), "invalid_value", "max_runs_per_day"),
        (with("max_usd_per_day", json!("a lot")), "invalid_value", "max_usd_per_day"),
        (with("max_usd_per_day", json!("1")), "invalid_value", "max_usd_per_day"),
        (with("model", json!("nope")), "invalid_value", "model"),
        (with("name", json!("")), "invalid_value", "name"),
        (without("name"), "missing_required_parameter", "name"),
        (without("prompt"), "missing_required_parameter", "prompt"),
        (with("timezone", json!("UTC")), "invalid_value", "timezone"),
        (json!({"name": "bad", "prompt": "x", "every": "59s"}), "invalid_value", "every"),
        (json!({"name": "bad", "prompt": "x", "at": "2020-01-01T00:00:00Z"}), "invalid_value", "at"),
        (json!({"name": "bad", "prompt": "x", "at": 1}), "invalid_value", "at"),
        (json!({"name": "bad", "prompt": "x", "at": "soon"}), "invalid_value", "at"),
    ];
    suite.each(&cases, |(body, code, param)| {
        let expected = (400, (*code).to_owned(), Some((*param).to_owned()));
        suite.checks.equal(&format!("create: error for {body}"), create(suite, body).error(), expected);
    });
    let nowhere = with("conversation", json!(format!("conv_{}", "0".repeat(32))));
    suite.checks.equal("create: status for an unknown conversation", create(suite, &nowhere).status, 404);
    let paid = create(
        suite,
        &json!({"name": "paid", "every": "1h", "prompt": "x", "model": "paid", "max_usd_per_day": 0.5}),
    );
    suite.checks.equal(
        "create: daily budget with a priced model",
        (paid.status, paid.json()["max_usd_per_day"].as_str()),
        (200, Some("0.50")),
    );
}

fn idempotency(suite: &Suite) {
    let checks = &suite.checks;
    let ask = |body: &Value| {
        suite.ask(Request::post(PATH, body.to_string()).with("idempotency-key", "schedules-1"))
    };
    let first = ask(&terms("again")).json();
    checks.equal("idempotency key: the same schedule", ask(&terms("again")).json(), first.clone());
    checks.equal(
        "idempotency key: error code of another schedule",
        ask(&terms("other")).error().1.as_str(),
        "idempotency_key_reused",
    );
    let path = format!("{PATH}/{}/run", first["id"].as_str().unwrap_or_default());
    let run = || suite.ask(Request::post(path.as_str(), "").with("idempotency-key", "schedules-2")).json();
    let id = run()["id"].clone();
    checks.that("idempotency key: id of a run", id.is_string(), "fire_…", &id);
    checks.equal("idempotency key: the same run", run()["id"].clone(), id);
    let fires = wait_until_fired(suite, path.trim_end_matches("/run"));
    checks.equal("idempotency key: number of fires", fires["data"].as_array().map(Vec::len), Some(1));
}

fn runs_by_hand(suite: &Suite) {
    let checks = &suite.checks;
    let path = new(suite, &terms("by hand"));
    let fire = post(suite, format!("{path}/run"));
    let made = fire.json();
    let shown = (fire.status, made["object"].as_str(), made["reason"].clone());
    checks.equal("run: status, object and reason", shown, (200, Some("schedule.fire"), Value::Null));
    let fires = wait_until_fired(suite, &path);
    let fire = &fires["data"][0];
    checks.equal(
        "run: id and status of the fire",
        (fire["id"].clone(), fire["status"].as_str()),
        (made["id"].clone(), Some("completed")),
    );
    let response = get(suite, &format!("/v1/responses/{}", fire["response"].as_str().unwrap_or_default()));
    checks.equal(
        "run: status of the fire's response",
        (response["status"].as_str(), response["background"].clone()),
        (Some("completed"), json!(true)),
    );
    let schedule = get(suite, &path);
    checks.equal("run: last_fire of the schedule", schedule["last_fire"].clone(), fire.clone());
    let conversation = schedule["conversation"].as_str().unwrap_or_default();
    let items = get(suite, &format!("/v1/conversations/{conversation}/items?order=asc"));
    let roles: Vec<&str> =
        items["data"].as_array().into_iter().flatten().filter_map(|item| item["role"].as_str()).collect();
    checks.equal("run: roles of the conversation's items", roles, ["developer", "user", "assistant"]);
    checks.equal(
        "run: text of the prompt",
        items["data"][1]["content"][0]["text"].as_str(),
        Some("How are you?"),
    );

    // A limit of one run a day: the second run is skipped.
    let once = new(suite, &json!({"name": "once", "every": "1h", "prompt": "x", "max_runs_per_day": 1}));
    post(suite, format!("{once}/run"));
    wait_until_fired(suite, &once);
    let skipped = post(suite, format!("{once}/run")).json();
    checks.equal(
        "run beyond max_runs_per_day: status and response",
        (skipped["status"].as_str(), skipped["response"].clone()),
        (Some("skipped"), Value::Null),
    );
    let why = skipped["reason"].as_str().unwrap_or_default();
    checks.that(
        "run beyond max_runs_per_day: reason",
        why.starts_with("max_runs_per_day"),
        "max_runs_per_day",
        why,
    );

    let broken = new(suite, &json!({"name": "broken", "every": "1h", "prompt": "x", "model": "only-dead"}));
    post(suite, format!("{broken}/run"));
    checks.equal(
        "run of a failing model: status of the fire",
        wait_until_fired(suite, &broken)["data"][0]["status"].as_str(),
        Some("failed"),
    );
}

fn other_callers(suite: &Suite) {
    let checks = &suite.checks;
    let path = new(suite, &terms("mine"));
    let paths = [
        Request::get(path.as_str()),
        Request::get(path.as_str()).method("DELETE"),
        Request::get(format!("{path}/fires")),
        Request::post(format!("{path}/pause"), ""),
        Request::post(format!("{path}/run"), ""),
    ];
    for request in paths {
        let case = format!("other caller: error of {} {}", request.method, request.path);
        let answer = suite.client.send(&request.key(INFERENCE));
        checks.equal(&case, answer.error(), (404, "schedule_not_found".into(), Some("schedule_id".into())));
    }
    checks.equal("other caller: status of the owner's request", suite.ask(Request::get(path)).status, 200);
    suite.client.send(&Request::post(PATH, terms("theirs").to_string()).key(INFERENCE));
    let owners = |key: &str| {
        let list = suite.client.send(&Request::get(format!("{PATH}?limit=100")).key(key)).json();
        let owners = list["data"].as_array().into_iter().flatten().map(|one| one["owner"].to_string());
        owners.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ")
    };
    checks.equal("list: owners that a caller sees", owners(INFERENCE).as_str(), "\"inference\"");
    checks.equal("list: owners that an admin sees", owners(FULL).as_str(), "\"full\" \"inference\"");
    checks.equal("list: owners that a caller without schedules sees", owners(POOR).as_str(), "");
    checks.equal(
        "list: status without the scope",
        suite.client.send(&Request::get(PATH).key(ADMIN)).status,
        403,
    );
}

fn existing_conversation(suite: &Suite) {
    let checks = &suite.checks;
    let body = json!({"items": [{"role": "user", "content": "before"}]}).to_string();
    let conversation = suite.ask(Request::post("/v1/conversations", body)).json()["id"].clone();
    let mut terms = terms("joins");
    terms["conversation"] = conversation.clone();
    let path = new(suite, &terms);
    checks.equal(
        "existing conversation: id",
        get(suite, &path)["conversation"].clone(),
        conversation.clone(),
    );
    post(suite, format!("{path}/run"));
    wait_until_fired(suite, &path);
    let items = format!("/v1/conversations/{}/items", conversation.as_str().unwrap_or_default());
    checks.equal(
        "existing conversation: number of items after a run",
        get(suite, &items)["data"].as_array().map(Vec::len),
        Some(4),
    );
    let stolen = suite.client.send(&Request::post(PATH, terms.to_string()).key(INFERENCE));
    checks.equal(
        "existing conversation of another caller: error code",
        stolen.error().1.as_str(),
        "conversation_not_found",
    );
}

fn fire_at_its_time(suite: &Suite) {
    let checks = &suite.checks;
    let at = now() + 3;
    let path = new(suite, &json!({"name": "soon", "at": at, "prompt": "Now?"}));
    checks.equal("fire at its time: next_fire_at", get(suite, &path)["next_fire_at"].clone(), json!(at));
    let fires = wait_until_fired(suite, &path);
    let fire = &fires["data"][0];
    checks.equal(
        "fire at its time: nominal time and status",
        (fire["nominal_at"].clone(), fire["status"].as_str()),
        (json!(at), Some("completed")),
    );
    checks.equal("fire at its time: number of fires", fires["data"].as_array().map(Vec::len), Some(1));
    checks.equal(
        "fire at its time: next_fire_at afterwards",
        get(suite, &path)["next_fire_at"].clone(),
        Value::Null,
    );
}
