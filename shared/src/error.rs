//! Defines the classes of failed calls. The vendors' files in `provider/` assign them; `routing.rs` decides what
//! follows.

use std::time::Duration;

use http::StatusCode;

/// The meaning of a failed call for its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorClass {
    /// The account exceeded a rate limit.
    RateLimited,
    /// The provider lacks capacity.
    Overloaded,
    /// The account has no credit left, or reached its spend limit.
    Quota,
    /// The key is rejected. It may be the vendor's fault: failing key stores have answered 401.
    Auth,
    /// The provider failed: 5xx, HTML, an empty or invalid body, a lost connection.
    Server,
    /// One of the four timeouts passed.
    Timeout,
    /// The request is invalid and would fail at every provider.
    Caller,
    /// The provider does not offer this model, or not to this account.
    ModelNotFound,
    /// The request is too long for the model, or an image in it is too large for the provider.
    ContextLength,
    /// The provider refuses the content.
    ContentPolicy,
    /// The stream ended before the answer was complete.
    Truncated,
    /// The provider's format can't express the request, or the request can't be translated into it. The provider was
    /// not called.
    Unsupported,
    /// The model, the server that runs it or the account lacks what this request needs: tools, images, a parameter, as
    /// many output tokens.
    Incapable,
    /// The provider rejects thoughts in the request, which are bound to another account, model or conversation.
    BoundThoughts,
    /// The node's budget does not cover the call. The provider was not called.
    Budget,
}

impl ErrorClass {
    /// Whether only this candidate does not suit the request: another one may take it as it is.
    pub fn is_unfit(self) -> bool {
        matches!(self, Self::Unsupported | Self::Incapable | Self::ContextLength | Self::BoundThoughts)
    }

    /// Whether the candidate failed in a way that passes.
    pub fn is_passing(self) -> bool {
        matches!(self, Self::RateLimited | Self::Overloaded | Self::Server | Self::Timeout | Self::Truncated)
    }

    /// Its name in answers and in the status.
    pub fn name(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::Quota => "quota",
            Self::Auth => "auth",
            Self::Server => "server",
            Self::Timeout => "timeout",
            Self::Caller => "caller",
            Self::ModelNotFound => "not_here",
            Self::ContextLength => "context_length",
            Self::ContentPolicy => "content_policy",
            Self::Truncated => "truncated",
            Self::Unsupported => "unsupported",
            Self::Incapable => "incapable",
            Self::BoundThoughts => "bound",
            Self::Budget => "budget",
        }
    }
}

/// One failed attempt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", .class.name())]
pub struct ProviderError {
    /// The class.
    pub class: ErrorClass,
    /// The status of the provider's answer, if there was one.
    pub status: Option<StatusCode>,
    /// A message of the node. Safe to show: it holds no text of the provider.
    pub message: String,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
    /// The provider's own error, if the caller caused it.
    pub detail: Option<Box<ProviderDetail>>,
    /// The provider's own text without secrets, for any error. Only for callers with the scope `admin`, and
    /// for logs with content.
    pub text: Option<Box<str>>,
}

/// The provider's own error, which is shown to the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderDetail {
    /// The message for people.
    pub message: String,
    /// The field `type`.
    pub kind: Option<String>,
    /// The field of the request that it is about.
    pub param: Option<String>,
    /// The code for programs.
    pub code: Option<String>,
}

impl ProviderError {
    /// A candidate can't take a field of the request.
    pub(crate) fn unsupported_field(field: &str, message: impl Into<String>) -> Self {
        // With this code, Anthropic's clients go on without a thread
        // (<https://platform.claude.com/docs/en/build-with-claude/message-threads>).
        let code = (field == "thread").then(|| "thread_unsupported_request".to_owned());
        let detail = ProviderDetail { param: Some(field.to_owned()), code, ..ProviderDetail::default() };
        Self { detail: Some(Box::new(detail)), ..Self::new(ErrorClass::Unsupported, message) }
    }

    /// A failure without an answer of the provider.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, status: None, message: message.into(), retry_after: None, detail: None, text: None }
    }

    /// The cause in a few words, such as `the provider can't be reached: connection refused`. Safe to show, as the
    /// message is.
    pub fn cause(&self) -> String {
        let meaning = match self.class {
            ErrorClass::RateLimited => "rate limited",
            ErrorClass::Overloaded => "overloaded",
            ErrorClass::Quota => "the account has no credit left",
            ErrorClass::Auth => "the key is rejected",
            ErrorClass::ModelNotFound => "the account has no such model",
            ErrorClass::Server
            | ErrorClass::Timeout
            | ErrorClass::Caller
            | ErrorClass::ContextLength
            | ErrorClass::ContentPolicy
            | ErrorClass::Truncated
            | ErrorClass::Unsupported
            | ErrorClass::Incapable
            | ErrorClass::BoundThoughts
            | ErrorClass::Budget => return self.message.clone(),
        };
        format!("{meaning}: {}", self.message)
    }
}
