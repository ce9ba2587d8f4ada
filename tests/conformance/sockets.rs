//! Checks WebSockets: handshakes, limits, disconnects, a killed node, and a node that stops.

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
    handshakes(suite);
    if suite.host == Host::Lambda {
        // A function's URL takes no WebSockets.
        return;
    }
    response_over_websocket(suite);
    rate_limit(suite);
    disconnects(suite);
    large_messages(suite);
    killed_node(suite);
}

/// Longer than the pause before any event.
const TIMEOUT: Duration = Duration::from_secs(60);

type Connection = WebSocket<TcpStream>;

/// Opens a connection with a key.
fn open(suite: &Suite, key: &str) -> Result<Connection, String> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, suite.node.port)).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(|error| error.to_string())?;
    let url = format!("ws://127.0.0.1:{}/v1/responses", suite.node.port);
    let url = url.parse().map_err(|error| format!("{error}"))?;
    let request = ClientRequestBuilder::new(url).with_header("authorization", format!("Bearer {key}"));
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    client_with_config(request, stream, Some(config)).map(|(socket, _)| socket).map_err(|e| e.to_string())
}

/// Sends a request for a response, with `more` fields.
fn send(connection: &mut Connection, model: &str, more: Value) {
    let mut message = json!({"type": "response.create", "model": model, "input": "How are you?"});
    if let (Some(message), Value::Object(more)) = (message.as_object_mut(), more) {
        message.extend(more);
    }
    // A send error shows as a missing event.
    let _ = connection.send(Message::text(message.to_string()));
}

/// The next event, or an event that says why there is none: `closed` or `broken`.
fn next_event(connection: &mut Connection) -> Value {
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

/// The first event of one of these types, or the end of the connection.
fn until(connection: &mut Connection, types: &[&str]) -> Value {
    loop {
        let event = next_event(connection);
        let kind = event["type"].as_str().unwrap_or_default();
        if types.contains(&kind) || matches!(kind, "closed" | "broken" | "error") {
            return event;
        }
    }
}

const COMPLETED: &[&str] = &["response.completed"];
const DELTA: &[&str] = &["response.output_text.delta"];

fn handshakes(suite: &Suite) {
    let handshake = Request::get("/v1/responses").with("upgrade", "websocket").with("connection", "upgrade");
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let whole = handshake.clone().with("sec-websocket-version", "13").with("sec-websocket-key", key);
    let answer = |request: Request| {
        let (status, code, _) = suite.client.send(&request).error();
        (status, code)
    };
    if suite.host == Host::Lambda {
        let unsupported = (501, "websocket_unsupported".to_owned());
        suite.checks.equal(
            "handshake: error of a host without WebSockets",
            answer(whole.key(FULL)),
            unsupported,
        );
        return;
    }
    let wrong_key = (401, "invalid_api_key".to_owned());
    suite.checks.equal("handshake: error without a key", answer(whole.clone()), wrong_key.clone());
    suite.checks.equal(
        "handshake: error with an unknown key",
        answer(whole.clone().key("nobody")),
        wrong_key,
    );
    let no_scope = (403, "insufficient_scope".to_owned());
    suite.checks.equal("handshake: error with a key of another scope", answer(whole.key(ADMIN)), no_scope);
    let other_resource =
        Request::get("/v1/models").with("upgrade", "websocket").with("connection", "upgrade");
    suite.checks.equal(
        "handshake for another resource: status",
        suite.ask(other_resource.with("sec-websocket-key", key)).status,
        200,
    );
    if suite.host == Host::Native {
        let bad = (400, "invalid_value".to_owned());
        suite.checks.equal("handshake: error for missing headers", answer(handshake.key(FULL)), bad);
    }
}

/// A stored response over a WebSocket is the same over HTTP, for its caller alone.
fn response_over_websocket(suite: &Suite) {
    let checks = &suite.checks;
    let opened = open(suite, FULL).map(|mut connection| {
        let conversation = crate::responses::conversation(suite);
        for conversation in [Value::Null, json!(conversation)] {
            send(&mut connection, "plain", json!({"conversation": conversation}));
            let last = until(&mut connection, COMPLETED)["response"].clone();
            checks.equal("response: text", text(&last), WORDS.concat());
            checks.equal("response: the same over HTTP", get(suite, &id(&last)).json(), last.clone());
            let path = format!("/v1/responses/{}", id(&last));
            let other = suite.client.send(&Request::get(path).key(INFERENCE));
            checks.equal("response: status over HTTP with another caller's key", other.status, 404);
        }
        connection
    });
    checks.that("response: the connection is opened", opened.is_ok(), "one", opened.err());
}

/// The rate limit of a key counts each response.
fn rate_limit(suite: &Suite) {
    // Other topics use this key, too, so the limit may be reached earlier.
    let last_event = open(suite, QUICK).map(|mut connection| {
        for _ in 0..3 {
            send(&mut connection, "plain", json!({"store": false}));
            let event = until(&mut connection, COMPLETED);
            if event["type"] == "error" {
                return event;
            }
        }
        Value::Null
    });
    let error = last_event.unwrap_or_default();
    let observed = (&error["status"], &error["error"]["code"]);
    suite.checks.equal(
        "rate limit: status and code of the error",
        observed,
        (&json!(429), &json!("rate_limit_exceeded")),
    );
    let until = &error["error"]["headers"]["retry-after"];
    suite.checks.that("rate limit: retry-after of the error", until.is_string(), "seconds", until);
}

/// A stored response goes on after its connection; one that is not stored is cancelled with it.
fn disconnects(suite: &Suite) {
    let checks = &suite.checks;
    let observed = open(suite, FULL).map(|mut connection| {
        send(&mut connection, "steady", json!({"input": "kept when its socket closes"}));
        let made = until(&mut connection, &["response.created"]);
        until(&mut connection, DELTA);
        id(&made["response"])
    });
    let done = wait_until_ended(suite, &observed.unwrap_or_default());
    checks.equal(
        "disconnect: status and text of a stored response",
        (done["status"].as_str(), text(&done)),
        (Some("completed"), WORDS.concat()),
    );
    let marker = "gone when its socket closes";
    let observed = open(suite, FULL).map(|mut connection| {
        send(&mut connection, "slow", json!({"input": marker, "store": false}));
        until(&mut connection, DELTA)["type"].clone()
    });
    checks.equal("disconnect: a delta of a response that is not stored", observed, Ok(json!(DELTA[0])));
    let is_cancelled =
        || suite.upstream.records().mentioning(marker).iter().any(|record| record.disconnected);
    let start = Instant::now();
    while !is_cancelled() && start.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(50));
    }
    checks.that(
        "disconnect: the call of a response that is not stored is cancelled",
        is_cancelled(),
        "a disconnect from the provider",
        "the call goes on",
    );
}

