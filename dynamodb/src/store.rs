//! The `Store` port over one DynamoDB table.
//!
//! ```text
//! pk               sk                        what
//! S#<log>          E#<origin>#<seq>          an entry: header, and its body if that is small, or that it was erased
//! S#<log>          C#<digest>#<part>         a piece of a larger body
//! S#<log>          H#<origin>                the end of a chain, and where it stands among its bucket's changes
//! B#<bucket>       <cursor>                  a chain that has grown; one item for each chain
//! W#<shard>        <time>#<log>#<origin>     when a chain wants its log to be woken
//! ```
//! An append is one transaction: it puts the entries, moves the head, and moves the change to a new cursor. Pieces of
//! larger bodies are put before it; they are named by their digest, so doing that twice does no harm.

use std::{collections::HashMap, time::Duration};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::transact_write_items::TransactWriteItemsError,
    primitives::Blob,
    types::{
        AttributeDefinition, AttributeValue, BillingMode, Delete, KeySchemaElement, KeyType, Put,
        ScalarAttributeType, TransactWriteItem,
    },
};
use outlive::{
    platform::{AppendError, INLINE_BYTES, MOST_ERASED, ReadLimit, Store, StoreError, Timestamp},
    session::{
        entry::{self, Batch, Entry, Head, Header, LogId, Origin, Seq, Wake},
        log::{Bucket, Change, Cursor},
    },
};

use crate::{
    connection,
    layout::{self, Fields, Row, number, text},
};

/// Logs in a table. Clones share the connection.
#[derive(Clone, Debug)]
pub struct DynamoStore {
    client: Client,
    table: String,
}

pub(crate) type Item = HashMap<String, AttributeValue>;

/// Bodies in one transaction: DynamoDB allows 4 MB for all of it, and headers take their part.
const TRANSACTION_BYTES: usize = 3 * 1024 * 1024;

/// Times that an append takes another cursor because another log of its bucket took the one it wanted. A bucket holds
/// one log in 256, so even two in a row are rare.
const MAX_COLLISIONS: u32 = 10;

/// Longest sequence number as text, which is as long as all others.
const LAST: Seq = Seq(u64::MAX);

impl DynamoStore {
    /// The store in `table`, with the DynamoDB Local at `endpoint` if there is one.
    pub fn new(config: &SdkConfig, endpoint: Option<String>, table: String) -> Self {
        Self { client: connection::client(config, endpoint), table }
    }

