//! Schedules: their API, and fires that come by themselves.

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
    bad(suite);
    idempotency(suite);
    running(suite);
    others(suite);
    joining(suite);
    firing(suite);
}

const PATH: &str = "/v1/schedules";

/// The minute's trigger and a turn after it.
const FIRES: Duration = Duration::from_secs(100);

fn wanted(name: &str) -> Value {
    json!({"name": name, "cron": "0 7 * * MON-FRI", "time_zone": "Europe/Berlin", "prompt": "How are you?"})
}

fn create(suite: &Suite, body: &Value) -> Answer {
    suite.ask(Request::post(PATH, body.to_string()))
}

/// A new schedule's path.
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

/// The fires, once the newest of them is over.
fn settled(suite: &Suite, path: &str) -> Value {
    let start = Instant::now();
    loop {
        let fires = get(suite, &format!("{path}/fires"));
        let over = fires["data"][0]["ended_at"].is_u64();
        if over || start.elapsed() > FIRES {
            return fires;
        }
        thread::sleep(Duration::from_millis(200));
    }
}

fn creating(suite: &Suite) {
    let checks = &suite.checks;
    let answer = create(suite, &wanted("morning"));
    let made = answer.json();
    checks.equal("create, status", answer.status, 200);
    let expected = json!({
        "object": "schedule", "name": "morning", "cron": "0 7 * * MON-FRI", "at": null, "every": null,
        "time_zone": "Europe/Berlin", "prompt": "How are you?", "missed": "once", "paused": false,
        "source": "api", "owner": "full", "last_fire": null,
    });
    for (name, value) in expected.as_object().into_iter().flatten() {
        checks.equal(&format!("create, {name}"), &made[name.as_str()], value);
    }
    let id = made["id"].as_str().unwrap_or_default();
    checks.that("create, id", id.starts_with("sched_") && id.len() == 70, "sched_ and 64 digits", id);
    let next = made["next_fire_at"].as_u64().unwrap_or_default();
    let hour = next % 86_400 / 3600;
    checks.that(
        "create, next_fire_at",
        next > now() && next % 3600 == 0 && (hour == 5 || hour == 6),
        "seven in Berlin",
        &made,
    );
    let path = format!("{PATH}/{id}");
    let seen = suite.ask(Request::get(path.as_str()));
    checks.equal("retrieve", (seen.status, seen.json()), (200, made.clone()));
    let conversation = format!("/v1/conversations/{}", made["conversation"].as_str().unwrap_or_default());
    checks.equal("its conversation is there", suite.ask(Request::get(conversation)).status, 200);

    let paused = post(suite, format!("{path}/pause")).json();
    checks.equal("pause", (&paused["paused"], &paused["next_fire_at"]), (&json!(true), &Value::Null));
    let resumed = post(suite, format!("{path}/resume")).json();
    checks.equal("resume", (&resumed["paused"], &resumed["next_fire_at"]), (&json!(false), &json!(next)));

    let second = new(
        suite,
        &json!({"name": "often", "every": "90s", "prompt": "x", "jitter": "30s",
        "missed": "all", "model": "plain", "max_runs_per_day": 5, "time_zone": null}),
    );
    let often = get(suite, &second);
    let shown =
        [&often["every"], &often["jitter"], &often["missed"], &often["model"], &often["max_runs_per_day"]];
    checks.equal("every", shown, [&json!("90s"), &json!("30s"), &json!("all"), &json!("plain"), &json!(5)]);
    let names = |query: &str| {
        let list = get(suite, &format!("{PATH}{query}"));
        let names: Vec<Value> =
            list["data"].as_array().into_iter().flatten().map(|one| one["name"].clone()).collect();
        (names, list["has_more"].clone())
    };
    checks.equal("list, newest first", names(""), (vec![json!("often"), json!("morning")], json!(false)));
    checks.equal("list, a page", names("?order=asc&limit=1"), (vec![json!("morning")], json!(true)));
    checks.equal(
        "list, the next",
        names(&format!("?order=asc&after={id}")),
        (vec![json!("often")], json!(false)),
    );

    let deleted = suite.ask(Request::get(second.as_str()).method("DELETE"));
    checks.equal("delete", (deleted.status, &deleted.json()["deleted"]), (200, &json!(true)));
    checks.equal("deleted", suite.ask(Request::get(second)).error().1.as_str(), "schedule_not_found");
    checks.equal("list without it", names(""), (vec![json!("morning")], json!(false)));
}

