//! Implements the log in SQLite, for both stores that use it: the native file and the Durable Object. Opens no
//! database.
//!
//! The functions are synchronous. Their caller makes each of them atomic: the native store by a transaction, the
//! Durable Object by not awaiting in between (writes without an await between them are committed together).

use bytes::{Bytes, BytesMut};

use super::{AppendError, INLINE_BYTES, MAX_ERASED_ENTRIES, ReadLimit, StoreError};
use crate::{
    entry::{self, Batch, Bucket, Change, Cursor, Entry, Hash, Head, Header, Hlc, LogId, Origin, Seq, Wake},
    time::Timestamp,
};

/// Creates the tables that do not exist yet. Numbers that may exceed 2^53 are text, since Durable Objects bind numbers
/// as doubles. An entry's body is NULL while it is stored in chunks, and the number 0 once it is erased.
pub const SCHEMA: [&str; 6] = [
    "CREATE TABLE IF NOT EXISTS entry (
        log BLOB NOT NULL, origin TEXT NOT NULL, seq INTEGER NOT NULL, header BLOB NOT NULL, body BLOB,
        PRIMARY KEY (log, origin, seq))",
    "CREATE TABLE IF NOT EXISTS chunk (
        log BLOB NOT NULL, digest BLOB NOT NULL, part INTEGER NOT NULL, bytes BLOB NOT NULL,
        PRIMARY KEY (log, digest, part))",
    "CREATE TABLE IF NOT EXISTS head (
        log BLOB NOT NULL, origin TEXT NOT NULL, seq INTEGER NOT NULL, hlc TEXT NOT NULL, hash BLOB NOT NULL,
        bucket INTEGER NOT NULL, cursor INTEGER NOT NULL, PRIMARY KEY (log, origin))",
    "CREATE UNIQUE INDEX IF NOT EXISTS head_changed ON head (bucket, cursor)",
    "CREATE TABLE IF NOT EXISTS wake (
        log BLOB NOT NULL, origin TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (log, origin))",
    "CREATE INDEX IF NOT EXISTS wake_due ON wake (at)",
];

/// A value of a parameter or of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlValue {
    /// SQL's NULL.
    Null,
    /// A number below 2^53.
    Integer(u64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Bytes),
}

