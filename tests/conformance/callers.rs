//! Who may do what, on every route.

use crate::{
    client::Request,
    suite::{ADMIN, CHAT, FULL, INFERENCE, Suite, question},
};

/// Who a route is for.
#[derive(Clone, Copy, PartialEq)]
enum For {
    Everybody,
    Inference,
    Admin,
}

pub(crate) fn run(suite: &Suite) {
    let chat = question("plain", false).to_string();
    let item = r#"{"items":[{"role":"user","content":"x"}]}"#;
    // Nobody's conversation: whoever may ask is told that there is none.
    let conversation = format!("/v1/conversations/conv_{}", "0".repeat(32));
    let session = format!("/v1/sessions/sess_{}", "0".repeat(32));
    let nowhere = format!("conv_{}", "0".repeat(32));
    let schedule = format!(r#"{{"name":"x","every":"1h","prompt":"x","conversation":"{nowhere}"}}"#);
    let routes = [
        (Request::post(CHAT, chat), For::Inference, 200),
        (
            Request::post(
                "/v1/messages",
                r#"{"model":"plain","max_tokens":9,"messages":[{"role":"user","content":"x"}]}"#,
            ),
            For::Inference,
            200,
        ),
        (Request::post("/v1/responses", r#"{"model":"plain","input":"x"}"#), For::Inference, 200),
        (
            Request::post(
                "/v1/messages/count_tokens",
                r#"{"model":"plain","messages":[{"role":"user","content":"x"}]}"#,
            ),
            For::Inference,
            200,
        ),
        (Request::post("/v1/embeddings", r#"{"model":"openai-good","input":"x"}"#), For::Inference, 200),
        (Request::get("/v1/models"), For::Inference, 200),
        (Request::get("/v1/models/plain"), For::Inference, 200),
        (Request::post("/v1/conversations", "{}"), For::Inference, 200),
        (Request::get(conversation.clone()), For::Inference, 404),
        (Request::post(conversation.clone(), r#"{"metadata":{}}"#), For::Inference, 404),
        (Request::get(format!("{conversation}/items")), For::Inference, 404),
        (Request::get(format!("{conversation}/items/msg_0")), For::Inference, 404),
        (Request::post(format!("{conversation}/items"), item), For::Inference, 404),
        (Request::get(conversation.clone()).method("DELETE"), For::Inference, 404),
        (Request::get(format!("{conversation}/items/msg_0")).method("DELETE"), For::Inference, 404),
        (Request::get("/v1/sessions?limit=1"), For::Admin, 200),
        (Request::get(session.clone()), For::Admin, 404),
        (Request::get(format!("{session}/entries")), For::Admin, 404),
        (Request::post("/v1/schedules", schedule), For::Inference, 404),
        (Request::get("/v1/schedules"), For::Inference, 200),
        (Request::get("/v1/status"), For::Admin, 200),
        (Request::get("/metrics"), For::Admin, 200),
        (Request::get("/healthz"), For::Everybody, 200),
        (Request::get("/readyz"), For::Everybody, 200),
        (Request::get("/console"), For::Everybody, 200),
    ];
    let callers = [
        ("no key", None, &[][..]),
        ("a wrong key", Some("key-of-nobody"), &[]),
        ("the key for inference", Some(INFERENCE), &[For::Inference]),
        ("the key for admin", Some(ADMIN), &[For::Admin]),
        ("the key for all", Some(FULL), &[For::Inference, For::Admin]),
    ];
    suite.each(&routes, |(request, whom, status)| {
        for (name, key, scopes) in callers {
            let request = key.map_or(request.clone(), |key| request.clone().key(key));
            let answer = suite.client.send(&request);
            let expected = match whom {
                For::Everybody => *status,
                whom if scopes.contains(whom) => *status,
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
                suite.checks.equal(&format!("{case}, code"), answer.error().1, code);
            }
        }
    });
}
