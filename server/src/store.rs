//! The `Store` port over an SQLite file.
//!
//! One thread owns the file. Appends that wait for it together are committed together, so that one flush to the disk
//! serves them all.

use std::{path::Path, thread};

use bytes::Bytes;
use futures_channel::oneshot;
use outlive::{
    entry::{Batch, Bucket, Change, Cursor, Entry, Head, LogId, Origin, Seq},
    platform::{
        AppendError, ReadLimit, Store, StoreError,
        sql::{self, Database, Value},
    },
    time::Timestamp,
};
use rusqlite::{Connection, types::ValueRef};
use tokio::sync::mpsc;

/// Logs in one SQLite file. Clones share it.
#[derive(Clone)]
pub struct SqliteStore(mpsc::Sender<Job>);

/// Work for the thread, or the reason why it can't be done.
type Job = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Done + Send>;

/// A job that was done, in a transaction that is still open.
struct Done {
    /// Whether what it wrote may stay.
    keep: bool,
    /// Whether what it replaced must not.
    erases: bool,
    answer: Answer,
}

/// Tells the caller what came of a job, given how the commit went.
type Answer = Box<dyn FnOnce(&Result<(), StoreError>) + Send>;

/// Jobs that may wait for the thread before callers do: memory is bounded, and a round stays short.
const QUEUE: usize = 256;

/// Jobs in one transaction.
const ROUND: usize = 128;

impl SqliteStore {
    /// Opens the file, and makes it if need be.
    pub fn open(path: &Path) -> Result<Self, rusqlite::Error> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // FULL flushes the log at every commit: what was acknowledged survives a power cut.
        connection.pragma_update(None, "synchronous", "FULL")?;
        // What is erased is overwritten, and not only forgotten.
        connection.pragma_update(None, "secure_delete", "ON")?;
        connection.set_prepared_statement_cache_capacity(64);
        // One process writes; a second one gets this long to end.
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        for statement in sql::SCHEMA {
            connection.execute(statement, [])?;
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        thread::Builder::new()
            .name("sqlite".into())
            .spawn(move || run(&connection, receiver))
            .map_err(|_| rusqlite::Error::InvalidQuery)?;
        Ok(Self(sender))
    }

    async fn ask<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        self.put(false, job).await
    }

    async fn put<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        erases: bool,
        job: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let gone = || E::from(StoreError::Unavailable("the store's thread has ended".into()));
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let result = connection.map_err(E::from).and_then(job);
            let keep = result.is_ok();
            let answer = Box::new(move |committed: &Result<(), StoreError>| {
                let result = committed.clone().map_err(E::from).and(result);
                // A caller that left does not want to know.
                let _ = sender.send(result);
            });
            Done { keep, erases, answer }
        });
        self.0.send(job).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }
}

/// Serves jobs until every handle of the store is gone.
fn run(connection: &Connection, mut jobs: mpsc::Receiver<Job>) {
    let mut round = Vec::with_capacity(ROUND);
    while jobs.blocking_recv_many(&mut round, ROUND) > 0 {
        let begun = connection.execute_batch("BEGIN IMMEDIATE").map_err(|error| unavailable(&error));
        let mut answers = Vec::with_capacity(round.len());
        for job in round.drain(..) {
            answers.push(run_one(connection, &begun, job));
        }
        let committed = begun.and_then(|()| {
            connection.execute_batch("COMMIT").map_err(|error| {
                let _ = connection.execute_batch("ROLLBACK");
                unavailable(&error)
            })
        });
        let erased = if answers.iter().any(|done| done.erases) {
            committed.clone().and_then(|()| empty_wal(connection))
        } else {
            committed.clone()
        };
        for done in answers {
            (done.answer)(if done.erases { &erased } else { &committed });
        }
    }
}

/// Moves all pages into the file and cuts the write-ahead log off: it holds pages as they were before they were erased.
fn empty_wal(connection: &Connection) -> Result<(), StoreError> {
    let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    match busy.map_err(|error| unavailable(&error))? {
        0 => Ok(()),
        _ => Err(StoreError::Unavailable("another process reads the file".into())),
    }
}

