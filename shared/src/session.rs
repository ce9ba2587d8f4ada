//! A session: the fold of its log. What it says of turns, schedules and deletions has files of its own.

mod cache;
pub mod deletion;
mod draft;
pub mod history;
mod item;
pub mod notes;
mod pairs;
mod part;
mod progress;
mod read;
mod response_fold;
pub mod schedule;
pub mod snapshot;
pub mod step;
pub mod turn;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    entry::{Cause, Draft, Entry, EntryId, Hash, Head, Kind, Origin, Place, Seq},
    log::{Fold, FoldError, Landmark},
    time::Timestamp,
};
pub use cache::Cache;
use deletion::{Deletions, Erasure, SessionDeletion};
use draft::{ConversationCreated, ConversationUpdated, ItemAdded, Summarised};
pub use draft::{draft_created, draft_items, draft_summary, draft_updated, items_with_ids, summary_text};
pub use item::{Item, ItemError};
pub use progress::{CallStage, NextAction, TurnProgress};
pub use response_fold::ResponseFold;
use schedule::Schedules;
use turn::{TurnClosed, Turns};

/// What is known of a conversation without its items' contents, which stay in the store until they are asked for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Session {
    created: Option<Creation>,
    /// The newest metadata that replaced the first.
    updated: Option<(Place, Metadata)>,
    #[serde(with = "pairs")]
    items: BTreeMap<ItemPlace, ItemRef>,
    /// The places of `items` by their ids.
    #[serde(skip)]
    places: BTreeMap<String, ItemPlace>,
    turns: Turns,
    deletions: Deletions,
    /// That all of it was deleted. Nothing else is known then.
    #[serde(skip)]
    deleted: Option<SessionDeletion>,
    active_at: Timestamp,
    schedules: Schedules,
    /// The bodies that each cause has written, so that the same request a second time is known, and told from another
    /// request under the same key.
    #[serde(with = "pairs")]
    causes: BTreeMap<Cause, BTreeSet<Hash>>,
    /// Those that no snapshot has.
    #[serde(skip)]
    fresh: BTreeSet<Cause>,
    /// The newest snapshot, and what is in it.
    #[serde(skip)]
    snapshot: Option<(EntryId, BTreeMap<Origin, Seq>)>,
    /// The newest snapshot of which the items and turns are not here.
    older: Option<EntryId>,
    /// How many items and turns there are in that one and those before it.
    unread: (usize, usize),
    /// The newest summary of the beginning.
    summary: Option<Summary>,
    /// Summaries of what is removed by now.
    stale: Vec<EntryId>,
}

/// Where the beginning of a conversation is summed up.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Summary {
    place: Place,
    /// The entry that has the words.
    pub mark: EntryId,
    /// The last item that is in it.
    pub upto: ItemPlace,
}

/// The caller's own notes on a conversation.
pub type Metadata = BTreeMap<String, String>;

/// Where an item stands: its entry, and which of the items in there it is.
pub type ItemPlace = (Place, usize);

/// The entry that made the conversation.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Creation {
    /// When.
    pub at: Timestamp,
    /// The caller whose it is; nobody else sees it.
    pub owner: String,
    /// The caller's own notes, as they were sent then.
    metadata: Metadata,
    place: Place,
}

/// One item, without its contents.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct ItemRef {
    /// Its id, derived from what caused it.
    pub id: String,
    /// Whose chain it is in.
    pub origin: Origin,
    /// Where in that chain.
    pub seq: Seq,
    /// Where in that entry.
    pub at: usize,
    /// Whether that entry holds nothing else.
    pub alone: bool,
}

/// The part of an item that a fold needs. Clients may write what they like into fields that an item of its type does not
/// have, so those are read as they are.
#[derive(Deserialize)]
pub(super) struct ItemId {
    pub(super) id: String,
    #[serde(default, rename = "type")]
    kind: Value,
    #[serde(default)]
    approval_request_id: Value,
}

impl ItemId {
    /// The request for an approval that it brings the word on.
    pub(super) fn approval_answered(&self) -> Option<&str> {
        self.approval_request_id.as_str().filter(|_| self.kind == "mcp_approval_response")
    }
}

impl Session {
    /// The entry that made it; `None` if there is no such conversation.
    pub fn created(&self) -> Option<&Creation> {
        self.created.as_ref()
    }

    /// The caller's own notes, as they are now; `None` if there is no such conversation.
    pub fn metadata(&self) -> Option<&Metadata> {
        let first = &self.created.as_ref()?.metadata;
        Some(self.updated.as_ref().map_or(first, |(_, metadata)| metadata))
    }

    /// The log's turns.
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    /// The log's schedules.
    pub fn schedules(&self) -> &Schedules {
        &self.schedules
    }