    /// Makes the table if it is not there: for DynamoDB Local. In the cloud the template makes it.
    pub async fn create_table(&self) -> Result<(), StoreError> {
        let attribute = |name: &str| {
            AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build()
        };
        let key = |name: &str, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
        let broken = |error| StoreError::Unavailable(format!("the table's description: {error}"));
        let result = self
            .client
            .create_table()
            .table_name(&self.table)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(attribute("pk").map_err(broken)?)
            .attribute_definitions(attribute("sk").map_err(broken)?)
            .key_schema(key("pk", KeyType::Hash).map_err(broken)?)
            .key_schema(key("sk", KeyType::Range).map_err(broken)?)
            .send()
            .await;
        match result {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("ResourceInUseException") => Ok(()),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// The end of one chain.
    async fn head(&self, log: LogId, origin: &Origin) -> Result<Option<Known>, StoreError> {
        let request = self.client.get_item().table_name(&self.table).consistent_read(true);
        let request = request.key("pk", text(log_key(log))).key("sk", text(head_key(origin)));
        let answer = request.send().await.map_err(|error| unavailable(&error))?;
        let known = |item: Item| Ok(Known { head: item.head()?, cursor: item.cursor()?, wake: item.wake()? });
        answer.item.map(known).transpose()
    }

    /// The newest cursor of a bucket.
    async fn newest(&self, bucket: Bucket) -> Result<Cursor, StoreError> {
        let request = self.client.query().table_name(&self.table).consistent_read(true);
        let request = request.key_condition_expression("pk = :pk").scan_index_forward(false).limit(1);
        let request = request.expression_attribute_values(":pk", text(bucket_key(bucket)));
        let answer = request.send().await.map_err(|error| unavailable(&error))?;
        answer.items().first().map_or(Ok(Cursor(0)), Fields::cursor)
    }

    /// Puts the bodies that do not fit into the transaction; says for each entry whether its body is one of them.
    async fn put_chunks(&self, batch: &Batch) -> Result<Vec<bool>, StoreError> {
        let (mut spilled, mut inline) = (Vec::new(), 0);
        for entry in batch.entries() {
            let size = entry.body().len();
            let spills = size > INLINE_BYTES || inline + size > TRANSACTION_BYTES;
            spilled.push(spills);
            if !spills {
                inline += size;
                continue;
            }
            for (part, piece) in entry.body().chunks(INLINE_BYTES).enumerate() {
                let request = self.client.put_item().table_name(&self.table);
                let request = request.item("pk", text(log_key(batch.log())));
                let request = request.item("sk", text(chunk_key(entry.header(), part)));
                let request = request.item("body", AttributeValue::B(Blob::new(piece)));
                request.send().await.map_err(|error| unavailable(&error))?;
            }
        }
        Ok(spilled)
    }

    /// The actions of the transaction: first those that fail if another append to this chain came first, then the
    /// change, the only one that may collide with other logs.
    fn transaction(
        &self,
        batch: &Batch,
        spilled: &[bool],
        known: Option<&Known>,
        cursor: Cursor,
    ) -> Result<Vec<TransactWriteItem>, StoreError> {
        let absent = "attribute_not_exists(pk)";
        let put = || Put::builder().table_name(&self.table);
        let pk = text(log_key(batch.log()));
        let mut actions = Vec::new();
        for (entry, spilled) in batch.entries().zip(spilled) {
            let header = entry.header();
            let mut item = put()
                .item("pk", pk.clone())
                .item("sk", text(entry_key(&header.origin, header.seq)))
                .item("header", AttributeValue::B(Blob::new(entry.encode_header())))
                .condition_expression(absent);
            if entry.is_erased() {
                item = item.item("erased", AttributeValue::Bool(true));
            } else if !spilled {
                item = item.item("body", AttributeValue::B(Blob::new(entry.body().to_vec())));
            }
            actions.push(action(item.build())?);
        }
        let end = batch.last().head();
        let head = put().item("pk", pk).item("sk", text(head_key(&end.origin)));
        let asleep = known.and_then(|known| known.wake);
        let wake = match batch.wake() {
            Wake::Keep => asleep,
            Wake::At(at) => Some(at),
            Wake::Never => None,
        };
        let head = layout::with_wake(layout::with_head(head, &end, cursor), wake);
        actions.push(action(match known {
            None => head.condition_expression(absent).build(),
            Some(known) => head
                .condition_expression("#hash = :hash")
                .expression_attribute_names("#hash", "hash")
                .expression_attribute_values(":hash", AttributeValue::B(Blob::new(known.head.hash.0)))
                .build(),
        })?);
        let bucket = bucket_key(Bucket::of(batch.log()));
        let change = put()
            .item("pk", text(bucket.clone()))
            .item("sk", text(cursor_key(cursor)))
            .item("log", text(batch.log().to_string()))
            .condition_expression(absent);
        actions.push(action(layout::with_head(change, &end, cursor).build())?);
        if let Some(known) = known {
            // The new change has a higher cursor, so the highest of the bucket never falls.
            actions.push(self.delete(bucket, cursor_key(known.cursor))?);
        }
        if wake != asleep {
            let shard = shard_key(shard(batch.log()));
            if let Some(at) = asleep {
                actions.push(self.delete(shard.clone(), wake_key(at, batch.log(), &end.origin))?);
            }
            if let Some(at) = wake {
                let sk = text(wake_key(at, batch.log(), &end.origin));
                let put = put().item("pk", text(shard)).item("sk", sk);
                actions.push(action(put.item("log", text(batch.log().to_string())).build())?);
            }
        }
        Ok(actions)
    }

    fn delete(&self, pk: String, sk: String) -> Result<TransactWriteItem, StoreError> {
        let delete =
            Delete::builder().table_name(&self.table).key("pk", text(pk)).key("sk", text(sk)).build();
        let delete = delete.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(TransactWriteItem::builder().delete(delete).build())
    }

    /// All items of a key range, page by page, until `take` has enough.
    async fn scan(
        &self,
        pk: String,
        range: (String, String),
        mut take: impl FnMut(Item) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let mut start = None;
        loop {
            let request = self.client.query().table_name(&self.table).consistent_read(true);
            let request = request.key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to");
            let request = request
                .expression_attribute_values(":pk", text(pk.clone()))
                .expression_attribute_values(":from", text(range.0.clone()))
                .expression_attribute_values(":to", text(range.1.clone()));
            let answer =
                request.set_exclusive_start_key(start).send().await.map_err(|error| unavailable(&error))?;
            for item in answer.items.unwrap_or_default() {
                if !take(item)? {
                    return Ok(());
                }
            }
            start = answer.last_evaluated_key;
            if start.is_none() {
                return Ok(());
            }
        }
    }

    /// The body of an entry that is kept in pieces.
    async fn chunks(&self, header: &Header) -> Result<Vec<u8>, StoreError> {
        let mut body = Vec::new();
        let range = (chunk_key(header, 0), chunk_key(header, usize::MAX));
        self.scan(log_key(header.log), range, |mut item| {
            body.extend(item.take_blob("body")?);
            Ok(true)
        })
        .await?;
        Ok(body)
    }
}

impl DynamoStore {
    /// The entries of a key range without their bodies, until `take` has enough.
    async fn outline(
        &self,
        log: LogId,
        (from, to): (String, String),
        mut take: impl FnMut(Row) -> bool,
    ) -> Result<(), StoreError> {
        let mut start = None;
        loop {
            let request = self.client.query().table_name(&self.table).consistent_read(true);
            let request = request.key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to");
            let request = request.projection_expression("header, erased");
            let request = request
                .expression_attribute_values(":pk", text(log_key(log)))
                .expression_attribute_values(":from", text(from.clone()))
                .expression_attribute_values(":to", text(to.clone()));
            let answer = request.set_exclusive_start_key(start).send().await;
            let answer = answer.map_err(|error| unavailable(&error))?;
            for item in answer.items.unwrap_or_default() {
                if !take(Row::read(item)?) {
                    return Ok(());
                }
            }
            start = answer.last_evaluated_key;
            if start.is_none() {
                return Ok(());
            }
        }
    }

    /// Deletes the pieces of a body, unless there are none, or another entry has them.
    async fn erase_chunks(&self, header: &Header) -> Result<(), StoreError> {
        let mut keys = Vec::new();
        let range = (chunk_key(header, 0), chunk_key(header, usize::MAX));
        self.scan(log_key(header.log), range, |item| {
            keys.push(item.sort_key()?);
            Ok(true)
        })
        .await?;
        if keys.is_empty() {
            return Ok(());
        }
        let mut needed = false;
        self.outline(header.log, ("E#".into(), "E$".into()), |row| {
            needed = !row.is_erased && row.header.body_hash == header.body_hash;
            !needed
        })
        .await?;
        for key in keys.into_iter().filter(|_| !needed) {
            let request = self.client.delete_item().table_name(&self.table);
            let request = request.key("pk", text(log_key(header.log))).key("sk", text(key));
            request.send().await.map_err(|error| unavailable(&error))?;
        }
        Ok(())
    }
}

impl Store for DynamoStore {
    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        let mut spilled = None;
        for _ in 0..MAX_COLLISIONS {
            let known = self.head(batch.log(), batch.origin()).await?;
            if !batch.follows(known.as_ref().map(|known| &known.head)) {
                return Err(AppendError::Conflict { head: known.map(|known| known.head) });
            }
            if spilled.is_none() {
                spilled = Some(self.put_chunks(batch).await?);
            }
            let newest = self.newest(Bucket::of(batch.log())).await?;
            let flags = spilled.as_deref().unwrap_or_default();
            let actions = self.transaction(batch, flags, known.as_ref(), Cursor(newest.0 + 1))?;
            let request = self.client.transact_write_items().set_transact_items(Some(actions));
            match request.send().await {
                Ok(_) => return Ok(()),
                // Nothing was written: look again at who was first.
                Err(error) if is_cancelled(&error) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) if error.code() == Some("ValidationException") => {
                    return Err(AppendError::TooLarge(describe(&error)));
                }
                Err(error) => return Err(AppendError::Unavailable(describe(&error))),
            }
        }
        Err(AppendError::Unavailable("other logs of the bucket were faster each time".into()))
    }

