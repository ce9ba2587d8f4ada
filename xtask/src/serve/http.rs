//! Sends small requests to servers on this machine. Knows no TLS and no proxy, and reads every body into memory.

use anyhow::Result;
use std::time::Duration;

/// A request that can be sent many times.
#[derive(Clone)]
pub(crate) struct Request {
    url: String,
    /// The JSON body; without one the request is a GET.
    body: Option<String>,
}

/// A response, whatever its status.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Request {
    /// A GET request.
    pub(crate) fn get(url: String) -> Self {
        Self { url, body: None }
    }

    /// A POST request with a JSON body.
    pub(crate) fn post(url: String, body: String) -> Self {
        Self { url, body: Some(body) }
    }

    /// Sends the request and waits for the whole response, at most `timeout`.
    pub(crate) fn send(&self, timeout: Duration) -> Result<Response> {
        let config = ureq::Agent::config_builder().timeout_global(Some(timeout)).http_status_as_error(false);
        let agent = config.proxy(None).build().new_agent();
        let mut response = match &self.body {
            Some(body) => agent.post(&self.url).content_type("application/json").send(body)?,
            None => agent.get(&self.url).call()?,
        };
        Ok(Response { status: response.status().as_u16(), body: response.body_mut().read_to_string()? })
    }
}
