//! Appends a batch: puts the chunks of large bodies, then commits everything else in one transaction. What each item
//! holds is decided in `layout.rs`.

use std::time::Duration;

use outlive::{
    entry::{Batch, Bucket, Change, Cursor, LogId, Origin, Wake},
    platform::{AppendError, INLINE_BYTES, StoreError},
};
use tokio::time::sleep;

use crate::{
    error::unavailable,
    layout::{self, EntryItem, HeadItem, Key, KeyRange, WakeItem},
    store::DynamoStore,
    transaction::{Condition, Outcome, Transaction},
};

/// Bytes of bodies in one transaction: DynamoDB allows 4 MB for all of it, and headers take their part.
const TRANSACTION_BYTES: usize = 3 * 1024 * 1024;

/// Transactions that one append tries. Appends to two logs of one bucket collide if both choose the same cursor; a
/// bucket holds one log in 256, so even two collisions in a row are rare.
const MAX_TRIES: u32 = 10;

/// Pause before the next try, for the other append's transaction to end.
const COLLISION_PAUSE: Duration = Duration::from_millis(5);

impl DynamoStore {
    /// [`Store::append`](outlive::platform::Store::append).
    pub(crate) async fn append_batch(&self, batch: &Batch) -> Result<(), AppendError> {
        let is_chunked = plan_chunks(batch);
        let mut chunks_are_put = false;
        for _ in 0..MAX_TRIES {
            let previous = self.head_item(batch.log(), batch.origin()).await?;
            if !batch.follows(previous.as_ref().map(|item| &item.head)) {
                return Err(AppendError::Conflict { head: previous.map(|item| item.head) });
            }
            // Not before the head is known, so that a conflict leaves no chunks behind; before the transaction, so that
            // no reader finds an entry without its body.
            if !chunks_are_put {
                self.put_chunks(batch, &is_chunked).await?;
                chunks_are_put = true;
            }
            let newest = self.newest_cursor(Bucket::of(batch.log())).await?;
            let cursor = Cursor(newest.0 + 1);
            let transaction = self.transaction(batch, &is_chunked, previous.as_ref(), cursor)?;
            match transaction.commit(&self.client).await? {
                Outcome::Committed => return Ok(()),
                // The next look at the head tells a conflict from a collision.
                Outcome::Cancelled => sleep(COLLISION_PAUSE).await,
            }
        }
        Err(AppendError::Unavailable("other logs of the bucket were faster each time".into()))
    }

    /// The head of one chain; `None` while it is empty.
    async fn head_item(&self, log: LogId, origin: &Origin) -> Result<Option<HeadItem>, StoreError> {
        let request = self.client.get_item().table_name(&self.table).consistent_read(true);
        let request = request.set_key(Some(Key::head(log, origin).attributes()));
        let answer = request.send().await.map_err(|error| unavailable(&error))?;
        answer.item.as_ref().map(HeadItem::decode).transpose()
    }

    /// The newest cursor of a bucket.
    async fn newest_cursor(&self, bucket: Bucket) -> Result<Cursor, StoreError> {
        let newest = self.query_last(KeyRange::changes(bucket, Cursor(0))).await?;
        newest.as_ref().map_or(Ok(Cursor(0)), layout::decode_cursor)
    }

    /// Puts the bodies that `is_chunked` names, each in chunks.
    async fn put_chunks(&self, batch: &Batch, is_chunked: &[bool]) -> Result<(), StoreError> {
        for (entry, _) in batch.entries().zip(is_chunked).filter(|(_, is_chunked)| **is_chunked) {
            for (part, chunk) in entry.body().chunks(INLINE_BYTES).enumerate() {
                let request = self.client.put_item().table_name(&self.table);
                let request = request.set_item(Some(layout::encode_chunk(entry.header(), part, chunk)));
                request.send().await.map_err(|error| unavailable(&error))?;
            }
        }
        Ok(())
    }

    /// The writes of an append: at most [`MAX_BATCH_ENTRIES`](outlive::entry::MAX_BATCH_ENTRIES) entries and five more, of the
    /// 100 that DynamoDB allows.
    fn transaction(
        &self,
        batch: &Batch,
        is_chunked: &[bool],
        previous: Option<&HeadItem>,
        cursor: Cursor,
    ) -> Result<Transaction<'_>, StoreError> {
        let (log, head) = (batch.log(), batch.last().head());
        let previous_wake = previous.and_then(|item| item.wake);
        let wake = match batch.wake() {
            Wake::Keep => previous_wake,
            Wake::At(at) => Some(at),
            Wake::Never => None,
        };
        let mut transaction = Transaction::new(&self.table);
        for (entry, is_chunked) in batch.entries().zip(is_chunked) {
            transaction.put(EntryItem::encode(entry, *is_chunked), Condition::Absent)?;
        }
        // This and the entries fail if another append to the chain came first: a conflict.
        let unchanged = previous.map_or(Condition::Absent, |item| Condition::HashIs(item.head.hash));
        transaction.put(HeadItem { head: head.clone(), cursor, wake }.encode(log), unchanged)?;
        // Only this one fails because of another log: a collision on the cursor.
        let change = Change { cursor, log, head };
        transaction.put(layout::encode_change(&change), Condition::Absent)?;
        if let Some(previous) = previous {
            // Never the newest of the bucket once this commits, so the newest cursor never falls.
            transaction.delete(Key::change(Bucket::of(log), previous.cursor))?;
        }
        // A transaction may name an item only once, so a wake that stays is neither deleted nor put.
        if wake != previous_wake {
            if let Some(at) = previous_wake {
                transaction.delete(Key::wake(log, batch.origin(), at))?;
            }
            if let Some(at) = wake {
                transaction.put(WakeItem::encode(log, batch.origin(), at), Condition::Always)?;
            }
        }
        Ok(transaction)
    }
}

/// Decides for each entry whether its body goes into chunks, since it is too large for an item or for the rest of the
/// transaction.
fn plan_chunks(batch: &Batch) -> Vec<bool> {
    let (mut is_chunked, mut inline_bytes) = (Vec::new(), 0);
    for entry in batch.entries() {
        let size = entry.body().len();
        let chunked = size > INLINE_BYTES || inline_bytes + size > TRANSACTION_BYTES;
        if !chunked {
            inline_bytes += size;
        }
        is_chunked.push(chunked);
    }
    is_chunked
}
