//! How often a turn writes and reads, on each store, and what DynamoDB takes for it.
//!
//! SQLite is counted by a store around it, DynamoDB by what stands between it and the function, and a Durable Object by its
//! file: each append moves the cursor of the object's only log by one.

use std::{
    fmt::Write as _,
    fs,
    io::{Error, Result},
    path::{Path, PathBuf},
    process::Command,
};

use outlive::entry::LogId;
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{
    Hosts,
    inside::{Calls, Inside},
    seed,
};
use crate::{
    child::Process,
    lambda::Function,
    load::{Asker, Question, TURNS},
    meter::{Meter, Totals},
    subject::{KEY, configuration_with_key, free_port},
    wire::Wire,
};

/// What a turn does on one store, each averaged over the turns of one conversation.
struct Row {
    store: &'static str,
    streamed: bool,
    writes: f64,
    /// Entries in the appends.
    written: Option<f64>,
    /// Calls that read.
    reads: Option<f64>,
    /// Capacity units that writing takes, and reading.
    units: Option<(f64, f64)>,
}

/// What turns do on each store.
pub(crate) struct Figures(Vec<Row>);

/// Has each store keep some turns.
pub(crate) async fn measure(hosts: &Hosts<'_>, upstream: &str, scratch: &Path) -> Result<Figures> {
    let mut rows = native(upstream, scratch).await?;
    if let Some(xtask) = hosts.xtask {
        rows.extend(worker(xtask, upstream, scratch).await?);
    }
    if let (Some(program), Some(dynamodb)) = (hosts.lambda, hosts.dynamodb) {
        rows.extend(lambda(program, dynamodb, upstream, scratch).await?);
    }
    Ok(Figures(rows))
}

async fn native(upstream: &str, scratch: &Path) -> Result<Vec<Row>> {
    let inside = Inside::start(&scratch.join("writes"), upstream)?;
    let mut rows = Vec::new();
    for streamed in [false, true] {
        let id = id(&inside.ask("/v1/conversations", Some("{}".into())).await?)?;
        inside.calls();
        for _ in 0..TURNS {
            inside.ask("/v1/responses", Some(seed::turn(&id, streamed).to_string())).await?;
        }
        let Calls { writes, written, reads, .. } = inside.calls();
        rows.push(Row {
            store: "SQLite",
            streamed,
            writes: each(writes),
            written: Some(each(written)),
            reads: Some(each(reads)),
            units: None,
        });
    }
    Ok(rows)
}

async fn lambda(program: &Path, dynamodb: &str, upstream: &str, scratch: &Path) -> Result<Vec<Row>> {
    let meter = Meter::before(dynamodb).await?;
    let config = configuration_with_key(upstream, scratch)?;
    let function = Function::start(program, &config, Some(&meter.endpoint)).await?;
    let mut rows = Vec::new();
    for streamed in [false, true] {
        let id = id(&function.ask("/v1/conversations", &json!({})).await?)?;
        meter.read();
        for _ in 0..TURNS {
            function.ask("/v1/responses", &seed::turn(&id, streamed)).await?;
        }
        let totals = meter.read();
        let (writes, writing) = sum(&totals, |operation| WRITES.contains(&operation));
        let (reads, reading) = sum(&totals, |operation| !WRITES.contains(&operation));
        rows.push(Row {
            store: "DynamoDB",
            streamed,
            writes: each(writes),
            written: None,
            reads: Some(each(reads)),
            units: Some((writing / TURNS as f64, reading / TURNS as f64)),
        });
    }
    Ok(rows)
}

/// DynamoDB's operations that write, as far as they are used.
const WRITES: [&str; 4] = ["TransactWriteItems", "PutItem", "UpdateItem", "DeleteItem"];

fn sum(totals: &Totals, which: impl Fn(&str) -> bool) -> (u64, f64) {
    let those = totals.iter().filter(|(operation, _)| which(operation));
    those.fold((0, 0.0), |(calls, units), (_, taken)| (calls + taken.calls, units + taken.units))
}

