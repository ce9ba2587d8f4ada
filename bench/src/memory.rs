//! Measures a subject's memory: while many streams are open, which are not read to their end, and after requests with
//! large bodies.

use std::{
    io::{Error, Result},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    connection::Connection,
    load::{RequestBuilder, RequestKind},
    report::Memory,
    subject::Subject,
};

/// Streams open at once.
const STREAMS: usize = 1_000;

/// How long all streams together may take to open.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);

/// Requests with large bodies, one after the other, and the size of each.
const LARGE_BODIES: usize = 8;
const LARGE_BODY_BYTES: usize = 8 * 1024 * 1024;

/// Measures the memory of `subject`.
pub(crate) async fn measure(subject: &Subject) -> Result<Memory> {
    let streams = match timeout(OPEN_TIMEOUT, open_streams(subject)).await {
        Ok(open) => {
            let open = open?;
            let resident = settled_mib(subject).await?;
            drop(open);
            Some(resident)
        }
        Err(_) => None,
    };
    // Other gateways may refuse such bodies.
    let large_bodies = match timeout(OPEN_TIMEOUT, send_large_bodies(subject)).await {
        Ok(Ok(())) => Some(settled_mib(subject).await?),
        Ok(Err(_)) | Err(_) => None,
    };
    Ok(Memory { streams, large_bodies })
}

/// Resident memory in MiB after a second, in which memory is freed that was only needed for a moment.
async fn settled_mib(subject: &Subject) -> Result<f64> {
    sleep(Duration::from_secs(1)).await;
    subject.process.resident_mib()
}

async fn send_large_bodies(subject: &Subject) -> Result<()> {
    let mut connection = Connection::new(TcpStream::connect(&subject.address).await?)?;
    let image = "A".repeat(LARGE_BODY_BYTES);
    let body = format!(
        r#"{{"model":"bench","messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{image}"}}}}]}}]}}"#
    );
    let request = request_builder(subject, "bench", false).post("/v1/chat/completions", &body);
    for _ in 0..LARGE_BODIES {
        connection.round_trip(&request).await?;
    }
    Ok(())
}

async fn open_streams(subject: &Subject) -> Result<Vec<Connection>> {
    let request = request_builder(subject, "slow", true).request(None);
    // Concurrently: a slow subject takes long for each first byte.
    let mut opening = JoinSet::new();
    for _ in 0..STREAMS {
        opening.spawn_local(open_stream(subject.address.clone(), request.clone()));
    }
    let mut open = Vec::with_capacity(STREAMS);
    while let Some(connection) = opening.join_next().await {
        open.push(connection.map_err(Error::other)??);
    }
    Ok(open)
}

fn request_builder(subject: &Subject, model: &'static str, streamed: bool) -> RequestBuilder {
    let Subject { address, headers, .. } = subject;
    let (address, headers) = (address.clone(), headers.clone());
    RequestBuilder { address, headers, kind: RequestKind::Chat, streamed, model }
}

async fn open_stream(address: String, request: String) -> Result<Connection> {
    let mut connection = Connection::new(TcpStream::connect(address).await?)?;
    connection.stream.write_all(request.as_bytes()).await?;
    connection.read_head().await?.ok_or_else(|| Error::other("the connection closed before the response"))?;
    connection.wait_for_byte().await?;
    Ok(connection)
}
