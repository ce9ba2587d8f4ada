//! Checks the items of a conversation: how they are added and listed, and which are refused.

use serde_json::{Value, json};

use super::{PATH, add, ids, list, message, new_conversation, texts};
use crate::{client::Request, node::Host, suite::Suite};

pub(super) fn add_items(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = new_conversation(suite);
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
    checks.equal("add: status and object", (answer.status, added["object"].as_str()), (200, Some("list")));
    let data = added["data"].as_array().cloned().unwrap_or_default();
    checks.equal("add: number of items", data.len(), items.len());
    let at = |i: usize| data.get(i).cloned().unwrap_or_default();
    checks.equal(
        "add: content that is a string becomes a part",
        &at(0)["content"],
        &json!([{"type": "input_text", "text": "short é🙂"}]),
    );
    checks.equal("add: type of a message", at(0)["type"].as_str(), Some("message"));
    let part = &at(1)["content"][0];
    checks.equal(
        "add: content of an assistant's message",
        (part["type"].as_str(), part["text"].as_str()),
        (Some("output_text"), Some("answer")),
    );
    checks.equal(
        "add: name and arguments of a call",
        (at(2)["name"].as_str(), at(2)["arguments"].as_str()),
        (Some("f"), Some("{}")),
    );
    checks.equal("add: output of a call", at(3)["output"].as_str(), Some("42"));
    let mut parts = items[4]["content"].clone();
    parts[1]["detail"] = json!("auto");
    checks.equal("add: parts with their defaults", &at(4)["content"], &parts);
    checks.equal("add: unknown field", &at(5)["future_field"], &items[5]["future_field"]);
    let mut distinct = ids(&added);
    checks.that(
        "add: the ids are the node's own",
        !distinct.iter().any(|id| id.is_empty() || id == "msg_mine"),
        "no empty id and none of the client's",
        &distinct,
    );
    distinct.sort_unstable();
    distinct.dedup();
    checks.equal("add: number of distinct ids", distinct.len(), items.len());
    let status = data.iter().filter(|item| item["status"] == "completed").count();
    checks.equal("add: number of completed items", status, items.len());
    let listed = list(suite, &conversation, "?order=asc");
    checks.equal("list: the added items", &listed["data"], &added["data"]);
    checks.equal(
        "list: first_id and last_id",
        (listed["first_id"].as_str(), listed["last_id"].as_str()),
        (at(0)["id"].as_str(), at(5)["id"].as_str()),
    );
}

/// Items and queries that are refused, each with the field that the error names.
pub(super) fn bad_items(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = new_conversation(suite);
    let cases = [
        ("a body without items", json!({}), "missing_required_parameter", "items"),
        ("an empty list of items", json!({"items": []}), "invalid_value", "items"),
        ("a string as items", json!({"items": "x"}), "invalid_type", "items"),
        ("21 items", json!({"items": vec![message("x"); 21]}), "invalid_value", "items"),
        ("a number as an item", json!({"items": [message("x"), 7]}), "invalid_value", "items[1]"),
        ("an item without a type", json!({"items": [{}]}), "invalid_value", "items[0].type"),
        (
            "an item of an unknown type",
            json!({"items": [{"type": "teapot"}]}),
            "invalid_value",
            "items[0].type",
        ),
        (
            "a message of an unknown role",
            json!({"items": [{"role": "robot", "content": "x"}]}),
            "invalid_value",
            "items[0].role",
        ),
        (
            "a message without content",
            json!({"items": [{"role": "user"}]}),
            "invalid_value",
            "items[0].content",
        ),
        (
            "a number as a part",
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
            &format!("add: error for {name}"),
            answer.error(),
            (400, code.to_owned(), Some(param.to_owned())),
        );
    }
    for (name, body, code) in [("not JSON", "{", "invalid_json"), ("an array", "[]", "invalid_type")] {
        for path in [PATH.to_owned(), format!("{conversation}/items")] {
            let answer = suite.ask(Request::post(path.as_str(), body));
            let (status, read, _) = answer.error();
            checks.equal(
                &format!("error for a body of {path}: {name}"),
                (status, read.as_str()),
                (400, code),
            );
        }
    }
    checks.equal("list: items after refused requests", texts(&list(suite, &conversation, "")), [""; 0]);
    for query in ["limit=0", "limit=101", "limit=x", "order=up", "after=msg_nope"] {
        let answer = suite.ask(Request::get(format!("{conversation}/items?{query}")));
        let param = query.split('=').next().map(str::to_owned);
        checks.equal(
            &format!("list: error for {query}"),
            answer.error(),
            (400, "invalid_value".to_owned(), param),
        );
    }
}

