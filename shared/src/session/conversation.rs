//! A conversation: the fold of a session's log, and the cache that keeps recent folds.

mod item;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::{
    deletion::{Deleted, Deletions, Erasure},
    entry::{Cause, Draft, Entry, Hash, Head, Hlc, Kind, LogId, Origin, Seq},
    log::{Fold, FoldError, Landmark, View},
    pairs,
    schedule::Schedules,
    snapshot::{self, EVERY_ITEMS, EVERY_TURNS, Mark},
    step::{Answered, Ended, Listed},
    to_json,
    turn::{self, Closed, Opened, Outcome, ResponseId, Turns},
    unreadable,
};
use crate::{
    platform::Timestamp,
    wire::{Block, responses},
};
pub use item::{Item, ItemError};

/// What is known of a conversation without its items' contents, which stay in the store until they are asked for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Conversation {
    created: Option<Created>,
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
    deleted: Option<Deleted>,
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
    snapshot: Option<(Mark, BTreeMap<Origin, Seq>)>,
    /// The newest snapshot of which the items and turns are not here.
    older: Option<Mark>,
    /// How many items and turns there are in that one and those before it.
    unread: (usize, usize),
    /// The newest summary of the beginning.
    summary: Option<Summary>,
    /// Summaries of what is removed by now.
    stale: Vec<Mark>,
}

/// Where the beginning of a conversation is summed up.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Summary {
    place: Place,
    /// The entry that has the words.
    pub mark: Mark,
    /// The last item that is in it.
    pub upto: ItemPlace,
}

/// The body of a [`Kind::SUMMARISED`] entry.
#[derive(Deserialize, Serialize)]
struct SummaryBody {
    text: String,
    upto: ItemPlace,
}

/// The caller's own notes on a conversation.
pub type Metadata = BTreeMap<String, String>;

/// Where an entry stands in the conversation: by clock, then by origin. The same on every node that has the entries.
pub type Place = (Hlc, Origin, Seq);

/// Where an item stands: its entry, and which of the items in there it is.
pub type ItemPlace = (Place, usize);

/// The entry that made the conversation.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Created {
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

/// The body of a [`Kind::CONVERSATION_CREATED`] entry.
#[derive(Deserialize, Serialize)]
struct CreatedBody {
    owner: String,
    metadata: Metadata,
}

/// The body of a [`Kind::CONVERSATION_UPDATED`] entry.
#[derive(Deserialize, Serialize)]
struct UpdatedBody {
    metadata: Metadata,
}

/// The body of a [`Kind::ITEM_ADDED`] entry.
#[derive(Deserialize, Serialize)]
struct ItemBody<'a> {
    id: String,
    #[serde(borrow)]
    item: &'a RawValue,
}

/// The part of an item that a fold needs.
#[derive(Deserialize)]
pub(super) struct ItemId {
    pub(super) id: String,
    /// The request that it brings the word on.
    #[serde(default)]
    pub(super) approval_request_id: Option<String>,
}