    async fn read(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        limit: ReadLimit,
    ) -> Result<Vec<Entry>, StoreError> {
        let (mut rows, mut bytes) = (Vec::<Row>::new(), 0);
        self.scan(log_key(log), (entry_key(origin, from), entry_key(origin, LAST)), |item| {
            let row = Row::read(item)?;
            if !row.is_erased {
                bytes += usize::try_from(row.header.body_len).unwrap_or(usize::MAX);
            }
            if bytes > limit.bytes && !rows.is_empty() {
                return Ok(false);
            }
            rows.push(row);
            Ok(rows.len() < limit.entries)
        })
        .await?;
        let mut entries = Vec::with_capacity(rows.len());
        for row in rows {
            let entry = match row.body {
                _ if row.is_erased => Entry::decode_erased(&row.raw),
                Some(body) => Entry::decode(&row.raw, body.into()),
                None => Entry::decode(&row.raw, self.chunks(&row.header).await?.into()),
            };
            entries.push(entry.map_err(corrupt)?);
        }
        entry::verify(log, origin, from, &entries).map_err(corrupt)?;
        Ok(entries)
    }

    async fn heads(&self, log: LogId) -> Result<Vec<Head>, StoreError> {
        let mut heads = Vec::new();
        self.scan(log_key(log), ("H#".into(), "H$".into()), |item| {
            heads.push(item.head()?);
            Ok(true)
        })
        .await?;
        heads.sort_by(|a, b| a.origin.cmp(&b.origin));
        Ok(heads)
    }

