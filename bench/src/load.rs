//! The load: `c` keep-alive connections that ask again as soon as the answer has ended.

use std::io::{Error, Result};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::subject::Subject;
use crate::wire::Wire;

/// What is asked again and again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// `POST /v1/chat/completions`.
    Chat,
    /// `POST /v1/responses` of which nothing is kept.
    Passing,
    /// `POST /v1/responses`, each the only turn of its session.
    First,
    /// `POST /v1/responses` in a conversation, and in a new one after [`TURNS`] of them.
    Next,
}

/// Turns of a conversation: what a model is told grows with each.
pub(crate) const TURNS: usize = 20;

/// What one slice of load measured; times in microseconds, sorted.
pub(crate) struct Slice {
    /// From sending a request to the end of its answer.
    pub(crate) whole: Vec<f64>,
    /// From sending a request to the first byte of the answer's body.
    pub(crate) first: Vec<f64>,
    /// Answers a second over the whole slice.
    pub(crate) rate: f64,
}

/// Loads `subject` for `time`, with one request on each connection at least; any answer but a 200 is an error.
pub(crate) async fn run(
    subject: &Subject,
    question: Question,
    connections: usize,
    streamed: bool,
    time: Duration,
) -> Result<Slice> {
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let asker = Asker {
            address: subject.address.clone(),
            headers: subject.headers.clone(),
            question,
            streamed,
            model: "bench",
        };
        clients.spawn_local(client(asker, start + time));
    }
    let (mut whole, mut first) = (Vec::new(), Vec::new());
    while let Some(done) = clients.join_next().await {
        let named = |error: Error| Error::new(error.kind(), format!("{}: {error}", subject.name));
        for (one, all) in done.map_err(Error::other)?.map_err(named)? {
            first.push(one);
            whole.push(all);
        }
    }
    let rate = whole.len() as f64 / start.elapsed().as_secs_f64();
    whole.sort_by(f64::total_cmp);
    first.sort_by(f64::total_cmp);
    Ok(Slice { whole, first, rate })
}

async fn client(asker: Asker, end: Instant) -> Result<Vec<(f64, f64)>> {
    let mut wire = Wire::new(TcpStream::connect(&asker.address).await?)?;
    let mut times = Vec::with_capacity(4096);
    let mut request = asker.request(None);
    loop {
        if asker.question == Question::Next && times.len().is_multiple_of(TURNS) {
            request = asker.request(Some(&asker.conversation(&mut wire).await?));
        }
        let start = Instant::now();
        wire.stream.write_all(request.as_bytes()).await?;
        let head = wire.head().await?.ok_or_else(|| Error::other("closed before the answer"))?;
        if !head.first_line.starts_with("HTTP/1.1 200") {
            return Err(Error::other(format!("it answers {}", head.first_line)));
        }
        wire.first_byte().await?;
        let first = start.elapsed();
        match head.length {
            Some(length) => drop(wire.body(length, []).await?),
            None => drop(wire.chunks().await?),
        }
        times.push((micros(first), micros(start.elapsed())));
        if Instant::now() >= end {
            return Ok(times);
        }
    }
}

/// Who asks, and what.
pub(crate) struct Asker {
    pub(crate) address: String,
    /// Lines of each request's head.
    pub(crate) headers: String,
    pub(crate) question: Question,
    pub(crate) streamed: bool,
    pub(crate) model: &'static str,
}

impl Asker {
    /// The question, in the conversation of that id if there is one.
    pub(crate) fn request(&self, conversation: Option<&str>) -> String {
        let Self { streamed, model, .. } = self;
        let conversation = conversation.map(|id| format!(r#","conversation":"{id}""#)).unwrap_or_default();
        match self.question {
            Question::Chat => self.post(
                "/v1/chat/completions",
                &format!(
                    r#"{{"model":"{model}","messages":[{{"role":"user","content":"{SAID}"}}],"stream":{streamed}}}"#
                ),
            ),
            question => self.post(
                "/v1/responses",
                &format!(
                    r#"{{"model":"{model}","input":"{SAID}","stream":{streamed},"store":{}{conversation}}}"#,
                    question != Question::Passing
                ),
            ),
        }
    }

    /// Makes a conversation and gives its id.
    pub(crate) async fn conversation(&self, wire: &mut Wire) -> Result<String> {
        let body = wire.ask(&self.post("/v1/conversations", "{}")).await?;
        let made: serde_json::Value = serde_json::from_slice(&body)?;
        let id = made.get("id").and_then(serde_json::Value::as_str);
        id.map(str::to_owned).ok_or_else(|| Error::other("a conversation without an id"))
    }

    fn post(&self, path: &str, body: &str) -> String {
        let Self { address, headers, .. } = self;
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}"
        )
    }
}

/// What is said to the model.
pub(crate) const SAID: &str = "Say what you always say.";

/// A request for a path.
pub(crate) fn get(address: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n")
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
