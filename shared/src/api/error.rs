use std::time::Duration;

use http::{
    Method, Response, StatusCode,
    header::{ALLOW, HeaderValue},
};
use serde_json::{Value, json};

use super::Style;
use crate::{
    body::Body,
    config::Config,
    gateway::{Failure, Verdict},
    json::MAX_PARTS,
    log::CommitError,
    platform::StoreError,
    session::{ItemError, turn::TurnError},
    wire::RequestError,
};

/// An error in OpenAI's shape. Boxed, since it travels in every result and is rarely there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ApiError(Box<ErrorFields>);

#[derive(Clone, Debug, PartialEq)]
struct ErrorFields {
    status: StatusCode,
    code: String,
    message: String,
    param: Option<String>,
    kind: Option<String>,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
    attempts: Option<Value>,
}

impl ApiError {
    fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorFields {
            status,
            code: code.into(),
            message: message.into(),
            param: None,
            kind: None,
            retry_after: None,
            allow: None,
            attempts: None,
        }))
    }

    fn about(mut self, param: impl Into<String>) -> Self {
        self.0.param = Some(param.into());
        self
    }

    fn wait(mut self, retry_after: Option<Duration>) -> Self {
        self.0.retry_after = retry_after;
        self
    }

    pub(super) fn unknown_route(path: &str) -> Self {
        let path: String = path.chars().take(200).collect();
        Self::new(StatusCode::NOT_FOUND, "unknown_route", format!("there is no {path} here"))
    }

    pub(super) fn method_not_allowed(method: &Method, allow: &'static str) -> Self {
        let message = format!("{method} is not allowed here; allowed: {allow}");
        let mut error = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
        error.0.allow = Some(allow);
        error
    }

    pub(super) fn no_key() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            "a key is needed: send it as 'authorization: Bearer KEY'",
        )
    }

    pub(super) fn wrong_key() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_api_key", "this key is not known here")
    }

    pub(super) fn only_loopback() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            "this node has no [[key]] in its configuration, so it serves only its own machine",
        )
    }

    pub(super) fn missing_scope(scope: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "insufficient_scope",
            format!("this key may not do that: it needs the scope {scope:?}"),
        )
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("the body is too large; allowed: at most {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    pub(super) fn too_many_parts() -> Self {
        let message = format!(
            "the body has too many parts; allowed: at most {MAX_PARTS} objects, arrays and fields of objects"
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    pub(super) fn body_broke(why: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "incomplete_body", format!("the body could not be read: {why}"))
    }

    pub(super) fn body_too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body took too long to arrive")
    }

    pub(super) fn limited(what: &str, wait: Duration) -> Self {
        let message = format!("this key has reached its limit of {what}");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message).wait(Some(wait))
    }

    pub(super) fn full(wait: Duration) -> Self {
        let message = "this node works on as many requests as it can";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message).wait(Some(wait))
    }

    pub(super) fn unknown_model(config: &Config, name: &str) -> Self {
        let message = config.unknown_model(name);
        Self::new(StatusCode::NOT_FOUND, "model_not_found", message).about("model")
    }

    pub(super) fn unknown_conversation(id: &str) -> Self {
        let id: String = id.chars().take(200).collect();
        Self::new(StatusCode::NOT_FOUND, "conversation_not_found", format!("there is no conversation {id:?}"))
            .about("conversation_id")
    }

    pub(super) fn unknown_session(id: &str) -> Self {
        let id: String = id.chars().take(200).collect();
        Self::new(StatusCode::NOT_FOUND, "session_not_found", format!("there is no session {id:?}"))
            .about("session_id")
    }

    /// An entry that does not go with what is kept already.
    pub(super) fn entry_conflict(param: &str, why: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "entry_conflict", format!("'{param}' can't be taken in: {why}"))
            .about(param)
    }

    pub(super) fn unknown_item(id: &str) -> Self {
        let id: String = id.chars().take(200).collect();
        Self::new(StatusCode::NOT_FOUND, "item_not_found", format!("there is no item {id:?} here"))
            .about("item_id")
    }

    pub(super) fn key_reused() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "idempotency_key_reused",
            "this Idempotency-Key was used for another request; allowed: the same request, or a new key",
        )
        .about("Idempotency-Key")
    }

    pub(super) fn deleted() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "already_deleted",
            "what this Idempotency-Key made was deleted since; allowed: a new key",
        )
        .about("Idempotency-Key")
    }

    pub(super) fn value(param: &str, why: impl std::fmt::Display) -> Self {
        let message = format!("invalid value for '{param}': {why}");
        Self::new(StatusCode::BAD_REQUEST, "invalid_value", message).about(param)
    }

    pub(super) fn unknown_schedule(id: &str) -> Self {
        let id: String = id.chars().take(200).collect();
        Self::new(StatusCode::NOT_FOUND, "schedule_not_found", format!("there is no schedule {id:?}"))
            .about("schedule_id")
    }

    pub(super) fn unknown_response(id: &str) -> Self {
        let id: String = id.chars().take(200).collect();
        Self::new(StatusCode::NOT_FOUND, "response_not_found", format!("there is no response {id:?}"))
            .about("response_id")
    }

    /// OpenAI refuses with this status and code, too.
    pub(super) fn unknown_previous(id: &str) -> Self {
        let id: String = id.chars().take(200).collect();
        let message = format!("there is no response {id:?} to continue");
        Self::new(StatusCode::BAD_REQUEST, "previous_response_not_found", message)
            .about("previous_response_id")
    }

    /// OpenAI refuses with this status and code, too.
    pub(super) fn conversation_locked() -> Self {
        let message = "another response of this conversation is being made; allowed: one at a time, so try again \
                       when it has ended";
        Self::new(StatusCode::BAD_REQUEST, "conversation_locked", message)
            .about("conversation")
            .wait(Some(Duration::from_secs(1)))
    }

    /// An output that no call asked for.
    pub(super) fn orphan(call: &str) -> Self {
        let call: String = call.chars().take(100).collect();
        Self::value("input", format!("there is no call {call:?} before its output"))
    }

    pub(super) fn no_websocket() -> Self {
        let message = "WebSockets are not spoken on this host; allowed: POST, with 'stream': true";
        Self::new(StatusCode::NOT_IMPLEMENTED, "websocket_unsupported", message)
    }

    /// OpenAI refuses with this status and code, too; its clients know by the code that they are to connect again.
    pub(super) fn connection_limit(why: &str) -> Self {
        let message = format!("this connection ends: {why}; allowed: a new one");
        Self::new(StatusCode::BAD_REQUEST, "websocket_connection_limit_reached", message)
    }

    /// OpenAI refuses with this status and code, too.
    pub(super) fn invalid_stream_id(longest: usize) -> Self {
        let message = format!(
            "invalid value for 'stream_id'; allowed: 1 to {longest} letters, digits, underscores, hyphens and periods"
        );
        Self::new(StatusCode::BAD_REQUEST, "invalid_stream_id", message).about("stream_id")
    }

    /// OpenAI refuses with this status and code, too.
    pub(super) fn stream_limit(most: usize) -> Self {
        let message = format!(
            "this connection has used {most} values of 'stream_id'; allowed: one of these, or another connection"
        );
        Self::new(StatusCode::BAD_REQUEST, "websocket_stream_limit_reached", message).about("stream_id")
    }

    pub(super) fn queue_full(most: &str) -> Self {
        let message = format!("too much waits on this connection; allowed: {most}");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "websocket_queue_full", message)
    }

    /// The answer to the request `id`.
    pub(super) fn into_response(self, style: Style, id: &str) -> Response<Body> {
        let fields = *self.0;
        let body = match style {
            Style::OpenAi => fields.openai(),
            Style::Anthropic => fields.anthropic(id),
        };
        let mut response = super::json(fields.status, body.to_string());
        let headers = response.headers_mut();
        if let Some(wait) = fields.retry_after {
            // Whole seconds, rounded up: a client that comes early is refused again.
            let seconds = wait.as_millis().div_ceil(1000).max(1).to_string();
            super::put(headers, "retry-after", &seconds);
        }
        if let Some(allow) = fields.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

impl ErrorFields {
    fn openai(&self) -> Value {
        let own = if self.status.is_server_error() { "server_error" } else { "invalid_request_error" };
        let kind = self.kind.as_deref().unwrap_or(own);
        let mut error =
            json!({"message": self.message, "type": kind, "param": self.param, "code": self.code});
        if let (Some(attempts), Some(object)) = (&self.attempts, error.as_object_mut()) {
            object.insert("attempts".into(), attempts.clone());
        }
        json!({"error": error})
    }

    /// The vendor's shape has no field for the parameter and the code; its clients look at the type, which goes with
    /// the status (<https://platform.claude.com/docs/en/api/errors>).
    fn anthropic(&self, id: &str) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            402 => "billing_error",
            403 => "permission_error",
            404 => "not_found_error",
            409 => "conflict_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 | 529 => "overloaded_error",
            408 | 504 => "timeout_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        let mut error = json!({"type": kind, "message": self.message, "code": self.code});
        if let Some(object) = error.as_object_mut() {
            object.extend(self.param.as_ref().map(|param| ("param".to_owned(), Value::from(param.as_str()))));
            object.extend(self.attempts.clone().map(|attempts| ("attempts".to_owned(), attempts)));
        }
        json!({"type": "error", "error": error, "request_id": id})
    }
}

