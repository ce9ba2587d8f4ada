//! Folds the deletions of a session: what was deleted, and which bodies are not erased yet. Erasing them is the agent's
//! business.
//!
//! A deletion is recorded first and carried out afterwards: its entry is appended, then the bodies of the deleted
//! entries are erased, then another entry of the same kind records that. A node that finds the first without the second
//! erases again.

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
    /// A client requested it.
    Asked,
    /// It was inactive for longer than the configuration keeps sessions.
    Expired,
}

/// The body of a [`Kind::SESSION_DELETED`], [`Kind::TURN_DELETED`] or [`Kind::ITEM_REMOVED`] entry.
#[derive(Default, Deserialize, Serialize)]
struct DeletionBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<DeletionReason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    item: Option<String>,
    /// The entry of the item, if it holds nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry: Option<(Origin, Seq)>,
    /// Whether nothing is left to erase.
    #[serde(default)]
    erased: bool,
}

impl DeletionBody {
    /// A body that can't be read is empty: the entry still deletes.
    fn read(entry: &Entry) -> Self {
        serde_json::from_slice(entry.body()).unwrap_or_default()
    }

    fn draft(&self, kind: Kind, cause: [u8; 16]) -> Draft {
        Draft { kind, cause, body: to_json(self) }
    }
}

/// The deleted turns and removed items of a session that was not deleted itself.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Deletions {
    /// The deleted turns, and whether they are erased.
    #[serde(with = "pairs")]
    turns: BTreeMap<TurnId, bool>,
    items: BTreeMap<String, RemovedItem>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
struct RemovedItem {
    /// Its entry, if that holds nothing else and is known.
    entry: Option<(Origin, Seq)>,
    erased: bool,
}

/// Bodies that a deletion still has to erase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Erasure {
    /// All entries of the session but these, which record the deletion.
    Session(BTreeSet<(Origin, Seq)>),
    /// All entries of a turn.
    Turn(TurnId),
    /// The entry of an item; `None` if it has none of its own, or it is unknown.
    Item(String, Option<(Origin, Seq)>),
}

impl Erasure {
    /// The entry that records that the bodies are erased.
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

/// The entry that deletes a turn. A turn whose items belong to a conversation is only hidden, so nothing is left to
/// erase.
pub fn draft_turn(turn: TurnId, in_conversation: bool) -> Draft {
    DeletionBody { erased: in_conversation, ..DeletionBody::default() }.draft(Kind::TURN_DELETED, turn)
}

/// The entry that removes an item. An item that shares its entry with others is only hidden, so nothing is left to
/// erase, unless a summary covers it (`summarised`).
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

    /// The deleted turns and the removed items.
    pub(super) fn all(&self) -> (impl Iterator<Item = &TurnId>, impl Iterator<Item = &String>) {
        (self.turns.keys(), self.items.keys())
    }

    /// How many turns and items were deleted.
    pub fn len(&self) -> usize {
        self.turns.len() + self.items.len()
    }

    /// Whether nothing was deleted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The deletions whose bodies can be erased now. Those of a turn can't while it is open, while its items belong to
    /// a conversation, or while a turn that is not deleted continues it and so includes its items.
    pub(super) fn pending(&self, turns: &Turns) -> Vec<Erasure> {
        let deleted: Vec<&TurnId> =
            self.turns.iter().filter(|(_, erased)| !**erased).map(|(turn, _)| turn).collect();
        let needed =
            if deleted.is_empty() { BTreeSet::new() } else { turns.referenced(|turn| self.has_turn(turn)) };
        let ended = |turn: &TurnId| turns.find(turn).is_some_and(|turn| turn.outcome.is_some());
        let erasable = deleted.into_iter().filter(|turn| !needed.contains(*turn) && ended(turn));
        let items = self.items.iter().filter(|(_, item)| !item.erased);
        let items = items.map(|(id, item)| Erasure::Item(id.clone(), item.entry.clone()));
        erasable.map(|turn| Erasure::Turn(*turn)).chain(items).collect()
    }

    /// Whether all deleted turns that are not erased are loaded.
    pub(super) fn is_covered_by(&self, turns: &Turns) -> bool {
        self.turns.iter().all(|(turn, erased)| *erased || turns.find(turn).is_some())
    }

    pub(super) fn apply_turn(&mut self, entry: &Entry) {
        *self.turns.entry(entry.header().cause).or_default() |= DeletionBody::read(entry).erased;
    }

    /// Applies a removal. Returns the id of the removed item; `None` if the body can't be read.
    pub(super) fn apply_item(&mut self, entry: &Entry) -> Option<String> {
        let body = DeletionBody::read(entry);
        let id = body.item?;
        let removed = self.items.entry(id.clone()).or_default();
        removed.erased |= body.erased;
        removed.entry = removed.entry.take().or(body.entry);
        Some(id)
    }

    /// Notes the entry of a removed item, if the item has one of its own.
    pub(super) fn locate(&mut self, item: &ItemRef) {
        if let Some(removed) = self.items.get_mut(&item.id).filter(|_| item.alone) {
            removed.entry = Some((item.origin.clone(), item.seq));
        }
    }
}

/// The deletion of a whole session.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SessionDeletion {
    erased: bool,
    /// The entries that record it: they are not erased.
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
