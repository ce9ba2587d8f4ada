//! Items of a conversation: how they are added and listed, and which are refused.

use serde_json::{Value, json};

use super::{PATH, add, ids, list, message, new, texts};
use crate::{client::Request, node::Host, suite::Suite};

pub(super) fn adding(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = new(suite);
    let items = [
        json!({"role": "user", "content": "short é🙂"}),
        json!({"role": "assistant", "content": "answer"}),
        json!({"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}),
        json!({"type": "function_call_output", "call_id": "c1", "output": "42"}),
        json!({"type": "message", "role": "user", "id": "msg_mine", "content": [
            {"type": "input_text", "text": "long"}, {"type": "input_image", "image_url": "https://example.org/x.png"}]}),
        json!({"type": "message", "role": "developer", "content": "d", "future_field": {"a": [1, 2.5, null]}}),
    ];
    let answer = add(suite, &conversation, &items);
    let added = answer.json();
    checks.equal("add, status and object", (answer.status, added["object"].as_str()), (200, Some("list")));
    let data = added["data"].as_array().cloned().unwrap_or_default();
    checks.equal("add, number", data.len(), items.len());
    let at = |i: usize| data.get(i).cloned().unwrap_or_default();
    checks.equal(
        "a string becomes a part",
        &at(0)["content"],
        &json!([{"type": "input_text", "text": "short é🙂"}]),
    );
    checks.equal("the type of a message", at(0)["type"].as_str(), Some("message"));
    let part = &at(1)["content"][0];
    checks.equal(
        "an assistant's string",
        (part["type"].as_str(), part["text"].as_str()),
        (Some("output_text"), Some("answer")),
    );
    checks.equal(
        "a call is kept",
        (at(2)["name"].as_str(), at(2)["arguments"].as_str()),
        (Some("f"), Some("{}")),
    );
    checks.equal("a result is kept", at(3)["output"].as_str(), Some("42"));
    let mut parts = items[4]["content"].clone();
    parts[1]["detail"] = json!("auto");
    checks.equal("parts are kept, and complete", &at(4)["content"], &parts);
    checks.equal("unknown fields are kept", &at(5)["future_field"], &items[5]["future_field"]);
    let mut distinct = ids(&added);
    checks.that(
        "ids are ours",
        !distinct.iter().any(|id| id.is_empty() || id == "msg_mine"),
        "ids",
        &distinct,
    );
    distinct.sort_unstable();
    distinct.dedup();
    checks.equal("ids differ", distinct.len(), items.len());
    let status = data.iter().filter(|item| item["status"] == "completed").count();
    checks.equal("items are completed", status, items.len());
    let listed = list(suite, &conversation, "?order=asc");
    checks.equal("the list holds what was answered", &listed["data"], &added["data"]);
    checks.equal(
        "first_id and last_id",
        (listed["first_id"].as_str(), listed["last_id"].as_str()),
        (at(0)["id"].as_str(), at(5)["id"].as_str()),
    );
}

pub(super) fn bad_items(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = new(suite);
    let cases = [
        ("no items", json!({}), "missing_required_parameter", "items"),
        ("no item", json!({"items": []}), "invalid_value", "items"),
        ("a string", json!({"items": "x"}), "invalid_type", "items"),
        ("21 items", json!({"items": vec![message("x"); 21]}), "invalid_value", "items"),
        ("a number as item", json!({"items": [message("x"), 7]}), "invalid_value", "items[1]"),
        ("no type", json!({"items": [{}]}), "invalid_value", "items[0].type"),
        ("an unknown type", json!({"items": [{"type": "teapot"}]}), "invalid_value", "items[0].type"),
        (
            "an unknown role",
            json!({"items": [{"role": "robot", "content": "x"}]}),
            "invalid_value",
            "items[0].role",
        ),
        ("no content", json!({"items": [{"role": "user"}]}), "invalid_value", "items[0].content"),
        (
            "a number as part",
            json!({"items": [{"role": "user", "content": [7]}]}),
            "invalid_value",
            "items[0].content[0]",
        ),
        (
            "a call without a name",
            json!({"items": [{"type": "function_call", "call_id": "c", "arguments": ""}]}),
            "invalid_value",
            "items[0].name",
        ),
    ];
    for (name, body, code, param) in cases {
        let answer = suite.ask(Request::post(format!("{conversation}/items"), body.to_string()));
        checks.equal(
            &format!("items: {name}"),
            answer.error(),
            (400, code.to_owned(), Some(param.to_owned())),
        );
    }
    for (name, body, code) in [("not JSON", "{", "invalid_json"), ("an array", "[]", "invalid_type")] {
        for path in [PATH.to_owned(), format!("{conversation}/items")] {
            let answer = suite.ask(Request::post(path.as_str(), body));
            let (status, seen, _) = answer.error();
            checks.equal(&format!("{path}: {name}"), (status, seen.as_str()), (400, code));
        }
    }
    checks.equal("nothing of it was kept", texts(&list(suite, &conversation, "")), [""; 0]);
    for query in ["limit=0", "limit=101", "limit=x", "order=up", "after=msg_nope"] {
        let answer = suite.ask(Request::get(format!("{conversation}/items?{query}")));
        let param = query.split('=').next().map(str::to_owned);
        checks.equal(&format!("list: {query}"), answer.error(), (400, "invalid_value".to_owned(), param));
    }
}

pub(super) fn listing(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = new(suite);
    let all: Vec<String> = (0..25).map(|i| format!("item {i}")).collect();
    let items: Vec<Value> = all.iter().map(|text| message(text)).collect();
    let twenty = add(suite, &conversation, &items[..20]);
    checks.equal("20 items at once", twenty.status, 200);
    checks.equal("five more", add(suite, &conversation, &items[20..]).status, 200);
    let newest: Vec<String> = all.iter().rev().cloned().collect();
    let page = list(suite, &conversation, "");
    checks.equal("by default 20, the newest first", texts(&page), &newest[..20]);
    checks.equal("by default, has_more", &page["has_more"], &json!(true));
    let page = list(suite, &conversation, "?order=asc&limit=100");
    checks.equal("all, the oldest first", texts(&page), all.as_slice());
    checks.equal("all, has_more", &page["has_more"], &json!(false));
    let ids = ids(&page);
    for (order, all) in [("asc", &all), ("desc", &newest)] {
        let (mut seen, mut after, mut pages) = (Vec::new(), String::new(), 0);
        while pages < 10 {
            let page = list(suite, &conversation, &format!("?order={order}&limit=10{after}"));
            seen.extend(texts(&page));
            pages += 1;
            if page["has_more"] != true {
                break;
            }
            after = format!("&after={}", page["last_id"].as_str().unwrap_or_default());
        }
        checks.equal(&format!("pages of ten, {order}"), (&seen, pages), (all, 3));
    }
    let after = |i: usize| format!("?order=asc&after={}", ids.get(i).map_or("", String::as_str));
    let page = list(suite, &conversation, &after(24));
    checks.equal("after the last", (texts(&page).len(), &page["has_more"]), (0, &json!(false)));
    let page = list(suite, &conversation, &format!("{}&limit=1", after(23)));
    checks.equal(
        "the last one",
        (texts(&page), &page["has_more"]),
        (vec!["item 24".to_owned()], &json!(false)),
    );
}

pub(super) fn sizes(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = new(suite);
    let text = "é🙂x".repeat(100_000);
    checks.equal("an item of 700 kB, add", add(suite, &conversation, &[message(&text)]).status, 200);
    let seen = texts(&list(suite, &conversation, ""));
    checks.that("an item of 700 kB, list", seen == [text], "the same text", seen.first().map(String::len));
    // 20 × 200 kB and what comes back would pass the platform's 6 MB.
    let bytes = if suite.host == Host::Lambda { 100_000 } else { 200_000 };
    let conversation = new(suite);
    let texts_sent: Vec<String> = (0..20).map(|i| format!("{i} ").repeat(bytes / 3)).collect();
    let items: Vec<Value> = texts_sent.iter().map(|text| message(text)).collect();
    checks.equal("20 large items, add", add(suite, &conversation, &items).status, 200);
    let seen = texts(&list(suite, &conversation, "?order=asc"));
    let lengths: Vec<usize> = seen.iter().map(String::len).collect();
    checks.that("20 large items, list", seen == texts_sent, "the same texts", lengths);
}
