//! The `Store` port over the database of a Durable Object.
//!
//! `exec` is synchronous, and writes without an await in between are committed together. The output gate holds back
//! every answer and every call until what was written before it is durable, so an `Ok` that anybody sees is durable.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use outlive::{
    platform::{
        AppendError, ReadLimit, Store, StoreError, Timestamp,
        sql::{self, Database, Value},
    },
    session::{
        entry::{Batch, Entry, Head, LogId, Origin, Seq},
        log::{Bucket, Change, Cursor},
    },
};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use worker::{
    Env, Error, ObjectNamespace, SqlStorage, SqlStorageValue, State, Storage,
    js_sys::{Date, Object, futures::JsFuture},
};

use crate::index;

/// The logs of one Durable Object.
#[derive(Clone)]
pub(crate) struct ObjectStore {
    sql: Sql,
    storage: Rc<Storage>,
    index: ObjectNamespace,
}

/// How far the index has been told of what grew here: a cursor of this object for each bucket.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS told (bucket INTEGER PRIMARY KEY, cursor INTEGER NOT NULL)";

/// Appends within the same second share one notice.
const NOTICE: Duration = Duration::from_secs(1);

/// When to try again if the index could not be told.
const RETRY: Duration = Duration::from_secs(30);

/// Changes in one notice.
const PAGE: usize = 256;

impl ObjectStore {
    /// Opens the database of this object and makes its tables.
    pub(crate) fn open(state: &State, env: &Env) -> worker::Result<Self> {
        let storage = state.storage();
        let sql = Sql::open(&storage.sql())?;
        sql.0.exec(SCHEMA, None)?;
        Ok(Self { sql, storage: Rc::new(storage), index: index::namespace(env)? })
    }

    /// Tells the index of all that has grown. The alarm calls it after each append; doing it twice does no harm.
    ///
    /// The next alarm is set before anything else, so that a notice is tried again however this try ends, and is
    /// cleared when nothing is left to tell, without an await in between that would let an append in.
    pub(crate) async fn tell_index(&self) -> Result<(), StoreError> {
        let again = self.set_alarm(RETRY)?;
        for row in self.sql.query("SELECT DISTINCT bucket FROM head", vec![])? {
            if let [Value::Integer(bucket)] = row.as_slice() {
                self.tell(Bucket(*bucket as u8)).await?;
            }
        }
        let pending =
            "SELECT 1 FROM head LEFT JOIN told USING (bucket) WHERE head.cursor > ifnull(told.cursor, 0)";
        again.await?;
        if !self.sql.query(pending, vec![])?.is_empty() {
            return Ok(());
        }
        // No await since the look at what is left, so no append has set the alarm in between.
        let settled = match sql::next_due(&self.sql)? {
            Some(at) => self.storage.as_raw().set_alarm(self.alarm_at(at.0 as f64), Object::new()),
            None => self.storage.as_raw().delete_alarm(Object::new()),
        };
        JsFuture::from(settled.map_err(unavailable)?).await.map(drop).map_err(unavailable)
    }

    async fn tell(&self, bucket: Bucket) -> Result<(), StoreError> {
        loop {
            let key = Value::Integer(bucket.0.into());
            let told = self.sql.query("SELECT cursor FROM told WHERE bucket = ?", vec![key.clone()])?;
            let told = match told.first().map(Vec::as_slice) {
                Some([Value::Integer(cursor)]) => Cursor(*cursor),
                _ => Cursor::default(),
            };
            let news = sql::changes(&self.sql, bucket, told, PAGE)?;
            let Some(last) = news.last() else { return Ok(()) };
            index::report(&self.index, bucket, &news).await?;
            self.sql.query(
                "INSERT INTO told (bucket, cursor) VALUES (?, ?)
                 ON CONFLICT (bucket) DO UPDATE SET cursor = max(cursor, excluded.cursor)",
                vec![key, Value::Integer(last.cursor.0)],
            )?;
        }
    }

    /// Sets the alarm at once; what is returned resolves when that is durable.
    fn set_alarm(&self, after: Duration) -> Result<impl Future<Output = Result<(), StoreError>>, StoreError> {
        let at = self.alarm_at(Date::now() + after.as_millis() as f64);
        let set = self.storage.as_raw().set_alarm(at, Object::new()).map_err(unavailable)?;
        Ok(async move { JsFuture::from(set).await.map(drop).map_err(unavailable) })
    }

