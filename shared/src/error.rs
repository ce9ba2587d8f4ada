//! What a failure of a provider means. Which failure is of which class is decided by each vendor's file in `provider/`.

use std::time::Duration;

use http::StatusCode;

/// What a failure of a provider means for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorClass {
    /// Too fast: the account may go on later.
    RateLimited,
    /// The provider is short of capacity.
    Overloaded,
    /// The account is out of money.
    Quota,
    /// The key is not accepted. May be the vendor's own fault: key stores have failed as 401.
    Auth,
    /// The provider is broken: 5xx, HTML, an empty or broken body, a lost connection.
    Server,
    /// One of the four clocks ran out.
    Timeout,
    /// The request is wrong and would fail everywhere.
    Caller,
    /// The provider has no such model, or not here.
    NotHere,
    /// The request is too long for the model, or an image in it is too large for the provider.
    ContextLength,
    /// The provider refuses the content.
    ContentPolicy,
    /// The stream ended in the middle.
    Truncated,
    /// The request can't be put into the provider's words; it was not asked.
    Unsupported,
    /// Thoughts in the request are bound to another account, model or conversation.
    Bound,
    /// Our own budget has nothing left for the call; it was not made.
    Budget,
}

impl ErrorClass {
    /// Whether the request itself is at fault, so that its caller must be told what the provider said.
    pub fn is_of_caller(self) -> bool {
        matches!(
            self,
            Self::Caller | Self::ContextLength | Self::ContentPolicy | Self::Unsupported | Self::Bound
        )
    }

    /// The word for it in answers and in the status.
    pub fn name(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::Quota => "quota",
            Self::Auth => "auth",
            Self::Server => "server",
            Self::Timeout => "timeout",
            Self::Caller => "caller",
            Self::NotHere => "not_here",
            Self::ContextLength => "context_length",
            Self::ContentPolicy => "content_policy",
            Self::Truncated => "truncated",
            Self::Unsupported => "unsupported",
            Self::Bound => "bound",
            Self::Budget => "budget",
        }
    }
}

/// One failed attempt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", .class.name())]
pub struct ProviderError {
    /// What it means.
    pub class: ErrorClass,
    /// The status the provider answered with, if it got that far.
    pub status: Option<StatusCode>,
    /// What happened, in our own words. Safe to show: nothing of the provider's text is in it.
    pub message: String,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
    /// The provider's own error, where the caller caused it and must see it.
    pub detail: Option<Box<ProviderDetail>>,
}

/// An error as the provider worded it for the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderDetail {
    /// For people.
    pub message: String,
    /// OpenAI's `type`.
    pub kind: Option<String>,
    /// The field it is about.
    pub param: Option<String>,
    /// For programs.
    pub code: Option<String>,
}

impl ProviderError {
    /// A failure without an answer from the provider.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, status: None, message: message.into(), retry_after: None, detail: None }
    }
}
