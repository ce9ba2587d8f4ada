//! Folds the log of a session into a [`Session`]: its creation and metadata, the places of its items, its summary.
//! Turns, schedules and deletions are folded in files of their own. Nothing here reads a store or holds an item's
//! contents.

mod cache;
mod call_plan;
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
pub(crate) use call_plan::{CallPlan, MAX_CALLS};
use deletion::{Deletions, Erasure, SessionDeletion};
use draft::{ConversationCreated, ConversationUpdated, ItemAdded, Summarised};
pub use draft::{draft_created, draft_items, draft_summary, draft_updated, items_with_ids, summary_text};
pub use item::{Item, ItemError};
pub use progress::{CallStage, NextAction, TurnProgress};
pub use response_fold::ResponseFold;
use schedule::Schedules;
use turn::{TurnClosed, Turns};

/// The state of a session without the contents of its items, which stay in the store until a request needs them.
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
    /// Set once the whole session was deleted; every other field is then empty.
    #[serde(skip)]
    deleted: Option<SessionDeletion>,
    active_at: Timestamp,
    schedules: Schedules,
    /// The digests of the bodies that each cause has written: they tell the retry of a request from another request
    /// under the same idempotency key.
    #[serde(with = "pairs")]
    causes: BTreeMap<Cause, BTreeSet<Hash>>,
    /// The causes that no snapshot holds.
    #[serde(skip)]
    new_causes: BTreeSet<Cause>,
    /// The newest snapshot, and up to which entry of each chain it goes.
    #[serde(skip)]
    snapshot: Option<(EntryId, BTreeMap<Origin, Seq>)>,
    /// The newest snapshot whose items and turns are not loaded.
    older: Option<EntryId>,
    /// How many items and turns the snapshot `older` and those before it hold.
    unread: (usize, usize),
    /// The newest summary of the conversation's beginning.
    summary: Option<Summary>,
    /// The entries of summaries that cover an item removed since.
    stale: Vec<EntryId>,
}

/// A summary of a conversation's beginning, without its text.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Summary {
    place: Place,
    /// The entry that holds the text.
    pub mark: EntryId,
    /// The last item that it covers.
    pub upto: ItemPlace,
}

/// Metadata of a conversation: the caller's own keys and values.
pub type Metadata = BTreeMap<String, String>;

/// The place of an item: its entry's place, and its index among the items of that entry.
pub type ItemPlace = (Place, usize);

/// How the conversation was created.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Creation {
    /// When it was created.
    pub at: Timestamp,
    /// The caller that it belongs to; it is invisible to every other caller.
    pub owner: String,
    /// The metadata that the creating request sent.
    metadata: Metadata,
    place: Place,
}

/// One item, without its contents.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct ItemRef {
    /// Its id, derived from the cause of its entry.
    pub id: String,
    /// The chain that its entry is in.
    pub origin: Origin,
    /// The place of its entry in that chain.
    pub seq: Seq,
    /// Its index among the items of that entry.
    pub at: usize,
    /// Whether that entry holds nothing else.
    pub alone: bool,
}

/// The part of an item that a fold needs. `type` and `approval_request_id` are read as any JSON: a client may send
/// anything in a field that the item's type does not define.
#[derive(Deserialize)]
pub(super) struct ItemId {
    pub(super) id: String,
    #[serde(default, rename = "type")]
    kind: Value,
    #[serde(default)]
    approval_request_id: Value,
}

impl ItemId {
    /// The id of the approval request that this item approves or denies.
    pub(super) fn approval_answered(&self) -> Option<&str> {
        self.approval_request_id.as_str().filter(|_| self.kind == "mcp_approval_response")
    }
}

impl Session {
    /// How the conversation was created; `None` if the log holds no conversation.
    pub fn created(&self) -> Option<&Creation> {
        self.created.as_ref()
    }

    /// The conversation's metadata as it is now; `None` if the log holds no conversation.
    pub fn metadata(&self) -> Option<&Metadata> {
        let initial = &self.created.as_ref()?.metadata;
        Some(self.updated.as_ref().map_or(initial, |(_, metadata)| metadata))
    }

    /// The log's turns.
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    /// The log's schedules.
    pub fn schedules(&self) -> &Schedules {
        &self.schedules
    }

    /// The caller that the log belongs to: the owner of its conversation, else of its first turn.
    pub fn owner(&self) -> Option<&str> {
        self.created.as_ref().map(|created| created.owner.as_str()).or(self.turns.owner())
    }

    /// Whether the whole session was deleted.
    pub fn is_deleted(&self) -> bool {
        self.deleted.is_some()
    }

    /// The turns and items that were deleted.
    pub fn deletions(&self) -> &Deletions {
        &self.deletions
    }

    /// Whether every turn is loaded that [`Session::pending_erasures`] looks at.
    pub fn covers_deletions(&self) -> bool {
        self.deletions.is_covered_by(&self.turns)
    }

    /// Deletions whose bodies are still to be erased from the store.
    pub fn pending_erasures(&self) -> Vec<Erasure> {
        match &self.deleted {
            Some(deleted) => deleted.pending().into_iter().collect(),
            None => self.deletions.pending(&self.turns),
        }
    }

    /// When the newest entry was written, ticks of the node left out.
    pub fn active_at(&self) -> Timestamp {
        self.active_at
    }

    /// The loaded items, oldest first.
    pub fn items(&self) -> impl Iterator<Item = &ItemRef> {
        self.items.values()
    }