fn bad(suite: &Suite) {
    let with = |name: &str, value: Value| {
        let mut body = wanted("bad");
        body[name] = value;
        body
    };
    let without = |name: &str| {
        let mut body = wanted("bad");
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
        suite.checks.equal(&format!("bad: {body}"), create(suite, body).error(), expected);
    });
    let nowhere = with("conversation", json!(format!("conv_{}", "0".repeat(32))));
    suite.checks.equal("no such conversation", create(suite, &nowhere).status, 404);
    let paid = create(
        suite,
        &json!({"name": "paid", "every": "1h", "prompt": "x", "model": "paid", "max_usd_per_day": 0.5}),
    );
    suite.checks.equal(
        "a price that is known",
        (paid.status, paid.json()["max_usd_per_day"].as_str()),
        (200, Some("0.50")),
    );
}

fn idempotency(suite: &Suite) {
    let checks = &suite.checks;
    let ask = |body: &Value| {
        suite.ask(Request::post(PATH, body.to_string()).with("idempotency-key", "schedules-1"))
    };
    let first = ask(&wanted("again")).json();
    checks.equal("the same again", ask(&wanted("again")).json(), first.clone());
    checks.equal(
        "another under this key",
        ask(&wanted("other")).error().1.as_str(),
        "idempotency_key_reused",
    );
    let path = format!("{PATH}/{}/run", first["id"].as_str().unwrap_or_default());
    let run = || suite.ask(Request::post(path.as_str(), "").with("idempotency-key", "schedules-2")).json();
    let id = run()["id"].clone();
    checks.that("a run has an id", id.is_string(), "fire_…", &id);
    checks.equal("the same run again", run()["id"].clone(), id);
    let fires = settled(suite, path.trim_end_matches("/run"));
    checks.equal("it ran once", fires["data"].as_array().map(Vec::len), Some(1));
}

fn running(suite: &Suite) {
    let checks = &suite.checks;
    let path = new(suite, &wanted("by hand"));
    let fire = post(suite, format!("{path}/run"));
    let made = fire.json();
    let shown = (fire.status, made["object"].as_str(), made["reason"].clone());
    checks.equal("run", shown, (200, Some("schedule.fire"), Value::Null));
    let fires = settled(suite, &path);
    let fire = &fires["data"][0];
    checks.equal(
        "the fire",
        (fire["id"].clone(), fire["status"].as_str()),
        (made["id"].clone(), Some("completed")),
    );
    let response = get(suite, &format!("/v1/responses/{}", fire["response"].as_str().unwrap_or_default()));
    checks.equal(
        "its response",
        (response["status"].as_str(), response["background"].clone()),
        (Some("completed"), json!(true)),
    );
    let seen = get(suite, &path);
    checks.equal("the last fire", seen["last_fire"].clone(), fire.clone());
    let conversation = seen["conversation"].as_str().unwrap_or_default();
    let items = get(suite, &format!("/v1/conversations/{conversation}/items?order=asc"));
    let roles: Vec<&str> =
        items["data"].as_array().into_iter().flatten().filter_map(|item| item["role"].as_str()).collect();
    checks.equal("what was said", roles, ["developer", "user", "assistant"]);
    checks.equal("what was asked", items["data"][1]["content"][0]["text"].as_str(), Some("How are you?"));

    let once = new(suite, &json!({"name": "once", "every": "1h", "prompt": "x", "max_runs_per_day": 1}));
    post(suite, format!("{once}/run"));
    settled(suite, &once);
    let held = post(suite, format!("{once}/run")).json();
    checks.equal(
        "more than may be",
        (held["status"].as_str(), held["response"].clone()),
        (Some("skipped"), Value::Null),
    );
    let why = held["reason"].as_str().unwrap_or_default();
    checks.that("why", why.starts_with("max_runs_per_day"), "max_runs_per_day", why);

    let broken = new(suite, &json!({"name": "broken", "every": "1h", "prompt": "x", "model": "only-dead"}));
    post(suite, format!("{broken}/run"));
    checks.equal("a run that fails", settled(suite, &broken)["data"][0]["status"].as_str(), Some("failed"));
}

