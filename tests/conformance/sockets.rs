//! WebSockets: how they are opened and closed, and what becomes of responses when a connection or the node is gone.

use std::{
    net::{Ipv4Addr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use outlive_tests::upstream::WORDS;
use serde_json::{Value, json};
use tungstenite::{
    Error, Message, WebSocket,
    client::{ClientRequestBuilder, client_with_config},
    protocol::{CloseFrame, WebSocketConfig},
};

use crate::{
    client::Request,
    node::Host,
    responses::{get, id, text, wait_until_ended},
    suite::{ADMIN, FULL, INFERENCE, QUICK, Suite},
};

pub(crate) fn run(suite: &mut Suite) {
    refused(suite);
    if suite.host == Host::Lambda {
        // A function's URL takes no WebSockets.
        return;
    }
    owned(suite);
    limited(suite);
    leaving(suite);
    too_large(suite);
    killed(suite);
}

/// Longer than any event takes.
const PATIENCE: Duration = Duration::from_secs(60);

type Connection = WebSocket<TcpStream>;

/// Opens a connection with a key.
fn open(suite: &Suite, key: &str) -> Result<Connection, String> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, suite.node.port)).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    let url = format!("ws://127.0.0.1:{}/v1/responses", suite.node.port);
    let url = url.parse().map_err(|error| format!("{error}"))?;
    let request = ClientRequestBuilder::new(url).with_header("authorization", format!("Bearer {key}"));
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    client_with_config(request, stream, Some(config)).map(|(socket, _)| socket).map_err(|e| e.to_string())
}

/// Asks for a response.
fn send(connection: &mut Connection, model: &str, more: Value) {
    let mut message = json!({"type": "response.create", "model": model, "input": "How are you?"});
    if let (Some(message), Value::Object(more)) = (message.as_object_mut(), more) {
        message.extend(more);
    }
    // What was not sent is not answered, and that is seen.
    let _ = connection.send(Message::text(message.to_string()));
}

/// The next event; else why there is none.
fn next(connection: &mut Connection) -> Value {
    loop {
        match connection.read() {
            Ok(Message::Text(text)) => return serde_json::from_str(&text).unwrap_or_default(),
            Ok(Message::Close(Some(CloseFrame { code, .. }))) => {
                return json!({"type": "closed", "code": u16::from(code)});
            }
            Ok(Message::Close(None)) | Err(Error::ConnectionClosed) => return json!({"type": "closed"}),
            Ok(_) => (),
            Err(error) => return json!({"type": "broken", "error": error.to_string()}),
        }
    }
}

/// The first event of one of these types, or the end.
fn until(connection: &mut Connection, types: &[&str]) -> Value {
    loop {
        let event = next(connection);
        let kind = event["type"].as_str().unwrap_or_default();
        if types.contains(&kind) || matches!(kind, "closed" | "broken" | "error") {
            return event;
        }
    }
}

const COMPLETED: &[&str] = &["response.completed"];
const DELTA: &[&str] = &["response.output_text.delta"];

fn refused(suite: &Suite) {
    let handshake = Request::get("/v1/responses").with("upgrade", "websocket").with("connection", "upgrade");
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let whole = handshake.clone().with("sec-websocket-version", "13").with("sec-websocket-key", key);
    let answer = |request: Request| {
        let (status, code, _) = suite.client.send(&request).error();
        (status, code)
    };
    if suite.host == Host::Lambda {
        let refused = (501, "websocket_unsupported".to_owned());
        suite.checks.equal("a host without WebSockets", answer(whole.key(FULL)), refused);
        return;
    }
    let wrong_key = (401, "invalid_api_key".to_owned());
    suite.checks.equal("no key", answer(whole.clone()), wrong_key.clone());
    suite.checks.equal("an unknown key", answer(whole.clone().key("nobody")), wrong_key);
    let no_scope = (403, "insufficient_scope".to_owned());
    suite.checks.equal("a key of another scope", answer(whole.key(ADMIN)), no_scope);
    let elsewhere = Request::get("/v1/models").with("upgrade", "websocket").with("connection", "upgrade");
    suite.checks.equal("another resource", suite.ask(elsewhere.with("sec-websocket-key", key)).status, 200);
    if suite.host == Host::Native {
        let bad = (400, "invalid_value".to_owned());
        suite.checks.equal("half a handshake", answer(handshake.key(FULL)), bad);
    }
}

/// A response over a WebSocket is a response like any other.
fn owned(suite: &Suite) {
    let checks = &suite.checks;
    let opened = open(suite, FULL).map(|mut connection| {
        let conversation = crate::responses::conversation(suite);
        for conversation in [Value::Null, json!(conversation)] {
            send(&mut connection, "plain", json!({"conversation": conversation}));
            let last = until(&mut connection, COMPLETED)["response"].clone();
            checks.equal("over a WebSocket", text(&last), WORDS.concat());
            checks.equal("again over HTTP", get(suite, &id(&last)).json(), last.clone());
            let path = format!("/v1/responses/{}", id(&last));
            let other = suite.client.send(&Request::get(path).key(INFERENCE));
            checks.equal("of its caller alone", other.status, 404);
        }
        connection
    });
    checks.that("a connection", opened.is_ok(), "one", opened.err());
}