fn large_messages(suite: &Suite) {
    let closed = open(suite, FULL).map(|mut connection| {
        let large = "x".repeat(33 * 1024 * 1024);
        // The node may close the connection before all is sent.
        let _ = connection.send(Message::text(large));
        until(&mut connection, &[])
    });
    let closed = closed.unwrap_or_default();
    suite.checks.that(
        "message above the limit: the connection ends",
        closed["type"] != "",
        "an end of the connection",
        &closed,
    );
    let opened = open(suite, FULL).map(|mut connection| {
        // A large message below the limit.
        let large = "x".repeat(8 * 1024 * 1024);
        send(&mut connection, "plain", json!({"store": false, "input": large}));
        until(&mut connection, COMPLETED)["type"].clone()
    });
    suite.checks.equal("large message: type of the last event", opened, Ok(json!(COMPLETED[0])));
}

/// `kill -9`: a stored response goes on and can be continued over another connection. Then the node gets SIGTERM.
fn killed_node(suite: &mut Suite) {
    let opened = open(suite, FULL).map(|mut connection| {
        send(&mut connection, "steady", json!({"input": "killed over a WebSocket"}));
        let made = until(&mut connection, &["response.created"]);
        until(&mut connection, DELTA);
        (connection, id(&made["response"]))
    });
    let crashed = suite.node.crash();
    suite.checks.that("killed node: it starts again", crashed.is_ok(), "a node that serves", &crashed);
    let Ok((mut connection, made)) = opened else {
        return suite.checks.that(
            "killed node: a connection before the kill",
            false,
            "a connection",
            opened.err(),
        );
    };
    let gone = until(&mut connection, &[]);
    suite.checks.that("killed node: the connection ends", gone["type"] != "error", "an end", &gone);
    let done = wait_until_ended(suite, &made);
    suite.checks.equal("killed node: text of the response", text(&done), WORDS.concat());
    let continued = open(suite, FULL).map(|mut connection| {
        send(&mut connection, "plain", json!({"previous_response_id": made}));
        let last = until(&mut connection, COMPLETED);
        last["response"]["previous_response_id"].clone()
    });
    suite.checks.equal("killed node: previous_response_id of a continuation", continued, Ok(json!(made)));
    if suite.host == Host::Native {
        stopped_node(suite);
    }
}

/// A node that stops completes its responses, and then closes the connections with an error event.
fn stopped_node(suite: &mut Suite) {
    let opened = open(suite, FULL).map(|mut connection| {
        send(&mut connection, "steady", json!({"store": false}));
        until(&mut connection, DELTA);
        connection
    });
    let Ok(mut connection) = opened else {
        return suite.checks.that(
            "stopped node: a connection before the stop",
            false,
            "a connection",
            opened.err(),
        );
    };
    let observed = thread::scope(|scope| {
        let last_events = scope.spawn(move || {
            let kinds = [&["response.completed"][..], &[], &[]];
            kinds.map(|kinds| until(&mut connection, kinds))
        });
        let exit = suite.node.stop();
        let [last, why, end] = last_events.join().unwrap_or_default();
        (
            text(&last["response"]),
            why["error"]["code"].clone(),
            end["code"].clone(),
            exit.is_ok_and(|status| status.is_some()),
        )
    });
    let code = json!("websocket_connection_limit_reached");
    suite.checks.equal(
        "stopped node: text, error code, close code, exit",
        observed,
        (WORDS.concat(), code, json!(1001), true),
    );
    let started = suite.node.start_again();
    suite.checks.that("stopped node: it starts again", started.is_ok(), "a node that serves", &started);
}