    /// The caller whose the log is: of its conversation, or else of its first turn.
    pub fn owner(&self) -> Option<&str> {
        self.created.as_ref().map(|created| created.owner.as_str()).or(self.turns.owner())
    }

    /// Whether all of the log was deleted.
    pub fn is_deleted(&self) -> bool {
        self.deleted.is_some()
    }

    /// What was deleted of it.
    pub fn deletions(&self) -> &Deletions {
        &self.deletions
    }

    /// Whether all is here that [`Conversation::pending`] looks at.
    pub fn covers_deletions(&self) -> bool {
        self.deletions.is_covered_by(&self.turns)
    }

    /// What was deleted and is to be erased.
    pub fn pending_erasures(&self) -> Vec<Erasure> {
        match &self.deleted {
            Some(deleted) => deleted.pending().into_iter().collect(),
            None => self.deletions.pending(&self.turns),
        }
    }

    /// When somebody last did something in it.
    pub fn active_at(&self) -> Timestamp {
        self.active_at
    }

    /// The items in order.
    pub fn items(&self) -> impl Iterator<Item = &ItemRef> {
        self.items.values()
    }

    /// The item of this id.
    pub fn item(&self, id: &str) -> Option<ItemRef> {
        self.items.get(self.places.get(id)?).cloned()
    }

    /// Whether `drafts`, which all have one cause, were written before. `Err` if that cause wrote something else.
    pub fn has_written(&self, drafts: &[Draft]) -> Result<bool, IdempotencyConflict> {
        let Some(written) = drafts.first().and_then(|draft| self.causes.get(&draft.cause)) else {
            return Ok(false);
        };
        let bodies: BTreeSet<Hash> = drafts.iter().map(|draft| Hash::of(&draft.body)).collect();
        if bodies == *written { Ok(true) } else { Err(IdempotencyConflict) }
    }

    /// At most `limit` items after the item `after`, and whether there are more. `None` if there is no item `after`.
    pub fn page(
        &self,
        after: Option<&str>,
        limit: usize,
        newest_first: bool,
    ) -> Option<(Vec<ItemRef>, bool)> {
        let after = match after {
            Some(id) => Some(self.places.get(id)?.clone()),
            None => None,
        };
        let mut page: Vec<ItemRef> = if newest_first {
            let older = self.items.iter().rev();
            let older = older.filter(|(place, _)| after.as_ref().is_none_or(|after| *place < after));
            older.take(limit + 1).map(|(_, item)| item.clone()).collect()
        } else {
            let newer =
                self.items.iter().filter(|(place, _)| after.as_ref().is_none_or(|after| *place > after));
            newer.take(limit + 1).map(|(_, item)| item.clone()).collect()
        };
        let more = page.len() > limit;
        page.truncate(limit);
        Some((page, more))
    }

    /// The items that were there before the entry at `place`, or all; with their places.
    pub fn items_before(&self, place: Option<&Place>) -> impl Iterator<Item = (&ItemPlace, &ItemRef)> {
        let end = place.map(|place| (place.clone(), 0));
        self.items.iter().take_while(move |(at, _)| end.as_ref().is_none_or(|end| *at < end))
    }

    /// Whether there is an item at `place`.
    pub fn has_item_at(&self, place: &ItemPlace) -> bool {
        self.items.contains_key(place)
    }

    /// How much memory it takes, in items: the smallest takes about 10 KB.
    fn weight(&self) -> usize {
        const LEAST: usize = 30;
        LEAST + self.items.len() + self.turns.len() + self.deletions.len() + self.schedules.weight()
    }

    fn add(&mut self, id: String, place: &Place, at: usize, alone: bool) {
        let (_, origin, seq) = place;
        let item = ItemRef { id: id.clone(), origin: origin.clone(), seq: *seq, at, alone };
        if self.deletions.has_item(&id) {
            return self.deletions.locate(&item);
        }
        self.places.insert(id, (place.clone(), at));
        self.items.insert((place.clone(), at), item);
    }

    fn remove(&mut self, id: &str) {
        if let Some(item) = self.places.remove(id).and_then(|place| self.items.remove(&place)) {
            self.deletions.locate(&item);
        }
    }
}

/// The same idempotency key came with another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdempotencyConflict;

