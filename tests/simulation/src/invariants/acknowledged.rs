//! An acknowledged entry is never lost, none is there twice, and what one client sent in turn stands in that order.

use std::collections::{BTreeMap, BTreeSet};

/// What clients sent to the shared conversation, and what they were told is kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acknowledged {
    conversation: Option<String>,
    sent: BTreeSet<String>,
    /// For each client the groups of items that it sent together, each sent after the one before was acknowledged.
    kept: BTreeMap<u64, Vec<Vec<String>>>,
}

impl Acknowledged {
    /// The same idempotency key gives the same conversation.
    pub(crate) fn conversation(&mut self, id: &str) -> Result<(), String> {
        match &self.conversation {
            Some(known) if known != id => Err(format!("one key made two conversations, {known} and {id}")),
            _ => {
                self.conversation = Some(id.to_owned());
                Ok(())
            }
        }
    }

    pub(crate) fn id(&self) -> Option<String> {
        self.conversation.clone()
    }

    pub(crate) fn sent(&mut self, texts: &[String]) {
        self.sent.extend(texts.iter().cloned());
    }

    pub(crate) fn acknowledged(&mut self, client: u64, texts: &[String]) {
        self.kept.entry(client).or_default().push(texts.to_vec());
    }

    /// Whether `seen`, read after all this was acknowledged, has all of it, once, and nothing that was never sent.
    pub(crate) fn check(&self, seen: &[String]) -> Result<(), String> {
        let mut once = BTreeSet::new();
        for text in seen {
            if !once.insert(text) {
                return Err(format!("{text:?} is there twice"));
            }
        }
        self.kept.values().try_for_each(|groups| check_client(groups, seen))
    }

    /// Whether all of `seen` was sent at all.
    pub(crate) fn check_origin(&self, seen: &[String]) -> Result<(), String> {
        match seen.iter().find(|text| !self.sent.contains(*text)) {
            Some(text) => Err(format!("{text:?} was never sent")),
            None => Ok(()),
        }
    }
}

fn check_client(groups: &[Vec<String>], seen: &[String]) -> Result<(), String> {
    let mut next = 0;
    for group in groups {
        let mut places = group.iter().map(|text| seen.iter().position(|other| other == text));
        let Some(Some(first)) = places.next() else {
            return Err(format!("{group:?} was acknowledged and is lost"));
        };
        if !places.zip(first + 1..).all(|(place, expected)| place == Some(expected)) {
            return Err(format!("{group:?} was acknowledged as one and is torn"));
        }
        if first < next {
            return Err(format!("{group:?} stands before what was acknowledged before it was sent"));
        }
        next = first + group.len();
    }
    Ok(())
}
