//! Tests the operator's view of sessions: lists, export, import, deletion.

use futures_executor::block_on;

use super::*;
use crate::{
    api::tests::{KEYS, code, node, send},
    entry::{Draft, VersionVector},
    session::{draft_created, draft_items},
    testing::{MemoryStore, TestPlatform},
};

type TestNode = Node<TestPlatform<MemoryStore>>;

/// Sends a request with a key; returns the status and the body.
fn request(node: &TestNode, key: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let (status, _, text) = send(node, method, path, &headers, body.to_owned(), false);
    (status, serde_json::from_str(&text).unwrap())
}

fn get(node: &TestNode, path: &str) -> Value {
    let (status, body) = request(node, "admin", "GET", path, "");
    assert_eq!(status, 200, "{body}");
    body
}

/// Creates a conversation of two items for the key "user"; returns its id without the prefix.
fn create(node: &TestNode) -> String {
    let body = r#"{"metadata":{"topic":"é"},"items":[{"role":"user","content":"one"},{"role":"user","content":"two"}]}"#;
    let (status, created) = request(node, "user", "POST", "/v1/conversations", body);
    assert_eq!(status, 200, "{created}");
    created["id"].as_str().unwrap().trim_start_matches("conv_").to_owned()
}

/// All pages of a list, joined.
fn read_all(node: &TestNode, path: &str, limit: usize) -> Vec<Value> {
    let (mut data, mut after) = (Vec::new(), String::new());
    loop {
        let page = get(node, &format!("{path}?limit={limit}{after}"));
        let found = page["data"].as_array().unwrap();
        assert!(found.len() <= limit);
        data.extend(found.iter().cloned());
        assert_eq!(page["has_more"].as_bool().unwrap(), page["next"].is_string());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return data,
        }
    }
}

fn import(node: &TestNode, log: &str, entries: &[Value]) -> (u16, Value) {
    let path = format!("/v1/sessions/sess_{log}/entries");
    request(node, "admin", "POST", &path, &json!({"data": entries}).to_string())
}

/// The entries of a chain that another node wrote, as an export has them.
fn foreign(log: &str, origin: &str, drafts: Vec<Draft>) -> Vec<Value> {
    let (log, origin) = (LogId::parse(log).unwrap(), Origin::parse(origin).unwrap());
    let now = crate::time::Timestamp(1_700_000_000_000);
    let batch = Batch::build(log, &origin, None, &VersionVector::new(), now, drafts).unwrap();
    batch.entries().map(line::encode).collect()
}

fn item(text: &str) -> Vec<Draft> {
    let json = json!({"role": "user", "content": text}).to_string();
    let item = crate::session::Item::parse(&RawValue::from_string(json).unwrap(), "").unwrap();
    draft_items([9; 16], &[item]).unwrap()
}

#[test]
fn every_session_is_listed_once_and_nothing_else() {
    let budget = "budget = { limit_usd = \"1\", per = \"day\" }\n";
    let model = "[[provider]]\nname = \"demo\"\nkind = \"demo\"\n[[model]]\nname = \"default\"\n\
                 candidates = [\"demo/demo\"]\n[[price]]\ncandidate = \"demo/demo\"\ninput = \"1\"\noutput = \"1\"\n";
    let node = node(&format!("{KEYS}{budget}{model}"));
    block_on(node.tick()).unwrap();
    let chat = r#"{"model":"default","max_tokens":20,"messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(request(&node, "user", "POST", "/v1/chat/completions", chat).0, 200, "a grant");
    let mut expected: Vec<String> = (0..5).map(|_| create(&node)).collect();
    // In other buckets, the last among them.
    for byte in ["7f", "ff"] {
        let log = byte.repeat(16);
        let drafts = vec![draft_created([1; 16], "user", Default::default())];
        assert_eq!(import(&node, &log, &foreign(&log, "twin.0", drafts)).0, 200);
        expected.push(log);
    }
    // A second chain in one of the logs.
    assert_eq!(import(&node, &expected[0], &foreign(&expected[0], "twin.0", item("x"))).0, 200);
    let ids = |sessions: &[Value]| {
        let mut ids: Vec<String> = sessions
            .iter()
            .map(|session| session["id"].as_str().unwrap().trim_start_matches("sess_").to_owned())
            .collect();
        ids.sort_unstable();
        ids
    };
    expected.sort_unstable();
    assert_eq!(ids(&read_all(&node, "/v1/sessions", 100)), expected);
    let one_by_one = read_all(&node, "/v1/sessions", 1);
    let mut once = ids(&one_by_one);
    once.dedup();
    assert_eq!(once, expected);
    for log in [node.log().to_string(), "0".repeat(32)] {
        let (status, body) = request(&node, "admin", "GET", &format!("/v1/sessions/sess_{log}"), "");
        assert_eq!((status, code(&body.to_string())), (404, json!("session_not_found")));
    }
}

