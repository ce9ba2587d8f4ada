//! Measures a subject's memory while many streams are open. Does not read the streams to their end.

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
    subject::Subject,
};

/// Streams open at once.
const STREAMS: usize = 1_000;

/// How long all streams together may take to open.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);

/// Resident memory in MiB while each of [`STREAMS`] clients has received the first bytes of a response; `None` if
/// they do not all open within [`OPEN_TIMEOUT`].
pub(crate) async fn measure_resident_mib(subject: &Subject) -> Result<Option<f64>> {
    let Ok(open) = timeout(OPEN_TIMEOUT, open_streams(subject)).await else { return Ok(None) };
    let open = open?;
    // Memory that only the opening needed is freed within a second.
    sleep(Duration::from_secs(1)).await;
    let resident = subject.process.resident_mib();
    drop(open);
    resident.map(Some)
}

async fn open_streams(subject: &Subject) -> Result<Vec<Connection>> {
    let Subject { address, headers, .. } = subject;
    let (address, headers) = (address.clone(), headers.clone());
    let builder = RequestBuilder { address, headers, kind: RequestKind::Chat, streamed: true, model: "slow" };
    let request = builder.request(None);
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

async fn open_stream(address: String, request: String) -> Result<Connection> {
    let mut connection = Connection::new(TcpStream::connect(address).await?)?;
    connection.stream.write_all(request.as_bytes()).await?;
    connection.read_head().await?.ok_or_else(|| Error::other("the connection closed before the response"))?;
    connection.wait_for_byte().await?;
    Ok(connection)
}
