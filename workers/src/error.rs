//! Errors that the shell answers itself, because the request does not reach the core. The core's own errors are
//! responses.

use std::fmt;

use serde_json::json;
use worker::{Headers, ResponseBuilder, Result, console_error, web_sys};

/// Why a request does not reach the core. `Display` is the message for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShellError {
    /// The configuration is invalid; the Worker's log names its mistakes.
    Misconfigured,
    /// The request, or a call between objects, can't be decoded.
    InvalidRequest,
    /// The platform failed; a retry may succeed.
    Unavailable,
}

/// The `retry-after` of a failure of the platform: a restarting object is back within seconds.
const RETRY_AFTER_SECONDS: &str = "2";

impl ShellError {
    /// The response, in the error format of OpenAI's API.
    pub(crate) fn into_response(self) -> Result<web_sys::Response> {
        let (status, kind, code) = match self {
            Self::Misconfigured => (500, "server_error", "misconfigured"),
            Self::InvalidRequest => (400, "invalid_request_error", "invalid_request"),
            Self::Unavailable => (503, "server_error", "node_unavailable"),
        };
        let error = json!({"message": self.to_string(), "type": kind, "param": null, "code": code});
        let headers = Headers::new();
        headers.set("content-type", "application/json")?;
        if self == Self::Unavailable {
            headers.set("retry-after", RETRY_AFTER_SECONDS)?;
        }
        let body = json!({"error": error}).to_string().into_bytes();
        Ok(ResponseBuilder::new().with_status(status).with_headers(headers).fixed(body).into())
    }
}

impl fmt::Display for ShellError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Misconfigured => "the configuration of this node is wrong; its log says where",
            Self::InvalidRequest => "the request is not valid HTTP",
            Self::Unavailable => "this node can't reach its state right now; try again",
        })
    }
}

impl From<worker::Error> for ShellError {
    /// Logs the platform's message for the operator and keeps it from the client.
    fn from(error: worker::Error) -> Self {
        console_error!("the platform failed: {error}");
        Self::Unavailable
    }
}
