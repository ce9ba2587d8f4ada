//! HTTP as the commands need it: JSON there and back, and event streams.

use std::{cell::Cell, fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use outlive::{
    body::Body,
    platform::Http,
    wire::sse::{self, Event},
};
use outlive_machine::{HttpClient, ResponseBody as Answer};
use serde_json::Value;
use tokio::time::timeout;

use super::patience::Patience;

/// The nodes of one agent, in the order in which they are asked.
pub(crate) struct Client {
    http: HttpClient,
    nodes: Vec<String>,
    key: Option<HeaderValue>,
    /// The node that is asked first.
    at: Cell<usize>,
    /// Whether any has ever answered.
    met: Cell<bool>,
}

/// What is asked of a node.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// JSON, or nothing.
    pub(crate) body: Bytes,
    pub(crate) idempotency: Option<String>,
}

impl Call {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: Bytes::new(), idempotency: None }
    }

    pub(crate) fn post(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { method: Method::POST, path: path.into(), body: body.into(), idempotency: None }
    }

    /// May be repeated: it takes effect once.
    pub(crate) fn once(self, key: String) -> Self {
        Self { idempotency: Some(key), ..self }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// Nobody is there, or the connection broke.
    Lost { url: String, why: String },
    /// The node does not want to.
    Refused { status: u16, message: String, retry_after: Option<Duration> },
}

impl CallError {
    /// Whether the same call may succeed soon, and how long to wait at least.
    pub(crate) fn retry(&self) -> Option<Duration> {
        match self {
            Self::Lost { .. } => Some(Duration::ZERO),
            Self::Refused { status, retry_after, .. } => {
                retry_after.or((*status >= 500 || *status == 408).then_some(Duration::ZERO))
            }
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { url, why } => write!(
                f,
                "{url}: {why}; is a node running there? Start one with 'outlive serve', or name another with --url"
            ),
            Self::Refused { status: 401, message, .. } => {
                write!(
                    f,
                    "{message}; put the key into the environment variable OUTLIVE_KEY, or name another with --key-env"
                )
            }
            Self::Refused { status, message, .. } => write!(f, "{message} (status {status})"),
        }
    }
}

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Longest wait for the head of an answer: a cold start behind a proxy takes some seconds.
const HEAD: Duration = Duration::from_secs(60);

/// Longest silence within an answer: nodes send a sign of life every 15 s.
const SILENCE: Duration = Duration::from_secs(60);

impl Client {
    pub(crate) fn new(nodes: Vec<String>, key: Option<HeaderValue>) -> Self {
        Self { http: HttpClient::default(), nodes, key, at: Cell::new(0), met: Cell::new(false) }
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Whether any node has ever answered.
    pub(crate) fn has_met(&self) -> bool {
        self.met.get()
    }

    /// A stream of the node whose turn it is broke.
    pub(crate) fn broke(&self) -> CallError {
        CallError::Lost { url: self.url(), why: "the stream ended too early".into() }
    }

    fn url(&self) -> String {
        self.nodes.get(self.at.get()).cloned().unwrap_or_default()
    }

    /// From now on another node is asked first.
    pub(crate) fn turn_away(&self) {
        self.at.set((self.at.get() + 1) % self.nodes.len().max(1));
    }

    /// Asks the node whose turn it is, and gives its answer unless that is an error.
    pub(crate) async fn send(&self, call: &Call) -> Result<Response<Answer>, CallError> {
        let url = self.url();
        let lost = |why: String| CallError::Lost { url: url.clone(), why };
        let mut request = Request::builder().method(call.method.clone()).uri(format!("{url}{}", call.path));
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, key);
        }
        if let Some(key) = &call.idempotency {
            request = request.header("idempotency-key", key);
        }
        if !call.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Body::from(call.body.clone())).map_err(|error| lost(error.to_string()))?;
        let response = timeout(HEAD, self.http.send(request, CONNECT)).await;
        let response = response
            .map_err(|_| lost(format!("no answer within {} s", HEAD.as_secs())))?
            .map_err(|error| lost(error.to_string()))?;
        self.met.set(true);
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after =
            retry_after.and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        let body = read(response).await.unwrap_or_default();
        let error: Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = error.pointer("/error/message").and_then(Value::as_str);
        // Whoever answers must not steer the terminal.
        let message = message.map(|message| message.replace(char::is_control, " "));
        let message = message.unwrap_or_else(|| format!("{url} answers with an error"));
        Err(CallError::Refused { status, message, retry_after })
    }

    /// Asks until a node answers, one after the other, with pauses. The call must be one that may be repeated.
    pub(crate) async fn ask(&self, call: &Call) -> Result<Value, CallError> {
        let mut patience = Patience::new(self.nodes());
        loop {
            let error = match self.answer(call).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Some(pause) = patience.after(&error, self.has_met()) else { return Err(error) };
            self.turn_away();
            tokio::time::sleep(pause).await;
        }
    }

    async fn answer(&self, call: &Call) -> Result<Value, CallError> {
        let url = self.url();
        let lost = |why: String| CallError::Lost { url, why };
        let body = match read(self.send(call).await?).await {
            Ok(body) => body,
            Err(why) => return Err(lost(why)),
        };
        serde_json::from_slice(&body).map_err(|error| lost(format!("the answer is not JSON: {error}")))
    }
}

/// The whole body.
async fn read(response: Response<Answer>) -> Result<Bytes, String> {
    let mut body = response.into_body();
    let mut whole = Vec::new();
    while let Some(frame) = timeout(SILENCE, body.frame()).await.map_err(|_| "the answer stopped")? {
        let frame = frame.map_err(|error| error.to_string())?;
        whole.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
    }
    Ok(whole.into())
}

/// The events of a stream.
pub(crate) struct Events {
    body: Answer,
    decoder: sse::Decoder,
}

impl Events {
    pub(crate) fn new(response: Response<Answer>) -> Self {
        Self { body: response.into_body(), decoder: sse::Decoder::default() }
    }

    /// The next one that is JSON; `None` at the end of the stream, however it came about.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            match self.decoder.event().ok()? {
                Some(Event::Data { data, .. }) => match serde_json::from_slice(&data) {
                    Ok(value) => return Some(value),
                    Err(_) => continue,
                },
                Some(Event::Comment) => continue,
                None => {}
            }
            let frame = timeout(SILENCE, self.body.frame()).await.ok()??.ok()?;
            if let Ok(data) = frame.into_data() {
                self.decoder.push(data);
            }
        }
    }
}