async fn worker(xtask: &Path, upstream: &str, scratch: &Path) -> Result<Vec<Row>> {
    let data = scratch.join("worker");
    let mut command = Command::new(xtask);
    command.args(["serve", "worker", "--port", &free_port()?.to_string(), "--config"]);
    command.arg(configuration_with_key(upstream, scratch)?).arg("--data").arg(&data);
    let (process, address) = Process::start_ready(&mut command)?;
    let mut wire = Wire::new(TcpStream::connect(&address).await?)?;
    let mut asked = Vec::new();
    for streamed in [false, true] {
        let (address, headers, question) =
            (address.clone(), format!("authorization: Bearer {KEY}\r\n"), Question::Next);
        let asker = Asker { address, headers, question, streamed, model: "bench" };
        let id = asker.conversation(&mut wire).await?;
        for _ in 0..TURNS {
            wire.ask(&asker.request(Some(&id))).await?;
        }
        asked.push((streamed, id));
    }
    // Only now are the files at rest.
    process.terminate()?;
    let mut rows = Vec::new();
    for (streamed, id) in asked {
        let log = id.strip_prefix("conv_").and_then(LogId::parse);
        let log = log.ok_or_else(|| Error::other(format!("{id:?} is no conversation's id")))?;
        let (appends, written) = of_object(&data.join("state"), log)?;
        // One append, of one entry, made the conversation.
        let (writes, written) = (each(appends.saturating_sub(1)), Some(each(written.saturating_sub(1))));
        rows.push(Row { store: "Durable Object", streamed, writes, written, reads: None, units: None });
    }
    Ok(rows)
}

/// How many appends and entries the object of `log` has kept.
fn of_object(state: &Path, log: LogId) -> Result<(u64, u64)> {
    for file in databases(state)? {
        let database = Connection::open(&file).map_err(Error::other)?;
        let query =
            "SELECT h.cursor, (SELECT count(*) FROM entry e WHERE e.log = h.log) FROM head h WHERE h.log = ?";
        // Files of other objects have other tables, or other logs.
        let found = database.query_row(query, [log.0.as_slice()], |row| {
            Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get::<_, i64>(1)?.unsigned_abs()))
        });
        if let Ok(found) = found {
            return Ok(found);
        }
    }
    Err(Error::other(format!("no object has kept the log {log}")))
}

/// All databases below a directory.
fn databases(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(databases(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "sqlite") {
            found.push(path);
        }
    }
    Ok(found)
}

/// The id of what an answer says was made.
fn id(answer: &[u8]) -> Result<String> {
    let made: Value = serde_json::from_slice(answer)?;
    let id = made.get("id").and_then(Value::as_str);
    id.map(str::to_owned).ok_or_else(|| Error::other("what was made has no id"))
}

fn each(count: u64) -> f64 {
    count as f64 / TURNS as f64
}

impl Figures {
    /// The table.
    pub(crate) fn table(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "| a turn's store | streamed | durable writes | entries | reads | write units | read units |"
        );
        let _ = writeln!(out, "|---|---|---:|---:|---:|---:|---:|");
        let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
        for Row { store, streamed, writes, written, reads, units } in &self.0 {
            let streamed = if *streamed { "yes" } else { "no" };
            let (written, reads) = (shown(*written), shown(*reads));
            let (writing, reading) = units.unzip();
            let (writing, reading) = (shown(writing), shown(reading));
            let _ = writeln!(
                out,
                "| {store} | {streamed} | {writes:.2} | {written} | {reads} | {writing} | {reading} |"
            );
        }
        out.push('\n');
    }

    /// For comparison between runs.
    pub(crate) fn figures(&self) -> Value {
        let row = |row: &Row| {
            json!({
                "store": row.store,
                "streamed": row.streamed,
                "writes": row.writes,
                "reads": row.reads,
                "write_units": row.units.map(|(writing, _)| writing),
                "read_units": row.units.map(|(_, reading)| reading),
            })
        };
        self.0.iter().map(row).collect()
    }
}
