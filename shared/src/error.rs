//! The one question that is asked of every error.

use std::time::Duration;

/// What an error means to whoever has to go on after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request itself is wrong; the same request fails everywhere.
    Invalid,
    /// Who asks is unknown, or may not ask this.
    Unauthorized,
    /// There is no such thing.
    NotFound,
    /// Somebody else was first; look again, then decide again.
    Conflict,
    /// A limit or a budget is used up; waiting helps.
    Exhausted,
    /// Something we depend on does not answer; another try may succeed.
    Unavailable,
    /// We are wrong.
    Internal,
}

impl ErrorKind {
    /// Whether the same call can succeed later without anybody changing it.
    pub fn retryable(self) -> bool {
        matches!(self, Self::Exhausted | Self::Unavailable)
    }
}

/// An error that knows its kind.
pub trait Kind {
    /// What this error means to the caller.
    fn kind(&self) -> ErrorKind;

    /// How long to wait before another try, where that is known.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}