    async fn changes(&self, bucket: Bucket, after: Cursor, limit: usize) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::new();
        let range = (cursor_key(Cursor(after.0.saturating_add(1))), cursor_key(Cursor(u64::MAX)));
        self.scan(bucket_key(bucket), range, |item| {
            changes.push(Change { cursor: item.cursor()?, log: item.log()?, head: item.head()? });
            Ok(changes.len() < limit)
        })
        .await?;
        Ok(changes)
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LogId>, StoreError> {
        let mut due: Vec<(String, LogId)> = Vec::new();
        let range = (number(0), format!("{}~", number(now.0)));
        for shard in 0..SHARDS {
            let mut left = limit;
            self.scan(shard_key(shard), range.clone(), |item| {
                due.push((item.sort_key()?, item.log()?));
                left = left.saturating_sub(1);
                Ok(left > 0)
            })
            .await?;
        }
        due.sort_unstable();
        let mut logs = Vec::new();
        for (_, log) in due {
            if !logs.contains(&log) && logs.len() < limit {
                logs.push(log);
            }
        }
        Ok(logs)
    }

    /// The marks come first, so whoever repeats it finds pieces that are left. An append that puts the pieces of the very
    /// body that is being erased, in the same moment, may lose them.
    async fn erase(&self, log: LogId, origin: &Origin, from: Seq, to: Seq) -> Result<(), StoreError> {
        let end = Seq(to.0.min(from.0.saturating_add(MOST_ERASED - 1)));
        let mut headers = Vec::new();
        self.outline(log, (entry_key(origin, from), entry_key(origin, end)), |row| {
            headers.extend(Some(row).filter(|row| row.header.body_len > 0));
            true
        })
        .await?;
        for row in headers.iter().filter(|row| !row.is_erased) {
            let request = self.client.update_item().table_name(&self.table);
            let request = request.key("pk", text(log_key(log)));
            let request = request.key("sk", text(entry_key(origin, row.header.seq)));
            let request = request.update_expression("SET erased = :true REMOVE body");
            let request = request.expression_attribute_values(":true", AttributeValue::Bool(true));
            request.send().await.map_err(|error| unavailable(&error))?;
        }
        for row in headers {
            self.erase_chunks(&row.header).await?;
        }
        Ok(())
    }
}

