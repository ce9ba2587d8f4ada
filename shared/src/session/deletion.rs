//! What was deleted of a session, and what of it is not erased yet.
//!
//! A deletion is recorded first and made real afterwards: its entry is appended, then the bodies of what it deletes are
//! erased, then an entry of the same kind says so. Whoever finds the first without the second goes on.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    ItemRef, pairs, to_json,
    turn::{TurnId, Turns},
};
use crate::entry::{Draft, Entry, Kind, Origin, Seq};

/// Why a session was deleted.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeletionReason {
    /// Somebody asked for it.
    Asked,
    /// Nothing had happened in it for as long as the configuration keeps sessions.
    Expired,
}

/// The body of an entry that deletes something.
#[derive(Default, Deserialize, Serialize)]
struct DeletionBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<DeletionReason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    item: Option<String>,
    /// The entry that holds the item and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry: Option<(Origin, Seq)>,
    /// Whether there is nothing left to erase.
    #[serde(default)]
    erased: bool,
}

impl DeletionBody {
    /// One that can't be read still says that something was deleted.
    fn read(entry: &Entry) -> Self {
        serde_json::from_slice(entry.body()).unwrap_or_default()
    }

    fn draft(&self, kind: Kind, cause: [u8; 16]) -> Draft {
        Draft { kind, cause, body: to_json(self) }
    }
}

/// What was deleted of a session that is there.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Deletions {
    /// The turns, and whether they are erased.
    #[serde(with = "pairs")]
    turns: BTreeMap<TurnId, bool>,
    items: BTreeMap<String, RemovedItem>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
struct RemovedItem {
    /// The entry that holds nothing else, if it is known.
    entry: Option<(Origin, Seq)>,
    erased: bool,
}

/// Something that is deleted and not erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Erasure {
    /// The bodies of all entries but these.
    Session(BTreeSet<(Origin, Seq)>),
    /// Those of a turn.
    Turn(TurnId),
    /// That of an item's entry, if it is still there.
    Item(String, Option<(Origin, Seq)>),
}

impl Erasure {
    /// The entry that says that it is done.
    pub fn draft(&self) -> Draft {
        let done = DeletionBody { erased: true, ..DeletionBody::default() };
        match self {
            Self::Session(_) => done.draft(Kind::SESSION_DELETED, [0; 16]),
            Self::Turn(turn) => done.draft(Kind::TURN_DELETED, *turn),
            Self::Item(item, _) => {
                DeletionBody { item: Some(item.clone()), ..done }.draft(Kind::ITEM_REMOVED, [0; 16])
            }
        }
    }
}

/// The entry that deletes a session.
pub fn draft_session(why: DeletionReason) -> Draft {
    DeletionBody { why: Some(why), ..DeletionBody::default() }.draft(Kind::SESSION_DELETED, [0; 16])
}

/// The entry that takes a turn out of sight. One whose items are a conversation's is only hidden, so nothing is left to
/// erase.
pub fn draft_turn(turn: TurnId, in_conversation: bool) -> Draft {
    DeletionBody { erased: in_conversation, ..DeletionBody::default() }.draft(Kind::TURN_DELETED, turn)
}

/// The entry that removes an item. One that shares its entry with others is only hidden, so nothing is left to erase,
/// unless it is `summarised`.
pub fn draft_item(item: &ItemRef, summarised: bool) -> Draft {
    let entry = item.alone.then(|| (item.origin.clone(), item.seq));
    let erased = !item.alone && !summarised;
    let body = DeletionBody { item: Some(item.id.clone()), entry, erased, ..DeletionBody::default() };
    body.draft(Kind::ITEM_REMOVED, [0; 16])
}

impl Deletions {
    /// Whether this turn was deleted.
    pub fn has_turn(&self, turn: &TurnId) -> bool {
        self.turns.contains_key(turn)
    }

    /// Whether this item was removed.
    pub fn has_item(&self, item: &str) -> bool {
        self.items.contains_key(item)
    }

    /// The turns that were deleted, and the items.
    pub(super) fn all(&self) -> (impl Iterator<Item = &TurnId>, impl Iterator<Item = &String>) {
        (self.turns.keys(), self.items.keys())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.turns.len() + self.items.len()
    }

    /// Whether nothing was deleted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is not erased and can be. A turn can't while it goes on, while its items are a conversation's, or while a turn
    /// that is not deleted continues it: its words are part of what was asked there.
    pub(super) fn pending(&self, turns: &Turns) -> Vec<Erasure> {
        let left: Vec<&TurnId> =
            self.turns.iter().filter(|(_, erased)| !**erased).map(|(turn, _)| turn).collect();
        let needed =
            if left.is_empty() { BTreeSet::new() } else { turns.referenced(|turn| self.has_turn(turn)) };
        let ended = |turn: &TurnId| turns.find(turn).is_some_and(|turn| turn.outcome.is_some());
        let left = left.into_iter().filter(|turn| !needed.contains(*turn) && ended(turn));
        let items = self.items.iter().filter(|(_, item)| !item.erased);
        let items = items.map(|(id, item)| Erasure::Item(id.clone(), item.entry.clone()));
        left.map(|turn| Erasure::Turn(*turn)).chain(items).collect()
    }

    /// Whether all turns are known that are deleted and not erased.
    pub(super) fn is_covered_by(&self, turns: &Turns) -> bool {
        self.turns.iter().all(|(turn, erased)| *erased || turns.find(turn).is_some())
    }

    pub(super) fn apply_turn(&mut self, entry: &Entry) {
        *self.turns.entry(entry.header().cause).or_default() |= DeletionBody::read(entry).erased;
    }

    /// Gives the id of the item that is removed.
    pub(super) fn apply_item(&mut self, entry: &Entry) -> Option<String> {
        let body = DeletionBody::read(entry);
        let id = body.item?;
        let removed = self.items.entry(id.clone()).or_default();
        removed.erased |= body.erased;
        removed.entry = removed.entry.take().or(body.entry);
        Some(id)
    }

    /// The item that was removed is in an entry of its own.
    pub(super) fn locate(&mut self, item: &ItemRef) {
        if let Some(removed) = self.items.get_mut(&item.id).filter(|_| item.alone) {
            removed.entry = Some((item.origin.clone(), item.seq));
        }
    }
}

/// That a session was deleted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SessionDeletion {
    erased: bool,
    /// The entries that say so.
    entries: BTreeSet<(Origin, Seq)>,
}

impl SessionDeletion {
    pub(super) fn apply(&mut self, entry: &Entry) {
        let header = entry.header();
        self.erased |= DeletionBody::read(entry).erased;
        self.entries.insert((header.origin.clone(), header.seq));
    }

    pub(super) fn pending(&self) -> Option<Erasure> {
        (!self.erased).then(|| Erasure::Session(self.entries.clone()))
    }
}
