//! The `Store` port over the SQLite database of a Durable Object, which reports its changes to the index after the
//! fact.
//!
//! `exec` is synchronous, and writes without an await in between are committed together. The output gate holds back
//! every response and every call until all earlier writes are durable, so a caller sees `Ok` only for durable entries.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use outlive::{
    entry::{Batch, Bucket, Change, Cursor, Entry, Head, LogId, Origin, Seq},
    platform::{
        AppendError, ReadLimit, Store, StoreError,
        sql::{self, Database, SqlValue},
    },
    time::Timestamp,
};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use worker::{
    Env, Error, ObjectNamespace, SqlStorage, SqlStorageValue, State, Storage,
    js_sys::{Date, Object, futures::JsFuture},
};

use crate::index;

/// The store of one Durable Object. In production it holds one log, in the store suite many.
#[derive(Clone)]
pub(crate) struct ObjectStore {
    database: ObjectDatabase,
    storage: Rc<Storage>,
    index: ObjectNamespace,
}

/// The cursor of this object up to which its changes are reported to the index, for each bucket.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS told (bucket INTEGER PRIMARY KEY, cursor INTEGER NOT NULL)";

/// Delay between an append and its report, and the granularity of alarms: appends within a second share one report.
const REPORT_DELAY: Duration = Duration::from_secs(1);

/// Delay before the next try of a report that failed.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// Most changes in one call to the index.
const MAX_CHANGES: usize = 256;

impl ObjectStore {
    /// Opens the database of this object and makes its tables.
    pub(crate) fn open(state: &State, env: &Env) -> worker::Result<Self> {
        let storage = state.storage();
        let database = ObjectDatabase::open(&storage.sql())?;
        database.0.exec(SCHEMA, None)?;
        Ok(Self { database, storage: Rc::new(storage), index: index::namespace(env)? })
    }

    /// Reports all unreported changes to the index. The alarm calls it after each append; a second report does no harm.
    pub(crate) async fn report_changes(&self) -> Result<(), StoreError> {
        // First of all, so that the report is retried however this try ends.
        let retry_alarm = self.set_alarm(RETRY_DELAY)?;
        for row in self.database.query("SELECT DISTINCT bucket FROM head", vec![])? {
            if let [SqlValue::Integer(bucket)] = row.as_slice() {
                self.report_bucket(Bucket(*bucket as u8)).await?;
            }
        }
        let unreported =
            "SELECT 1 FROM head LEFT JOIN told USING (bucket) WHERE head.cursor > ifnull(told.cursor, 0)";
        retry_alarm.await?;
        if !self.database.query(unreported, vec![])?.is_empty() {
            return Ok(());
        }
        // No await since the query, or an append in between would lose its alarm.
        let next_alarm = match sql::next_due(&self.database)? {
            Some(at) => self.storage.as_raw().set_alarm(self.alarm_at(at.0 as f64), Object::new()),
            None => self.storage.as_raw().delete_alarm(Object::new()),
        };
        JsFuture::from(next_alarm.map_err(unavailable)?).await.map(drop).map_err(unavailable)
    }

    async fn report_bucket(&self, bucket: Bucket) -> Result<(), StoreError> {
        loop {
            let key = SqlValue::Integer(bucket.0.into());
            let reported =
                self.database.query("SELECT cursor FROM told WHERE bucket = ?", vec![key.clone()])?;
            let reported = match reported.first().map(Vec::as_slice) {
                Some([SqlValue::Integer(cursor)]) => Cursor(*cursor),
                _ => Cursor::default(),
            };
            let changes = sql::changes(&self.database, bucket, reported, MAX_CHANGES)?;
            let Some(last) = changes.last() else { return Ok(()) };
            index::report(&self.index, bucket, &changes).await?;
            self.database.query(
                "INSERT INTO told (bucket, cursor) VALUES (?, ?)
                 ON CONFLICT (bucket) DO UPDATE SET cursor = max(cursor, excluded.cursor)",
                vec![key, SqlValue::Integer(last.cursor.0)],
            )?;
        }
    }

    /// Sets the alarm at once. The returned future resolves when the alarm is durable.
    fn set_alarm(&self, after: Duration) -> Result<impl Future<Output = Result<(), StoreError>>, StoreError> {
        let at = self.alarm_at(Date::now() + after.as_millis() as f64);
        let promise = self.storage.as_raw().set_alarm(at, Object::new()).map_err(unavailable)?;
        Ok(async move { JsFuture::from(promise).await.map(drop).map_err(unavailable) })
    }

    /// The next full second, so that a steady stream of appends does not postpone the alarm for ever. Never in the
    /// past, since such an alarm may not fire (<https://github.com/cloudflare/workerd/issues/3566>).
    fn alarm_at(&self, millis: f64) -> Date {
        let second = REPORT_DELAY.as_millis() as f64;
        let at = (millis.max(Date::now() + 1.0) / second).ceil() * second;
        Date::new(&at.into())
    }

