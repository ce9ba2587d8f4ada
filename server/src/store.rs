//! Implements the `Store` port with an SQLite file. The statements are the core's (`platform/sql.rs`); here are the
//! thread, its queue and its transactions.
//!
//! One thread owns the file. Jobs that wait together are committed together, so that one flush to the disk serves all.

use std::{path::Path, thread};

use bytes::Bytes;
use futures_channel::oneshot;
use outlive::{
    entry::{Batch, Bucket, Change, Cursor, Entry, Head, LogId, Origin, Seq},
    platform::{
        AppendError, ReadLimit, Store, StoreError,
        sql::{self, Database, SqlValue},
    },
    time::Timestamp,
};
use rusqlite::{Connection, types::ValueRef};
use tokio::sync::mpsc;

/// Logs in one SQLite file. Clones share the file and its thread.
#[derive(Clone)]
pub struct SqliteStore(mpsc::Sender<Job>);

/// Work for the thread. It gets the connection, or the error that keeps it from running, which it passes to its caller.
type Job = Box<dyn FnOnce(Result<&Connection, StoreError>) -> FinishedJob + Send>;

/// A job that has run in a transaction that is still open.
struct FinishedJob {
    /// Whether its writes are committed with the transaction, or rolled back alone.
    succeeded: bool,
    /// Whether the bodies that it removed must be gone from the disk before its caller gets the result.
    erases: bool,
    reply: Reply,
}

/// Sends the result of a job to its caller, once the outcome of the commit is known.
type Reply = Box<dyn FnOnce(&Result<(), StoreError>) + Send>;

/// Jobs that wait for the thread. More callers wait for room in the queue, so that memory stays bounded.
const QUEUE_JOBS: usize = 256;

/// Most jobs in one transaction: its first job waits for its last.
const TRANSACTION_JOBS: usize = 128;

impl SqliteStore {
    /// Opens the file, or creates it, and starts its thread.
    pub fn open(path: &Path) -> Result<Self, rusqlite::Error> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // FULL flushes the write-ahead log at every commit, so that an acknowledged entry survives a power cut.
        connection.pragma_update(None, "synchronous", "FULL")?;
        // Overwrites freed pages with zeros, so that erased bodies can't be read from the file.
        connection.pragma_update(None, "secure_delete", "ON")?;
        connection.set_prepared_statement_cache_capacity(64);
        // Only one process should write. After a restart, the old one gets this long to end.
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        for statement in sql::SCHEMA {
            connection.execute(statement, [])?;
        }
        let (sender, receiver) = mpsc::channel(QUEUE_JOBS);
        thread::Builder::new()
            .name("sqlite".into())
            .spawn(move || run_jobs(&connection, receiver))
            .map_err(|_| rusqlite::Error::InvalidQuery)?;
        Ok(Self(sender))
    }

    /// Has the thread run `job`, and waits for its commit.
    async fn submit<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        self.submit_with(false, job).await
    }

    async fn submit_with<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        erases: bool,
        job: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let thread_ended = || E::from(StoreError::Unavailable("the store's thread has ended".into()));
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let result = connection.map_err(E::from).and_then(job);
            let succeeded = result.is_ok();
            let reply = Box::new(move |committed: &Result<(), StoreError>| {
                let result = committed.clone().map_err(E::from).and(result);
                // Send errors are ignored: the caller was dropped.
                let _ = sender.send(result);
            });
            FinishedJob { succeeded, erases, reply }
        });
        self.0.send(job).await.map_err(|_| thread_ended())?;
        receiver.await.map_err(|_| thread_ended())?
    }
}

