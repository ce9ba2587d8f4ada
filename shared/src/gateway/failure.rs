//! Turns the errors of all attempts into one error for the caller. Writing it in the client's format is left to `api`.

use std::time::Duration;

use http::StatusCode;

use crate::{
    error::{ErrorClass, ProviderDetail, ProviderError},
    model::Candidate,
};

/// Why no candidate answered.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The failed attempts, in order. Empty if no candidate could be called.
    pub(crate) attempts: Vec<(Candidate, ProviderError)>,
    /// How long until a retry may succeed, if waiting helps.
    pub(crate) retry_after: Option<Duration>,
}

/// The error that the caller gets.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) status: StatusCode,
    /// Stable code for programs.
    pub(crate) code: String,
    /// Text for people.
    pub(crate) message: String,
    /// OpenAI's `type`, where the provider sent one.
    pub(crate) kind: Option<String>,
    /// The field of the request that is at fault.
    pub(crate) param: Option<String>,
    /// How long until a retry may succeed.
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    /// Whether no candidate supports the request, so that none was called.
    pub(crate) fn is_unsupported(&self) -> bool {
        self.attempts.iter().all(|(_, error)| error.class == ErrorClass::Unsupported)
    }

    /// Decides whose fault the failure is. An error that the caller caused keeps the provider's own message; any other
    /// says only whether a retry can help.
    pub(crate) fn verdict(&self) -> Verdict {
        let errors: Vec<&ProviderError> = self.attempts.iter().map(|(_, error)| error).collect();
        // The last one: after thoughts were refused, later attempts left them out.
        let caused = errors.iter().rev().find(|error| error.class.is_of_caller());
        let all = |class: ErrorClass| !errors.is_empty() && errors.iter().all(|error| error.class == class);
        let none_called = errors.iter().all(|error| error.class.is_local());
        // A budget is the reason only if it alone prevented every call.
        let budget = errors.iter().find(|error| error.class == ErrorClass::Budget && none_called);
        let mut verdict = if let Some(error) = budget {
            // A smaller request may still be within the budget, so the message is the budget's own.
            Verdict::new(StatusCode::TOO_MANY_REQUESTS, "budget_exceeded", error.message.clone())
        } else if let Some(error) = caused {
            Verdict::of_caller(error)
        } else if all(ErrorClass::RateLimited) {
            let message = "every candidate is rate limited";
            Verdict::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message)
        } else if all(ErrorClass::Timeout) {
            Verdict::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "every candidate took too long")
        } else if self.retry_after.is_some() {
            let message = "no candidate is available now";
            Verdict::new(StatusCode::SERVICE_UNAVAILABLE, "all_candidates_unavailable", message)
        } else {
            Verdict::new(StatusCode::BAD_GATEWAY, "upstream_error", "every candidate failed")
        };
        let retry_helps = verdict.status.is_server_error() || verdict.status == StatusCode::TOO_MANY_REQUESTS;
        verdict.retry_after = self.retry_after.filter(|_| retry_helps);
        verdict
    }
}

impl Verdict {
    fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
            kind: None,
            param: None,
            retry_after: None,
        }
    }

    /// The error for a request that is at fault itself.
    fn of_caller(error: &ProviderError) -> Self {
        let status = error.status.filter(StatusCode::is_client_error).unwrap_or(StatusCode::BAD_REQUEST);
        let ProviderDetail { message, kind, param, code } =
            error.detail.as_deref().cloned().unwrap_or_default();
        let code = code.unwrap_or_else(|| match error.class {
            _ if status == StatusCode::PAYLOAD_TOO_LARGE => "request_too_large".into(),
            ErrorClass::ContextLength => "context_length_exceeded".into(),
            ErrorClass::ContentPolicy => "content_filter".into(),
            ErrorClass::Unsupported => "unsupported_parameter".into(),
            _ => "invalid_request".into(),
        });
        let message = match error.class {
            _ if !message.is_empty() => message,
            ErrorClass::Unsupported => format!("no candidate supports the request: {}", error.message),
            _ => "the provider refused the request".into(),
        };
        Self { kind, param, ..Self::new(status, &code, message) }
    }
}
