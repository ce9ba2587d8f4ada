//! The index of changed logs over all log objects: one `Index` object for each of the 256 buckets. Log objects report
//! to it from their alarm, so no client's request waits for it.

use bytes::Bytes;
use outlive::{
    entry::{Bucket, Change, Cursor, LogId},
    hex::hex,
    platform::{
        StoreError,
        sql::{self, Database, SqlValue},
    },
};
use serde::{Deserialize, Serialize};
use wasm_bindgen::JsValue;
use worker::{
    DurableObject, Env, Error, ObjectNamespace, Request, RequestInit, Response, Result, State, durable_object,
};

use crate::{head_json::HeadJson, store::ObjectDatabase};

/// The namespace of the index objects, by their binding in wrangler.toml.
pub(crate) fn namespace(env: &Env) -> Result<ObjectNamespace> {
    env.durable_object("INDEX")
}

/// Reports the new heads of chains of `bucket`. Reporting a head twice does no harm.
pub(crate) async fn report(
    index: &ObjectNamespace,
    bucket: Bucket,
    changes: &[Change],
) -> std::result::Result<(), StoreError> {
    let report = IndexCall::Report(changes.iter().map(ChangeJson::from).collect());
    call(index, bucket, &report).await.map(drop).map_err(unavailable)
}

/// [`Store::changes`](outlive::platform::Store::changes), over all objects.
pub(crate) async fn changes(
    index: &ObjectNamespace,
    bucket: Bucket,
    after: Cursor,
    limit: usize,
) -> std::result::Result<Vec<Change>, StoreError> {
    let changes = IndexCall::Changes { after: after.0, limit };
    let changes = call(index, bucket, &changes).await.map_err(unavailable)?;
    Ok(changes.into_iter().map(Change::from).collect())
}

/// The Durable Object that stores one bucket of the index.
#[durable_object(fetch)]
pub struct Index {
    state: State,
}

impl DurableObject for Index {
    fn new(state: State, _: Env) -> Self {
        Self { state }
    }

    async fn fetch(&self, mut request: Request) -> Result<Response> {
        // JSON is read and written in Rust: a number of JavaScript would round the 64 bits of a clock.
        let IndexRequest { bucket, call } = serde_json::from_str(&request.text().await?)?;
        let database = ObjectDatabase::open(&self.state.storage().sql())?;
        let rust_error = |error: StoreError| Error::RustError(error.to_string());
        let changes = match call {
            // No await between the writes, so that they are committed together.
            IndexCall::Report(changes) => {
                changes
                    .into_iter()
                    .try_for_each(|change| upsert_head(&database, Bucket(bucket), &change.into()))
                    .map_err(rust_error)?;
                vec![]
            }
            IndexCall::Changes { after, limit } => {
                sql::changes(&database, Bucket(bucket), Cursor(after), limit).map_err(rust_error)?
            }
        };
        Response::ok(serde_json::to_string(&changes.iter().map(ChangeJson::from).collect::<Vec<_>>())?)
    }
}

/// Moves the chain to the bucket's next cursor, unless this head or a later one is stored.
fn upsert_head(
    database: &ObjectDatabase,
    bucket: Bucket,
    change: &Change,
) -> std::result::Result<(), StoreError> {
    let head = &change.head;
    let bucket = SqlValue::Integer(bucket.0.into());
    database.query(
        "INSERT INTO head (log, origin, seq, hlc, hash, bucket, cursor)
         VALUES (?, ?, ?, ?, ?, ?, (SELECT ifnull(max(cursor), 0) + 1 FROM head WHERE bucket = ?))
         ON CONFLICT (log, origin) DO UPDATE
         SET seq = excluded.seq, hlc = excluded.hlc, hash = excluded.hash, cursor = excluded.cursor
         WHERE excluded.seq > head.seq",
        vec![
            SqlValue::Blob(Bytes::copy_from_slice(&change.log.0)),
            SqlValue::Text(head.origin.to_string()),
            SqlValue::Integer(head.seq.0),
            SqlValue::Text(format!("{:016x}", head.hlc.0)),
            SqlValue::Blob(Bytes::copy_from_slice(&head.hash.0)),
            bucket.clone(),
            bucket,
        ],
    )?;
    Ok(())
}

/// The body of a request to an index object.
#[derive(Serialize, Deserialize)]
struct IndexRequest<C> {
    bucket: u8,
    call: C,
}

#[derive(Serialize, Deserialize)]
enum IndexCall {
    /// The new heads of chains. Their cursors are those of the sender and are ignored.
    #[serde(rename = "Grown")]
    Report(Vec<ChangeJson>),
    /// Read the changes after a cursor of this index.
    Changes { after: u64, limit: usize },
}

/// The JSON of a [`Change`].
#[derive(Serialize, Deserialize)]
struct ChangeJson {
    cursor: u64,
    log: [u8; 16],
    head: HeadJson,
}

impl From<&Change> for ChangeJson {
    fn from(change: &Change) -> Self {
        Self { cursor: change.cursor.0, log: change.log.0, head: HeadJson::from(&change.head) }
    }
}

impl From<ChangeJson> for Change {
    fn from(json: ChangeJson) -> Self {
        Self { cursor: Cursor(json.cursor), log: LogId(json.log), head: json.head.into() }
    }
}

/// Calls the object of `bucket` once. Every call is safe to repeat, and the callers retry: the alarm, or the next read.
async fn call(index: &ObjectNamespace, bucket: Bucket, call: &IndexCall) -> Result<Vec<ChangeJson>> {
    let body = serde_json::to_string(&IndexRequest { bucket: bucket.0, call })?;
    let mut init = RequestInit::new();
    init.with_method(worker::Method::Post).with_body(Some(JsValue::from_str(&body)));
    let stub = index.get_by_name(&hex(&[bucket.0]))?;
    let mut response = stub.fetch_with_request(Request::new_with_init("https://index/", &init)?).await?;
    Ok(serde_json::from_str(&response.text().await?)?)
}

fn unavailable(error: Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
