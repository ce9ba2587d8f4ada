//! Memory while many streams are open.

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
    load::{Asker, Question},
    subject::Subject,
    wire::Wire,
};

/// Streams that are open at once.
const STREAMS: usize = 1_000;

/// How long it may take to begin them all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Resident memory in MiB while each of [`STREAMS`] clients has had the beginning of an answer; `None` if not all get one.
pub(crate) async fn resident_mib(subject: &Subject) -> Result<Option<f64>> {
    let Ok(open) = timeout(PATIENCE, open(subject)).await else { return Ok(None) };
    let open = open?;
    // What was needed only to begin is given back by now.
    sleep(Duration::from_secs(1)).await;
    let resident = subject.process.resident_mib();
    drop(open);
    resident.map(Some)
}

async fn open(subject: &Subject) -> Result<Vec<Wire>> {
    let Subject { address, headers, .. } = subject;
    let (address, headers) = (address.clone(), headers.clone());
    let asker = Asker { address, headers, question: Question::Chat, streamed: true, model: "slow" };
    let request = asker.request(None);
    // Some take a while for each first byte, so they are not asked one after the other.
    let mut begun = JoinSet::new();
    for _ in 0..STREAMS {
        begun.spawn_local(begin(subject.address.clone(), request.clone()));
    }
    let mut open = Vec::with_capacity(STREAMS);
    while let Some(wire) = begun.join_next().await {
        open.push(wire.map_err(Error::other)??);
    }
    Ok(open)
}

async fn begin(address: String, request: String) -> Result<Wire> {
    let mut wire = Wire::new(TcpStream::connect(address).await?)?;
    wire.stream.write_all(request.as_bytes()).await?;
    wire.head().await?.ok_or_else(|| Error::other("closed before the answer"))?;
    wire.first_byte().await?;
    Ok(wire)
}