    /// Runs `write` in a transaction, which is rolled back if it fails.
    fn atomically<E: From<StoreError>>(&self, write: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let (mut write, mut outcome) = (Some(write), None);
        let committed = self.storage.as_raw().unchecked_ref::<Transactional>().transaction_sync(&mut || {
            let result = write.take().map_or(Ok(()), |write| write());
            let rolled_back = result.is_err();
            outcome = Some(result);
            if rolled_back { Err(JsValue::from_str("rolled back")) } else { Ok(()) }
        });
        match (outcome, committed) {
            (Some(Err(error)), _) => Err(error),
            (_, Err(error)) => Err(unavailable(error).into()),
            (_, Ok(())) => Ok(()),
        }
    }
}

impl Store for ObjectStore {
    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        // No await before the write, so that the alarm and the entries are committed together.
        let alarm = self.set_alarm(REPORT_DELAY)?;
        self.atomically(|| sql::append(&self.database, batch))?;
        Ok(alarm.await?)
    }

    async fn read(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        limit: ReadLimit,
    ) -> Result<Vec<Entry>, StoreError> {
        sql::read(&self.database, log, origin, from, limit)
    }

    async fn heads(&self, log: LogId) -> Result<Vec<Head>, StoreError> {
        sql::heads(&self.database, log)
    }

    /// Changes of all objects, from the index. Reports first, so that the result includes this object's own appends.
    async fn changes(&self, bucket: Bucket, after: Cursor, limit: usize) -> Result<Vec<Change>, StoreError> {
        self.report_bucket(bucket).await?;
        index::changes(&self.index, bucket, after, limit).await
    }

    /// Due logs of this object only: each object wakes itself by its alarm.
    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LogId>, StoreError> {
        sql::due(&self.database, now, limit)
    }

    /// Point-in-time recovery of the platform still holds the bodies for 30 days
    /// (<https://developers.cloudflare.com/durable-objects/api/sqlite-storage-api/#pitr-point-in-time-recovery-api>).
    async fn erase(&self, log: LogId, origin: &Origin, from: Seq, to: Seq) -> Result<(), StoreError> {
        self.atomically(|| sql::erase(&self.database, log, origin, from, to))
    }
}

/// The SQLite database of a Durable Object.
#[derive(Clone)]
pub(crate) struct ObjectDatabase(SqlStorage);

impl ObjectDatabase {
    /// Creates the tables of the log.
    pub(crate) fn open(sql: &SqlStorage) -> worker::Result<Self> {
        for statement in sql::SCHEMA {
            sql.exec(statement, None)?;
        }
        Ok(Self(sql.clone()))
    }
}

impl Database for ObjectDatabase {
    fn query(&self, sql: &'static str, params: Vec<SqlValue>) -> Result<Vec<Vec<SqlValue>>, StoreError> {
        let params = params.into_iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        let rows = self.0.exec(sql, params).map_err(unavailable)?.raw();
        rows.map(|row| row.map_err(unavailable)?.into_iter().map(column).collect()).collect()
    }
}

/// Fails for an integer that a double, JavaScript's only number, can't represent exactly.
fn bind(value: SqlValue) -> Result<SqlStorageValue, StoreError> {
    Ok(match value {
        SqlValue::Null => SqlStorageValue::Null,
        SqlValue::Integer(number) => {
            let number =
                i64::try_from(number).map_err(|_| StoreError::Corrupt("a number above 2^63".into()))?;
            SqlStorageValue::try_from_i64(number).map_err(unavailable)?
        }
        SqlValue::Text(text) => SqlStorageValue::String(text),
        SqlValue::Blob(bytes) => SqlStorageValue::Blob(bytes.into()),
    })
}

fn column(value: SqlStorageValue) -> Result<SqlValue, StoreError> {
    match value {
        SqlStorageValue::Null => Ok(SqlValue::Null),
        SqlStorageValue::Integer(number) => u64::try_from(number)
            .map(SqlValue::Integer)
            .map_err(|_| StoreError::Corrupt("a number below zero".into())),
        SqlStorageValue::String(text) => Ok(SqlValue::Text(text)),
        SqlStorageValue::Blob(bytes) => Ok(SqlValue::Blob(Bytes::from(bytes))),
        SqlStorageValue::Boolean(_) | SqlStorageValue::Float(_) => {
            Err(StoreError::Corrupt("a column has the wrong type".into()))
        }
    }
}

fn unavailable(error: impl Into<Error>) -> StoreError {
    StoreError::Unavailable(error.into().to_string())
}

#[wasm_bindgen]
extern "C" {
    /// The storage of an object, with the method that the `worker` crate does not bind.
    type Transactional;

    /// <https://developers.cloudflare.com/durable-objects/api/sqlite-storage-api/#transactionsync>
    #[wasm_bindgen(method, catch, js_name = transactionSync)]
    fn transaction_sync(
        this: &Transactional,
        write: &mut dyn FnMut() -> Result<(), JsValue>,
    ) -> Result<(), JsValue>;
}
