//! One native node with very many sessions.

use std::{
    fmt::Write as _,
    fs,
    io::Result,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{net::TcpStream, time::sleep};

use super::{
    inside::{Calls, Inside},
    seed::{self, Template},
};
use crate::{child::Process, load, report::median, subject::Subject, wire::Wire};

/// Sessions of one turn each.
const SESSIONS: usize = 100_000;

/// Sessions that are looked at first.
const SOME: usize = 1_000;

/// Ticks that are timed; the median counts.
const TICKS: usize = 11;

/// What was measured.
pub(crate) struct Figures {
    /// How long it took to write them, in seconds.
    written_s: f64,
    /// The file's size in MiB.
    file_mib: f64,
    /// From the start of the process to the first 200 of `/readyz`, in milliseconds.
    ready_ms: f64,
    /// Resident memory in MiB: after the start, after a look at [`SOME`], after a look at all.
    resident_mib: [f64; 3],
    /// Looks at one session after the other over one connection, in a second: the first [`SOME`], then all.
    looks: [f64; 2],
    /// One tick, in milliseconds, and what it asks the store.
    tick_ms: f64,
    tick: Calls,
}

/// Makes the sessions, and has a node live with them.
pub(crate) async fn measure(
    program: &Path,
    upstream: &str,
    template: &Template,
    scratch: &Path,
) -> Result<Figures> {
    let scratch = scratch.join("many");
    let data = scratch.join("data");
    let start = Instant::now();
    template.write_many(&data, SESSIONS).await?;
    let written_s = start.elapsed().as_secs_f64();
    let file_mib = size_mib(&data).await?;

    let start = Instant::now();
    let node = Subject::node(program, upstream, &scratch)?;
    let mut wire = Wire::new(TcpStream::connect(&node.address).await?)?;
    wire.ask(&load::get(&node.address, "/readyz")).await?;
    let ready_ms = start.elapsed().as_secs_f64() * 1e3;
    let started = settled_mib(&node.process).await?;
    let few = look(&mut wire, &node, SOME).await?;
    let some = settled_mib(&node.process).await?;
    let rest = look(&mut wire, &node, SESSIONS).await?;
    let all = settled_mib(&node.process).await?;
    drop(node);

    let inside = Inside::start(&data, upstream)?;
    let (mut ticks, mut tick) = (Vec::new(), Calls::default());
    for _ in 0..TICKS {
        let start = Instant::now();
        inside.node.tick().await.map_err(std::io::Error::other)?;
        ticks.push(start.elapsed().as_secs_f64() * 1e3);
        tick = inside.calls();
    }
    drop(inside);
    fs::remove_dir_all(&scratch)?;
    Ok(Figures {
        written_s,
        file_mib,
        ready_ms,
        resident_mib: [started, some, all],
        looks: [few, rest],
        tick_ms: median(ticks),
        tick,
    })
}

/// Looks at `count` sessions, no neighbour after its neighbour, and gives how many in a second.
async fn look(wire: &mut Wire, node: &Subject, count: usize) -> Result<f64> {
    let start = Instant::now();
    for number in 0..count {
        // Coprime to the number of sessions, so that none is met twice.
        let log = seed::log(number * 7_919 % SESSIONS);
        wire.ask(&load::get(&node.address, &seed::items(log))).await?;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Resident memory, once what was needed for a moment is given back.
async fn settled_mib(process: &Process) -> Result<f64> {
    sleep(Duration::from_millis(500)).await;
    process.resident_mib()
}

/// The size of all files, once the store that wrote them has closed its own.
async fn size_mib(data: &Path) -> Result<f64> {
    while data.join("outlive.db-wal").exists() {
        sleep(Duration::from_millis(10)).await;
    }
    let mut bytes = 0;
    for file in fs::read_dir(data)? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes as f64 / f64::from(1 << 20))
}

impl Figures {
    /// The figures as sentences.
    pub(crate) fn table(&self, out: &mut String) {
        let Self { written_s, file_mib, ready_ms, resident_mib, looks, tick_ms, tick } = self;
        let [started, some, all] = resident_mib;
        let [few, rest] = looks;
        let _ = writeln!(out, "| {SESSIONS} sessions of one turn on one native node | |\n|---|---:|");
        for (what, value) in [
            ("written straight to the store, s", format!("{written_s:.1}")),
            ("file, MiB", format!("{file_mib:.1}")),
            ("from the start of the process to `/readyz`, ms", format!("{ready_ms:.1}")),
            ("memory after the start, MiB", format!("{started:.1}")),
            ("memory after a look at 1,000 of them, MiB", format!("{some:.1}")),
            ("memory after a look at all, MiB", format!("{all:.1}")),
            ("looks/s at the first 1,000, c=1", format!("{few:.0}")),
            ("looks/s at all, c=1", format!("{rest:.0}")),
            ("one tick, ms", format!("{tick_ms:.2}")),
            (
                "one tick: durable writes, reads, entries read",
                format!("{}, {}, {}", tick.writes, tick.reads, tick.read),
            ),
        ] {
            let _ = writeln!(out, "| {what} | {value} |");
        }
        out.push('\n');
    }

    /// For comparison between runs.
    pub(crate) fn figures(&self) -> Value {
        let [started, some, all] = self.resident_mib;
        json!({
            "file_mib": self.file_mib,
            "ready_ms": self.ready_ms,
            "rss_mib_started": started,
            "rss_mib_1000": some,
            "rss_mib_all": all,
            "tick_ms": self.tick_ms,
        })
    }
}