/// Lists 25 items: the default page, all of them, pages in both orders, and the pages at the end.
pub(super) fn list_items(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = new_conversation(suite);
    let all: Vec<String> = (0..25).map(|i| format!("item {i}")).collect();
    let items: Vec<Value> = all.iter().map(|text| message(text)).collect();
    let twenty = add(suite, &conversation, &items[..20]);
    checks.equal("add: status of 20 items", twenty.status, 200);
    checks.equal("add: status of five more items", add(suite, &conversation, &items[20..]).status, 200);
    let newest: Vec<String> = all.iter().rev().cloned().collect();
    let page = list(suite, &conversation, "");
    checks.equal("list: default page", texts(&page), &newest[..20]);
    checks.equal("list: has_more of the default page", &page["has_more"], &json!(true));
    let page = list(suite, &conversation, "?order=asc&limit=100");
    checks.equal("list: all items in ascending order", texts(&page), all.as_slice());
    checks.equal("list: has_more of all items", &page["has_more"], &json!(false));
    let ids = ids(&page);
    for (order, all) in [("asc", &all), ("desc", &newest)] {
        let (mut read, mut after, mut pages) = (Vec::new(), String::new(), 0);
        while pages < 10 {
            let page = list(suite, &conversation, &format!("?order={order}&limit=10{after}"));
            read.extend(texts(&page));
            pages += 1;
            if page["has_more"] != true {
                break;
            }
            after = format!("&after={}", page["last_id"].as_str().unwrap_or_default());
        }
        checks.equal(&format!("list: items and number of pages of ten, {order}"), (&read, pages), (all, 3));
    }
    let after = |i: usize| format!("?order=asc&after={}", ids.get(i).map_or("", String::as_str));
    let page = list(suite, &conversation, &after(24));
    checks.equal(
        "list: page after the last item",
        (texts(&page).len(), &page["has_more"]),
        (0, &json!(false)),
    );
    let page = list(suite, &conversation, &format!("{}&limit=1", after(23)));
    checks.equal(
        "list: page with the last item only",
        (texts(&page), &page["has_more"]),
        (vec!["item 24".to_owned()], &json!(false)),
    );
}

pub(super) fn large_items(suite: &Suite) {
    let checks = &suite.checks;
    let conversation = new_conversation(suite);
    let text = "é🙂x".repeat(100_000);
    checks.equal(
        "add: status of an item of 700 kB",
        add(suite, &conversation, &[message(&text)]).status,
        200,
    );
    let read = texts(&list(suite, &conversation, ""));
    checks.that(
        "list: text of an item of 700 kB",
        read == [text],
        "the same text",
        read.first().map(String::len),
    );
    // Requests and answers of Lambda are limited to 6 MB.
    let bytes = if suite.host == Host::Lambda { 100_000 } else { 200_000 };
    let conversation = new_conversation(suite);
    let texts_sent: Vec<String> = (0..20).map(|i| format!("{i} ").repeat(bytes / 3)).collect();
    let items: Vec<Value> = texts_sent.iter().map(|text| message(text)).collect();
    checks.equal("add: status of 20 large items", add(suite, &conversation, &items).status, 200);
    let read = texts(&list(suite, &conversation, "?order=asc"));
    let lengths: Vec<usize> = read.iter().map(String::len).collect();
    checks.that("list: texts of 20 large items", read == texts_sent, "the same texts", lengths);
}
