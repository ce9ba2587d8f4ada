//! Loads a subject over keep-alive connections, each of which sends the next request when the response has ended.
//! Starts no processes and prints nothing.

use std::io::{Error, Result};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::connection::{self, Connection};
use crate::subject::Subject;
use crate::upstream::ANSWER;

/// The request that a connection repeats.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// `POST /v1/chat/completions`.
    Chat,
    /// `POST /v1/responses` with `store: false`.
    Unstored,
    /// `POST /v1/responses`, each the first turn of a new session.
    FirstTurn,
    /// `POST /v1/responses` in a conversation; after [`TURNS_PER_CONVERSATION`] of them the next one is created.
    NextTurn,
}

impl RequestKind {
    /// Whether a stream that ends with `chunk` is whole.
    fn ends_stream(self, chunk: &[u8]) -> bool {
        let end: &[u8] = if self == Self::Chat { b"data: [DONE]" } else { b"\"response.completed\"" };
        connection::find(chunk, end).is_some()
    }
}

/// Turns of a conversation before a new one is created, since the prompt grows with each turn.
pub(crate) const TURNS_PER_CONVERSATION: usize = 20;

/// The figures of one slice of load; times in microseconds, sorted.
pub(crate) struct Slice {
    /// From sending a request to the end of its response.
    pub(crate) total_us: Vec<f64>,
    /// From sending a request to the first byte of the response's body.
    pub(crate) first_byte_us: Vec<f64>,
    /// Responses per second over the whole slice.
    pub(crate) responses_per_s: f64,
}

/// Loads `subject` for `time`, with at least one request on each connection. One response that is not 200 or not whole
/// is an error: figures of a load that failed in part mean nothing.
pub(crate) async fn run(
    subject: &Subject,
    kind: RequestKind,
    connections: usize,
    streamed: bool,
    time: Duration,
) -> Result<Slice> {
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let builder = RequestBuilder {
            address: subject.address.clone(),
            headers: subject.headers.clone(),
            kind,
            streamed,
            model: "bench",
        };
        clients.spawn_local(run_client(builder, start + time));
    }
    let (mut total_us, mut first_byte_us) = (Vec::new(), Vec::new());
    while let Some(done) = clients.join_next().await {
        let named = |error: Error| Error::new(error.kind(), format!("{}: {error}", subject.name));
        for (first_byte, total) in done.map_err(Error::other)?.map_err(named)? {
            first_byte_us.push(first_byte);
            total_us.push(total);
        }
    }
    let responses_per_s = total_us.len() as f64 / start.elapsed().as_secs_f64();
    total_us.sort_by(f64::total_cmp);
    first_byte_us.sort_by(f64::total_cmp);
    Ok(Slice { total_us, first_byte_us, responses_per_s })
}

/// Repeats the request until `end` and returns for each the times to the first byte and to the end, in microseconds.
async fn run_client(builder: RequestBuilder, end: Instant) -> Result<Vec<(f64, f64)>> {
    let mut connection = Connection::new(TcpStream::connect(&builder.address).await?)?;
    let mut times = Vec::with_capacity(4096);
    let mut request = builder.request(None);
    loop {
        if builder.kind == RequestKind::NextTurn && times.len().is_multiple_of(TURNS_PER_CONVERSATION) {
            request = builder.request(Some(&builder.create_conversation(&mut connection).await?));
        }
        let start = Instant::now();
        connection.stream.write_all(request.as_bytes()).await?;
        let head = connection
            .read_head()
            .await?
            .ok_or_else(|| Error::other("the connection closed before the response"))?;
        if !head.first_line.starts_with("HTTP/1.1 200") {
            return Err(Error::other(format!("unexpected response {}", head.first_line)));
        }
        connection.wait_for_byte().await?;
        let first_byte = start.elapsed();
        let is_whole = match head.body_bytes {
            Some(length) => connection.scan_body(length, [ANSWER.as_bytes()]).await? == [true],
            None => builder.kind.ends_stream(&connection.last_chunk().await?),
        };
        if !is_whole {
            return Err(Error::other("the response is not whole"));
        }
        times.push((micros(first_byte), micros(start.elapsed())));
        if Instant::now() >= end {
            return Ok(times);
        }
    }
}

/// Builds requests of one kind for one server.
pub(crate) struct RequestBuilder {
    pub(crate) address: String,
    /// Additional lines of each request's head.
    pub(crate) headers: String,
    pub(crate) kind: RequestKind,
    pub(crate) streamed: bool,
    pub(crate) model: &'static str,
}

impl RequestBuilder {
    /// The request, as a turn of that conversation if an id is given.
    pub(crate) fn request(&self, conversation: Option<&str>) -> String {
        let Self { streamed, model, .. } = self;
        let conversation = conversation.map(|id| format!(r#","conversation":"{id}""#)).unwrap_or_default();
        match self.kind {
            RequestKind::Chat => self.post(
                "/v1/chat/completions",
                &format!(
                    r#"{{"model":"{model}","messages":[{{"role":"user","content":"{PROMPT}"}}],"stream":{streamed}}}"#
                ),
            ),
            kind => self.post(
                "/v1/responses",
                &format!(
                    r#"{{"model":"{model}","input":"{PROMPT}","stream":{streamed},"store":{}{conversation}}}"#,
                    kind != RequestKind::Unstored
                ),
            ),
        }
    }

    /// Creates a conversation and returns its id.
    pub(crate) async fn create_conversation(&self, connection: &mut Connection) -> Result<String> {
        let body = connection.round_trip(&self.post("/v1/conversations", "{}")).await?;
        let conversation: serde_json::Value = serde_json::from_slice(&body)?;
        let id = conversation.get("id").and_then(serde_json::Value::as_str);
        id.map(str::to_owned).ok_or_else(|| Error::other("the created conversation has no id"))
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> String {
        let Self { address, headers, .. } = self;
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}"
        )
    }
}

/// The user's message in every request.
pub(crate) const PROMPT: &str = "Say what you always say.";

/// A GET request.
pub(crate) fn get(address: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n")
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
