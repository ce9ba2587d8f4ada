//! Memory while many streams are open.

use std::{
    fs,
    io::{Error, Result},
    time::Duration,
};

use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{child::Server, load, wire::Wire};

/// Streams that are open at once.
const STREAMS: usize = 1_000;

/// Resident memory of `server` in MiB while each of [`STREAMS`] clients has had the beginning of an answer.
pub(crate) async fn resident_mib(server: &Server) -> Result<f64> {
    let request = load::request(&server.address, true, "slow");
    let mut open = Vec::with_capacity(STREAMS);
    for _ in 0..STREAMS {
        let mut wire = Wire::new(TcpStream::connect(&server.address).await?)?;
        wire.stream.write_all(request.as_bytes()).await?;
        wire.head().await?.ok_or_else(|| Error::other("closed before the answer"))?;
        wire.first_byte().await?;
        open.push(wire);
    }
    // What was needed only to begin is given back by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = fs::read_to_string(format!("/proc/{}/status", server.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    drop(open);
    kib.map(|kib| kib / 1024.0).ok_or_else(|| Error::other("no VmRSS"))
}
