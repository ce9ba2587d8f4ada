//! How long a node that has just started takes to go on with a conversation, by the length of its past.

use std::{
    fmt::Write as _,
    fs,
    io::Result,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::sleep};

use super::{
    inside::{Calls, Inside},
    seed::{self, Template},
};
use crate::{
    ROUNDS,
    load::{self, Asker, Question},
    report::median,
    subject::Subject,
    wire::Wire,
};

/// Turns that a conversation has had.
const LENGTHS: [usize; 3] = [10, 1_000, 10_000];

/// What was measured at one length; medians in milliseconds.
struct Row {
    turns: usize,
    /// The first look at 20 items after the start.
    items_ms: f64,
    /// The next look.
    again_ms: f64,
    /// The first turn after the start, until its first event.
    event_ms: f64,
    /// Until its last.
    turn_ms: f64,
    /// Resident memory of the node afterwards, in MiB.
    resident_mib: f64,
    /// What the first look asks the store.
    items: Calls,
    /// What the first turn does.
    turn: Calls,
}

/// What was measured at each length.
pub(crate) struct Figures(Vec<Row>);

/// Measures with a fresh node for each figure of each round.
pub(crate) async fn measure(
    program: &Path,
    upstream: &str,
    template: &Template,
    scratch: &Path,
) -> Result<Figures> {
    let mut rows = Vec::new();
    for turns in LENGTHS {
        let scratch = scratch.join(format!("turns-{turns}"));
        let data = scratch.join("data");
        template.write_long(upstream, &data, seed::log(0), turns).await?;
        let conversation = format!("conv_{}", seed::log(0));
        let (mut items, mut again, mut event, mut whole) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut resident = Vec::new();
        for _ in 0..ROUNDS {
            let node = Subject::node(program, upstream, &scratch)?;
            let look = load::get(&node.address, &seed::items(seed::log(0)));
            let mut wire = connect(&node).await?;
            for times in [&mut items, &mut again] {
                let start = Instant::now();
                wire.ask(&look).await?;
                times.push(millis(start.elapsed()));
            }
            drop(node);
            let node = Subject::node(program, upstream, &scratch)?;
            let mut wire = connect(&node).await?;
            let asker = Asker {
                address: node.address.clone(),
                headers: String::new(),
                question: Question::Next,
                streamed: true,
                model: "bench",
            };
            let request = asker.request(Some(&conversation));
            let start = Instant::now();
            wire.stream.write_all(request.as_bytes()).await?;
            wire.head().await?;
            wire.first_byte().await?;
            event.push(millis(start.elapsed()));
            wire.chunks().await?;
            whole.push(millis(start.elapsed()));
            resident.push(node.process.resident_mib()?);
        }
        let inside = Inside::start(&data, upstream)?;
        inside.ask(&seed::items(seed::log(0)), None).await?;
        let items_calls = inside.calls();
        let inside = Inside::start(&data, upstream)?;
        inside.ask("/v1/responses", Some(seed::turn(&conversation, true).to_string())).await?;
        rows.push(Row {
            turns,
            items_ms: median(items),
            again_ms: median(again),
            event_ms: median(event),
            turn_ms: median(whole),
            resident_mib: median(resident),
            items: items_calls,
            turn: inside.calls(),
        });
        drop(inside);
        fs::remove_dir_all(&scratch)?;
    }
    Ok(Figures(rows))
}

/// A connection to a node whose first tick is over, so that it is not measured with the request.
async fn connect(node: &Subject) -> Result<Wire> {
    let mut wire = Wire::new(TcpStream::connect(&node.address).await?)?;
    wire.ask(&load::get(&node.address, "/readyz")).await?;
    sleep(Duration::from_millis(50)).await;
    Ok(wire)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Figures {
    /// The table.
    pub(crate) fn table(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "| turns so far | first 20 items, ms | the same again, ms | reads, entries read | next turn: first event, ms | its end, ms | reads, entries read | memory, MiB |"
        );
        let _ = writeln!(out, "|---:|---:|---:|---:|---:|---:|---:|---:|");
        for row in &self.0 {
            let Row { turns, items_ms, again_ms, event_ms, turn_ms, resident_mib, items, turn } = row;
            let _ = writeln!(
                out,
                "| {turns} | {items_ms:.2} | {again_ms:.2} | {}, {} | {event_ms:.2} | {turn_ms:.2} | {}, {} | {resident_mib:.1} |",
                items.reads, items.read, turn.reads, turn.read
            );
        }
        out.push('\n');
    }

    /// For comparison between runs.
    pub(crate) fn figures(&self) -> Value {
        let row = |row: &Row| {
            json!({
                "turns": row.turns,
                "items_ms": row.items_ms,
                "first_event_ms": row.event_ms,
                "rss_mib": row.resident_mib,
                "items_entries_read": row.items.read,
                "turn_entries_read": row.turn.read,
            })
        };
        self.0.iter().map(row).collect()
    }
}
