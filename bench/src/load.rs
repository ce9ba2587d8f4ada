//! The load: `c` keep-alive connections that ask again as soon as the answer has ended.

use std::io::{Error, Result};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::subject::Subject;
use crate::wire::Wire;

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
    connections: usize,
    streamed: bool,
    time: Duration,
) -> Result<Slice> {
    let request = request(subject, streamed, "bench");
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        clients.spawn_local(client(subject.address.clone(), request.clone(), start + time));
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

async fn client(address: String, request: String, end: Instant) -> Result<Vec<(f64, f64)>> {
    let mut wire = Wire::new(TcpStream::connect(&address).await?)?;
    let mut times = Vec::with_capacity(4096);
    loop {
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

/// A request to the model `model`.
pub(crate) fn request(subject: &Subject, streamed: bool, model: &str) -> String {
    let Subject { address, headers, .. } = subject;
    let body = format!(
        r#"{{"model":"{model}","messages":[{{"role":"user","content":"Say what you always say."}}],"stream":{streamed}}}"#
    );
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
