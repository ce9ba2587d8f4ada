//! Checks on each route which keys are accepted.

use crate::{
    client::Request,
    suite::{ADMIN, CHAT, FULL, INFERENCE, Suite, question},
};

/// The scope that a route demands.
#[derive(Clone, Copy, PartialEq)]
enum RouteScope {
    /// No key at all.
    None,
    Inference,
    Admin,
}

pub(crate) fn run(suite: &Suite) {
    let chat = question("plain", false).to_string();
    let item = r#"{"items":[{"role":"user","content":"x"}]}"#;
    // An unknown conversation: a caller with the scope gets 404.
    let conversation = format!("/v1/conversations/conv_{}", "0".repeat(32));
    let session = format!("/v1/sessions/sess_{}", "0".repeat(32));
    let unknown_conversation = format!("conv_{}", "0".repeat(32));
    let schedule =
        format!(r#"{{"name":"x","every":"1h","prompt":"x","conversation":"{unknown_conversation}"}}"#);
    let routes = [
        (Request::post(CHAT, chat), RouteScope::Inference, 200),
        (
            Request::post(
                "/v1/messages",
                r#"{"model":"plain","max_tokens":9,"messages":[{"role":"user","content":"x"}]}"#,
            ),
            RouteScope::Inference,
            200,
        ),
        (Request::post("/v1/responses", r#"{"model":"plain","input":"x"}"#), RouteScope::Inference, 200),
        (
            Request::post(
                "/v1/messages/count_tokens",
                r#"{"model":"plain","messages":[{"role":"user","content":"x"}]}"#,
            ),
            RouteScope::Inference,
            200,
        ),
        (
            Request::post("/v1/embeddings", r#"{"model":"openai-good","input":"x"}"#),
            RouteScope::Inference,
            200,
        ),
        (Request::get("/v1/models"), RouteScope::Inference, 200),
        (Request::get("/v1/models/plain"), RouteScope::Inference, 200),
        (Request::post("/v1/conversations", "{}"), RouteScope::Inference, 200),
        (Request::get(conversation.clone()), RouteScope::Inference, 404),
        (Request::post(conversation.clone(), r#"{"metadata":{}}"#), RouteScope::Inference, 404),
        (Request::get(format!("{conversation}/items")), RouteScope::Inference, 404),
        (Request::get(format!("{conversation}/items/msg_0")), RouteScope::Inference, 404),
        (Request::post(format!("{conversation}/items"), item), RouteScope::Inference, 404),
        (Request::get(conversation.clone()).method("DELETE"), RouteScope::Inference, 404),
        (Request::get(format!("{conversation}/items/msg_0")).method("DELETE"), RouteScope::Inference, 404),
        (Request::get("/v1/sessions?limit=1"), RouteScope::Admin, 200),
        (Request::get(session.clone()), RouteScope::Admin, 404),
        (Request::get(format!("{session}/entries")), RouteScope::Admin, 404),
        (Request::post("/v1/schedules", schedule), RouteScope::Inference, 404),
        (Request::get("/v1/schedules"), RouteScope::Inference, 200),
        (Request::get("/v1/status"), RouteScope::Admin, 200),
        (Request::get("/metrics"), RouteScope::Admin, 200),
        (Request::get("/"), RouteScope::None, 200),
        (Request::get("/healthz"), RouteScope::None, 200),
        (Request::get("/readyz"), RouteScope::None, 200),
        (Request::get("/console"), RouteScope::None, 200),
    ];
    let callers = [
        ("no key", None, &[][..]),
        ("a wrong key", Some("key-of-nobody"), &[]),
        ("the key for inference", Some(INFERENCE), &[RouteScope::Inference]),
        ("the key for admin", Some(ADMIN), &[RouteScope::Admin]),
        ("the key for all", Some(FULL), &[RouteScope::Inference, RouteScope::Admin]),
    ];
    suite.each(&routes, |(request, scope, status)| {
        for (name, key, scopes) in callers {
            let request = key.map_or(request.clone(), |key| request.clone().key(key));
            let answer = suite.client.send(&request);
            let expected = match scope {
                RouteScope::None => *status,
                scope if scopes.contains(scope) => *status,
                _ if scopes.is_empty() => 401,
                _ => 403,
            };
            let case = format!("{} {} with {name}", request.method, request.path);
            suite.checks.equal(&case, answer.status, expected);
            if answer.status >= 400 {
                let code = match answer.status {
                    401 => "invalid_api_key",
                    403 => "insufficient_scope",
                    _ if request.path.starts_with(&session) => "session_not_found",
                    _ => "conversation_not_found",
                };
                suite.checks.equal(&format!("{case}: error code"), answer.error().1, code);
            }
        }
    });
}
