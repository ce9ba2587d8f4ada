//! Counts the writes and reads of a turn on each store, and the capacity units that DynamoDB bills for them. Takes no
//! times.
//!
//! `embedded_node.rs` counts the calls of SQLite, `meter.rs` those of DynamoDB. A Durable Object's appends are read
//! from its file: each moves the cursor of the object's only log by one.

use std::{
    fmt::Write as _,
    fs,
    io::{Error, Result},
    path::{Path, PathBuf},
    process::Command,
};

use outlive::entry::LogId;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{
    Hosts,
    embedded_node::{EmbeddedNode, StoreCalls},
    template,
};
use crate::{
    child::Process,
    connection::Connection,
    lambda::Function,
    load::{RequestBuilder, RequestKind, TURNS_PER_CONVERSATION},
    meter::{Meter, Totals},
    subject::{API_KEY, free_port, write_config_with_key},
};

/// What a turn costs on one store, averaged over the turns of one conversation.
struct StoreRow {
    store: &'static str,
    streamed: bool,
    /// Durable writes.
    writes: f64,
    /// Entries in the appends.
    entries_written: Option<f64>,
    /// Calls that read.
    reads: Option<f64>,
    write_units: Option<f64>,
    read_units: Option<f64>,
}

/// What turns cost on each store.
pub(crate) struct StoreFigures(Vec<StoreRow>);

/// Runs one conversation on each store that is there.
pub(crate) async fn measure(hosts: &Hosts<'_>, upstream: &str, scratch: &Path) -> Result<StoreFigures> {
    let mut rows = measure_sqlite(upstream, scratch).await?;
    if let Some(xtask) = hosts.xtask {
        rows.extend(measure_durable_object(xtask, upstream, scratch).await?);
    }
    if let (Some(program), Some(dynamodb)) = (hosts.lambda, hosts.dynamodb) {
        rows.extend(measure_dynamodb(program, dynamodb, upstream, scratch).await?);
    }
    Ok(StoreFigures(rows))
}

async fn measure_sqlite(upstream: &str, scratch: &Path) -> Result<Vec<StoreRow>> {
    let embedded = EmbeddedNode::start(&scratch.join("writes"), upstream)?;
    let mut rows = Vec::new();
    for streamed in [false, true] {
        let id = id_in(&embedded.request("/v1/conversations", Some("{}".into())).await?)?;
        // Creating the conversation is not part of a turn.
        embedded.take_calls();
        for _ in 0..TURNS_PER_CONVERSATION {
            let request = template::turn_request(&id, streamed).to_string();
            embedded.request("/v1/responses", Some(request)).await?;
        }
        let StoreCalls { writes, entries_written, reads, .. } = embedded.take_calls();
        rows.push(StoreRow {
            store: "SQLite",
            streamed,
            writes: per_turn(writes),
            entries_written: Some(per_turn(entries_written)),
            reads: Some(per_turn(reads)),
            write_units: None,
            read_units: None,
        });
    }
    Ok(rows)
}

async fn measure_dynamodb(
    program: &Path,
    dynamodb: &str,
    upstream: &str,
    scratch: &Path,
) -> Result<Vec<StoreRow>> {
    let meter = Meter::start(dynamodb).await?;
    let config = write_config_with_key(upstream, scratch)?;
    let function = Function::start(program, &config, Some(&meter.endpoint)).await?;
    let mut rows = Vec::new();
    for streamed in [false, true] {
        let id = id_in(&function.post("/v1/conversations", &json!({})).await?)?;
        // Creating the conversation is not part of a turn.
        meter.take_totals();
        for _ in 0..TURNS_PER_CONVERSATION {
            function.post("/v1/responses", &template::turn_request(&id, streamed)).await?;
        }
        let totals = meter.take_totals();
        let (writes, write_units) = sum(&totals, |operation| WRITE_OPERATIONS.contains(&operation));
        let (reads, read_units) = sum(&totals, |operation| !WRITE_OPERATIONS.contains(&operation));
        rows.push(StoreRow {
            store: "DynamoDB",
            streamed,
            writes: per_turn(writes),
            entries_written: None,
            reads: Some(per_turn(reads)),
            write_units: Some(write_units / TURNS_PER_CONVERSATION as f64),
            read_units: Some(read_units / TURNS_PER_CONVERSATION as f64),
        });
    }
    Ok(rows)
}

/// The operations with which the store writes to DynamoDB.
const WRITE_OPERATIONS: [&str; 4] = ["TransactWriteItems", "PutItem", "UpdateItem", "DeleteItem"];