impl Fold for Session {
    fn apply(&mut self, entry: &Entry) -> Result<(), FoldError> {
        let header = entry.header();
        let place = entry.place();
        if header.kind == Kind::SESSION_DELETED {
            let mut deleted = self.deleted.take().unwrap_or_default();
            deleted.apply(entry);
            *self = Self { deleted: Some(deleted), ..Self::default() };
        }
        if self.deleted.is_some() {
            return Ok(());
        }
        if header.kind != Kind::TICKED {
            self.active_at = self.active_at.max(header.hlc.timestamp());
        }
        match header.kind {
            // Only the header is left, and that it once was said.
            Kind::CONVERSATION_CREATED | Kind::CONVERSATION_UPDATED | Kind::ITEM_ADDED
                if entry.is_erased() => {}
            Kind::CONVERSATION_CREATED => {
                let body: ConversationCreated =
                    serde_json::from_slice(entry.body()).map_err(|error| unreadable(entry, &error))?;
                if self.created.as_ref().is_none_or(|first| place < first.place) {
                    let at = header.hlc.timestamp();
                    self.created = Some(Creation { at, owner: body.owner, metadata: body.metadata, place });
                }
            }
            Kind::CONVERSATION_UPDATED => {
                let body: ConversationUpdated =
                    serde_json::from_slice(entry.body()).map_err(|error| unreadable(entry, &error))?;
                if self.updated.as_ref().is_none_or(|(last, _)| *last < place) {
                    self.updated = Some((place, body.metadata));
                }
            }
            Kind::ITEM_ADDED => {
                let ItemId { id, .. } =
                    serde_json::from_slice(entry.body()).map_err(|error| unreadable(entry, &error))?;
                self.add(id, &place, 0, true);
            }
            Kind::TURN_OPENED
            | Kind::TURN_RUN
            | Kind::DELTAS
            | Kind::TURN_CLOSED
            | Kind::TURN_DELETED
            | Kind::STEP_ENDED
            | Kind::CALLS_STARTED
            | Kind::CALL_ENDED
            | Kind::TOOLS_LISTED => {
                if header.kind == Kind::TURN_DELETED {
                    self.deletions.apply_turn(entry);
                }
                for (at, id) in self.turns.apply(entry, &place)? {
                    self.add(id, &place, at, false);
                }
                return Ok(());
            }
            Kind::SNAPSHOT if entry.is_erased() => return Ok(()),
            Kind::SNAPSHOT => {
                let heads = snapshot::covers(entry)?;
                let mark = entry.id();
                self.snapshot = Some((mark, heads.into_iter().collect()));
                self.fresh.clear();
                return Ok(());
            }
            Kind::SUMMARISED => {
                let known = self.summary.as_ref().is_some_and(|known| known.place > place);
                if !entry.is_erased() && !known {
                    let Summarised { upto, .. } =
                        serde_json::from_slice(entry.body()).map_err(|error| unreadable(entry, &error))?;
                    let mark = entry.id();
                    self.summary = Some(Summary { place, mark, upto });
                }
                return Ok(());
            }
            Kind::ITEM_REMOVED => {
                if let Some(id) = self.deletions.apply_item(entry) {
                    // An item that is not here is older than all that are.
                    let place = self.places.get(&id);
                    let told = |summary: &mut Summary| place.is_none_or(|place| *place <= summary.upto);
                    self.stale.extend(self.summary.take_if(told).map(|summary| summary.mark));
                    self.remove(&id);
                }
                return Ok(());
            }
            // All of the session was deleted, as an entry says that is read later.
            _ if entry.is_erased() => return Ok(()),
            _ => return self.schedules.apply(entry, place),
        }
        self.causes.entry(header.cause).or_default().insert(header.body_hash);
        self.fresh.insert(header.cause);
        Ok(())
    }

    fn landmark(entry: &Entry) -> Option<Landmark> {
        match entry.header().kind {
            Kind::SNAPSHOT if !entry.is_erased() => Some(Landmark::Here),
            Kind::SESSION_DELETED => Some(Landmark::Here),
            Kind::TURN_CLOSED if !entry.is_erased() => {
                TurnClosed::read(entry).ok()?.snapshot.map(Landmark::At)
            }
            _ => None,
        }
    }

    fn restore(entry: &Entry) -> Result<Option<(Self, Vec<Head>)>, FoldError> {
        let mut fold = Self::default();
        let heads = match entry.header().kind {
            Kind::SNAPSHOT if !entry.is_erased() => {
                let heads;
                (fold, heads) = snapshot::read(entry)?;
                let places = fold.items.iter().map(|(place, item)| (item.id.clone(), place.clone()));
                fold.places = places.collect();
                fold.delete_again();
                heads
            }
            Kind::SESSION_DELETED => {
                fold.apply(entry)?;
                vec![entry.head()]
            }
            _ => return Ok(None),
        };
        Ok(Some((fold, heads)))
    }
}

/// Strings, maps of strings and checked JSON always serialise.
fn to_json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

fn unreadable(entry: &Entry, error: &serde_json::Error) -> FoldError {
    let Head { origin, seq, .. } = entry.head();
    FoldError { origin, seq: seq.0, why: error.to_string() }
}

#[cfg(test)]
mod tests;
