//! Checks the errors of callers: bad bodies, bad requests, bodies that are too large. Each error names its cause.

use crate::{
    client::Request,
    node::Host,
    suite::{CHAT, FULL, INFERENCE, Suite, question},
};

pub(crate) fn run(suite: &Suite) {
    bad_bodies(suite);
    bad_requests(suite);
    too_large(suite);
}

/// The name, the body, the code, and the param if there must be one.
type BadBody = (&'static str, Vec<u8>, &'static str, Option<&'static str>);

fn bad_bodies(suite: &Suite) {
    let deep =
        |levels: usize| format!("{{\"model\":\"plain\",\"messages\":{}", "[".repeat(levels)).into_bytes();
    let closed = |levels: usize| [deep(levels), "]".repeat(levels).into_bytes(), b"}".to_vec()].concat();
    let message = r#""messages":[{"role":"user","content":"x"}]"#;
    let mut cases: Vec<BadBody> = vec![
        ("half an object", b"{".to_vec(), "invalid_json", None),
        ("words", b"hello".to_vec(), "invalid_json", None),
        ("nothing", b"".to_vec(), "invalid_json", None),
        ("blanks", b" \n".to_vec(), "invalid_json", None),
        ("an object and more", format!("{{\"model\":\"plain\",{message}}} x").into(), "invalid_json", None),
        ("not UTF-8", b"{\"model\":\"pl\xff\"}".to_vec(), "invalid_json", None),
        ("a lone surrogate in the model", format!("{{\"model\":\"\\ud800\",{message}}}").into(), "", None),
        ("too deep", closed(20_000), "json_too_deep", None),
        ("too deep and never closed", deep(100_000), "json_too_deep", None),
        ("an array", b"[]".to_vec(), "invalid_type", None),
        ("a number", b"7".to_vec(), "invalid_type", None),
        ("a string", b"\"x\"".to_vec(), "invalid_type", None),
        ("null", b"null".to_vec(), "invalid_type", None),
        ("an empty object", b"{}".to_vec(), "missing_required_parameter", Some("model")),
        ("no model", format!("{{{message}}}").into(), "missing_required_parameter", Some("model")),
        ("no messages", br#"{"model":"plain"}"#.to_vec(), "missing_required_parameter", Some("messages")),
        ("a number as model", format!("{{\"model\":7,{message}}}").into(), "invalid_type", Some("model")),
        ("null as model", format!("{{\"model\":null,{message}}}").into(), "", Some("model")),
        (
            "a string as messages",
            br#"{"model":"plain","messages":"x"}"#.to_vec(),
            "invalid_type",
            Some("messages"),
        ),
        (
            "an object as messages",
            br#"{"model":"plain","messages":{}}"#.to_vec(),
            "invalid_type",
            Some("messages"),
        ),
        ("no message", br#"{"model":"plain","messages":[]}"#.to_vec(), "invalid_value", Some("messages")),
        (
            "a number as message",
            br#"{"model":"plain","messages":[7]}"#.to_vec(),
            "invalid_type",
            Some("messages[0]"),
        ),
        (
            "an array as message",
            br#"{"model":"plain","messages":[["user"]]}"#.to_vec(),
            "invalid_type",
            Some("messages[0]"),
        ),
        (
            "a message without role",
            br#"{"model":"plain","messages":[{"role":"user","content":"x"},{"content":"x"}]}"#.to_vec(),
            "missing_required_parameter",
            Some("messages[1].role"),
        ),
        (
            "a number as role",
            br#"{"model":"plain","messages":[{"role":7,"content":"x"}]}"#.to_vec(),
            "invalid_type",
            Some("messages[0].role"),
        ),
        (
            "a string as stream",
            format!("{{\"model\":\"plain\",\"stream\":\"yes\",{message}}}").into(),
            "invalid_type",
            Some("stream"),
        ),
    ];
    if suite.host == Host::Lambda {
        // The local runtime reads each body of this content type as text and fails itself. The service sends it in
        // base64, which the function's own tests decode.
        cases.retain(|(name, ..)| *name != "not UTF-8");
    }
    suite.each(&cases, |(name, body, code, param)| {
        let answer = suite.ask(Request::post(CHAT, body.clone()));
        let (status, actual_code, actual_param) = answer.error();
        let is_expected = status == 400
            && if code.is_empty() {
                actual_code.starts_with("invalid") || actual_code.starts_with("missing")
            } else {
                actual_code == *code
            }
            && (param.is_none() || actual_param.as_deref() == *param);
        let actual = (status, actual_code, actual_param);
        suite.checks.that(
            &format!("error for a bad body: {name}"),
            is_expected,
            &format!("400 {code} {param:?}"),
            actual,
        );
    });
    let answer = suite.ask(Request::post(CHAT, question("plain", false).to_string()).with("x-odd", "\u{e9}"));
    suite.checks.equal("status of a request with a header that is not ASCII", answer.status, 200);
    let nested = |levels: usize| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        format!("{{\"model\":\"plain\",{message},\"x\":{open}{close}}}")
    };
    // The object is the first of the 112 levels.
    let answer = suite.ask(Request::post(CHAT, nested(111)));
    suite.checks.equal("status of the deepest body that is allowed", answer.status, 200);
    let answer = suite.ask(Request::post(CHAT, nested(112)));
    suite.checks.equal(
        "error for a body that is one level deeper",
        answer.error(),
        (400, "json_too_deep".to_owned(), None),
    );
}

fn bad_requests(suite: &Suite) {
    let checks = &suite.checks;
    let plain = || Request::post(CHAT, question("plain", false).to_string());
    for stream in [false, true] {
        let answer = suite.chat("nope", stream);
        let expected = (404, "model_not_found".to_owned(), Some("model".to_owned()));
        checks.equal("error for an unknown model", answer.error(), expected);
        let message = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        checks.that(
            "error for an unknown model: it lists the known models",
            message.contains("plain") && message.contains("via-limited"),
            "their names",
            message,
        );
    }
    let keys = [
        ("no key", plain()),
        ("a wrong key", plain().key("key-of-nobody")),
        ("an empty key", plain().key("")),
        ("a key with a character appended", plain().key(&format!("{FULL}x"))),
        ("a digest as key", plain().key("d7d8d1e4b8ddf1f2b9a4a3a6b7f7c0e5a2b1c0d9e8f7a6b5c4d3e2f1a0b9c8d7")),
        ("a key in another authorization scheme", plain().with("authorization", &format!("Basic {FULL}"))),
        ("a very long key", plain().key(&"k".repeat(4000))),
    ];
    for (name, request) in keys {
        let answer = suite.client.send(&request);
        checks.equal(&format!("error for {name}"), answer.error(), (401, "invalid_api_key".to_owned(), None));
    }
    let answer = suite.client.send(&Request::get("/v1/status").key(INFERENCE));
    checks.equal(
        "error for a key without the scope",
        answer.error(),
        (403, "insufficient_scope".to_owned(), None),
    );

    for path in [
        "/v1",
        "/v1/nothing-here",
        "/v1/chat/completions/",
        "/v1/chat",
        "/v1/models/",
        "//v1/models",
        "/v1/conversations/",
        "/v1/conversations/conv_1/things",
        "/v2/models",
        "/healthz/x",
    ] {
        let answer = suite.ask(Request::get(path));
        checks.equal(
            &format!("unknown route {path}"),
            answer.error(),
            (404, "unknown_route".to_owned(), None),
        );
    }
    let methods = [
        ("GET", "/v1/chat/completions", &["POST"][..]),
        ("DELETE", "/v1/chat/completions", &["POST"]),
        ("POST", "/v1/models", &["GET"]),
        ("PUT", "/v1/models/plain", &["GET"]),
        ("GET", "/v1/conversations", &["POST"]),
        ("PATCH", "/v1/conversations/conv_1", &["GET", "POST", "DELETE"]),
        ("POST", "/v1/conversations/conv_1/items/msg_1", &["GET", "DELETE"]),
        ("DELETE", "/v1/conversations/conv_1/items", &["GET", "POST"]),
        ("POST", "/healthz", &["GET"]),
        ("POST", "/readyz", &["GET"]),
        ("POST", "/v1/status", &["GET"]),
    ];
    for (method, path, allowed) in methods {
        let answer = suite.ask(Request::get(path).method(method));
        let case = format!("{method} {path}");
        checks.equal(&case, answer.error(), (405, "method_not_allowed".to_owned(), None));
        let mut allow: Vec<&str> = answer.header("allow").split(',').map(str::trim).collect();
        allow.retain(|method| !matches!(*method, "HEAD" | "OPTIONS"));
        checks.equal(&format!("{case}, allow"), allow.as_slice(), allowed);
    }
}

/// The largest body of a request.
const LIMIT_BYTES: usize = 32 * 1024 * 1024;

fn too_large(suite: &Suite) {
    // The platform's own limit is 6 MB, and its local runtime has none at all: there is nothing of ours to test.
    if suite.host == Host::Lambda {
        return;
    }
    let body = |bytes: usize| {
        let mut body = question("plain", false).to_string().into_bytes();
        body.resize(bytes, b' ');
        body
    };
    let answer = suite.ask(Request::post(CHAT, body(LIMIT_BYTES + 1)));
    suite.checks.equal("a body above the limit", answer.error(), (413, "request_too_large".to_owned(), None));
    let answer = suite.ask(Request::post(CHAT, body(LIMIT_BYTES)));
    suite.checks.equal("a body at the limit", answer.status, 200);
    let answer = suite.client.send(&Request::post(CHAT, body(LIMIT_BYTES + 1)));
    suite.checks.equal("a body above the limit without a key", answer.status, 401);
}
