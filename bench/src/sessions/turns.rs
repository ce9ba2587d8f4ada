//! Measures what a stored turn adds to a call that is not stored, on the native node. Counts no calls of the store;
//! `writes.rs` does.

use std::{
    fmt::Write as _,
    fs::File,
    io::{Result, Seek, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use crate::{
    ROUNDS, cores,
    load::{self, RequestKind, Slice, TURNS_PER_CONVERSATION},
    report::{Figure, median, p50, p99, quantile, responses_per_s},
    subject::Subject,
};

/// The requests, as key in the figures, title in the table and kind. The upstream serves the first, the node all
/// others.
const REQUESTS: [(&str, &str, RequestKind); 5] = [
    ("upstream", "upstream alone", RequestKind::Chat),
    ("chat", "chat completion", RequestKind::Chat),
    ("passing", "response, not stored", RequestKind::Unstored),
    ("first", "first turn of a session", RequestKind::FirstTurn),
    ("next", "next turn of a conversation", RequestKind::NextTurn),
];

/// Flushes timed in each round.
const FLUSHES: usize = 50;

/// The slices of one kind of request.
struct TurnRow {
    name: &'static str,
    title: &'static str,
    kind: RequestKind,
    streamed: bool,
    one_connection: Vec<Slice>,
    sixteen_connections: Vec<Slice>,
}

/// The cost of turns.
pub(crate) struct TurnFigures {
    rows: Vec<TurnRow>,
    /// Durations of flushes in microseconds, sorted.
    flushes_us: Vec<f64>,
}

/// Loads the upstream and the node with all kinds of request in rotation, and times flushes between the rounds.
pub(crate) async fn measure(
    upstream: &Subject,
    node: &Subject,
    scratch: &Path,
    time: Duration,
) -> Result<TurnFigures> {
    let mut rows: Vec<TurnRow> = [false, true]
        .into_iter()
        .flat_map(|streamed| {
            REQUESTS.map(|(name, title, kind)| TurnRow {
                name,
                title,
                kind,
                streamed,
                one_connection: Vec::new(),
                sixteen_connections: Vec::new(),
            })
        })
        .collect();
    let slice = time / (ROUNDS * rows.len() * 2) as u32;
    let mut flushes_us = Vec::new();
    for round in 0..=ROUNDS {
        for (connections, core) in [(1, cores::LOAD), (16, cores::SUBJECT)] {
            cores::move_process(node.process.id(), core)?;
            for row in &mut rows {
                let subject = if row.name == "upstream" { upstream } else { node };
                let measured = load::run(subject, row.kind, connections, row.streamed, slice).await?;
                // The first round only warms up.
                if round > 0 {
                    let slices =
                        if connections == 1 { &mut row.one_connection } else { &mut row.sixteen_connections };
                    slices.push(measured);
                }
            }
        }
        // Between the rounds, so that the load does not compete for the disk.
        flushes_us.extend(time_flushes(scratch)?);
    }
    flushes_us.sort_by(f64::total_cmp);
    Ok(TurnFigures { rows, flushes_us })
}

/// Times how long the disk takes to make 4 KiB durable, in microseconds. The file does not grow: an append writes
/// about as much, and SQLite overwrites its write-ahead log in place.
fn time_flushes(scratch: &Path) -> Result<Vec<f64>> {
    let mut file = File::create(scratch.join("flush"))?;
    let block = [1; 4096];
    for _ in 0..FLUSHES {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    file.rewind()?;
    let mut times = Vec::with_capacity(FLUSHES);
    for _ in 0..FLUSHES {
        let start = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

fn median_of(slices: &[Slice], figure: Figure) -> f64 {
    median(slices.iter().map(figure).collect())
}

fn range_of(slices: &[Slice], figure: Figure) -> (f64, f64) {
    let figures = slices.iter().map(figure);
    figures.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), one| (low.min(one), high.max(one)))
}

impl TurnFigures {
    /// The upstream's row for the same call of the model: the node always streams from the model in a turn.
    fn upstream_row(&self, row: &TurnRow) -> Option<&TurnRow> {
        let streamed = row.streamed || matches!(row.kind, RequestKind::FirstTurn | RequestKind::NextTurn);
        self.rows.iter().find(|other| other.name == "upstream" && other.streamed == streamed)
    }

    /// The row's median over one connection, less the upstream's.
    fn added(&self, row: &TurnRow, figure: Figure) -> f64 {
        let median = |row: &TurnRow| median_of(&row.one_connection, figure);
        self.upstream_row(row).map_or(f64::NAN, |upstream| median(row) - median(upstream))
    }

    /// Appends the table for people.
    pub(crate) fn table(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "| request | streamed | p50, µs (min to max) | p99, µs | added p50, µs | added p99, µs | requests/s, c=1 | requests/s, c=16 (min to max) | p50 at c=16, µs |"
        );
        let _ = writeln!(out, "|---|---|---:|---:|---:|---:|---:|---:|---:|");
        for row in &self.rows {
            let (low, high) = range_of(&row.one_connection, p50);
            let (slow, fast) = range_of(&row.sixteen_connections, responses_per_s);
            let _ = writeln!(
                out,
                "| {} | {} | {:.0} ({low:.0} to {high:.0}) | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} ({slow:.0} to {fast:.0}) | {:.0} |",
                row.title,
                if row.streamed { "yes" } else { "no" },
                median_of(&row.one_connection, p50),
                median_of(&row.one_connection, p99),
                self.added(row, p50),
                self.added(row, p99),
                median_of(&row.one_connection, responses_per_s),
                median_of(&row.sixteen_connections, responses_per_s),
                median_of(&row.sixteen_connections, p50),
            );
        }
        let at = |share| quantile(&self.flushes_us, share);
        let _ = writeln!(
            out,
            "\nA flush of 4 KiB: p50 {:.0} µs, p99 {:.0} µs. Conversations have {TURNS_PER_CONVERSATION} turns.\n",
            at(0.5),
            at(0.99)
        );
    }

    /// The figures for comparison.
    pub(crate) fn figures(&self) -> Value {
        let mut figures = Map::new();
        for row in self.rows.iter().filter(|row| row.name != "upstream") {
            let name = format!("{}{}", row.name, if row.streamed { "_sse" } else { "" });
            let added = json!({
                "added_p50_us": self.added(row, p50),
                "added_p99_us": self.added(row, p99),
                "rps_c16": median_of(&row.sixteen_connections, responses_per_s),
            });
            figures.insert(name, added);
        }
        figures.insert("flush_p50_us".into(), json!(quantile(&self.flushes_us, 0.5)));
        Value::Object(figures)
    }
}