    /// The item with this id, if it is loaded.
    pub fn item(&self, id: &str) -> Option<ItemRef> {
        self.items.get(self.places.get(id)?).cloned()
    }

    /// Whether `drafts`, which share one cause, were written before. `Err` if that cause has written other bodies.
    pub fn has_written(&self, drafts: &[Draft]) -> Result<bool, IdempotencyConflict> {
        let Some(written) = drafts.first().and_then(|draft| self.causes.get(&draft.cause)) else {
            return Ok(false);
        };
        let bodies: BTreeSet<Hash> = drafts.iter().map(|draft| Hash::of(&draft.body)).collect();
        if bodies == *written { Ok(true) } else { Err(IdempotencyConflict) }
    }

    /// At most `limit` loaded items after the item `after` in the given direction, and whether more follow. `None` if
    /// there is no item `after`.
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
        // One item more than the page holds shows whether there is another page.
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

    /// The loaded items whose entries stand before `place`, with their own places; all of them if it is `None`.
    pub fn items_before(&self, place: Option<&Place>) -> impl Iterator<Item = (&ItemPlace, &ItemRef)> {
        let end = place.map(|place| (place.clone(), 0));
        self.items.iter().take_while(move |(at, _)| end.as_ref().is_none_or(|end| *at < end))
    }

    /// Whether an item at `place` is loaded.
    pub fn has_item_at(&self, place: &ItemPlace) -> bool {
        self.items.contains_key(place)
    }

    /// An estimate of its memory, in units of one item (about 300 bytes); an empty session takes about 10 KB.
    fn weight(&self) -> usize {
        const BASE: usize = 30;
        BASE + self.items.len() + self.turns.len() + self.deletions.len() + self.schedules.weight()
    }

    fn apply_conversation(&mut self, entry: &Entry, place: Place) -> Result<(), FoldError> {
        let header = entry.header();
        match header.kind {
            // Without its body an entry still shows below what its cause has written.
            _ if entry.is_erased() => {}
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
            _ => {
                let ItemId { id, .. } =
                    serde_json::from_slice(entry.body()).map_err(|error| unreadable(entry, &error))?;
                self.add(id, &place, 0, true);
            }
        }
        self.causes.entry(header.cause).or_default().insert(header.body_hash);
        self.new_causes.insert(header.cause);
        Ok(())
    }

    fn apply_turn(&mut self, entry: &Entry, place: &Place) -> Result<(), FoldError> {
        if entry.header().kind == Kind::TURN_DELETED {
            self.deletions.apply_turn(entry);
        }
        for (at, id) in self.turns.apply(entry, place)? {
            self.add(id, place, at, false);
        }
        Ok(())
    }

    fn apply_snapshot(&mut self, entry: &Entry) -> Result<(), FoldError> {
        let ends = snapshot::covers(entry)?;
        self.snapshot = Some((entry.id(), ends.into_iter().collect()));
        self.new_causes.clear();
        Ok(())
    }

    fn apply_summary(&mut self, entry: &Entry, place: Place) -> Result<(), FoldError> {
        let has_newer = self.summary.as_ref().is_some_and(|known| known.place > place);
        if !has_newer {
            let Summarised { upto, .. } =
                serde_json::from_slice(entry.body()).map_err(|error| unreadable(entry, &error))?;
            self.summary = Some(Summary { place, mark: entry.id(), upto });
        }
        Ok(())
    }

    fn apply_removal(&mut self, entry: &Entry) {
        let Some(id) = self.deletions.apply_item(entry) else { return };
        // An item that is not loaded is older than every loaded one, so the summary covers it.
        let place = self.places.get(&id);
        let covers = |summary: &mut Summary| place.is_none_or(|place| *place <= summary.upto);
        self.stale.extend(self.summary.take_if(covers).map(|summary| summary.mark));
        self.remove(&id);
    }

    /// Adds an item, unless its removal was folded before it.
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

/// The idempotency key was used before, for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdempotencyConflict;

impl Fold for Session {
    fn apply(&mut self, entry: &Entry) -> Result<(), FoldError> {
        let header = entry.header();
        let place = entry.place();
        // A deletion drops all state, whether its entry is folded before the others or after them.
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
            // These two also fold entries whose bodies are erased.
            Kind::CONVERSATION_CREATED | Kind::CONVERSATION_UPDATED | Kind::ITEM_ADDED => {
                self.apply_conversation(entry, place)
            }
            Kind::TURN_OPENED
            | Kind::TURN_RUN
            | Kind::DELTAS
            | Kind::TURN_CLOSED
            | Kind::TURN_DELETED
            | Kind::STEP_ENDED
            | Kind::CALLS_STARTED
            | Kind::CALL_ENDED
            | Kind::TOOLS_LISTED => self.apply_turn(entry, &place),
            // A stale summary, or an entry of a session whose deletion stands later in the log.
            _ if entry.is_erased() => Ok(()),
            Kind::SNAPSHOT => self.apply_snapshot(entry),
            Kind::SUMMARISED => self.apply_summary(entry, place),
            Kind::ITEM_REMOVED => {
                self.apply_removal(entry);
                Ok(())
            }
            _ => self.schedules.apply(entry, place),
        }
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

/// The body of an entry. Bodies are strings, numbers, maps and checked JSON, which always serialise.
fn to_json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

fn unreadable(entry: &Entry, error: &serde_json::Error) -> FoldError {
    let Head { origin, seq, .. } = entry.head();
    FoldError { origin, seq: seq.0, why: error.to_string() }
}

#[cfg(test)]
mod tests;
