//! Sends requests to the nodes of one agent and reads JSON and event streams. What a response means is left to the
//! commands.

use std::{cell::Cell, fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use outlive::{
    body::Body,
    platform::Http,
    wire::sse::{self, SseEvent},
};
use outlive_machine::{HttpClient, ResponseBody as Answer};
use serde_json::Value;
use tokio::time::timeout;

use super::retry::RetryPolicy;

/// A client of one agent's nodes. It sends to the same node until that fails.
pub(crate) struct Client {
    http: HttpClient,
    /// Base URLs, in the order of the command line.
    node_urls: Vec<String>,
    authorization: Option<HeaderValue>,
    /// Index of the node that gets the next request.
    current_node: Cell<usize>,
    ever_answered: Cell<bool>,
}

/// A request that any node can answer.
#[derive(Clone, Debug)]
pub(crate) struct ApiRequest {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// JSON; empty if the request has no body.
    pub(crate) body: Bytes,
    pub(crate) idempotency_key: Option<String>,
}

impl ApiRequest {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: Bytes::new(), idempotency_key: None }
    }

    pub(crate) fn post(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { method: Method::POST, path: path.into(), body: body.into(), idempotency_key: None }
    }

    /// Makes the request safe to retry: under one key it takes effect once.
    pub(crate) fn with_idempotency_key(self, key: String) -> Self {
        Self { idempotency_key: Some(key), ..self }
    }
}

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// The node did not answer, or the connection broke before the response was complete.
    Connection { url: String, reason: String },
    /// The node answered with an error.
    Response { status: u16, message: String, retry_after: Option<Duration> },
}

impl RequestError {
    /// Shortest delay before a retry; `None` if the error is permanent.
    pub(crate) fn retry_delay(&self) -> Option<Duration> {
        match self {
            Self::Connection { .. } => Some(Duration::ZERO),
            Self::Response { status, retry_after, .. } => {
                retry_after.or((*status >= 500 || *status == 408).then_some(Duration::ZERO))
            }
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection { url, reason } => write!(
                f,
                "{url}: {reason}; is a node running there? Start one with 'outlive serve', or name another with --url"
            ),
            Self::Response { status: 401, message, .. } => {
                write!(
                    f,
                    "{message}; put the key into the environment variable OUTLIVE_KEY, or name another with --key-env"
                )
            }
            Self::Response { status, message, .. } => write!(f, "{message} (status {status})"),
        }
    }
}

/// Short, because another node may be reachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for the head of a response: a cold start behind a proxy takes some seconds.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest pause within a response: nodes send a keep-alive every 15 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

impl Client {
    pub(crate) fn new(node_urls: Vec<String>, authorization: Option<HeaderValue>) -> Self {
        Self {
            http: HttpClient::default(),
            node_urls,
            authorization,
            current_node: Cell::new(0),
            ever_answered: Cell::new(false),
        }
    }

    pub(crate) fn node_count(&self) -> usize {
        self.node_urls.len()
    }

    /// Whether any node has answered any request, be it with an error.
    pub(crate) fn ever_answered(&self) -> bool {
        self.ever_answered.get()
    }

    /// The error for an event stream of the current node that ended before its last event.
    pub(crate) fn truncated_stream(&self) -> RequestError {
        RequestError::Connection { url: self.current_url(), reason: "the stream ended too early".into() }
    }

    fn current_url(&self) -> String {
        self.node_urls.get(self.current_node.get()).cloned().unwrap_or_default()
    }

    /// Sends later requests to the next node.
    pub(crate) fn switch_node(&self) {
        self.current_node.set((self.current_node.get() + 1) % self.node_urls.len().max(1));
    }

    /// Sends a request to the current node, once. A status other than 2xx is an error.
    pub(crate) async fn send(&self, request: &ApiRequest) -> Result<Response<Answer>, RequestError> {
        let url = self.current_url();
        let failed = |reason: String| RequestError::Connection { url: url.clone(), reason };
        let mut builder =
            Request::builder().method(request.method.clone()).uri(format!("{url}{}", request.path));
        if let Some(authorization) = &self.authorization {
            builder = builder.header(header::AUTHORIZATION, authorization);
        }
        if let Some(key) = &request.idempotency_key {
            builder = builder.header("idempotency-key", key);
        }
        if !request.body.is_empty() {
            builder = builder.header(header::CONTENT_TYPE, "application/json");
        }
        let outgoing =
            builder.body(Body::from(request.body.clone())).map_err(|error| failed(error.to_string()))?;
        let response = timeout(HEAD_TIMEOUT, self.http.send(outgoing, CONNECT_TIMEOUT)).await;
        let response = response
            .map_err(|_| failed(format!("no answer within {} s", HEAD_TIMEOUT.as_secs())))?
            .map_err(|error| failed(error.to_string()))?;
        // Set before the status is checked: a node that answers with an error shows that the URL is right.
        self.ever_answered.set(true);
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after =
            retry_after.and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        // The status alone is an error, so a body that can't be read only loses its message.
        let body = read_body(response).await.unwrap_or_default();
        let error: Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = error.pointer("/error/message").and_then(Value::as_str);
        // Control characters from the network must not reach the terminal.
        let message = message.map(|message| message.replace(char::is_control, " "));
        let message = message.unwrap_or_else(|| format!("{url} answered with an error"));
        Err(RequestError::Response { status, message, retry_after })
    }

    /// Sends a request, with retries on each node in turn, and returns the JSON of the response. The request must be
    /// idempotent.
    pub(crate) async fn send_with_retries(&self, request: &ApiRequest) -> Result<Value, RequestError> {
        let mut retries = RetryPolicy::new(self.node_count());
        loop {
            let error = match self.fetch_json(request).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Some(delay) = retries.delay_after(&error, self.ever_answered()) else { return Err(error) };
            self.switch_node();
            tokio::time::sleep(delay).await;
        }
    }

    async fn fetch_json(&self, request: &ApiRequest) -> Result<Value, RequestError> {
        let url = self.current_url();
        let failed = |reason: String| RequestError::Connection { url, reason };
        let body = match read_body(self.send(request).await?).await {
            Ok(body) => body,
            Err(reason) => return Err(failed(reason)),
        };
        serde_json::from_slice(&body).map_err(|error| failed(format!("the answer is not JSON: {error}")))
    }
}

async fn read_body(response: Response<Answer>) -> Result<Bytes, String> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = timeout(IDLE_TIMEOUT, body.frame()).await.map_err(|_| "the answer stopped")? {
        let frame = frame.map_err(|error| error.to_string())?;
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
    }
    Ok(bytes.into())
}

/// The server-sent events of a response.
pub(crate) struct EventStream {
    body: Answer,
    decoder: sse::SseDecoder,
}

impl EventStream {
    pub(crate) fn new(response: Response<Answer>) -> Self {
        Self { body: response.into_body(), decoder: sse::SseDecoder::default() }
    }

    /// The next event whose data is JSON; `None` when the stream has ended, cleanly or not.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            match self.decoder.event().ok()? {
                Some(SseEvent::Data { data, .. }) => match serde_json::from_slice(&data) {
                    Ok(value) => return Some(value),
                    Err(_) => continue,
                },
                Some(SseEvent::Comment) => continue,
                None => {}
            }
            let frame = timeout(IDLE_TIMEOUT, self.body.frame()).await.ok()??.ok()?;
            if let Ok(data) = frame.into_data() {
                self.decoder.push(data);
            }
        }
    }
}
