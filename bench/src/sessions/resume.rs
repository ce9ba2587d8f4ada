//! Measures how long a node that was just started takes to continue a conversation, by the conversation's length.
//! Shares its set-up with `many.rs` (`fixture.rs`).

use std::{
    fmt::Write as _,
    io::Result,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, time::sleep};

use super::{
    embedded_node::StoreCalls,
    fixture::{Fixture, millis},
    template,
};
use crate::{
    ROUNDS,
    connection::Connection,
    load::{self, RequestBuilder, RequestKind},
    report::median,
    subject::Subject,
};

/// Turns of the measured conversations.
const LENGTHS: [usize; 3] = [10, 1_000, 10_000];

/// How long the first tick of a node may take, in which nothing is measured.
const FIRST_TICK: Duration = Duration::from_millis(50);

/// The figures of one length; times are medians in milliseconds.
struct ResumeRow {
    turns: usize,
    /// Reading 20 items for the first time after the start.
    first_read_ms: f64,
    /// Reading the same items again.
    second_read_ms: f64,
    /// From sending the first turn after the start to its first event.
    first_event_ms: f64,
    /// From sending the same turn to its last event.
    turn_ms: f64,
    /// Resident memory of the node after the turn, in MiB.
    resident_mib: f64,
    /// The store's calls in the first read.
    read_calls: StoreCalls,
    /// The store's calls in the first turn.
    turn_calls: StoreCalls,
}

/// The cost of resuming, by length.
pub(crate) struct ResumeFigures(Vec<ResumeRow>);

/// Stores a conversation of each length and measures it.
pub(crate) async fn measure(fixture: &Fixture<'_>) -> Result<ResumeFigures> {
    let mut rows = Vec::new();
    for turns in LENGTHS {
        let fixture = fixture.subdirectory(&format!("turns-{turns}"));
        rows.push(measure_length(&fixture, turns).await?);
        fixture.remove()?;
    }
    Ok(ResumeFigures(rows))
}

async fn measure_length(fixture: &Fixture<'_>, turns: usize) -> Result<ResumeRow> {
    let log = template::log_id(0);
    let conversation = format!("conv_{log}");
    let path = template::items_path(log);
    fixture.write_long_conversation(log, turns).await?;
    let (mut first_read, mut second_read) = (Vec::new(), Vec::new());
    let (mut first_event, mut turn, mut resident) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (node, mut connection) = start_idle_node(fixture).await?;
        let request = load::get(&node.address, &path);
        for times in [&mut first_read, &mut second_read] {
            let start = Instant::now();
            connection.round_trip(&request).await?;
            times.push(millis(start.elapsed()));
        }
        // The turn needs a node that has not read the conversation, and two nodes must not share the directory.
        drop(node);
        let (node, mut connection) = start_idle_node(fixture).await?;
        let builder = RequestBuilder {
            address: node.address.clone(),
            headers: String::new(),
            kind: RequestKind::NextTurn,
            streamed: true,
            model: "bench",
        };
        let request = builder.request(Some(&conversation));
        let start = Instant::now();
        connection.stream.write_all(request.as_bytes()).await?;
        connection.read_head().await?;
        connection.wait_for_byte().await?;
        first_event.push(millis(start.elapsed()));
        connection.last_chunk().await?;
        turn.push(millis(start.elapsed()));
        resident.push(node.process.resident_mib()?);
    }
    // Counting comes last, in nodes of its own: it needs no repetition, and counting would slow the timed nodes down.
    let read_calls = {
        let embedded = fixture.start_embedded_node()?;
        embedded.request(&path, None).await?;
        embedded.take_calls()
    };
    let embedded = fixture.start_embedded_node()?;
    let request = template::turn_request(&conversation, true).to_string();
    embedded.request("/v1/responses", Some(request)).await?;
    Ok(ResumeRow {
        turns,
        first_read_ms: median(first_read),
        second_read_ms: median(second_read),
        first_event_ms: median(first_event),
        turn_ms: median(turn),
        resident_mib: median(resident),
        read_calls,
        turn_calls: embedded.take_calls(),
    })
}

/// Starts a node and waits until its first tick is over, which would otherwise compete with the timed request.
async fn start_idle_node(fixture: &Fixture<'_>) -> Result<(Subject, Connection)> {
    let started = fixture.start_node().await?;
    sleep(FIRST_TICK).await;
    Ok(started)
}

impl ResumeFigures {
    /// Appends the table for people.
    pub(crate) fn table(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "| turns so far | read 20 items, ms | read them again, ms | reads, entries read | next turn: first event, ms | last event, ms | reads, entries read | memory, MiB |"
        );
        let _ = writeln!(out, "|---:|---:|---:|---:|---:|---:|---:|---:|");
        for row in &self.0 {
            let ResumeRow {
                turns, first_read_ms, second_read_ms, first_event_ms, turn_ms, resident_mib, ..
            } = row;
            let ResumeRow { read_calls, turn_calls, .. } = row;
            let _ = writeln!(
                out,
                "| {turns} | {first_read_ms:.2} | {second_read_ms:.2} | {}, {} | {first_event_ms:.2} | {turn_ms:.2} | {}, {} | {resident_mib:.1} |",
                read_calls.reads, read_calls.entries_read, turn_calls.reads, turn_calls.entries_read
            );
        }
        out.push('\n');
    }

    /// The figures for comparison.
    pub(crate) fn figures(&self) -> Value {
        let row = |row: &ResumeRow| {
            json!({
                "turns": row.turns,
                "items_ms": row.first_read_ms,
                "first_event_ms": row.first_event_ms,
                "rss_mib": row.resident_mib,
                "items_entries_read": row.read_calls.entries_read,
                "turn_entries_read": row.turn_calls.entries_read,
            })
        };
        self.0.iter().map(row).collect()
    }
}