/// The calls and capacity units of the operations that `filter` accepts.
fn sum(totals: &Totals, filter: impl Fn(&str) -> bool) -> (u64, f64) {
    let accepted = totals.iter().filter(|(operation, _)| filter(operation));
    accepted.fold((0, 0.0), |(calls, units), (_, consumption)| {
        (calls + consumption.calls, units + consumption.units)
    })
}

async fn measure_durable_object(xtask: &Path, upstream: &str, scratch: &Path) -> Result<Vec<StoreRow>> {
    let data = scratch.join("worker");
    let mut command = Command::new(xtask);
    command.args(["serve", "worker", "--port", &free_port()?.to_string(), "--config"]);
    command.arg(write_config_with_key(upstream, scratch)?).arg("--data").arg(&data);
    let (process, address) = Process::start_ready(&mut command)?;
    let mut connection = Connection::new(TcpStream::connect(&address).await?)?;
    let mut conversations = Vec::new();
    for streamed in [false, true] {
        let builder = RequestBuilder {
            address: address.clone(),
            headers: format!("authorization: Bearer {API_KEY}\r\n"),
            kind: RequestKind::NextTurn,
            streamed,
            model: "bench",
        };
        let id = builder.create_conversation(&mut connection).await?;
        for _ in 0..TURNS_PER_CONVERSATION {
            connection.round_trip(&builder.request(Some(&id))).await?;
        }
        conversations.push((streamed, id));
    }
    // The objects' files are complete only after workerd has exited.
    process.terminate()?;
    let mut rows = Vec::new();
    for (streamed, id) in conversations {
        let log = id.strip_prefix("conv_").and_then(LogId::parse);
        let log = log.ok_or_else(|| Error::other(format!("{id:?} is not a conversation's id")))?;
        let (appends, entries) = read_object_counts(&data.join("state"), log)?;
        rows.push(StoreRow {
            store: "Durable Object",
            streamed,
            // One append of one entry created the conversation.
            writes: per_turn(appends.saturating_sub(1)),
            entries_written: Some(per_turn(entries.saturating_sub(1))),
            reads: None,
            write_units: None,
            read_units: None,
        });
    }
    Ok(rows)
}

/// Reads how many appends and entries the Durable Object of `log` has stored.
fn read_object_counts(state: &Path, log: LogId) -> Result<(u64, u64)> {
    for file in database_files(state)? {
        let database = rusqlite::Connection::open(&file).map_err(Error::other)?;
        let query =
            "SELECT h.cursor, (SELECT count(*) FROM entry e WHERE e.log = h.log) FROM head h WHERE h.log = ?";
        // The query fails on the files of other objects: they have other tables or other logs.
        let counts = database.query_row(query, [log.0.as_slice()], |row| {
            Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get::<_, i64>(1)?.unsigned_abs()))
        });
        if let Ok(counts) = counts {
            return Ok(counts);
        }
    }
    Err(Error::other(format!("no Durable Object has stored the log {log}")))
}

/// All SQLite files below a directory.
fn database_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(database_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "sqlite") {
            found.push(path);
        }
    }
    Ok(found)
}

/// The `id` in the body of a response.
fn id_in(body: &[u8]) -> Result<String> {
    let resource: Value = serde_json::from_slice(body)?;
    let id = resource.get("id").and_then(Value::as_str);
    id.map(str::to_owned).ok_or_else(|| Error::other("the created resource has no id"))
}

fn per_turn(count: u64) -> f64 {
    count as f64 / TURNS_PER_CONVERSATION as f64
}

impl StoreFigures {
    /// Appends the table for people.
    pub(crate) fn table(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "| store of a turn | streamed | durable writes | entries | reads | write units | read units |"
        );
        let _ = writeln!(out, "|---|---|---:|---:|---:|---:|---:|");
        let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
        for StoreRow { store, streamed, writes, entries_written, reads, write_units, read_units } in &self.0 {
            let streamed = if *streamed { "yes" } else { "no" };
            let [entries, reads, write_units, read_units] =
                [entries_written, reads, write_units, read_units].map(|value| shown(*value));
            let _ = writeln!(
                out,
                "| {store} | {streamed} | {writes:.2} | {entries} | {reads} | {write_units} | {read_units} |"
            );
        }
        out.push('\n');
    }

    /// The figures for comparison.
    pub(crate) fn figures(&self) -> Value {
        let row = |row: &StoreRow| {
            json!({
                "store": row.store,
                "streamed": row.streamed,
                "writes": row.writes,
                "reads": row.reads,
                "write_units": row.write_units,
                "read_units": row.read_units,
            })
        };
        self.0.iter().map(row).collect()
    }
}
