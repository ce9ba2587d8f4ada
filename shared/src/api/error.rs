//! Defines every error that the API answers with, and writes it in the shape of the client's vendor. Errors within a
//! stream are written by `wire/`.

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
    gateway::{Failure, OVERLOADED, Verdict},
    json::MAX_PARTS,
    log::CommitError,
    platform::StoreError,
    session::{ItemError, turn::TurnError},
    wire::RequestError,
};

/// An error that a client sees. Boxed, so that the results that carry it stay small.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ApiError(Box<ErrorFields>);

#[derive(Clone, Debug, PartialEq)]
struct ErrorFields {
    status: StatusCode,
    code: String,
    message: String,
    /// The field of the request that is wrong.
    param: Option<String>,
    /// OpenAI's type of the error; `None` if it follows from the status.
    kind: Option<String>,
    retry_after: Option<Duration>,
    /// The methods of the route, if the request has another one.
    allow: Option<&'static str>,
    /// The calls that failed, as JSON.
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

    fn with_param(mut self, param: impl Into<String>) -> Self {
        self.0.param = Some(param.into());
        self
    }

    fn with_retry_after(mut self, retry_after: Option<Duration>) -> Self {
        self.0.retry_after = retry_after;
        self
    }

    pub(super) fn unknown_route(path: &str) -> Self {
        let path: String = path.chars().take(200).collect();
        Self::new(StatusCode::NOT_FOUND, "unknown_route", format!("there is no route {path}"))
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
            "an API key is required: send it as 'authorization: Bearer KEY'",
        )
    }

    pub(super) fn wrong_key() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_api_key", "this API key is unknown to this node")
    }

    pub(super) fn only_loopback() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            "this node has no [[key]] in its configuration, so it serves only requests from its own machine",
        )
    }

    pub(super) fn missing_scope(scope: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "insufficient_scope",
            format!("this key may not use this route, which needs the scope {scope:?}"),
        )
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("the body is too large; allowed: at most {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    pub(super) fn too_many_parts() -> Self {
        let message = format!(
            "the body has too many parts; allowed: at most {MAX_PARTS} brackets, colons and commas outside of strings"
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    pub(super) fn incomplete_body(why: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "incomplete_body", format!("the body could not be read: {why}"))
    }

    pub(super) fn body_too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body took too long to arrive")
    }

    pub(super) fn limited(what: &str, wait: Duration) -> Self {
        let message = format!("this key has reached its limit of {what}");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message).with_retry_after(Some(wait))
    }

    pub(super) fn full(wait: Duration) -> Self {
        let message = "this node has reached its limit of concurrent requests";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message).with_retry_after(Some(wait))
    }

    pub(super) fn unknown_model(config: &Config, name: &str) -> Self {
        let message = config.unknown_model(name);
        Self::new(StatusCode::NOT_FOUND, "model_not_found", message).with_param("model")
    }

    pub(super) fn unknown_conversation(id: &str) -> Self {
        let id: String = id.chars().take(200).collect();
        Self::new(StatusCode::NOT_FOUND, "conversation_not_found", format!("there is no conversation {id:?}"))
            .with_param("conversation_id")
    }

    pub(super) fn unknown_session(id: &str) -> Self {
        let id: String = id.chars().take(200).collect();
        Self::new(StatusCode::NOT_FOUND, "session_not_found", format!("there is no session {id:?}"))
            .with_param("session_id")
    }

    /// An imported entry that does not fit the stored ones.
    pub(super) fn entry_conflict(param: &str, why: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "entry_conflict", format!("'{param}' can't be imported: {why}"))
            .with_param(param)
    }

    pub(super) fn unknown_item(id: &str) -> Self {
        let id: String = id.chars().take(200).collect();
        Self::new(StatusCode::NOT_FOUND, "item_not_found", format!("there is no item {id:?} here"))
            .with_param("item_id")
    }

    pub(super) fn key_reused() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "idempotency_key_reused",
            "this Idempotency-Key was used for another request; allowed: the same request, or a new key",
        )
        .with_param("Idempotency-Key")
    }

    pub(super) fn deleted() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "already_deleted",
            "what this Idempotency-Key created has been deleted; allowed: a new key",
        )
        .with_param("Idempotency-Key")
    }

    pub(super) fn value(param: &str, why: impl std::fmt::Display) -> Self {
        let message = format!("invalid value for '{param}': {why}");
        Self::new(StatusCode::BAD_REQUEST, "invalid_value", message).with_param(param)
    }

    pub(super) fn unknown_schedule(id: &str) -> Self {
        let id: String = id.chars().take(200).collect();
        Self::new(StatusCode::NOT_FOUND, "schedule_not_found", format!("there is no schedule {id:?}"))
            .with_param("schedule_id")
    }

    pub(super) fn unknown_response(id: &str) -> Self {
        let id: String = id.chars().take(200).collect();
        Self::new(StatusCode::NOT_FOUND, "response_not_found", format!("there is no response {id:?}"))
            .with_param("response_id")
    }

    /// OpenAI uses the same status and code.
    pub(super) fn unknown_previous(id: &str) -> Self {
        let id: String = id.chars().take(200).collect();
        let message = format!("there is no response {id:?} to continue");
        Self::new(StatusCode::BAD_REQUEST, "previous_response_not_found", message)
            .with_param("previous_response_id")
    }

    /// OpenAI uses the same status and code.
    pub(super) fn conversation_locked() -> Self {
        let message = "another response of this conversation is in progress; allowed: one at a time, so try again \
                       when it has ended";
        Self::new(StatusCode::BAD_REQUEST, "conversation_locked", message)
            .with_param("conversation")
            .with_retry_after(Some(Duration::from_secs(1)))
    }

    /// An output without a call before it.
    pub(super) fn unmatched_output(call: &str) -> Self {
        let call: String = call.chars().take(100).collect();
        Self::value("input", format!("there is no call {call:?} before its output"))
    }

    pub(super) fn no_websocket() -> Self {
        let message = "this host does not support WebSockets; allowed: POST, with 'stream': true";
        Self::new(StatusCode::NOT_IMPLEMENTED, "websocket_unsupported", message)
    }

    /// OpenAI uses the same status and code; its clients connect again when they read the code.
    pub(super) fn connection_limit(why: &str) -> Self {
        let message = format!("this connection is closing: {why}; allowed: a new connection");
        Self::new(StatusCode::BAD_REQUEST, "websocket_connection_limit_reached", message)
    }

    /// OpenAI uses the same status and code.
    pub(super) fn invalid_stream_id(max_bytes: usize) -> Self {
        let message = format!(
            "invalid value for 'stream_id'; allowed: 1 to {max_bytes} letters, digits, underscores, hyphens and periods"
        );
        Self::new(StatusCode::BAD_REQUEST, "invalid_stream_id", message).with_param("stream_id")
    }

    /// OpenAI uses the same status and code.
    pub(super) fn stream_limit(max_names: usize) -> Self {
        let message = format!(
            "this connection has used {max_names} values of 'stream_id'; allowed: one of these, or another connection"
        );
        Self::new(StatusCode::BAD_REQUEST, "websocket_stream_limit_reached", message).with_param("stream_id")
    }

    pub(super) fn queue_full(limit: &str) -> Self {
        let message = format!("the queue of this connection is full; allowed: at most {limit}");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "websocket_queue_full", message)
    }

    /// Writes the error in `style`, as the answer to the request `id`.
    pub(super) fn into_response(self, style: Style, id: &str) -> Response<Body> {
        let fields = *self.0;
        let (status, body) = match style {
            Style::OpenAi => (fields.status, fields.openai()),
            // Anthropic's clients know 529 for vendors that are overloaded.
            Style::Anthropic if fields.code == OVERLOADED => {
                (StatusCode::from_u16(529).unwrap_or(fields.status), fields.anthropic(id))
            }
            Style::Anthropic => (fields.status, fields.anthropic(id)),
        };
        let mut response = super::json(status, body.to_string());
        let headers = response.headers_mut();
        if let Some(wait) = fields.retry_after {
            // Whole seconds, rounded up: a client that retries early is refused again.
            let seconds = wait.as_millis().div_ceil(1000).max(1).to_string();
            super::headers::set_header(headers, "retry-after", &seconds);
        }
        if let Some(allow) = fields.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

impl ErrorFields {
    fn openai(&self) -> Value {
        let default_kind =
            if self.status.is_server_error() { "server_error" } else { "invalid_request_error" };
        let kind = self.kind.as_deref().unwrap_or(default_kind);
        let mut error =
            json!({"message": self.message, "type": kind, "param": self.param, "code": self.code});
        if let (Some(attempts), Some(object)) = (&self.attempts, error.as_object_mut()) {
            object.insert("attempts".into(), attempts.clone());
        }
        json!({"error": error})
    }

    /// Anthropic's shape has no fields for the parameter and the code, so they are additions. Its clients read the
    /// type, which follows from the status (<https://platform.claude.com/docs/en/api/errors>).
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
            // Only here do its clients look for the codes of threads.
            let details = self.code.starts_with("thread_").then(|| json!({"error_code": self.code}));
            object.extend(details.map(|details| ("details".to_owned(), details)));
            object.extend(self.param.as_ref().map(|param| ("param".to_owned(), Value::from(param.as_str()))));
            object.extend(self.attempts.clone().map(|attempts| ("attempts".to_owned(), attempts)));
        }
        json!({"type": "error", "error": error, "request_id": id})
    }
}

