//! Collects writes and commits them as one `TransactWriteItems`. Knows nothing of what the items mean.

use aws_sdk_dynamodb::{
    Client,
    error::{BuildError, ProvideErrorMetadata, SdkError},
    operation::transact_write_items::TransactWriteItemsError,
    types::{Delete, Put, TransactWriteItem, builders::PutBuilder},
};
use outlive::{
    entry::Hash,
    platform::{AppendError, StoreError},
};

use crate::{
    error::describe,
    layout::{HASH, Item, Key, PARTITION_KEY, bytes},
};

/// Writes that take effect together or not at all.
pub(crate) struct Transaction<'a> {
    table: &'a str,
    writes: Vec<TransactWriteItem>,
}

/// What must hold for an item to be put.
pub(crate) enum Condition {
    /// Nothing.
    Always,
    /// No item has its key yet.
    Absent,
    /// The item under its key has this `hash`.
    HashIs(Hash),
}

/// How a commit ended that DynamoDB decided.
pub(crate) enum Outcome {
    /// All writes took effect.
    Committed,
    /// None did: a condition did not hold, or another transaction was writing the same items.
    Cancelled,
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(table: &'a str) -> Self {
        Self { table, writes: Vec::new() }
    }

    /// Puts `item` if `condition` holds.
    pub(crate) fn put(&mut self, item: Item, condition: Condition) -> Result<(), StoreError> {
        let put = Put::builder().table_name(self.table).set_item(Some(item));
        let put = condition.apply(put).build().map_err(invalid)?;
        self.writes.push(TransactWriteItem::builder().put(put).build());
        Ok(())
    }

    /// Deletes the item under `key`.
    pub(crate) fn delete(&mut self, key: Key) -> Result<(), StoreError> {
        let delete = Delete::builder().table_name(self.table).set_key(Some(key.attributes()));
        let delete = delete.build().map_err(invalid)?;
        self.writes.push(TransactWriteItem::builder().delete(delete).build());
        Ok(())
    }

    /// Sends the writes. After [`AppendError::Unavailable`] they may have taken effect.
    pub(crate) async fn commit(self, client: &Client) -> Result<Outcome, AppendError> {
        let request = client.transact_write_items().set_transact_items(Some(self.writes));
        match request.send().await {
            Ok(_) => Ok(Outcome::Committed),
            Err(error) if is_cancelled(&error) => Ok(Outcome::Cancelled),
            Err(error) if error.code() == Some("ValidationException") => {
                Err(AppendError::TooLarge(describe(&error)))
            }
            Err(error) => Err(AppendError::Unavailable(describe(&error))),
        }
    }
}

impl Condition {
    fn apply(self, put: PutBuilder) -> PutBuilder {
        match self {
            Self::Always => put,
            Self::Absent => put.condition_expression(format!("attribute_not_exists({PARTITION_KEY})")),
            // `hash` is one of DynamoDB's reserved words, so it needs a placeholder.
            Self::HashIs(hash) => put
                .condition_expression("#hash = :hash")
                .expression_attribute_names("#hash", HASH)
                .expression_attribute_values(":hash", bytes(hash.0)),
        }
    }
}

/// Whether a transaction failed only because of other writers, so that nothing was written and it may be tried again.
fn is_cancelled<R>(error: &SdkError<TransactWriteItemsError, R>) -> bool {
    let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = error.as_service_error()
    else {
        return false;
    };
    let codes = cancelled.cancellation_reasons().iter().filter_map(|reason| reason.code());
    // `None` is the code of a write that was not at fault.
    let mut codes = codes.filter(|code| *code != "None").peekable();
    codes.peek().is_some()
        && codes.all(|code| code == "ConditionalCheckFailed" || code == "TransactionConflict")
}

fn invalid(error: BuildError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
