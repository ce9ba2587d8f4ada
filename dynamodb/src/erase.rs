//! Erases bodies: marks their entries as erased, then deletes their chunks. Headers stay.

use aws_sdk_dynamodb::types::AttributeValue;
use outlive::{
    entry::{Header, LogId, Origin, Seq},
    platform::{MAX_ERASED_ENTRIES, StoreError},
};

use crate::{
    error::unavailable,
    layout::{ERASE_EXPRESSION, EntryItem, Key, KeyRange, Projection},
    store::DynamoStore,
};

impl DynamoStore {
    /// [`Store::erase`](outlive::platform::Store::erase).
    ///
    /// An append of the same large body to the same log at the same time may lose that body: its chunks are put before
    /// its entry is there to protect them.
    pub(crate) async fn erase_bodies(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        to: Seq,
    ) -> Result<(), StoreError> {
        let to = Seq(to.0.min(from.0.saturating_add(MAX_ERASED_ENTRIES - 1)));
        let mut entries = Vec::new();
        self.query(KeyRange::entries(log, origin, from, to), Projection::WithoutBody, |item| {
            let entry = EntryItem::decode(item)?;
            if entry.header.body_len > 0 {
                entries.push(entry);
            }
            Ok(true)
        })
        .await?;
        for entry in entries.iter().filter(|entry| !entry.is_erased) {
            let key = Key::entry(log, origin, entry.header.seq);
            let request = self.client.update_item().table_name(&self.table);
            let request = request.set_key(Some(key.attributes()));
            let request = request.update_expression(ERASE_EXPRESSION);
            let request = request.expression_attribute_values(":true", AttributeValue::Bool(true));
            request.send().await.map_err(|error| unavailable(&error))?;
        }
        // After all marks, so that a crash leaves no entry unreadable; also for entries that were marked before, whose
        // chunks a crash may have left.
        for entry in entries {
            self.erase_chunks(&entry.header).await?;
        }
        Ok(())
    }

    /// Deletes the chunks of a body, unless another entry of the log still has that body.
    async fn erase_chunks(&self, header: &Header) -> Result<(), StoreError> {
        let mut keys = Vec::new();
        self.query(KeyRange::chunks(header), Projection::Whole, |item| {
            keys.push(Key::of(&item)?);
            Ok(true)
        })
        .await?;
        if keys.is_empty() {
            return Ok(());
        }
        let mut is_shared = false;
        self.query(KeyRange::all_entries(header.log), Projection::WithoutBody, |item| {
            let entry = EntryItem::decode(item)?;
            is_shared = !entry.is_erased && entry.header.body_hash == header.body_hash;
            Ok(!is_shared)
        })
        .await?;
        if is_shared {
            return Ok(());
        }
        for key in keys {
            let request = self.client.delete_item().table_name(&self.table);
            let request = request.set_key(Some(key.attributes()));
            request.send().await.map_err(|error| unavailable(&error))?;
        }
        Ok(())
    }
}
