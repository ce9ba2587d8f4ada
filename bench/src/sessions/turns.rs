//! What a turn adds to a question that is kept nowhere, over the same node.

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
    load::{self, Question, Slice, TURNS},
    report::{median, p50, p99, rate},
    subject::Subject,
};

/// What is asked of whom; the first is the upstream alone.
const ASKED: [(&str, &str, Question); 5] = [
    ("upstream", "upstream alone", Question::Chat),
    ("chat", "chat completion", Question::Chat),
    ("passing", "response, not kept", Question::Passing),
    ("first", "first turn of a session", Question::First),
    ("next", "next turn of a conversation", Question::Next),
];

/// Flushes that are timed in each round.
const FLUSHES: usize = 50;

/// The slices of one question.
struct Row {
    name: &'static str,
    title: &'static str,
    question: Question,
    streamed: bool,
    one: Vec<Slice>,
    sixteen: Vec<Slice>,
}

/// What was measured.
pub(crate) struct Figures {
    rows: Vec<Row>,
    /// Times of a flush in microseconds, sorted.
    flushes: Vec<f64>,
}

/// Loads the upstream and the node with all questions in turn.
pub(crate) async fn measure(
    upstream: &Subject,
    node: &Subject,
    scratch: &Path,
    time: Duration,
) -> Result<Figures> {
    let mut rows: Vec<Row> = [false, true]
        .into_iter()
        .flat_map(|streamed| {
            ASKED.map(|(name, title, question)| {
                let (one, sixteen) = (Vec::new(), Vec::new());
                Row { name, title, question, streamed, one, sixteen }
            })
        })
        .collect();
    let slice = time / (ROUNDS * rows.len() * 2) as u32;
    let mut flushes = Vec::new();
    for round in 0..=ROUNDS {
        for (connections, core) in [(1, cores::LOAD), (16, cores::MEASURED)] {
            cores::place(node.process.id(), core)?;
            for row in &mut rows {
                let subject = if row.name == "upstream" { upstream } else { node };
                let measured = load::run(subject, row.question, connections, row.streamed, slice).await?;
                // The first round only warms up.
                if round > 0 {
                    if connections == 1 { &mut row.one } else { &mut row.sixteen }.push(measured);
                }
            }
        }
        flushes.extend(flush(scratch)?);
    }
    flushes.sort_by(f64::total_cmp);
    Ok(Figures { rows, flushes })
}

/// What the disk takes to make 4 KiB durable, in a file that does not grow: an append writes about as much, and SQLite uses
/// the file of its log again and again.
fn flush(scratch: &Path) -> Result<Vec<f64>> {
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

/// Reads a figure off a slice.
type Figure = fn(&Slice) -> f64;

fn of(slices: &[Slice], figure: Figure) -> f64 {
    median(slices.iter().map(figure).collect())
}

fn range(slices: &[Slice], figure: Figure) -> (f64, f64) {
    let figures = slices.iter().map(figure);
    figures.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), one| (low.min(one), high.max(one)))
}

impl Figures {
    /// The upstream alone, asked as the node asks it: for a turn always for a stream.
    fn alone(&self, row: &Row) -> Option<&Row> {
        let streamed = row.streamed || matches!(row.question, Question::First | Question::Next);
        self.rows.iter().find(|other| other.name == "upstream" && other.streamed == streamed)
    }

    fn added(&self, row: &Row, figure: Figure) -> f64 {
        self.alone(row).map_or(f64::NAN, |alone| of(&row.one, figure) - of(&alone.one, figure))
    }

    /// The table.
    pub(crate) fn table(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "| question | streamed | p50, µs (min to max) | p99, µs | added p50, µs | added p99, µs | answers/s, c=1 | answers/s, c=16 (min to max) | p50 at c=16, µs |"
        );
        let _ = writeln!(out, "|---|---|---:|---:|---:|---:|---:|---:|---:|");
        for row in &self.rows {
            let (low, high) = range(&row.one, p50);
            let (slow, fast) = range(&row.sixteen, rate);
            let _ = writeln!(
                out,
                "| {} | {} | {:.0} ({low:.0} to {high:.0}) | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} ({slow:.0} to {fast:.0}) | {:.0} |",
                row.title,
                if row.streamed { "yes" } else { "no" },
                of(&row.one, p50),
                of(&row.one, p99),
                self.added(row, p50),
                self.added(row, p99),
                of(&row.one, rate),
                of(&row.sixteen, rate),
                of(&row.sixteen, p50),
            );
        }
        let at = |share| crate::report::quantile(&self.flushes, share);
        let _ = writeln!(
            out,
            "\nA flush of 4 KiB: p50 {:.0} µs, p99 {:.0} µs. Conversations have {TURNS} turns.\n",
            at(0.5),
            at(0.99)
        );
    }

    /// For comparison between runs.
    pub(crate) fn figures(&self) -> Value {
        let mut figures = Map::new();
        for row in self.rows.iter().filter(|row| row.name != "upstream") {
            let name = format!("{}{}", row.name, if row.streamed { "_sse" } else { "" });
            let added = json!({
                "added_p50_us": self.added(row, p50),
                "added_p99_us": self.added(row, p99),
                "rps_c16": of(&row.sixteen, rate),
            });
            figures.insert(name, added);
        }
        figures.insert("flush_p50_us".into(), json!(crate::report::quantile(&self.flushes, 0.5)));
        Value::Object(figures)
    }
}
