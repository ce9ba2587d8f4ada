//! Providers: how each vendor is called, and what its failures mean.
//!
//! A vendor's file encodes a call and classifies an error; what an answer says is read by its wire format. No client is
//! in here.

pub mod anthropic;
pub mod azure;
pub mod compatible;
pub mod deepseek;
pub mod demo;
pub mod openai;
mod order;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::{
    config::ProviderKind,
    error::{ErrorKind, Kind},
};
use order::KeyIn;
pub use order::{Order, Upstream};

/// The call that `order` makes.
pub fn encode(order: &Order<'_>) -> Result<Upstream, ProviderError> {
    match order.provider.kind {
        ProviderKind::OpenAi => openai::encode(order),
        ProviderKind::Azure => azure::encode(order),
        ProviderKind::Anthropic => anthropic::encode(order),
        ProviderKind::DeepSeek => deepseek::encode(order),
        ProviderKind::Compatible => compatible::encode(order),
        ProviderKind::Demo => Err(unsupported("it is built in")),
    }
}

/// What an answer of a provider with a status other than success means.
pub fn classify(kind: ProviderKind, status: StatusCode, headers: &HeaderMap, body: &Bytes) -> ProviderError {
    match kind {
        ProviderKind::Anthropic => anthropic::classify(status, headers, body),
        _ => openai::classify(status, headers, body),
    }
}

/// The error for a request that can't be put into a provider's words.
fn unsupported(why: impl Into<String>) -> ProviderError {
    ProviderError::new(Class::Unsupported, why)
}

/// What a failure of a provider means for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
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

impl Class {
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
    pub class: Class,
    /// The status the provider answered with, if it got that far.
    pub status: Option<StatusCode>,
    /// What happened, in our own words. Safe to show: nothing of the provider's text is in it.
    pub message: String,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
    /// The provider's own error, where the caller caused it and must see it.
    pub detail: Option<Box<Detail>>,
}

/// An error as the provider worded it for the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail {
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
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, status: None, message: message.into(), retry_after: None, detail: None }
    }
}

impl Kind for ProviderError {
    fn kind(&self) -> ErrorKind {
        match self.class {
            Class::RateLimited | Class::Quota | Class::Budget => ErrorKind::Exhausted,
            Class::Overloaded | Class::Server | Class::Timeout | Class::Truncated | Class::Auth => {
                ErrorKind::Unavailable
            }
            Class::Caller
            | Class::ContextLength
            | Class::ContentPolicy
            | Class::Unsupported
            | Class::Bound => ErrorKind::Invalid,
            Class::NotHere => ErrorKind::NotFound,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// What one event of an answer stream is, for the rule that nothing is sent before the first content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Opens the answer, or says something beside it: role, filter results, usage.
    Frame,
    /// A piece of the answer: text, a tool call, reasoning, a refusal.
    Content,
    /// The provider says why the answer ends: with this, the answer is whole.
    Finish,
    /// The last event.
    Done,
    /// The provider gives up in the middle.
    Error(ProviderError),
}
