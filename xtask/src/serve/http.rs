//! Small requests to servers on this machine.

use anyhow::Result;
use std::time::Duration;

/// A request that can be sent many times.
#[derive(Clone)]
pub(crate) struct Request {
    url: String,
    /// JSON to post.
    body: Option<String>,
}

/// What came back, whatever its status.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Request {
    /// A GET.
    pub(crate) fn get(url: String) -> Self {
        Self { url, body: None }
    }

    /// A POST of a JSON body.
    pub(crate) fn post(url: String, body: String) -> Self {
        Self { url, body: Some(body) }
    }

    /// Sends it and waits for the whole answer, at most `patience`.
    pub(crate) fn send(&self, patience: Duration) -> Result<Answer> {
        let config = ureq::Agent::config_builder().timeout_global(Some(patience)).http_status_as_error(false);
        let agent = config.proxy(None).build().new_agent();
        let mut response = match &self.body {
            Some(body) => agent.post(&self.url).content_type("application/json").send(body)?,
            None => agent.get(&self.url).call()?,
        };
        Ok(Answer { status: response.status().as_u16(), body: response.body_mut().read_to_string()? })
    }
}
