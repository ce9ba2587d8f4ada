//! What the agent has noted: the fold of a log of notes, which one agent keeps for one caller over all sessions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{to_json, unreadable};
use crate::{
    entry::{Cause, Draft, Entry, Kind, Origin, Place, Seq},
    hex::hex,
    log::{Fold, FoldError},
};

/// All notes, by their ids.
#[derive(Clone, Debug, Default)]
pub struct Notes(BTreeMap<String, Note>);

/// One note. A note that was forgotten has no text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    place: Place,
    /// What was noted.
    pub text: Option<String>,
    /// The entries that hold it.
    entries: Vec<(Origin, Seq)>,
}

/// The body of a [`Kind::NOTED`] entry.
#[derive(Deserialize, Serialize)]
struct Noted {
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl Notes {
    /// The notes that are kept, oldest first, with their ids.
    pub fn kept(&self) -> Vec<(&str, &str)> {
        let mut kept: Vec<_> =
            self.0.iter().filter_map(|(id, note)| Some((&note.place, id, note.text.as_ref()?))).collect();
        kept.sort();
        kept.into_iter().map(|(_, id, text)| (id.as_str(), text.as_str())).collect()
    }

    /// Whether there ever was such a note.
    pub fn has_ever_had(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }

    /// The entries that hold what was noted, as far as they are not erased.
    pub fn entries(&self, id: &str) -> &[(Origin, Seq)] {
        self.0.get(id).map_or(&[], |note| &note.entries)
    }
}

/// The id of the note that `cause` brings about.
pub fn note_id(cause: &Cause) -> String {
    format!("note_{}", hex(cause))
}

/// The entry that notes `text`, or, without one, forgets.
pub fn draft(cause: Cause, id: String, text: Option<String>) -> Draft {
    Draft { kind: Kind::NOTED, cause, body: to_json(&Noted { id, text }) }
}

impl Fold for Notes {
    fn apply(&mut self, entry: &Entry) -> Result<(), FoldError> {
        let header = entry.header();
        // What was forgotten is erased; the entry that says so tells its name.
        if header.kind != Kind::NOTED || entry.is_erased() {
            return Ok(());
        }
        let Noted { id, text } =
            serde_json::from_slice(entry.body()).map_err(|error| unreadable(entry, &error))?;
        let place = entry.place();
        let new = || Note { place: place.clone(), text: text.clone(), entries: Vec::new() };
        let note = self.0.entry(id).or_insert_with(new);
        // Forgetting is for good, whatever the order in which it is heard of.
        match text {
            Some(_) => note.entries.push((header.origin.clone(), header.seq)),
            None => note.text = None,
        }
        note.place = note.place.clone().min(place);
        Ok(())
    }
}