/// A connection to one SQLite database.
pub trait Database {
    /// Runs one statement to completion and returns its rows.
    fn query(&self, sql: &'static str, params: Vec<SqlValue>) -> Result<Vec<Vec<SqlValue>>, StoreError>;
}

/// [`Store::append`](super::Store::append).
pub fn append(db: &impl Database, batch: &Batch) -> Result<(), AppendError> {
    let (log, origin) = (batch.log(), batch.origin());
    let head = head(db, log, origin)?;
    if !batch.follows(head.as_ref()) {
        return Err(AppendError::Conflict { head });
    }
    for entry in batch.entries() {
        insert(db, log, entry)?;
    }
    let bucket = SqlValue::Integer(Bucket::of(log).0.into());
    // The caller's atomicity makes this read and the write below one step, so cursors of a bucket rise strictly.
    let last_cursor =
        match rows(db, "SELECT max(cursor) FROM head WHERE bucket = ?", vec![bucket.clone()])?.next() {
            Some(mut row) => row.integer_or_null()?.unwrap_or(0),
            None => 0,
        };
    let end = batch.last();
    db.query(
        "INSERT INTO head (log, origin, seq, hlc, hash, bucket, cursor) VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (log, origin) DO UPDATE
         SET seq = excluded.seq, hlc = excluded.hlc, hash = excluded.hash, cursor = excluded.cursor",
        vec![
            log_value(log),
            SqlValue::Text(origin.to_string()),
            SqlValue::Integer(end.header().seq.0),
            SqlValue::Text(format!("{:016x}", end.header().hlc.0)),
            hash_value(end.hash()),
            bucket,
            SqlValue::Integer(last_cursor + 1),
        ],
    )?;
    let chain = vec![log_value(log), SqlValue::Text(origin.to_string())];
    match batch.wake() {
        Wake::Keep => {}
        Wake::Never => drop(db.query("DELETE FROM wake WHERE log = ? AND origin = ?", chain)?),
        Wake::At(at) => {
            let set = "INSERT INTO wake (log, origin, at) VALUES (?, ?, ?)
                       ON CONFLICT (log, origin) DO UPDATE SET at = excluded.at";
            db.query(set, [chain, vec![SqlValue::Integer(at.0.min(MAX_BOUND_MILLIS))]].concat())?;
        }
    }
    Ok(())
}

/// [`Store::due`](super::Store::due).
pub fn due(db: &impl Database, now: Timestamp, limit: usize) -> Result<Vec<LogId>, StoreError> {
    let overdue = "SELECT log FROM wake WHERE at <= ? GROUP BY log ORDER BY min(at), log LIMIT ?";
    rows(db, overdue, vec![SqlValue::Integer(now.0.min(MAX_BOUND_MILLIS)), SqlValue::Integer(limit as u64)])?
        .map(|mut row| row.log())
        .collect()
}

/// The earliest wake of any log; `None` if no log has one.
pub fn next_due(db: &impl Database) -> Result<Option<Timestamp>, StoreError> {
    let mut rows = rows(db, "SELECT min(at) FROM wake", vec![])?;
    Ok(rows.next().map(|mut row| row.integer_or_null()).transpose()?.flatten().map(Timestamp))
}

/// The latest time that can be bound, in milliseconds: Durable Objects bind numbers as doubles.
const MAX_BOUND_MILLIS: u64 = (1 << 53) - 1;

/// [`Store::read`](super::Store::read).
pub fn read(
    db: &impl Database,
    log: LogId,
    origin: &Origin,
    from: Seq,
    limit: ReadLimit,
) -> Result<Vec<Entry>, StoreError> {
    // Few rows per query, since their sizes are known only once they are read: at most 16 x 256 KiB = 4 MiB.
    const STEP: usize = 16;
    let (mut entries, mut bytes, mut next) = (Vec::new(), 0, from);
    'pages: while entries.len() < limit.entries.max(1) {
        let step = STEP.min(limit.entries.max(1) - entries.len());
        let page = rows(
            db,
            "SELECT header, body FROM entry WHERE log = ? AND origin = ? AND seq >= ? ORDER BY seq LIMIT ?",
            vec![
                log_value(log),
                SqlValue::Text(origin.to_string()),
                SqlValue::Integer(next.0),
                SqlValue::Integer(step as u64),
            ],
        )?;
        let full = page.len() == step;
        for mut row in page {
            let raw = row.blob()?;
            let header = Header::decode(&raw).map_err(corrupt)?;
            let body = row.body()?;
            if !matches!(body, StoredBody::Erased) {
                bytes += usize::try_from(header.body_len).unwrap_or(usize::MAX);
            }
            // Checked before the chunks are read. The first entry is returned whatever its size, so that a reader
            // advances.
            if bytes > limit.bytes && !entries.is_empty() {
                break 'pages;
            }
            let entry = match body {
                StoredBody::Inline(body) => Entry::decode(&raw, body),
                StoredBody::Chunks => Entry::decode(&raw, chunks(db, log, header.body_hash)?),
                StoredBody::Erased => Entry::decode_erased(&raw),
            };
            entries.push(entry.map_err(corrupt)?);
            next = header.seq.next();
        }
        if !full {
            break;
        }
    }
    entry::verify(log, origin, from, &entries).map_err(corrupt)?;
    Ok(entries)
}