/// The end of a chain, as its item says.
struct Known {
    head: Head,
    cursor: Cursor,
    wake: Option<Timestamp>,
}

/// Parts of all wakes, so that the turns of many sessions do not meet in one partition, which takes 1,000 writes in a
/// second; few enough to be looked at every minute.
const SHARDS: u8 = 16;

fn shard(log: LogId) -> u8 {
    Bucket::of(log).0 % SHARDS
}

fn shard_key(shard: u8) -> String {
    format!("W#{shard:02x}")
}

fn wake_key(at: Timestamp, log: LogId, origin: &Origin) -> String {
    format!("{}#{log}#{}", number(at.0), escape(origin))
}

fn log_key(log: LogId) -> String {
    format!("S#{log}")
}

fn bucket_key(bucket: Bucket) -> String {
    format!("B#{:02x}", bucket.0)
}

fn cursor_key(cursor: Cursor) -> String {
    number(cursor.0)
}

fn head_key(origin: &Origin) -> String {
    format!("H#{}", escape(origin))
}

fn entry_key(origin: &Origin, seq: Seq) -> String {
    format!("E#{}#{}", escape(origin), number(seq.0))
}

fn chunk_key(header: &Header, part: usize) -> String {
    format!("C#{}#{}", header.body_hash, number(part as u64))
}

/// `#` ends an origin, so that the entries of one are never in the range of another.
fn escape(origin: &Origin) -> String {
    origin.to_string().replace('%', "%25").replace('#', "%23")
}

fn action(put: Result<Put, aws_sdk_dynamodb::error::BuildError>) -> Result<TransactWriteItem, StoreError> {
    let put = put.map_err(|error| StoreError::Unavailable(error.to_string()))?;
    Ok(TransactWriteItem::builder().put(put).build())
}

/// Whether a transaction failed because of others, without having written anything.
fn is_cancelled<R>(error: &SdkError<TransactWriteItemsError, R>) -> bool {
    let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = error.as_service_error()
    else {
        return false;
    };
    let codes = cancelled.cancellation_reasons().iter().filter_map(|reason| reason.code());
    let mut codes = codes.filter(|code| *code != "None").peekable();
    codes.peek().is_some()
        && codes.all(|code| code == "ConditionalCheckFailed" || code == "TransactionConflict")
}

fn unavailable<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> StoreError {
    StoreError::Unavailable(describe(error))
}

/// The error's code and message; the SDK's `Display` says neither.
fn describe<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> String {
    match (error.code(), error.message()) {
        (Some(code), message) => format!("DynamoDB: {code} {}", message.unwrap_or_default()),
        (None, _) => match error {
            SdkError::TimeoutError(_) => "DynamoDB: no answer in time".into(),
            SdkError::DispatchFailure(_) => "DynamoDB: no connection".into(),
            _ => "DynamoDB: an answer that can't be read".into(),
        },
    }
}

pub(crate) fn corrupt(error: entry::DecodeError) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

#[cfg(test)]
mod tests {
    use outlive::testing::suite::suite;

    use super::*;

    #[test]
    fn it_is_a_store() {
        let endpoint = std::env::var("OUTLIVE_DYNAMODB_ENDPOINT")
            .expect("OUTLIVE_DYNAMODB_ENDPOINT names a DynamoDB Local; `cargo xtask test` starts one");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let report = runtime.block_on(async {
            let config = crate::environment().await;
            let run = std::process::id().to_string();
            let store = DynamoStore::new(&config, Some(endpoint), format!("suite-{run}"));
            store.create_table().await.unwrap();
            suite(&store, &run).await
        });
        assert!(report.failed.is_empty() && report.passed > 10, "{report}");
    }
}