/// Runs jobs, all that wait in one transaction, until the last clone of the store is dropped.
fn run_jobs(connection: &Connection, mut queue: mpsc::Receiver<Job>) {
    let mut jobs = Vec::with_capacity(TRANSACTION_JOBS);
    while queue.blocking_recv_many(&mut jobs, TRANSACTION_JOBS) > 0 {
        let begun = connection.execute_batch("BEGIN IMMEDIATE").map_err(|error| unavailable(&error));
        let mut finished_jobs = Vec::with_capacity(jobs.len());
        for job in jobs.drain(..) {
            finished_jobs.push(run_job(connection, &begun, job));
        }
        let committed = begun.and_then(|()| {
            connection.execute_batch("COMMIT").map_err(|error| {
                let _ = connection.execute_batch("ROLLBACK");
                unavailable(&error)
            })
        });
        // After the commit, since a write-ahead log can't be truncated within a transaction.
        let erased = if finished_jobs.iter().any(|job| job.erases) {
            committed.clone().and_then(|()| truncate_wal(connection))
        } else {
            committed.clone()
        };
        // No reply before this point: a job has succeeded only when its commit has.
        for job in finished_jobs {
            (job.reply)(if job.erases { &erased } else { &committed });
        }
    }
}

/// Moves all pages into the file and truncates the write-ahead log, which still holds the pages with the erased bodies.
fn truncate_wal(connection: &Connection) -> Result<(), StoreError> {
    let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    match busy.map_err(|error| unavailable(&error))? {
        0 => Ok(()),
        _ => Err(StoreError::Unavailable("another process reads the file".into())),
    }
}

/// Runs one job in a savepoint, so that a job that fails leaves nothing in the transaction of the others.
fn run_job(connection: &Connection, begun: &Result<(), StoreError>, job: Job) -> FinishedJob {
    let savepoint = connection.execute_batch("SAVEPOINT job").map_err(|error| unavailable(&error));
    let finished = job(begun.clone().and(savepoint).map(|()| connection));
    let end = if finished.succeeded { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
    // Errors are ignored: if a savepoint can't be rolled back, the commit of the transaction fails too.
    let _ = connection.execute_batch(end);
    finished
}

impl Store for SqliteStore {
    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        let batch = batch.clone();
        self.submit(move |connection| sql::append(&SqliteConnection(connection), &batch)).await
    }

    async fn read(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        limit: ReadLimit,
    ) -> Result<Vec<Entry>, StoreError> {
        let origin = origin.clone();
        self.submit(move |connection| sql::read(&SqliteConnection(connection), log, &origin, from, limit))
            .await
    }

    async fn heads(&self, log: LogId) -> Result<Vec<Head>, StoreError> {
        self.submit(move |connection| sql::heads(&SqliteConnection(connection), log)).await
    }

    async fn changes(&self, bucket: Bucket, after: Cursor, limit: usize) -> Result<Vec<Change>, StoreError> {
        self.submit(move |connection| sql::changes(&SqliteConnection(connection), bucket, after, limit)).await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LogId>, StoreError> {
        self.submit(move |connection| sql::due(&SqliteConnection(connection), now, limit)).await
    }

    async fn erase(&self, log: LogId, origin: &Origin, from: Seq, to: Seq) -> Result<(), StoreError> {
        let origin = origin.clone();
        self.submit_with(true, move |connection| {
            sql::erase(&SqliteConnection(connection), log, &origin, from, to)
        })
        .await
    }
}

/// Runs the core's statements on a connection.
struct SqliteConnection<'a>(&'a Connection);

impl Database for SqliteConnection<'_> {
    fn query(&self, sql: &'static str, params: Vec<SqlValue>) -> Result<Vec<Vec<SqlValue>>, StoreError> {
        let run = || {
            let mut statement = self.0.prepare_cached(sql)?;
            let columns = statement.column_count();
            let mut rows = statement.query(rusqlite::params_from_iter(params.iter().map(SqlParameter)))?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                let values = (0..columns).map(|column| row.get_ref(column).map(decode_value));
                all.push(values.collect::<Result<Vec<_>, _>>()?);
            }
            Ok(all)
        };
        run().map_err(|error: rusqlite::Error| unavailable(&error))
    }
}

/// A parameter of a statement, as SQLite takes it.
struct SqlParameter<'a>(&'a SqlValue);