#[test]
fn a_session_shows_its_counts_and_heads() {
    let node = node(KEYS);
    let log = create(&node);
    let session = get(&node, &format!("/v1/sessions/sess_{log}"));
    for (field, expected) in [
        ("object", json!("session")),
        ("conversation", json!(format!("conv_{log}"))),
        ("owner", json!("user")),
        ("created_at", json!(1_700_000_000)),
        ("items", json!(2)),
        ("turns", json!(0)),
        ("open_turns", json!(0)),
        ("entries", json!(3)),
        ("metadata", json!({"topic": "é"})),
        ("last_response", Value::Null),
        ("responses", json!([])),
    ] {
        assert_eq!(session[field], expected, "{field}");
    }
    let last = read_all(&node, &format!("/v1/sessions/sess_{log}/entries"), 100).pop().unwrap();
    assert_eq!(session["heads"], json!([{"origin": last["origin"], "seq": 3, "hash": last["hash"]}]));
}

#[test]
fn a_damaged_session_is_listed_with_the_others() {
    let node = node(KEYS);
    let (good, bad) = (create(&node), LogId([0; 16]));
    let draft = Draft { kind: Kind::ITEM_ADDED, cause: [1; 16], body: Bytes::from_static(b"x") };
    let batch = Batch::build(bad, node.origin(), None, &VersionVector::new(), node.platform().now(), [draft])
        .unwrap();
    block_on(node.platform().store().append(&batch)).unwrap();
    let listed = read_all(&node, "/v1/sessions", 100);
    let mut listed: Vec<(&str, bool)> =
        listed.iter().map(|session| (session["id"].as_str().unwrap(), session["damaged"] == true)).collect();
    listed.sort_unstable();
    let (bad, good) = (format!("sess_{bad}"), format!("sess_{good}"));
    assert_eq!(listed, [(bad.as_str(), true), (good.as_str(), false)]);
}

#[test]
fn an_export_can_be_imported() {
    let (here, there) = (node(KEYS), node(KEYS));
    let log = create(&here);
    let path = format!("/v1/sessions/sess_{log}/entries");
    let mut exported = read_all(&here, &path, 100);
    assert_eq!(read_all(&here, &path, 1), exported, "in pages");
    let answer = |appended, known| json!({"object": "session.import", "appended": appended, "known": known});
    exported.reverse();
    assert_eq!(import(&there, &log, &exported[2..]), (200, answer(1, 0)));
    assert_eq!(import(&there, &log, &exported), (200, answer(2, 1)), "in any order, and some repeated");
    assert_eq!(import(&there, &log, &exported), (200, answer(0, 3)));
    let items = format!("/v1/conversations/conv_{log}/items");
    assert_eq!(request(&there, "user", "GET", &items, ""), request(&here, "user", "GET", &items, ""));
    assert_eq!(read_all(&there, &path, 100), read_all(&here, &path, 100));
}

#[test]
fn a_deleted_session_is_unknown_but_its_chain_is_exported() {
    let (here, there) = (node(KEYS), node(KEYS));
    let log = create(&here);
    let path = format!("/v1/sessions/sess_{log}");
    let before = read_all(&here, &format!("{path}/entries"), 100);
    assert_eq!(request(&here, "admin", "DELETE", &path, "").0, 200);
    assert_eq!(request(&here, "admin", "GET", &path, "").0, 404);
    assert_eq!(request(&here, "admin", "DELETE", &path, "").0, 404);
    assert_eq!(read_all(&here, "/v1/sessions", 100), Vec::<Value>::new());
    assert_eq!(import(&here, &log, &before).0, 404, "an import does not revive it");
    let after = read_all(&here, &format!("{path}/entries"), 100);
    assert!(
        after.iter().take(3).all(|entry| entry["erased"] == true && entry.get("body").is_none()),
        "{after:?}"
    );
    assert_eq!(import(&there, &log, &after).0, 200);
    assert_eq!(read_all(&there, &format!("{path}/entries"), 100), after, "erased elsewhere, too");
}