/// The limits of a key hold for each response.
fn limited(suite: &Suite) {
    // Others ask with this key, too.
    let limited = open(suite, QUICK).map(|mut connection| {
        for _ in 0..3 {
            send(&mut connection, "plain", json!({"store": false}));
            let event = until(&mut connection, COMPLETED);
            if event["type"] == "error" {
                return event;
            }
        }
        Value::Null
    });
    let error = limited.unwrap_or_default();
    let seen = (&error["status"], &error["error"]["code"]);
    suite.checks.equal("limited", seen, (&json!(429), &json!("rate_limit_exceeded")));
    let until = &error["error"]["headers"]["retry-after"];
    suite.checks.that("limited, until", until.is_string(), "seconds", until);
}

/// A response that a log keeps does not depend on its connection; any other ends with it.
fn leaving(suite: &Suite) {
    let checks = &suite.checks;
    let seen = open(suite, FULL).map(|mut connection| {
        send(&mut connection, "steady", json!({"input": "kept when its socket closes"}));
        let made = until(&mut connection, &["response.created"]);
        until(&mut connection, DELTA);
        id(&made["response"])
    });
    let done = wait_until_ended(suite, &seen.unwrap_or_default());
    checks.equal(
        "left, and kept",
        (done["status"].as_str(), text(&done)),
        (Some("completed"), WORDS.concat()),
    );
    let marker = "gone when its socket closes";
    let seen = open(suite, FULL).map(|mut connection| {
        send(&mut connection, "slow", json!({"input": marker, "store": false}));
        until(&mut connection, DELTA)["type"].clone()
    });
    checks.equal("before it is left", seen, Ok(json!(DELTA[0])));
    let left = || suite.upstream.records().mentioning(marker).iter().any(|record| record.disconnected);
    let start = Instant::now();
    while !left() && start.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(50));
    }
    checks.that("left, and not kept", left(), "no call any more", "a call that goes on");
}

fn too_large(suite: &Suite) {
    let closed = open(suite, FULL).map(|mut connection| {
        let large = "x".repeat(33 * 1024 * 1024);
        // It may be closed before all was sent.
        let _ = connection.send(Message::text(large));
        until(&mut connection, &[])
    });
    let closed = closed.unwrap_or_default();
    suite.checks.that("too large", closed["type"] != "", "no connection any more", &closed);
    let opened = open(suite, FULL).map(|mut connection| {
        // What is almost as large is taken in.
        let large = "x".repeat(8 * 1024 * 1024);
        send(&mut connection, "plain", json!({"store": false, "input": large}));
        until(&mut connection, COMPLETED)["type"].clone()
    });
    suite.checks.equal("a large one", opened, Ok(json!(COMPLETED[0])));
}

/// `kill -9`: what a log keeps goes on, and is continued over another connection. Then the node is stopped kindly.
fn killed(suite: &mut Suite) {
    let opened = open(suite, FULL).map(|mut connection| {
        send(&mut connection, "steady", json!({"input": "killed over a WebSocket"}));
        let made = until(&mut connection, &["response.created"]);
        until(&mut connection, DELTA);
        (connection, id(&made["response"]))
    });
    let crashed = suite.node.crash();
    suite.checks.that("after the kill, it starts again", crashed.is_ok(), "a node that serves", &crashed);
    let Ok((mut connection, made)) = opened else {
        return suite.checks.that("before the kill", false, "a connection", opened.err());
    };
    let gone = until(&mut connection, &[]);
    suite.checks.that("after the kill, no connection", gone["type"] != "error", "an end", &gone);
    let done = wait_until_ended(suite, &made);
    suite.checks.equal("after the kill, it goes on", text(&done), WORDS.concat());
    let again = open(suite, FULL).map(|mut connection| {
        send(&mut connection, "plain", json!({"previous_response_id": made}));
        let last = until(&mut connection, COMPLETED);
        last["response"]["previous_response_id"].clone()
    });
    suite.checks.equal("after the kill, continued", again, Ok(json!(made)));
    if suite.host == Host::Native {
        stopped(suite);
    }
}

/// A node that is about to stop ends what goes on, and says so.
fn stopped(suite: &mut Suite) {
    let opened = open(suite, FULL).map(|mut connection| {
        send(&mut connection, "steady", json!({"store": false}));
        until(&mut connection, DELTA);
        connection
    });
    let Ok(mut connection) = opened else {
        return suite.checks.that("before the stop", false, "a connection", opened.err());
    };
    let seen = thread::scope(|scope| {
        let told = scope.spawn(move || {
            let kinds = [&["response.completed"][..], &[], &[]];
            kinds.map(|kinds| until(&mut connection, kinds))
        });
        let stopped = suite.node.stop();
        let [last, why, end] = told.join().unwrap_or_default();
        (
            text(&last["response"]),
            why["error"]["code"].clone(),
            end["code"].clone(),
            stopped.is_ok_and(|s| s.is_some()),
        )
    });
    let code = json!("websocket_connection_limit_reached");
    suite.checks.equal("stopped", seen, (WORDS.concat(), code, json!(1001), true));
    let started = suite.node.start_again();
    suite.checks.that("started again", started.is_ok(), "a node that serves", &started);
}
