//! Loads and cuts a session in parts: which items and turns are loaded, which part the next snapshot takes, and how an
//! older part is joined. The parts themselves are read by the node.

use super::{Session, Summary};
use crate::{
    entry::{EntryId, Place},
    session::snapshot::{EVERY_ITEMS, EVERY_TURNS},
};

impl Session {
    /// How many items and turns the log has, loaded or not.
    pub fn counts(&self) -> (usize, usize) {
        (self.items.len() + self.unread.0, self.turns.len() + self.unread.1)
    }

    /// The newest summary of the conversation's beginning.
    pub fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    /// The entries of summaries that cover an item removed since: their bodies must be erased.
    pub fn stale_summaries(&self) -> &[EntryId] {
        &self.stale
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Option<&EntryId> {
        self.snapshot.as_ref().map(|(mark, _)| mark)
    }

    /// The newest snapshot whose items and turns are not loaded; `None` if everything is.
    pub fn older_snapshot(&self) -> Option<&EntryId> {
        self.older.as_ref()
    }

    /// Whether at least the newest `turns` turns are loaded, or all.
    pub fn has_turns(&self, turns: usize) -> bool {
        self.older.is_none() || self.turns.len() >= turns
    }

    /// Whether every item that the summary does not cover is loaded.
    pub fn has_prompt_items(&self) -> bool {
        let first = self.items.keys().next();
        let reached = |summary: &Summary| first.is_some_and(|first| *first <= summary.upto);
        self.older.is_none() || self.summary.as_ref().is_some_and(reached)
    }

    /// Whether another snapshot is due: no turn is open, and enough turns or items are in none.
    pub fn is_snapshot_due(&self) -> bool {
        let turns = self.turns.count(|turn| self.is_new(&turn.place));
        let items = self.items.keys().rev().take_while(|(place, _)| self.is_new(place)).count();
        self.turns.open().next().is_none() && (turns >= EVERY_TURNS || items >= EVERY_ITEMS)
    }

    /// The part that the next snapshot holds: the items, turns and causes that no snapshot has, and all state whose
    /// size does not grow with the log.
    pub(in crate::session) fn part(&self) -> Self {
        let mut part = self.clone();
        part.items.retain(|(place, _), _| self.is_new(place));
        part.turns = self.turns.part(|turn| self.is_new(&turn.place));
        part.causes.retain(|cause, _| self.new_causes.contains(cause));
        part.older = self.snapshot().cloned();
        let (items, turns) = self.counts();
        part.unread = (items - part.items.len(), turns - part.turns.len());
        part
    }

    /// Adds the items, turns and causes of the snapshot [`Session::older`].
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

    /// Removes what was deleted after the loaded part was written.
    pub(super) fn delete_again(&mut self) {
        let (turns, items) = self.deletions.all();
        let (turns, items): (Vec<_>, Vec<_>) = (turns.copied().collect(), items.cloned().collect());
        turns.iter().for_each(|turn| self.turns.hide(turn));
        items.iter().for_each(|item| self.remove(item));
    }

    /// Whether the newest snapshot does not cover the entry at this place.
    pub(super) fn is_new(&self, (_, origin, seq): &Place) -> bool {
        self.snapshot
            .as_ref()
            .and_then(|(_, covered)| covered.get(origin))
            .is_none_or(|covered| seq > covered)
    }
}