impl rusqlite::ToSql for SqlParameter<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        Ok(rusqlite::types::ToSqlOutput::Borrowed(match self.0 {
            SqlValue::Null => ValueRef::Null,
            SqlValue::Integer(value) => ValueRef::Integer(i64::try_from(*value).unwrap_or(i64::MAX)),
            SqlValue::Text(text) => ValueRef::Text(text.as_bytes()),
            SqlValue::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Decodes a column. Values that the core never writes (floats, negative numbers) become NULL, which it reports as
/// damage.
fn decode_value(value: ValueRef<'_>) -> SqlValue {
    match value {
        ValueRef::Integer(value) => u64::try_from(value).map_or(SqlValue::Null, SqlValue::Integer),
        ValueRef::Text(text) => SqlValue::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => SqlValue::Blob(Bytes::copy_from_slice(bytes)),
        ValueRef::Null | ValueRef::Real(_) => SqlValue::Null,
    }
}

fn unavailable(error: &rusqlite::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use outlive::{
        entry::{Draft, Kind, VersionVector},
        testing::suite::suite,
    };

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn it_passes_the_store_suite() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outlive.db");
        let report = block_on(async {
            let store = SqliteStore::open(&path).unwrap();
            suite(&store, "sqlite").await
        });
        assert!(report.failed.is_empty() && report.passed > 10, "{report}");
    }

    #[test]
    fn a_lost_body_is_corrupt_and_not_erased() {
        let (log, origin) = (LogId([1; 16]), Origin { node: "a".into(), epoch: 0 });
        for loss in ["UPDATE entry SET body = x''", "UPDATE entry SET body = NULL", "DELETE FROM chunk"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("outlive.db");
            let size = if loss.starts_with("DELETE") { 700_000 } else { 7 };
            let draft = Draft { kind: Kind::ITEM_ADDED, cause: [1; 16], body: vec![b'x'; size].into() };
            let batch =
                Batch::build(log, &origin, None, &VersionVector::new(), Timestamp(1), [draft]).unwrap();
            let read = block_on(async {
                let store = SqliteStore::open(&path).unwrap();
                store.append(&batch).await.unwrap();
                Connection::open(&path).unwrap().execute(loss, []).unwrap();
                store.read(log, &origin, Seq::FIRST, ReadLimit::PAGE).await
            });
            assert!(matches!(read, Err(StoreError::Corrupt(_))), "{loss}: {read:?}");
        }
    }

    #[test]
    fn an_erased_body_is_in_no_file() {
        const SECRET: &[u8] = b"this must not be readable again";
        let dir = tempfile::tempdir().unwrap();
        let files_with_secret = || {
            let files = std::fs::read_dir(dir.path()).unwrap();
            let read = |file: &std::path::Path| std::fs::read(file).unwrap();
            let has_secret = |bytes: Vec<u8>| bytes.windows(SECRET.len()).any(|window| window == SECRET);
            files.filter(|file| has_secret(read(&file.as_ref().unwrap().path()))).count()
        };
        let (log, origin) = (LogId([1; 16]), Origin { node: "a".into(), epoch: 0 });
        // Sizes within a page, over several pages, and in chunks. The last entry stays.
        let sizes = [1, 40, 300, 20_000, 100_000].repeat(20);
        let bodies = sizes.into_iter().map(|times| SECRET.repeat(times)).chain([vec![b'x'; 5_000]]);
        block_on(async {
            let store = SqliteStore::open(&dir.path().join("outlive.db")).unwrap();
            let mut head = None;
            for body in bodies {
                let draft = Draft { kind: Kind::ITEM_ADDED, cause: [1; 16], body: body.into() };
                let deps = VersionVector::new();
                let batch = Batch::build(log, &origin, head.as_ref(), &deps, Timestamp(1), [draft]).unwrap();
                store.append(&batch).await.unwrap();
                head = Some(batch.last().head());
            }
            assert!(files_with_secret() > 0);
            for from in [1, 65] {
                store.erase(log, &origin, Seq(from), Seq(100)).await.unwrap();
            }
            assert_eq!(files_with_secret(), 0);
            let remaining = store.read(log, &origin, Seq(101), ReadLimit::PAGE).await.unwrap();
            assert_eq!(remaining.first().unwrap().body().len(), 5_000);
        });
    }
}
