//! What is answered when the core can't be asked.

use std::fmt;

use serde_json::json;
use worker::{Headers, ResponseBuilder, Result, console_error, web_sys};

/// Why the core can't be asked, in the caller's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The configuration has mistakes, which are in the Worker's log.
    Misconfigured,
    /// What came is not a request that HTTP allows.
    NotHttp,
    /// The platform failed us; the same request may succeed in a moment.
    Unavailable,
}

/// How long a client should stay away after the platform failed: objects are restarted within seconds.
const RETRY_AFTER: &str = "2";

impl Refusal {
    /// The answer, in OpenAI's shape.
    pub(crate) fn into_response(self) -> Result<web_sys::Response> {
        let (status, kind, code) = match self {
            Self::Misconfigured => (500, "server_error", "misconfigured"),
            Self::NotHttp => (400, "invalid_request_error", "invalid_request"),
            Self::Unavailable => (503, "server_error", "node_unavailable"),
        };
        let error = json!({"message": self.to_string(), "type": kind, "param": null, "code": code});
        let headers = Headers::new();
        headers.set("content-type", "application/json")?;
        if self == Self::Unavailable {
            headers.set("retry-after", RETRY_AFTER)?;
        }
        let body = json!({"error": error}).to_string().into_bytes();
        Ok(ResponseBuilder::new().with_status(status).with_headers(headers).fixed(body).into())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Misconfigured => "the configuration of this node is wrong; its log says where",
            Self::NotHttp => "the request is not valid HTTP",
            Self::Unavailable => "this node can't reach its state right now; try again",
        })
    }
}

impl From<worker::Error> for Refusal {
    /// The platform's own words are for the operator.
    fn from(error: worker::Error) -> Self {
        console_error!("the platform failed: {error}");
        Self::Unavailable
    }
}