#[test]
fn a_large_entry_has_a_page_of_its_own() {
    let node = node(KEYS);
    let log = "1".repeat(32);
    let large = |text: &str| item(&text.repeat(ReadLimit::PAGE.bytes)).remove(0);
    let small = || item("x").remove(0);
    assert_eq!(import(&node, &log, &foreign(&log, "a.0", vec![small(), large("a"), small()])).0, 200);
    assert_eq!(import(&node, &log, &foreign(&log, "b.0", vec![large("b"), small()])).0, 200);
    let path = format!("/v1/sessions/sess_{log}/entries");
    let (mut sizes, mut after) = (Vec::new(), String::new());
    loop {
        let page = get(&node, &format!("{path}?limit=100{after}"));
        sizes.push(page["data"].as_array().unwrap().len());
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(sizes, [1, 1, 1, 1, 1]);
}

#[test]
fn an_invalid_import_is_refused_with_its_index() {
    let node = node(KEYS);
    let log = create(&node);
    let path = format!("/v1/sessions/sess_{log}/entries");
    let stored = read_all(&node, &path, 100);
    let twin = foreign(&log, "twin.0", [item("a"), item("b"), item("c")].concat());
    let changed = |entry: &Value, field: &str, value: Value| {
        let mut entry = entry.clone();
        entry[field] = value;
        entry
    };
    let origin = stored[0]["origin"].as_str().unwrap();
    let drafts = vec![draft_created([1; 16], "thief", Default::default())];
    let elsewhere = "2".repeat(32);
    let ticked = Draft { kind: Kind::TICKED, cause: [1; 16], body: Bytes::new() };
    let unreadable = Draft { kind: Kind::ITEM_ADDED, cause: [1; 16], body: Bytes::from_static(b"x") };
    let cases = [
        ("a gap", vec![twin[0].clone(), twin[2].clone()], 409, "data[1]"),
        ("no beginning", vec![twin[1].clone()], 409, "data[0]"),
        ("another entry", foreign(&log, origin, drafts), 409, "data[0]"),
        (
            "a changed body",
            vec![twin[0].clone(), changed(&twin[1], "body", json!("eA=="))],
            400,
            "data[1].body",
        ),
        ("no base64", vec![changed(&twin[0], "body", json!("?"))], 400, "data[0].body"),
        ("no header", vec![changed(&twin[0], "header", json!("00"))], 400, "data[0].header"),
        ("no digits", vec![changed(&twin[0], "header", json!("XX"))], 400, "data[0].header"),
        ("another log", foreign(&elsewhere, "twin.0", item("x")), 400, "data[0].header"),
        ("a tick", foreign(&log, "twin.0", vec![ticked]), 400, "data[0].header"),
        ("an item that is not JSON", foreign(&log, "twin.0", vec![unreadable]), 400, "data[0].body"),
        ("no object", vec![json!(7)], 400, "data[0]"),
        ("no entries", vec![], 400, "data"),
        ("too many", vec![twin[0].clone(); 101], 400, "data"),
    ];
    for (case, entries, status, param) in cases {
        let (answered, body) = import(&node, &log, &entries);
        assert_eq!((answered, &body["error"]["param"]), (status, &json!(param)), "{case}: {body}");
    }
    assert_eq!(read_all(&node, &path, 100), stored, "nothing was written");
    let own = node.log().to_string();
    block_on(node.tick()).unwrap();
    assert_eq!(import(&node, &own, &foreign(&own, "twin.0", item("x"))).0, 404);
    for query in
        ["after=x", "after=256.1", "after=1.9007199254740992", "after=1", "limit=0", "limit=101", "limit=x"]
    {
        for path in ["/v1/sessions", &path] {
            let (status, body) = request(&node, "admin", "GET", &format!("{path}?{query}"), "");
            assert_eq!((status, code(&body.to_string())), (400, json!("invalid_value")), "{path}?{query}");
        }
    }
}

#[test]
fn an_import_neither_breaks_a_session_nor_revives_it() {
    let node = node(KEYS);
    let log = create(&node);
    let turn = [7; 16];
    let opened = crate::session::turn::TurnOpened {
        owner: "user".into(),
        model: "default".into(),
        request: Map::new(),
        previous: None,
        in_conversation: true,
        background: false,
        store: true,
        runs: false,
        input: Vec::new(),
    };
    let broken = |kind| Draft { kind, cause: turn, body: Bytes::from_static(b"x") };
    let chain = |draft: Draft| foreign(&log, "twin.0", vec![opened.draft(turn), draft]);
    assert_eq!(import(&node, &log, &chain(broken(Kind::TURN_RUN))[..1]).0, 200);
    for kind in [Kind::STEP_ENDED, Kind::DELTAS, Kind::CALLS_STARTED, Kind::NOTED, Kind::SCHEDULE_SET] {
        let (status, body) = import(&node, &log, &chain(broken(kind))[1..]);
        assert_eq!((status, &body["error"]["param"]), (400, &json!("data[0].body")), "{kind:?}: {body}");
    }
    let directory = crate::session::schedule::Directory::log().to_string();
    assert_eq!(import(&node, &directory, &foreign(&directory, "twin.0", item("x"))).0, 404);
    let far = crate::time::Timestamp(u64::MAX >> 17);
    let (id, origin) = (LogId::parse(&log).unwrap(), Origin::parse("far.0").unwrap());
    let batch = Batch::build(id, &origin, None, &VersionVector::new(), far, item("x")).unwrap();
    let (status, body) = import(&node, &log, &[line::encode(batch.first())]);
    assert_eq!((status, &body["error"]["param"]), (400, &json!("data[0].header")), "{body}");
    assert_eq!(request(&node, "admin", "DELETE", &format!("/v1/sessions/sess_{log}"), "").0, 200);
    let (status, body) = import(&node, &log, &foreign(&log, "late.0", item("x")));
    assert_eq!((status, code(&body.to_string())), (404, json!("session_not_found")));
}