    /// Whole seconds, so that a steady stream of appends does not put the alarm off for ever; and never in the past,
    /// since such an alarm may not ring (<https://github.com/cloudflare/workerd/issues/3566>).
    fn alarm_at(&self, millis: f64) -> Date {
        let second = NOTICE.as_millis() as f64;
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
        // No await before the write: so the notice is due if and only if the entries are there.
        let noticed = self.set_alarm(NOTICE)?;
        self.atomically(|| sql::append(&self.sql, batch))?;
        Ok(noticed.await?)
    }

    async fn read(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        limit: ReadLimit,
    ) -> Result<Vec<Entry>, StoreError> {
        sql::read(&self.sql, log, origin, from, limit)
    }

    async fn heads(&self, log: LogId) -> Result<Vec<Head>, StoreError> {
        sql::heads(&self.sql, log)
    }

    /// Of all objects. What was appended here is told first, so that this object's own appends are always seen.
    async fn changes(&self, bucket: Bucket, after: Cursor, limit: usize) -> Result<Vec<Change>, StoreError> {
        self.tell(bucket).await?;
        index::changes(&self.index, bucket, after, limit).await
    }

    /// Of this object: each object wakes itself.
    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LogId>, StoreError> {
        sql::due(&self.sql, now, limit)
    }

    /// The platform can bring back any moment of the last 30 days
    /// (<https://developers.cloudflare.com/durable-objects/api/sqlite-storage-api/#pitr-point-in-time-recovery-api>);
    /// nothing here does.
    async fn erase(&self, log: LogId, origin: &Origin, from: Seq, to: Seq) -> Result<(), StoreError> {
        self.atomically(|| sql::erase(&self.sql, log, origin, from, to))
    }
}

/// The database of a Durable Object.
#[derive(Clone)]
pub(crate) struct Sql(SqlStorage);

impl Sql {
    /// Makes the tables of the log.
    pub(crate) fn open(sql: &SqlStorage) -> worker::Result<Self> {
        for statement in sql::SCHEMA {
            sql.exec(statement, None)?;
        }
        Ok(Self(sql.clone()))
    }
}

impl Database for Sql {
    fn query(&self, sql: &'static str, params: Vec<Value>) -> Result<Vec<Vec<Value>>, StoreError> {
        let params = params.into_iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        let rows = self.0.exec(sql, params).map_err(unavailable)?.raw();
        rows.map(|row| row.map_err(unavailable)?.into_iter().map(column).collect()).collect()
    }
}

/// JavaScript's numbers are doubles, so only those that a double holds exactly are bound.
fn bind(value: Value) -> Result<SqlStorageValue, StoreError> {
    Ok(match value {
        Value::Null => SqlStorageValue::Null,
        Value::Integer(number) => {
            let number =
                i64::try_from(number).map_err(|_| StoreError::Corrupt("a number above 2^63".into()))?;
            SqlStorageValue::try_from_i64(number).map_err(unavailable)?
        }
        Value::Text(text) => SqlStorageValue::String(text),
        Value::Blob(bytes) => SqlStorageValue::Blob(bytes.into()),
    })
}

fn column(value: SqlStorageValue) -> Result<Value, StoreError> {
    match value {
        SqlStorageValue::Null => Ok(Value::Null),
        SqlStorageValue::Integer(number) => u64::try_from(number)
            .map(Value::Integer)
            .map_err(|_| StoreError::Corrupt("a number below zero".into())),
        SqlStorageValue::String(text) => Ok(Value::Text(text)),
        SqlStorageValue::Blob(bytes) => Ok(Value::Blob(Bytes::from(bytes))),
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
    /// The part of an object's storage that the `worker` crate leaves out.
    type Transactional;

    /// <https://developers.cloudflare.com/durable-objects/api/sqlite-storage-api/#transactionsync>
    #[wasm_bindgen(method, catch, js_name = transactionSync)]
    fn transaction_sync(
        this: &Transactional,
        write: &mut dyn FnMut() -> Result<(), JsValue>,
    ) -> Result<(), JsValue>;
}
