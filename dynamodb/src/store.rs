//! Implements the `Store` port over one table. Its reads are here, its writes in `append.rs` and `erase.rs`.

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use outlive::{
    entry::{self, Batch, Bucket, Change, Cursor, Entry, Head, Header, LogId, Origin, Seq},
    platform::{AppendError, ReadLimit, Store, StoreError},
    time::Timestamp,
};

use crate::{
    connection,
    error::corrupt,
    layout::{self, EntryItem, KeyRange, Projection, WAKE_SHARDS, WakeItem},
};

/// Logs in a table. Clones share the connection.
#[derive(Clone, Debug)]
pub struct DynamoStore {
    pub(crate) client: Client,
    pub(crate) table: String,
}

impl DynamoStore {
    /// The store in `table`: in the cloud, or in the DynamoDB Local at `endpoint`.
    pub fn new(config: &SdkConfig, endpoint: Option<String>, table: String) -> Self {
        Self { client: connection::client(config, endpoint), table }
    }

    /// The body of an entry whose body is in chunks.
    async fn chunked_body(&self, header: &Header) -> Result<Vec<u8>, StoreError> {
        let mut body = Vec::new();
        self.query(KeyRange::chunks(header), Projection::Whole, |item| {
            body.extend(layout::decode_chunk(item)?);
            Ok(true)
        })
        .await?;
        Ok(body)
    }
}

impl Store for DynamoStore {
    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        self.append_batch(batch).await
    }

    async fn read(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        limit: ReadLimit,
    ) -> Result<Vec<Entry>, StoreError> {
        let (mut items, mut body_bytes) = (Vec::new(), 0);
        self.query(KeyRange::entries(log, origin, from, Seq(u64::MAX)), Projection::Whole, |item| {
            let item = EntryItem::decode(item)?;
            if !item.is_erased {
                body_bytes += usize::try_from(item.header.body_len).unwrap_or(usize::MAX);
            }
            if body_bytes > limit.bytes && !items.is_empty() {
                return Ok(false);
            }
            items.push(item);
            Ok(items.len() < limit.entries)
        })
        .await?;
        let mut entries = Vec::with_capacity(items.len());
        for item in items {
            let entry = match item.body {
                _ if item.is_erased => Entry::decode_erased(&item.raw_header),
                Some(body) => Entry::decode(&item.raw_header, body.into()),
                None => Entry::decode(&item.raw_header, self.chunked_body(&item.header).await?.into()),
            };
            entries.push(entry.map_err(corrupt)?);
        }
        entry::verify(log, origin, from, &entries).map_err(corrupt)?;
        Ok(entries)
    }

    async fn heads(&self, log: LogId) -> Result<Vec<Head>, StoreError> {
        let mut heads = Vec::new();
        self.query(KeyRange::heads(log), Projection::Whole, |item| {
            heads.push(layout::decode_head(&item)?);
            Ok(true)
        })
        .await?;
        // Keys escape origins, so their order is not that of origins.
        heads.sort_by(|a, b| a.origin.cmp(&b.origin));
        Ok(heads)
    }

    async fn changes(&self, bucket: Bucket, after: Cursor, limit: usize) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::new();
        let first = Cursor(after.0.saturating_add(1));
        self.query(KeyRange::changes(bucket, first), Projection::Whole, |item| {
            changes.push(layout::decode_change(&item)?);
            Ok(changes.len() < limit)
        })
        .await?;
        Ok(changes)
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LogId>, StoreError> {
        let mut wakes = Vec::new();
        for shard in 0..WAKE_SHARDS {
            // The earliest wakes may all be in one shard, so each is read up to the limit.
            let mut wakes_left = limit;
            self.query(KeyRange::wakes(shard, now), Projection::Whole, |item| {
                wakes.push(WakeItem::decode(&item)?);
                wakes_left = wakes_left.saturating_sub(1);
                Ok(wakes_left > 0)
            })
            .await?;
        }
        wakes.sort_unstable();
        // Several chains of one log may each have set a wake.
        let mut logs = Vec::new();
        for WakeItem { log, .. } in wakes {
            if !logs.contains(&log) && logs.len() < limit {
                logs.push(log);
            }
        }
        Ok(logs)
    }

    async fn erase(&self, log: LogId, origin: &Origin, from: Seq, to: Seq) -> Result<(), StoreError> {
        self.erase_bodies(log, origin, from, to).await
    }
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
            let config = crate::sdk_config().await;
            let run = std::process::id().to_string();
            let store = DynamoStore::new(&config, Some(endpoint), format!("suite-{run}"));
            store.create_table().await.unwrap();
            suite(&store, &run).await
        });
        assert!(report.failed.is_empty() && report.passed > 10, "{report}");
    }
}
