//! What of a conversation is here: all of it, or its newest part.

use super::{Session, Summary};
use crate::{
    entry::{EntryId, Place},
    session::snapshot::{EVERY_ITEMS, EVERY_TURNS},
};

impl Session {
    /// How many items and turns the log has, those among them that are not here.
    pub fn counts(&self) -> (usize, usize) {
        (self.items.len() + self.unread.0, self.turns.len() + self.unread.1)
    }

    /// The newest summary of the beginning.
    pub fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    /// The entries of summaries that tell of what is removed by now.
    pub fn stale(&self) -> &[EntryId] {
        &self.stale
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Option<&EntryId> {
        self.snapshot.as_ref().map(|(mark, _)| mark)
    }

    /// The newest snapshot of which the items and turns are not here.
    pub fn older(&self) -> Option<&EntryId> {
        self.older.as_ref()
    }

    /// Whether the newest `turns` are here, or all.
    pub fn has_turns(&self, turns: usize) -> bool {
        self.older.is_none() || self.turns.len() >= turns
    }

    /// Whether all items are here that no summary has.
    pub fn has_prompt_items(&self) -> bool {
        let first = self.items.keys().next();
        let reached = |summary: &Summary| first.is_some_and(|first| *first <= summary.upto);
        self.older.is_none() || self.summary.as_ref().is_some_and(reached)
    }

    /// Whether it is time for another snapshot: between turns, and not too often.
    pub fn is_snapshot_due(&self) -> bool {
        let turns = self.turns.count(|turn| self.is_new(&turn.place));
        let items = self.items.keys().rev().take_while(|(place, _)| self.is_new(place)).count();
        self.turns.open().next().is_none() && (turns >= EVERY_TURNS || items >= EVERY_ITEMS)
    }

    /// What no snapshot has yet, and all that does not grow with the log.
    pub(in crate::session) fn part(&self) -> Self {
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
    pub(super) fn delete_again(&mut self) {
        let (turns, items) = self.deletions.all();
        let (turns, items): (Vec<_>, Vec<_>) = (turns.copied().collect(), items.cloned().collect());
        turns.iter().for_each(|turn| self.turns.hide(turn));
        items.iter().for_each(|item| self.remove(item));
    }

    /// Whether the newest snapshot does not have the entry at `place`.
    pub(super) fn is_new(&self, (_, origin, seq): &Place) -> bool {
        self.snapshot
            .as_ref()
            .and_then(|(_, covered)| covered.get(origin))
            .is_none_or(|covered| seq > covered)
    }
}
