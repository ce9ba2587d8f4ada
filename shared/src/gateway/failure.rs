//! Why no candidate answered, and what the caller is told of it.

use std::time::Duration;

use http::StatusCode;

use crate::{
    error::{ErrorClass, ProviderDetail, ProviderError},
    model::Candidate,
};

/// Why no candidate answered.
#[derive(Debug)]
pub(crate) struct Failure {
    /// All attempts, in order. Empty if no candidate could be called.
    pub(crate) attempts: Vec<(Candidate, ProviderError)>,
    /// How long until a candidate that asked for a pause is back.
    pub(crate) retry_after: Option<Duration>,
}

/// What the caller is told of a failure.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) status: StatusCode,
    /// A stable word.
    pub(crate) code: String,
    /// For people.
    pub(crate) message: String,
    /// OpenAI's `type`, where the provider sent one.
    pub(crate) kind: Option<String>,
    /// The field of the request that is at fault.
    pub(crate) param: Option<String>,
    /// When a retry may succeed.
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    /// Whether no candidate can express the request, so that none was called.
    pub(crate) fn is_unsupported(&self) -> bool {
        self.attempts.iter().all(|(_, error)| error.class == ErrorClass::Unsupported)
    }

    /// Whose fault it is. What the caller caused is told in the provider's own words; else the answer says whether a retry
    /// can help.
    pub(crate) fn verdict(&self) -> Verdict {
        let errors: Vec<&ProviderError> = self.attempts.iter().map(|(_, error)| error).collect();
        let caused = errors.iter().rev().find(|error| error.class.is_of_caller());
        let all = |class: ErrorClass| !errors.is_empty() && errors.iter().all(|error| error.class == class);
        let none_called = errors.iter().all(|error| error.class.is_local());
        let budget = errors.iter().find(|error| error.class == ErrorClass::Budget && none_called);
        let mut verdict = if let Some(error) = budget {
            // The message names the budget and when it begins anew; a smaller request may still be paid.
            Verdict::new(StatusCode::TOO_MANY_REQUESTS, "budget_exceeded", error.message.clone())
        } else if let Some(error) = caused {
            Verdict::of_caller(error)
        } else if all(ErrorClass::RateLimited) {
            let message = "every candidate is rate limited";
            Verdict::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message)
        } else if all(ErrorClass::Timeout) {
            Verdict::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "every candidate took too long")
        } else if self.retry_after.is_some() {
            let message = "no candidate can answer now";
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
            ErrorClass::Unsupported => format!("no candidate can be asked this: {}", error.message),
            _ => "the provider refused the request".into(),
        };
        Self { kind, param, ..Self::new(status, &code, message) }
    }
}