/// Runs one job so that, should it fail half-way, nothing of it stays in the round's transaction.
fn run_one(connection: &Connection, begun: &Result<(), StoreError>, job: Job) -> Done {
    let savepoint = connection.execute_batch("SAVEPOINT job").map_err(|error| unavailable(&error));
    let done = job(begun.clone().and(savepoint).map(|()| connection));
    // What can't be rolled back is not committed either: the commit of the round fails then.
    let end = if done.keep { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
    let _ = connection.execute_batch(end);
    done
}

impl Store for SqliteStore {
    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        let batch = batch.clone();
        self.ask(move |connection| sql::append(&File(connection), &batch)).await
    }

    async fn read(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        limit: ReadLimit,
    ) -> Result<Vec<Entry>, StoreError> {
        let origin = origin.clone();
        self.ask(move |connection| sql::read(&File(connection), log, &origin, from, limit)).await
    }

    async fn heads(&self, log: LogId) -> Result<Vec<Head>, StoreError> {
        self.ask(move |connection| sql::heads(&File(connection), log)).await
    }

    async fn changes(&self, bucket: Bucket, after: Cursor, limit: usize) -> Result<Vec<Change>, StoreError> {
        self.ask(move |connection| sql::changes(&File(connection), bucket, after, limit)).await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LogId>, StoreError> {
        self.ask(move |connection| sql::due(&File(connection), now, limit)).await
    }

    async fn erase(&self, log: LogId, origin: &Origin, from: Seq, to: Seq) -> Result<(), StoreError> {
        let origin = origin.clone();
        self.put(true, move |connection| sql::erase(&File(connection), log, &origin, from, to)).await
    }
}

struct File<'a>(&'a Connection);

impl Database for File<'_> {
    fn query(&self, sql: &'static str, params: Vec<Value>) -> Result<Vec<Vec<Value>>, StoreError> {
        let run = || {
            let mut statement = self.0.prepare_cached(sql)?;
            let columns = statement.column_count();
            let mut rows = statement.query(rusqlite::params_from_iter(params.iter().map(Param)))?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                let values = (0..columns).map(|column| row.get_ref(column).map(read));
                all.push(values.collect::<Result<Vec<_>, _>>()?);
            }
            Ok(all)
        };
        run().map_err(|error: rusqlite::Error| unavailable(&error))
    }
}

struct Param<'a>(&'a Value);

impl rusqlite::ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        Ok(rusqlite::types::ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(value) => ValueRef::Integer(i64::try_from(*value).unwrap_or(i64::MAX)),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// What the core never wrote (a float, a negative number) is NULL, which the core then finds to be damage.
fn read(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Integer(value) => u64::try_from(value).map_or(Value::Null, Value::Integer),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Blob(Bytes::copy_from_slice(bytes)),
        ValueRef::Null | ValueRef::Real(_) => Value::Null,
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
    fn it_is_a_store() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outlive.db");
        let report = block_on(async {
            let store = SqliteStore::open(&path).unwrap();
            suite(&store, "sqlite").await
        });
        assert!(report.failed.is_empty() && report.passed > 10, "{report}");
    }

    #[test]
    fn a_body_that_is_lost_is_not_taken_for_erased() {
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
    fn what_is_erased_is_in_no_file() {
        const WORDS: &[u8] = b"nobody may ever read this again";
        let dir = tempfile::tempdir().unwrap();
        let files = || {
            let files = std::fs::read_dir(dir.path()).unwrap();
            let held = |file: &std::path::Path| std::fs::read(file).unwrap();
            let holds = |bytes: Vec<u8>| bytes.windows(WORDS.len()).any(|window| window == WORDS);
            files.filter(|file| holds(held(&file.as_ref().unwrap().path()))).count()
        };
        let (log, origin) = (LogId([1; 16]), Origin { node: "a".into(), epoch: 0 });
        // Within a page, over several, and in chunks; between entries that stay.
        let sizes = [1, 40, 300, 20_000, 100_000].repeat(20);
        let bodies = sizes.into_iter().map(|times| WORDS.repeat(times)).chain([vec![b'x'; 5_000]]);
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
            assert!(files() > 0);
            for from in [1, 65] {
                store.erase(log, &origin, Seq(from), Seq(100)).await.unwrap();
            }
            assert_eq!(files(), 0);
            let left = store.read(log, &origin, Seq(101), ReadLimit::PAGE).await.unwrap();
            assert_eq!(left.first().unwrap().body().len(), 5_000);
        });
    }
}