impl Conversation {
    /// The entry that made it; `None` if there is no such conversation.
    pub fn created(&self) -> Option<&Created> {
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
    pub fn reaches_deleted(&self) -> bool {
        self.deletions.reach(&self.turns)
    }

    /// What was deleted and is to be erased.
    pub fn pending(&self) -> Vec<Erasure> {
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
    pub fn has(&self, drafts: &[Draft]) -> Result<bool, OtherRequest> {
        let Some(written) = drafts.first().and_then(|draft| self.causes.get(&draft.cause)) else {
            return Ok(false);
        };
        let bodies: BTreeSet<Hash> = drafts.iter().map(|draft| Hash::of(&draft.body)).collect();
        if bodies == *written { Ok(true) } else { Err(OtherRequest) }
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

    /// The item inside the body of a [`Kind::ITEM_ADDED`] entry, as JSON with its id and status.
    pub fn item_json(body: &[u8]) -> Result<Box<RawValue>, serde_json::Error> {
        serde_json::from_slice::<ItemBody<'_>>(body).map(|body| body.item.to_owned())
    }

    /// The items that were there before the entry at `place`, or all; with their places.
    pub fn items_before(&self, place: Option<&Place>) -> impl Iterator<Item = (&ItemPlace, &ItemRef)> {
        let end = place.map(|place| (place.clone(), 0));
        self.items.iter().take_while(move |(at, _)| end.as_ref().is_none_or(|end| *at < end))
    }

    /// How many items and turns the log has, those among them that are not here.
    pub fn counts(&self) -> (usize, usize) {
        (self.items.len() + self.unread.0, self.turns.len() + self.unread.1)
    }

    /// Whether there is an item at `place`.
    pub fn has_item_at(&self, place: &ItemPlace) -> bool {
        self.items.contains_key(place)
    }

    /// The newest summary of the beginning.
    pub fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    /// The entries of summaries that tell of what is removed by now.
    pub fn stale(&self) -> &[Mark] {
        &self.stale
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Option<&Mark> {
        self.snapshot.as_ref().map(|(mark, _)| mark)
    }

    /// The newest snapshot of which the items and turns are not here.
    pub fn older(&self) -> Option<&Mark> {
        self.older.as_ref()
    }

    /// Whether the newest `turns` are here, or all.
    pub fn has_read(&self, turns: usize) -> bool {
        self.older.is_none() || self.turns.len() >= turns
    }

    /// Whether all items are here that no summary has.
    pub fn is_told(&self) -> bool {
        let first = self.items.keys().next();
        let reached = |summary: &Summary| first.is_some_and(|first| *first <= summary.upto);
        self.older.is_none() || self.summary.as_ref().is_some_and(reached)
    }

    /// Whether it is time for another snapshot: between turns, and not too often. A log whose turns continue each other
    /// outside of its conversation is read whole, since each of them may be asked for.
    pub fn wants_snapshot(&self) -> bool {
        let turns = self.turns.count(|turn| self.is_new(&turn.place));
        let items = self.items.keys().rev().take_while(|(place, _)| self.is_new(place)).count();
        self.created.is_some()
            && self.turns.open().next().is_none()
            && (turns >= EVERY_TURNS || items >= EVERY_ITEMS)
    }

    /// What no snapshot has yet, and all that does not grow with the log.
    pub(super) fn part(&self) -> Self {
        let mut part = self.clone();
        part.items.retain(|(place, _), _| self.is_new(place));
        part.turns = self.turns.part(|turn| self.is_new(&turn.place));
        part.causes.retain(|cause, _| self.fresh.contains(cause));
        part.older = self.snapshot().cloned();
        let (items, turns) = self.counts();
        part.unread = (items - part.items.len(), turns - part.turns.len());
        part
    }

    /// Takes the items and turns of an older snapshot in.
    pub(crate) fn prepend(&mut self, older: Self) {
        for (place, item) in older.items {
            self.places.insert(item.id.clone(), place.clone());
            self.items.insert(place, item);
        }
        self.turns.prepend(older.turns);
        for (cause, bodies) in older.causes {
            self.causes.entry(cause).or_default().extend(bodies);
        }
        (self.older, self.unread) = (older.older, older.unread);
        self.delete_again();
    }

    /// What was deleted may be in a part that was written before.
    fn delete_again(&mut self) {
        let (turns, items) = self.deletions.all();
        let (turns, items): (Vec<_>, Vec<_>) = (turns.copied().collect(), items.cloned().collect());
        turns.iter().for_each(|turn| self.turns.hide(turn));
        items.iter().for_each(|item| self.remove(item));
    }

    /// Whether the newest snapshot does not have the entry at `place`.
    fn is_new(&self, (_, origin, seq): &Place) -> bool {
        self.snapshot
            .as_ref()
            .and_then(|(_, covered)| covered.get(origin))
            .is_none_or(|covered| seq > covered)
    }

    /// The item at `at` of an entry that holds items; `None` once it is erased.
    pub fn item_of(entry: &Entry, at: usize) -> Result<Option<Box<RawValue>>, FoldError> {
        if entry.is_erased() {
            return Ok(None);
        }
        if entry.header().kind == Kind::ITEM_ADDED {
            return Self::item_json(entry.body()).map(Some).map_err(|error| unreadable(entry, &error));
        }
        let item = Self::read_item(entry, at, Answered::item)?;
        RawValue::from_string(item.to_string()).map(Some).map_err(|error| unreadable(entry, &error))
    }

    /// The item at `at` of an entry that holds items, as a model is told it; nothing once it is erased.
    pub fn told_of(entry: &Entry, at: usize) -> Result<Value, FoldError> {
        if entry.is_erased() {
            return Ok(Value::Null);
        }
        if entry.header().kind == Kind::ITEM_ADDED {
            let item = Self::item_json(entry.body()).map_err(|error| unreadable(entry, &error))?;
            return serde_json::from_str(item.get()).map_err(|error| unreadable(entry, &error));
        }
        Self::read_item(entry, at, Answered::told)
    }

    /// All items of an entry of a turn, as a model is told them.
    pub fn all_told(entry: &Entry) -> Result<Vec<Value>, FoldError> {
        let id = ResponseId { log: entry.header().log, turn: entry.header().cause }.to_string();
        let told = |said: &Answered, broke: bool| {
            said.kept(broke).map(|(n, block)| said.told(&id, n, block)).collect::<Vec<_>>()
        };
        Ok(match entry.header().kind {
            _ if entry.is_erased() => Vec::new(),
            Kind::TURN_OPENED => Opened::read(entry)?.input,
            Kind::TURN_CLOSED => {
                let closed = Closed::read(entry)?;
                told(&closed.last, closed.broke())
            }
            Kind::STEP_ENDED => told(&turn::read(entry)?, false),
            Kind::CALL_ENDED => vec![turn::read::<Ended>(entry)?.item()],
            Kind::TOOLS_LISTED => turn::read::<Listed>(entry)?.lists,
            _ => Vec::new(),
        })
    }

    fn read_item(
        entry: &Entry,
        at: usize,
        item: impl Fn(&Answered, &str, usize, &Block) -> Value,
    ) -> Result<Value, FoldError> {
        let header = entry.header();
        let missing = || FoldError {
            origin: header.origin.clone(),
            seq: header.seq.0,
            why: format!("it has no item {at}"),
        };
        let id = ResponseId { log: header.log, turn: header.cause }.to_string();
        let said = |said: &Answered| Some(item(said, &id, at, said.blocks.get(at)?));
        let found = match header.kind {
            Kind::TURN_OPENED => Opened::read(entry)?.input.into_iter().nth(at),
            Kind::TURN_CLOSED => {
                let closed = Closed::read(entry)?;
                let whole = closed.outcome == Outcome::Completed;
                let status = responses::item_status(at, closed.last.blocks.len(), whole);
                said(&closed.last).map(|mut item| {
                    if let Some(known) = item.get_mut("status") {
                        *known = status.into();
                    }
                    item
                })
            }
            Kind::STEP_ENDED => said(&turn::read(entry)?),
            Kind::CALL_ENDED => Some(turn::read::<Ended>(entry)?.item()),
            Kind::TOOLS_LISTED => turn::read::<Listed>(entry)?.lists.into_iter().nth(at),
            _ => None,
        };
        found.ok_or_else(missing)
    }

    /// How much memory it takes, in items.
    fn weight(&self) -> usize {
        1 + self.items.len() + self.turns.len() + self.deletions.len() + self.schedules.weight()
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
pub struct OtherRequest;

impl Fold for Conversation {
    fn apply(&mut self, entry: &Entry) -> Result<(), FoldError> {
        let header = entry.header();
        let place = (header.hlc, header.origin.clone(), header.seq);
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
                let body: CreatedBody =
                    serde_json::from_slice(entry.body()).map_err(|error| unreadable(entry, &error))?;
                if self.created.as_ref().is_none_or(|first| place < first.place) {
                    let at = header.hlc.timestamp();
                    self.created = Some(Created { at, owner: body.owner, metadata: body.metadata, place });
                }
            }
            Kind::CONVERSATION_UPDATED => {
                let body: UpdatedBody =
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
                let mark = Mark { origin: header.origin.clone(), seq: header.seq };
                self.snapshot = Some((mark, heads.into_iter().collect()));
                self.fresh.clear();
                return Ok(());
            }
            Kind::SUMMARISED => {
                let known = self.summary.as_ref().is_some_and(|known| known.place > place);
                if !entry.is_erased() && !known {
                    let SummaryBody { upto, .. } =
                        serde_json::from_slice(entry.body()).map_err(|error| unreadable(entry, &error))?;
                    let mark = Mark { origin: header.origin.clone(), seq: header.seq };
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
            Kind::TURN_CLOSED if !entry.is_erased() => Closed::read(entry).ok()?.snapshot.map(Landmark::At),
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

/// What is to be written for a new conversation.
pub fn draft_created(cause: Cause, owner: &str, metadata: Metadata) -> Draft {
    let body = CreatedBody { owner: owner.to_owned(), metadata };
    Draft { kind: Kind::CONVERSATION_CREATED, cause, body: to_json(&body) }
}

/// What is to be written for a summary of all up to `upto`.
pub fn draft_summary(text: &str, upto: ItemPlace) -> Draft {
    let body = SummaryBody { text: text.to_owned(), upto };
    Draft { kind: Kind::SUMMARISED, cause: [0; 16], body: to_json(&body) }
}

/// The words of a summary; none once it is erased.
pub fn summary_text(entry: &Entry) -> Option<String> {
    serde_json::from_slice::<SummaryBody>(entry.body()).ok().map(|body| body.text)
}

/// What is to be written for new metadata.
pub fn draft_updated(cause: Cause, metadata: Metadata) -> Draft {
    Draft { kind: Kind::CONVERSATION_UPDATED, cause, body: to_json(&UpdatedBody { metadata }) }
}

/// The items with the ids that follow from the cause.
pub fn items_with_ids(cause: Cause, items: &[Item]) -> Result<Vec<serde_json::Value>, ItemError> {
    let numbered = items.iter().enumerate();
    let value = |json: Box<RawValue>| serde_json::from_str(json.get()).unwrap_or_default();
    numbered.map(|(number, item)| item.with_id(&cause, number).map(|(_, json)| value(json))).collect()
}

/// What is to be written for new items. Their ids follow from the cause, so that a retry makes the same ones.
pub fn draft_items(cause: Cause, items: &[Item]) -> Result<Vec<Draft>, ItemError> {
    let numbered = items.iter().enumerate();
    numbered
        .map(|(number, item)| {
            let (id, json) = item.with_id(&cause, number)?;
            Ok(Draft { kind: Kind::ITEM_ADDED, cause, body: to_json(&ItemBody { id, item: &json }) })
        })
        .collect()
}

/// Folds of conversations that were used lately, so that a request reads only what is new.
#[derive(Default)]
pub struct Cache {
    views: BTreeMap<LogId, (u64, View<Conversation>)>,
    weight: usize,
    clock: u64,
}

impl Cache {
    /// Items of all cached conversations together: about 300 bytes each, so 20 MB of an isolate's 128.
    const MAX_WEIGHT: usize = 64 * 1024;

    /// Takes the view of `log` out; an empty one if there is none, or if another request has it. That one costs a read
    /// of the log and no copy for everybody else.
    pub fn take(&mut self, log: LogId) -> View<Conversation> {
        let Some((_, view)) = self.views.remove(&log) else { return View::default() };
        self.weight -= view.fold.weight();
        view
    }

    /// Keeps `view`, unless a newer one is known, and drops those longest unused if there are too many.
    pub fn put(&mut self, log: LogId, view: View<Conversation>) {
        if view.is_empty() || self.views.get(&log).is_some_and(|(_, known)| known.len() >= view.len()) {
            return;
        }
        drop(self.take(log));
        self.clock += 1;
        self.weight += view.fold.weight();
        self.views.insert(log, (self.clock, view));
        while self.weight > Self::MAX_WEIGHT
            && let Some(oldest) = self.views.iter().min_by_key(|(_, (used, _))| *used).map(|(log, _)| *log)
        {
            drop(self.take(oldest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{
        deletion,
        entry::{Batch, VersionVector},
    };

    fn item(text: &str) -> Item {
        let json = format!(r#"{{"type":"message","role":"user","content":"{text}"}}"#);
        Item::parse(&RawValue::from_string(json).unwrap(), "items[0]").unwrap()
    }

    fn log() -> Vec<Entry> {
        let mut entries = Vec::new();
        for (node, n) in [("a", 3), ("b", 2)] {
            let mut drafts = vec![draft_created([n; 16], node, BTreeMap::new())];
            drafts.push(draft_updated([n + 10; 16], BTreeMap::from([("by".into(), node.into())])));
            drafts.extend(draft_items([n; 16], &vec![item(node); usize::from(n)]).unwrap());
            let origin = Origin { node: node.into(), epoch: 0 };
            let now = Timestamp(1000 + u64::from(n));
            let batch =
                Batch::build(LogId([0; 16]), &origin, None, &VersionVector::new(), now, drafts).unwrap();
            entries.extend(batch.entries().cloned());
        }
        entries
    }

    fn fold<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Conversation {
        let mut fold = Conversation::default();
        entries.into_iter().for_each(|entry| fold.apply(entry).unwrap());
        fold
    }

    fn ids(
        fold: &Conversation,
        after: Option<&str>,
        limit: usize,
        newest_first: bool,
    ) -> (Vec<String>, bool) {
        let (page, more) = fold.page(after, limit, newest_first).unwrap();
        (page.into_iter().map(|item| item.id).collect(), more)
    }

    #[test]
    fn the_order_of_chains_does_not_matter() {
        let entries = log();
        let (one, other) = (fold(&entries), fold(entries.iter().skip(5).chain(entries.iter().take(5))));
        assert_eq!(ids(&one, None, 100, false), ids(&other, None, 100, false));
        assert_eq!(one.created().unwrap().owner, "b", "the earliest one counts");
        assert_eq!(one.created(), other.created());
        assert_eq!(one.metadata(), other.metadata());
        assert_eq!(one.metadata().unwrap()["by"], "a", "the latest one counts");
    }

    #[test]
    fn what_is_deleted_stays_so_in_whatever_order() {
        let mut entries = log();
        let all = fold(&entries);
        let item = all.item(&ids(&all, None, 1, false).0[0]).unwrap();
        let (conversation, gone) = (entries[0].clone(), item.id.clone());
        let chain = |drafts: Vec<Draft>| {
            let (origin, deps) = (Origin { node: "c".into(), epoch: 0 }, VersionVector::new());
            let batch = Batch::build(LogId([0; 16]), &origin, None, &deps, Timestamp(900), drafts).unwrap();
            batch.entries().cloned().collect::<Vec<_>>()
        };
        let removed = chain(vec![deletion::draft_item(&item, false)]);
        for fold in [fold(entries.iter().chain(&removed)), fold(removed.iter().chain(&entries))] {
            assert_eq!((fold.item(&gone), ids(&fold, None, 100, false).0.len()), (None, 4));
            let expected = Erasure::Item(gone.clone(), Some((item.origin.clone(), item.seq)));
            assert_eq!(fold.pending(), [expected]);
        }
        // Erased, and read anew: it is not known that this was done, but that it was there.
        let place = entries
            .iter()
            .position(|entry| entry.head().seq == item.seq && entry.head().origin == item.origin);
        let place = place.unwrap();
        entries[place] = entries[place].clone().without_body();
        let known = fold(entries.iter().chain(&removed));
        assert_eq!(known.pending().len(), 1);
        assert_eq!(known.has(&draft_items([2; 16], &vec![self::item("b"); 2]).unwrap()), Err(OtherRequest));
        let done = chain(vec![deletion::draft_item(&item, false), known.pending()[0].draft()]);
        assert_eq!(fold(entries.iter().chain(&done)).pending(), []);

        let deleted = chain(vec![deletion::draft_session(deletion::Why::Asked)]);
        entries[0] = conversation.without_body();
        for fold in [fold(entries.iter().chain(&deleted)), fold(deleted.iter().chain(&entries))] {
            assert!(fold.is_deleted() && fold.created().is_none() && fold.items().next().is_none());
            assert!(matches!(fold.pending().as_slice(), [Erasure::Session(_)]));
        }
    }

    #[test]
    fn pages_join_without_gap_or_overlap() {
        let fold = fold(&log());
        let (all, more) = ids(&fold, None, 100, false);
        assert_eq!((all.len(), more), (5, false));
        for newest_first in [false, true] {
            let (mut joined, mut more) = ids(&fold, None, 2, newest_first);
            while more {
                let (page, rest) = ids(&fold, joined.last().map(String::as_str), 2, newest_first);
                joined.extend(page);
                more = rest;
            }
            if newest_first {
                joined.reverse();
            }
            assert_eq!(joined, all);
        }
        assert_eq!(fold.page(Some("msg_nope"), 2, false), None);
    }

    #[test]
    fn a_cause_is_known_again() {
        let fold = fold(&log());
        let same = draft_items([2; 16], &vec![item("b"); 2]).unwrap();
        let mut whole = vec![draft_created([2; 16], "b", BTreeMap::new())];
        whole.extend(same.clone());
        assert_eq!(fold.has(&whole), Ok(true));
        assert_eq!(fold.has(&same), Err(OtherRequest));
        assert_eq!(fold.has(&draft_items([9; 16], &[item("b")]).unwrap()), Ok(false));
    }

    #[test]
    fn the_cache_forgets_what_was_not_used() {
        let mut cache = Cache::default();
        let mut view = View::<Conversation>::default();
        let store = crate::testing::MemoryStore::default();
        let platform = crate::testing::TestPlatform::new(store);
        let drafts = |n: usize| draft_items([1; 16], &vec![item("x"); n]);
        for n in 0..30_u8 {
            let log = LogId([n; 16]);
            let mut own = View::<Conversation>::default();
            for _ in 0..40 {
                let decide = |_: &Conversation| {
                    Ok::<_, ItemError>(super::super::log::Decision::Append(
                        drafts(60)?,
                        super::super::entry::Wake::Keep,
                        (),
                    ))
                };
                let origin = Origin { node: "a".into(), epoch: 0 };
                futures_executor::block_on(super::super::log::commit(
                    &platform, log, &origin, &mut own, decide,
                ))
                .unwrap();
            }
            view = own.clone();
            cache.put(log, own);
        }
        assert!(cache.weight <= Cache::MAX_WEIGHT);
        assert!(cache.take(LogId([0; 16])).is_empty());
        assert_eq!(cache.take(LogId([29; 16])).len(), view.len());
    }
}
