//! Folds a log of notes, which the agent keeps for one caller across all sessions. The tools that write notes are in
//! `agent`.

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

/// One note. A forgotten note has no text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    place: Place,
    /// Its text; `None` once it is forgotten.
    pub text: Option<String>,
    /// The entries that hold the text.
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
    /// The ids and texts of the notes that were not forgotten, oldest first.
    pub fn kept(&self) -> Vec<(&str, &str)> {
        let mut kept: Vec<_> =
            self.0.iter().filter_map(|(id, note)| Some((&note.place, id, note.text.as_ref()?))).collect();
        kept.sort();
        kept.into_iter().map(|(_, id, text)| (id.as_str(), text.as_str())).collect()
    }

    /// Whether a note with this id was ever written, forgotten or not.
    pub fn has_ever_had(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }

    /// The entries that hold the text of a note and are not erased.
    pub fn entries(&self, id: &str) -> &[(Origin, Seq)] {
        self.0.get(id).map_or(&[], |note| &note.entries)
    }
}

/// The id of the note that `cause` writes.
pub fn note_id(cause: &Cause) -> String {
    format!("note_{}", hex(cause))
}

/// The entry that writes the note, or forgets it if `text` is `None`.
pub fn draft(cause: Cause, id: String, text: Option<String>) -> Draft {
    Draft { kind: Kind::NOTED, cause, body: to_json(&Noted { id, text }) }
}

impl Fold for Notes {
    fn apply(&mut self, entry: &Entry) -> Result<(), FoldError> {
        let header = entry.header();
        // A forgotten note's entries are erased; the entry that forgets it still has its id.
        if header.kind != Kind::NOTED || entry.is_erased() {
            return Ok(());
        }
        let Noted { id, text } =
            serde_json::from_slice(entry.body()).map_err(|error| unreadable(entry, &error))?;
        let place = entry.place();
        let new = || Note { place: place.clone(), text: text.clone(), entries: Vec::new() };
        let note = self.0.entry(id).or_insert_with(new);
        // Forgetting is final in whatever order the entries are folded: a later text does not restore the note.
        match text {
            Some(_) => note.entries.push((header.origin.clone(), header.seq)),
            None => note.text = None,
        }
        note.place = note.place.clone().min(place);
        Ok(())
    }
}
