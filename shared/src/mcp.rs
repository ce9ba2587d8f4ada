//! Lists and calls the functions of MCP servers over streamable HTTP.
//!
//! In scope: the revisions from 2025-03-26 on, that is the newest one, which has no sessions, and those before it,
//! which begin with `initialize`. Out of scope: whatever a server may request of its client (sampling, elicitation,
//! roots); the client answers "method not found".
//! <https://modelcontextprotocol.io/specification/2026-07-28/basic/transports/streamable-http>
//! <https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#streamable-http>
//!
//! Everything a server sends is untrusted: names, descriptions and annotations of functions, and their outputs.

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

/// The address of a server, and how to call it. `Debug` shows the label only, since the rest may hold secrets.
#[derive(Clone)]
pub struct Endpoint {
    /// Its name in the configuration, and in errors.
    pub label: String,
    /// Its MCP endpoint.
    pub url: Uri,
    /// Headers of every request besides the protocol's own, mostly `authorization`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long the client waits for it.
    pub timeouts: McpTimeouts,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("label", &self.label).finish_non_exhaustive()
    }
}

/// How long the client waits for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct McpTimeouts {
    /// Until a connection is established.
    pub connect: Duration,
    /// For a whole [`McpSession::list`] or [`McpSession::call`], including the start of a session, every page and every
    /// connection.
    pub call: Duration,
}

/// Why a call has no output. Texts never hold a URL or a header; only [`McpError::Refused`] holds text that the server
/// wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum McpError {
    /// The function did not run: no request reached it, so a retry has no second effect.
    #[error("{0}")]
    NotSent(String),
    /// The function did not run: the server has no such function or rejects these arguments.
    #[error("the server refused with code {code}: {message}")]
    Refused {
        /// JSON-RPC's or the protocol's code.
        code: i64,
        /// The server's message. Untrusted.
        message: String,
    },
    /// The call was sent, and whether the function ran is unknown.
    #[error("{0}")]
    Unknown(String),
}

/// The revision without sessions, which is tried first.
const MODERN: &str = "2026-07-28";

/// The revisions that begin with `initialize`, newest first. Older ones have no streamable HTTP.
const WITH_SESSIONS: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];

/// Longest answer that is read, over all its connections: a model reads no more, and an isolate has 128 MB in all.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// How much of an error's body is read to find a code in it.
const MAX_ERROR_BYTES: usize = 64 * 1024;