fn others(suite: &Suite) {
    let checks = &suite.checks;
    let path = new(suite, &wanted("mine"));
    let paths = [
        Request::get(path.as_str()),
        Request::get(path.as_str()).method("DELETE"),
        Request::get(format!("{path}/fires")),
        Request::post(format!("{path}/pause"), ""),
        Request::post(format!("{path}/run"), ""),
    ];
    for request in paths {
        let case = format!("somebody else's: {} {}", request.method, request.path);
        let answer = suite.client.send(&request.key(INFERENCE));
        checks.equal(&case, answer.error(), (404, "schedule_not_found".into(), Some("schedule_id".into())));
    }
    checks.equal("it is still there", suite.ask(Request::get(path)).status, 200);
    suite.client.send(&Request::post(PATH, wanted("theirs").to_string()).key(INFERENCE));
    let owners = |key: &str| {
        let list = suite.client.send(&Request::get(format!("{PATH}?limit=100")).key(key)).json();
        let owners = list["data"].as_array().into_iter().flatten().map(|one| one["owner"].to_string());
        owners.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ")
    };
    checks.equal("their list", owners(INFERENCE).as_str(), "\"inference\"");
    checks.equal("the list of an admin", owners(FULL).as_str(), "\"full\" \"inference\"");
    checks.equal("a list of nothing", owners(POOR).as_str(), "");
    checks.equal("without the scope", suite.client.send(&Request::get(PATH).key(ADMIN)).status, 403);
}

fn joining(suite: &Suite) {
    let checks = &suite.checks;
    let body = json!({"items": [{"role": "user", "content": "before"}]}).to_string();
    let conversation = suite.ask(Request::post("/v1/conversations", body)).json()["id"].clone();
    let mut wanted = wanted("joins");
    wanted["conversation"] = conversation.clone();
    let path = new(suite, &wanted);
    checks.equal("joins", get(suite, &path)["conversation"].clone(), conversation.clone());
    post(suite, format!("{path}/run"));
    settled(suite, &path);
    let items = format!("/v1/conversations/{}/items", conversation.as_str().unwrap_or_default());
    checks.equal("in the same conversation", get(suite, &items)["data"].as_array().map(Vec::len), Some(4));
    let stolen = suite.client.send(&Request::post(PATH, wanted.to_string()).key(INFERENCE));
    checks.equal("in somebody else's", stolen.error().1.as_str(), "conversation_not_found");
}

fn firing(suite: &Suite) {
    let checks = &suite.checks;
    let at = now() + 3;
    let path = new(suite, &json!({"name": "soon", "at": at, "prompt": "Now?"}));
    checks.equal("at", get(suite, &path)["next_fire_at"].clone(), json!(at));
    let fires = settled(suite, &path);
    let fire = &fires["data"][0];
    checks.equal(
        "it fired by itself",
        (fire["nominal_at"].clone(), fire["status"].as_str()),
        (json!(at), Some("completed")),
    );
    checks.equal("once", fires["data"].as_array().map(Vec::len), Some(1));
    checks.equal("and never again", get(suite, &path)["next_fire_at"].clone(), Value::Null);
}