/// [`Store::heads`](super::Store::heads).
pub fn heads(db: &impl Database, log: LogId) -> Result<Vec<Head>, StoreError> {
    let mut heads = rows(db, "SELECT origin, seq, hlc, hash FROM head WHERE log = ?", vec![log_value(log)])?
        .map(|mut row| row.head())
        .collect::<Result<Vec<_>, _>>()?;
    // SQL would sort origins as text, but the port promises the order of `Origin`.
    heads.sort_by(|a, b| a.origin.cmp(&b.origin));
    Ok(heads)
}

/// [`Store::changes`](super::Store::changes).
pub fn changes(
    db: &impl Database,
    bucket: Bucket,
    after: Cursor,
    limit: usize,
) -> Result<Vec<Change>, StoreError> {
    rows(
        db,
        "SELECT cursor, log, origin, seq, hlc, hash FROM head WHERE bucket = ? AND cursor > ? ORDER BY cursor LIMIT ?",
        vec![SqlValue::Integer(bucket.0.into()), SqlValue::Integer(after.0), SqlValue::Integer(limit as u64)],
    )?
    .map(|mut row| {
        let cursor = Cursor(row.integer()?);
        Ok(Change { cursor, log: row.log()?, head: row.head()? })
    })
    .collect()
}

/// [`Store::erase`](super::Store::erase).
pub fn erase(db: &impl Database, log: LogId, origin: &Origin, from: Seq, to: Seq) -> Result<(), StoreError> {
    let end = to.0.min(from.0.saturating_add(MAX_ERASED_ENTRIES - 1));
    let range = vec![
        log_value(log),
        SqlValue::Text(origin.to_string()),
        SqlValue::Integer(from.0),
        SqlValue::Integer(end),
    ];
    // Read before the mark is set, which makes bodies in chunks indistinguishable from inline ones.
    let large =
        "SELECT header FROM entry WHERE log = ? AND origin = ? AND seq BETWEEN ? AND ? AND body IS NULL";
    let large: Vec<Header> = rows(db, large, range.clone())?
        .map(|mut row| Header::decode(&row.blob()?).map_err(corrupt))
        .collect::<Result<_, _>>()?;
    db.query(
        "UPDATE entry SET body = 0 WHERE log = ? AND origin = ? AND seq BETWEEN ? AND ?
         AND (body IS NULL OR typeof(body) = 'blob' AND length(body) > 0)",
        range,
    )?;
    for header in large {
        let (log, digest) = (log_value(log), hash_value(header.body_hash));
        // Chunks are shared by digest, so they stay while another entry refers to them. A header ends with the digest.
        db.query(
            "DELETE FROM chunk WHERE log = ? AND digest = ? AND NOT EXISTS
             (SELECT 1 FROM entry WHERE log = ? AND body IS NULL AND substr(header, -32) = ?)",
            vec![log.clone(), digest.clone(), log, digest],
        )?;
    }
    Ok(())
}

fn head(db: &impl Database, log: LogId, origin: &Origin) -> Result<Option<Head>, StoreError> {
    let params = vec![log_value(log), SqlValue::Text(origin.to_string())];
    rows(db, "SELECT origin, seq, hlc, hash FROM head WHERE log = ? AND origin = ?", params)?
        .next()
        .map(|mut row| row.head())
        .transpose()
}

fn insert(db: &impl Database, log: LogId, entry: &Entry) -> Result<(), StoreError> {
    let header = entry.header();
    let body = match entry.body() {
        _ if entry.is_erased() => SqlValue::Integer(0),
        body if body.len() <= INLINE_BYTES => SqlValue::Blob(body.clone()),
        _ => SqlValue::Null,
    };
    if body == SqlValue::Null {
        for (part, start) in (0..entry.body().len()).step_by(INLINE_BYTES).enumerate() {
            let end = entry.body().len().min(start + INLINE_BYTES);
            db.query(
                "INSERT OR IGNORE INTO chunk (log, digest, part, bytes) VALUES (?, ?, ?, ?)",
                vec![
                    log_value(log),
                    hash_value(header.body_hash),
                    SqlValue::Integer(part as u64),
                    SqlValue::Blob(entry.body().slice(start..end)),
                ],
            )?;
        }
    }
    db.query(
        "INSERT INTO entry (log, origin, seq, header, body) VALUES (?, ?, ?, ?, ?)",
        vec![
            log_value(log),
            SqlValue::Text(header.origin.to_string()),
            SqlValue::Integer(header.seq.0),
            SqlValue::Blob(entry.encode_header().into()),
            body,
        ],
    )?;
    Ok(())
}

