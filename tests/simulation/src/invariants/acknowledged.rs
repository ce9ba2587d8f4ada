//! Checks that no acknowledged item is lost, that none is listed twice, and that those of one client are in order.

use std::collections::{BTreeMap, BTreeSet};

/// The items that clients sent to the shared conversation, and those that were acknowledged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acknowledged {
    conversation: Option<String>,
    sent: BTreeSet<String>,
    /// For each client, its acknowledged groups of items. A client sends a group after the one before was acknowledged.
    groups: BTreeMap<u64, Vec<Vec<String>>>,
}

impl Acknowledged {
    /// Records the shared conversation. `Err` if its idempotency key has made another one before.
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
        self.groups.entry(client).or_default().push(texts.to_vec());
    }

    /// Whether `listed`, which was read after the acknowledgements, has each acknowledged item, and no item twice.
    pub(crate) fn check(&self, listed: &[String]) -> Result<(), String> {
        let mut once = BTreeSet::new();
        for text in listed {
            if !once.insert(text) {
                return Err(format!("{text:?} is listed twice"));
            }
        }
        self.groups.values().try_for_each(|groups| check_client(groups, listed))
    }

    /// Whether each item of `listed` was sent.
    pub(crate) fn check_origin(&self, listed: &[String]) -> Result<(), String> {
        match listed.iter().find(|text| !self.sent.contains(*text)) {
            Some(text) => Err(format!("{text:?} was never sent")),
            None => Ok(()),
        }
    }
}

fn check_client(groups: &[Vec<String>], listed: &[String]) -> Result<(), String> {
    let mut next = 0;
    for group in groups {
        let mut places = group.iter().map(|text| listed.iter().position(|other| other == text));
        let Some(Some(first)) = places.next() else {
            return Err(format!("the items {group:?} were acknowledged and are lost"));
        };
        if !places.zip(first + 1..).all(|(place, expected)| place == Some(expected)) {
            return Err(format!("the items {group:?} were acknowledged together and are not together"));
        }
        if first < next {
            return Err(format!("the items {group:?} stand before items that were acknowledged earlier"));
        }
        next = first + group.len();
    }
    Ok(())
}