/// An error that ended a turn, or that keeps it from being opened.
impl From<TurnError> for ApiError {
    fn from(error: TurnError) -> Self {
        let TurnError { status, code, message, param, retry_after } = error;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = Self::new(status, &code, message);
        answer.0.param = param;
        answer.with_retry_after(retry_after.map(Duration::from_millis))
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
            StoreError::Corrupt(_) => Self::log_damaged(),
        }
    }
}

impl From<CommitError<Self>> for ApiError {
    fn from(error: CommitError<Self>) -> Self {
        match error {
            CommitError::Refused(error) => error,
            CommitError::Unavailable(_) => Self::store_unavailable(),
            CommitError::TooLarge(why) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", why),
            CommitError::Corrupt(_) => Self::log_damaged(),
        }
    }
}

impl ApiError {
    // The store's own message may name tables and machines, so clients do not see it.
    fn store_unavailable() -> Self {
        let message = "the store does not answer; the request may or may not have taken effect: send it again \
                       with the same Idempotency-Key";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message)
            .with_retry_after(Some(Duration::from_secs(1)))
    }

    fn log_damaged() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "log_damaged",
            "the stored data is damaged; nothing was changed",
        )
    }
}

impl ApiError {
    /// All candidates failed. Only an `admin` gets the providers' own texts: they may tell about the account.
    pub(super) fn all_failed(failure: &Failure, admin: bool) -> Self {
        let attempts = failure.attempts.iter().map(|(candidate, error)| {
            let mut attempt = json!({
                "provider": candidate.provider,
                "model": candidate.model,
                "class": error.class.name(),
                "status": error.status.map(|status| status.as_u16()),
                "cause": error.cause(),
            });
            if let (Some(text), Some(attempt)) =
                (error.text.as_ref().filter(|_| admin), attempt.as_object_mut())
            {
                attempt.insert("text".into(), text.as_ref().into());
            }
            attempt
        });
        let attempts = Some(Value::Array(attempts.collect()));
        let Verdict { status, code, message, kind, param, retry_after } = failure.verdict();
        Self(Box::new(ErrorFields { status, code, message, param, kind, retry_after, allow: None, attempts }))
    }
}