fn chunks(db: &impl Database, log: LogId, digest: Hash) -> Result<Bytes, StoreError> {
    let mut body = BytesMut::new();
    let params = vec![log_value(log), hash_value(digest)];
    for mut row in rows(db, "SELECT bytes FROM chunk WHERE log = ? AND digest = ? ORDER BY part", params)? {
        body.extend_from_slice(&row.blob()?);
    }
    Ok(body.freeze())
}

fn log_value(log: LogId) -> SqlValue {
    SqlValue::Blob(Bytes::copy_from_slice(&log.0))
}

fn hash_value(hash: Hash) -> SqlValue {
    SqlValue::Blob(Bytes::copy_from_slice(&hash.0))
}

fn corrupt(error: entry::DecodeError) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

fn rows(
    db: &impl Database,
    sql: &'static str,
    params: Vec<SqlValue>,
) -> Result<impl ExactSizeIterator<Item = SqlRow>, StoreError> {
    Ok(db.query(sql, params)?.into_iter().map(|row| SqlRow(row.into_iter())))
}

/// Where the body of an entry is stored.
enum StoredBody {
    Inline(Bytes),
    Chunks,
    Erased,
}

/// A row whose columns are read from left to right.
struct SqlRow(std::vec::IntoIter<SqlValue>);

impl SqlRow {
    fn integer(&mut self) -> Result<u64, StoreError> {
        self.integer_or_null()?.ok_or_else(wrong_type)
    }

    fn integer_or_null(&mut self) -> Result<Option<u64>, StoreError> {
        match self.0.next() {
            Some(SqlValue::Integer(value)) => Ok(Some(value)),
            Some(SqlValue::Null) => Ok(None),
            _ => Err(wrong_type()),
        }
    }

    fn text(&mut self) -> Result<String, StoreError> {
        match self.0.next() {
            Some(SqlValue::Text(value)) => Ok(value),
            _ => Err(wrong_type()),
        }
    }

    fn blob(&mut self) -> Result<Bytes, StoreError> {
        match self.0.next() {
            Some(SqlValue::Blob(value)) => Ok(value),
            _ => Err(wrong_type()),
        }
    }

    fn body(&mut self) -> Result<StoredBody, StoreError> {
        match self.0.next() {
            Some(SqlValue::Blob(body)) => Ok(StoredBody::Inline(body)),
            Some(SqlValue::Null) => Ok(StoredBody::Chunks),
            Some(SqlValue::Integer(0)) => Ok(StoredBody::Erased),
            _ => Err(wrong_type()),
        }
    }

    fn log(&mut self) -> Result<LogId, StoreError> {
        let id = self.blob()?.as_ref().try_into();
        id.map(LogId).map_err(|_| StoreError::Corrupt("a log's id".into()))
    }

    fn head(&mut self) -> Result<Head, StoreError> {
        let origin = Origin::parse(&self.text()?).ok_or_else(|| StoreError::Corrupt("an origin".into()))?;
        let seq = Seq(self.integer()?);
        let hlc =
            u64::from_str_radix(&self.text()?, 16).map_err(|_| StoreError::Corrupt("a clock".into()))?;
        let hash: [u8; 32] =
            self.blob()?.as_ref().try_into().map_err(|_| StoreError::Corrupt("a hash".into()))?;
        Ok(Head { origin, seq, hlc: Hlc(hlc), hash: Hash(hash) })
    }
}

fn wrong_type() -> StoreError {
    StoreError::Corrupt("a column has the wrong type".into())
}