/// The error that a turn ended with, or would end with.
impl From<TurnError> for ApiError {
    fn from(error: TurnError) -> Self {
        let TurnError { status, code, message, param, retry_after } = error;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = Self::new(status, &code, message);
        answer.0.param = param;
        answer.wait(retry_after.map(Duration::from_millis))
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let (code, param) = error.code_and_param();
        let mut answer = Self::new(StatusCode::BAD_REQUEST, code, error.to_string());
        answer.0.param = param;
        answer
    }
}

impl From<ItemError> for ApiError {
    fn from(error: ItemError) -> Self {
        Self::value(&error.param, error.why)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::store_unavailable(),
            StoreError::Corrupt(_) => Self::damaged(),
        }
    }
}

impl From<CommitError<Self>> for ApiError {
    fn from(error: CommitError<Self>) -> Self {
        match error {
            CommitError::Refused(error) => error,
            CommitError::Unavailable(_) => Self::store_unavailable(),
            CommitError::TooLarge(why) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", why),
            CommitError::Corrupt(_) => Self::damaged(),
        }
    }
}

impl ApiError {
    // What the store says may name tables and machines, so it is not shown.
    fn store_unavailable() -> Self {
        let message = "the store does not answer; the request may or may not have taken effect: send it again \
                       with the same Idempotency-Key";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message)
            .wait(Some(Duration::from_secs(1)))
    }

    fn damaged() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "log_damaged",
            "what is stored here is damaged; nothing was changed",
        )
    }
}

/// All candidates failed.
impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let attempts = failure.attempts.iter().map(|(candidate, error)| {
            json!({
                "provider": candidate.provider,
                "model": candidate.model,
                "class": error.class.name(),
                "status": error.status.map(|status| status.as_u16()),
            })
        });
        let attempts = Some(Value::Array(attempts.collect()));
        let Verdict { status, code, message, kind, param, retry_after } = failure.verdict();
        Self(Box::new(ErrorFields { status, code, message, param, kind, retry_after, allow: None, attempts }))
    }
}
