//! Which logs have grown, for all objects of the node: one object for each of the 256 buckets, never asked on the way of
//! a client's request.

use bytes::Bytes;
use outlive::{
    entry::{Bucket, Change, Cursor, LogId},
    hex::hex,
    platform::{
        StoreError,
        sql::{self, Database, Value},
    },
};
use serde::{Deserialize, Serialize};
use wasm_bindgen::JsValue;
use worker::{
    DurableObject, Env, Error, ObjectNamespace, Request, RequestInit, Response, Result, State, durable_object,
};

use crate::{store::Sql, tip::Tip};

/// The namespace of the index objects, as wrangler.toml binds it.
pub(crate) fn namespace(env: &Env) -> Result<ObjectNamespace> {
    env.durable_object("INDEX")
}

/// Tells the index that these chains of `bucket` have grown. What it knows already changes nothing.
pub(crate) async fn tell(
    index: &ObjectNamespace,
    bucket: Bucket,
    changes: &[Change],
) -> std::result::Result<(), StoreError> {
    let grown = Call::Grown(changes.iter().map(Line::from).collect());
    ask(index, bucket, &grown).await.map(drop).map_err(unavailable)
}

/// [`Store::changes`](outlive::platform::Store::changes), over all objects.
pub(crate) async fn changes(
    index: &ObjectNamespace,
    bucket: Bucket,
    after: Cursor,
    limit: usize,
) -> std::result::Result<Vec<Change>, StoreError> {
    let lines = ask(index, bucket, &Call::Changes { after: after.0, limit }).await.map_err(unavailable)?;
    Ok(lines.into_iter().map(Change::from).collect())
}

/// The object that keeps one bucket of the index.
#[durable_object(fetch)]
pub struct Index {
    state: State,
}

impl DurableObject for Index {
    fn new(state: State, _: Env) -> Self {
        Self { state }
    }

    async fn fetch(&self, mut request: Request) -> Result<Response> {
        // Read and written as text: JavaScript would round a clock.
        let Asked { bucket, call } = serde_json::from_str(&request.text().await?)?;
        let sql = Sql::open(&self.state.storage().sql())?;
        let failed = |error: StoreError| Error::RustError(error.to_string());
        let changes = match call {
            // No await between the lines: they are committed together.
            Call::Grown(lines) => {
                lines
                    .into_iter()
                    .try_for_each(|line| record(&sql, Bucket(bucket), &line.into()))
                    .map_err(failed)?;
                vec![]
            }
            Call::Changes { after, limit } => {
                sql::changes(&sql, Bucket(bucket), Cursor(after), limit).map_err(failed)?
            }
        };
        Response::ok(serde_json::to_string(&changes.iter().map(Line::from).collect::<Vec<_>>())?)
    }
}

/// Gives the chain the bucket's next cursor, unless this or a later end of it is known.
fn record(sql: &Sql, bucket: Bucket, change: &Change) -> std::result::Result<(), StoreError> {
    let head = &change.head;
    let bucket = Value::Integer(bucket.0.into());
    sql.query(
        "INSERT INTO head (log, origin, seq, hlc, hash, bucket, cursor)
         VALUES (?, ?, ?, ?, ?, ?, (SELECT ifnull(max(cursor), 0) + 1 FROM head WHERE bucket = ?))
         ON CONFLICT (log, origin) DO UPDATE
         SET seq = excluded.seq, hlc = excluded.hlc, hash = excluded.hash, cursor = excluded.cursor
         WHERE excluded.seq > head.seq",
        vec![
            Value::Blob(Bytes::copy_from_slice(&change.log.0)),
            Value::Text(head.origin.to_string()),
            Value::Integer(head.seq.0),
            Value::Text(format!("{:016x}", head.hlc.0)),
            Value::Blob(Bytes::copy_from_slice(&head.hash.0)),
            bucket.clone(),
            bucket,
        ],
    )?;
    Ok(())
}

/// What is asked of an index object.
#[derive(Serialize, Deserialize)]
struct Asked<C> {
    bucket: u8,
    call: C,
}

#[derive(Serialize, Deserialize)]
enum Call {
    /// These chains have grown; their cursors mean nothing here.
    Grown(Vec<Line>),
    Changes {
        after: u64,
        limit: usize,
    },
}

/// A [`Change`] on its way between two objects.
#[derive(Serialize, Deserialize)]
struct Line {
    cursor: u64,
    log: [u8; 16],
    head: Tip,
}

impl From<&Change> for Line {
    fn from(change: &Change) -> Self {
        Self { cursor: change.cursor.0, log: change.log.0, head: Tip::from(&change.head) }
    }
}

impl From<Line> for Change {
    fn from(line: Line) -> Self {
        Self { cursor: Cursor(line.cursor), log: LogId(line.log), head: line.head.into() }
    }
}

/// Asks the object of `bucket`. Every call may be repeated, and whoever asks will ask again.
async fn ask(index: &ObjectNamespace, bucket: Bucket, call: &Call) -> Result<Vec<Line>> {
    let body = serde_json::to_string(&Asked { bucket: bucket.0, call })?;
    let mut init = RequestInit::new();
    init.with_method(worker::Method::Post).with_body(Some(JsValue::from_str(&body)));
    let stub = index.get_by_name(&hex(&[bucket.0]))?;
    let mut response = stub.fetch_with_request(Request::new_with_init("https://index/", &init)?).await?;
    Ok(serde_json::from_str(&response.text().await?)?)
}

fn unavailable(error: Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
