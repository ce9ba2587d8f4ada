//! A client of MCP servers over streamable HTTP.
//!
//! In scope: listing functions and calling them, with the revisions from 2025-03-26 on: the newest one, which is without
//! sessions, and those before it, which begin with `initialize`. Out of scope: everything that a server may ask of its
//! client (sampling, elicitation, roots); it is told that there is no such method.
//! <https://modelcontextprotocol.io/specification/2026-07-28/basic/transports/streamable-http>
//! <https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#streamable-http>
//!
//! Whatever a server says is a claim: names, descriptions and annotations of functions, and what they answer.

mod exchange;
mod function;
mod message;
mod output;
mod session;
#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use http::{HeaderName, HeaderValue, Uri};

pub use function::McpFunction;
pub use output::ToolOutput;
pub use session::McpSession;

/// Where a server is, and how it is spoken to. `Debug` shows its label only, since the rest may hold secrets.
#[derive(Clone)]
pub struct Endpoint {
    /// What the configuration calls it; errors name it by this.
    pub label: String,
    /// Its MCP endpoint.
    pub url: Uri,
    /// What every request carries besides the protocol's own headers: who asks, mostly.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long it is waited for.
    pub timeouts: McpTimeouts,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("label", &self.label).finish_non_exhaustive()
    }
}

/// How long a server is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct McpTimeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// For a whole [`Session::list`] or [`Session::call`], with all that it takes: beginning a session, every page,
    /// every connection.
    pub call: Duration,
}

/// Why there is no answer of a function. Texts never hold a URL, a header or, [`McpError::Refused`] apart, anything that
/// the server wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum McpError {
    /// The function did not run: nothing reached it, so calling again has no second effect.
    #[error("{0}")]
    NotSent(String),
    /// The function did not run, since the server has no such function or does not take these arguments.
    #[error("the server refused with code {code}: {message}")]
    Refused {
        /// JSON-RPC's or the protocol's code.
        code: i64,
        /// What the server says about it, which may be anything.
        message: String,
    },
    /// The call was sent, and nobody knows what became of it.
    #[error("{0}")]
    Unknown(String),
}

/// The revision without sessions; asked for first.
const MODERN: &str = "2026-07-28";

/// Revisions that begin with `initialize`, the newest first. Before them there was no streamable HTTP.
const WITH_SESSIONS: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];

/// Most that is read of one answer, over all connections it takes: a model reads no more, and isolates have 128 MB for
/// all that they do.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Most of an error's body that is read, to find a code in it.
const MAX_ERROR_BYTES: usize = 64 * 1024;
