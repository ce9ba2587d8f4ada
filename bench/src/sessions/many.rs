//! Measures one native node with very many sessions: its start, its memory, its reads and its tick. Shares its set-up
//! with `resume.rs` (`fixture.rs`).

use std::{
    fmt::Write as _,
    fs,
    io::{Error, Result},
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    embedded_node::StoreCalls,
    fixture::{Fixture, millis},
    template,
};
use crate::{child::Process, connection::Connection, load, report::median, subject::Subject};

/// Sessions of one turn each.
const SESSIONS: usize = 100_000;

/// Sessions that are read before all of them are.
const SAMPLE: usize = 1_000;

/// Timed ticks; the figure is their median.
const TICKS: usize = 11;

/// The cost of many sessions.
pub(crate) struct ManySessionsFigures {
    /// How long writing the sessions took, in seconds.
    written_s: f64,
    /// Size of the store's file in MiB.
    file_mib: f64,
    /// From the start of the process to the first 200 of `/readyz`, in milliseconds.
    ready_ms: f64,
    /// Resident memory in MiB: after the start, after reading [`SAMPLE`], after reading all.
    resident_mib: [f64; 3],
    /// Sessions read per second over one connection: [`SAMPLE`] first, then all.
    reads_per_s: [f64; 2],
    /// Duration of a tick in milliseconds.
    tick_ms: f64,
    /// The store's calls in one tick.
    tick_calls: StoreCalls,
}

/// Stores the sessions and measures a node over them.
pub(crate) async fn measure(fixture: &Fixture<'_>) -> Result<ManySessionsFigures> {
    let fixture = fixture.subdirectory("many");
    let start = Instant::now();
    fixture.write_short_conversations(SESSIONS).await?;
    let written_s = start.elapsed().as_secs_f64();
    let file_mib = size_mib(&fixture.data()).await?;

    // The order is part of the figures: each memory figure contains what the steps before it loaded.
    let start = Instant::now();
    let (node, mut connection) = fixture.start_node().await?;
    let ready_ms = millis(start.elapsed());
    let started_mib = settled_mib(&node.process).await?;
    let sample_reads_per_s = read_sessions(&mut connection, &node, SAMPLE).await?;
    let sample_mib = settled_mib(&node.process).await?;
    let all_reads_per_s = read_sessions(&mut connection, &node, SESSIONS).await?;
    let all_mib = settled_mib(&node.process).await?;
    // Two nodes must not share the directory.
    drop(node);

    let embedded = fixture.start_embedded_node()?;
    let (mut ticks, mut tick_calls) = (Vec::new(), StoreCalls::default());
    for _ in 0..TICKS {
        let start = Instant::now();
        embedded.node.tick().await.map_err(Error::other)?;
        ticks.push(millis(start.elapsed()));
        tick_calls = embedded.take_calls();
    }
    drop(embedded);
    fixture.remove()?;
    Ok(ManySessionsFigures {
        written_s,
        file_mib,
        ready_ms,
        resident_mib: [started_mib, sample_mib, all_mib],
        reads_per_s: [sample_reads_per_s, all_reads_per_s],
        tick_ms: median(ticks),
        tick_calls,
    })
}

/// Reads the items of `count` sessions, scattered over the store, and returns the sessions per second.
async fn read_sessions(connection: &mut Connection, node: &Subject, count: usize) -> Result<f64> {
    let start = Instant::now();
    for number in 0..count {
        // The factor is coprime to the number of sessions, so no session is read twice.
        let log = template::log_id(number * 7_919 % SESSIONS);
        connection.round_trip(&load::get(&node.address, &template::items_path(log))).await?;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Resident memory in MiB, after a pause in which the node frees its buffers.
async fn settled_mib(process: &Process) -> Result<f64> {
    sleep(Duration::from_millis(500)).await;
    process.resident_mib()
}

/// The size of all files in MiB, once the store has closed and its write-ahead log is gone.
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

impl ManySessionsFigures {
    /// Appends the table for people.
    pub(crate) fn table(&self, out: &mut String) {
        let Self { written_s, file_mib, ready_ms, resident_mib, reads_per_s, tick_ms, tick_calls } = self;
        let [started_mib, sample_mib, all_mib] = resident_mib;
        let [sample_reads_per_s, all_reads_per_s] = reads_per_s;
        let _ = writeln!(out, "| {SESSIONS} sessions of one turn on one native node | |\n|---|---:|");
        for (label, value) in [
            ("written straight to the store, s", format!("{written_s:.1}")),
            ("file, MiB", format!("{file_mib:.1}")),
            ("from the start of the process to `/readyz`, ms", format!("{ready_ms:.1}")),
            ("memory after the start, MiB", format!("{started_mib:.1}")),
            ("memory after reading 1,000 of them, MiB", format!("{sample_mib:.1}")),
            ("memory after reading all, MiB", format!("{all_mib:.1}")),
            ("sessions read/s, the first 1,000, c=1", format!("{sample_reads_per_s:.0}")),
            ("sessions read/s, all, c=1", format!("{all_reads_per_s:.0}")),
            ("one tick, ms", format!("{tick_ms:.2}")),
            (
                "one tick: durable writes, reads, entries read",
                format!("{}, {}, {}", tick_calls.writes, tick_calls.reads, tick_calls.entries_read),
            ),
        ] {
            let _ = writeln!(out, "| {label} | {value} |");
        }
        out.push('\n');
    }

    /// The figures for comparison.
    pub(crate) fn figures(&self) -> Value {
        let [started_mib, sample_mib, all_mib] = self.resident_mib;
        json!({
            "file_mib": self.file_mib,
            "ready_ms": self.ready_ms,
            "rss_mib_started": started_mib,
            "rss_mib_1000": sample_mib,
            "rss_mib_all": all_mib,
            "tick_ms": self.tick_ms,
        })
    }
}
