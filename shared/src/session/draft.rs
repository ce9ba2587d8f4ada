//! Drafts the entries of a conversation: its creation, metadata, items and summaries. The fold of their bodies is in
//! `session.rs`.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Item, ItemError, ItemPlace, Metadata};
use crate::{
    entry::{Cause, Draft, Entry, Kind},
    session::to_json,
};

/// The body of a [`Kind::CONVERSATION_CREATED`] entry.
#[derive(Deserialize, Serialize)]
pub(super) struct ConversationCreated {
    pub(super) owner: String,
    pub(super) metadata: Metadata,
}

/// The body of a [`Kind::CONVERSATION_UPDATED`] entry.
#[derive(Deserialize, Serialize)]
pub(super) struct ConversationUpdated {
    pub(super) metadata: Metadata,
}

/// The body of a [`Kind::ITEM_ADDED`] entry.
#[derive(Deserialize, Serialize)]
pub(super) struct ItemAdded<'a> {
    pub(super) id: String,
    #[serde(borrow)]
    pub(super) item: &'a RawValue,
}

/// The body of a [`Kind::SUMMARISED`] entry.
#[derive(Deserialize, Serialize)]
pub(super) struct Summarised {
    pub(super) text: String,
    pub(super) upto: ItemPlace,
}

/// The entry that creates a conversation.
pub fn draft_created(cause: Cause, owner: &str, metadata: Metadata) -> Draft {
    let body = ConversationCreated { owner: owner.to_owned(), metadata };
    Draft { kind: Kind::CONVERSATION_CREATED, cause, body: to_json(&body) }
}

/// The entry that holds a summary of the conversation up to the item `upto`.
pub fn draft_summary(text: &str, upto: ItemPlace) -> Draft {
    let body = Summarised { text: text.to_owned(), upto };
    Draft { kind: Kind::SUMMARISED, cause: [0; 16], body: to_json(&body) }
}

/// The text of a summary; `None` once its entry is erased.
pub fn summary_text(entry: &Entry) -> Option<String> {
    serde_json::from_slice::<Summarised>(entry.body()).ok().map(|body| body.text)
}

/// The entry that replaces the metadata.
pub fn draft_updated(cause: Cause, metadata: Metadata) -> Draft {
    Draft { kind: Kind::CONVERSATION_UPDATED, cause, body: to_json(&ConversationUpdated { metadata }) }
}

/// The items as JSON, with the ids that follow from the cause.
pub fn items_with_ids(cause: Cause, items: &[Item]) -> Result<Vec<serde_json::Value>, ItemError> {
    let numbered = items.iter().enumerate();
    let value = |json: Box<RawValue>| serde_json::from_str(json.get()).unwrap_or_default();
    numbered.map(|(number, item)| item.with_id(&cause, number).map(|(_, json)| value(json))).collect()
}

/// The entries that add items. The ids follow from the cause, so that a retry writes the same ones.
pub fn draft_items(cause: Cause, items: &[Item]) -> Result<Vec<Draft>, ItemError> {
    let numbered = items.iter().enumerate();
    numbered
        .map(|(number, item)| {
            let (id, json) = item.with_id(&cause, number)?;
            Ok(Draft { kind: Kind::ITEM_ADDED, cause, body: to_json(&ItemAdded { id, item: &json }) })
        })
        .collect()
}
