//! Verifies exported entries line by line: each body by its digest, each chain by its hashes. Reads no files and sends
//! nothing.

use std::{collections::BTreeSet, fmt};

use outlive::entry::{
    LogId,
    line::{self, Chains},
};

/// The entries that were verified so far.
#[derive(Default)]
pub(super) struct Verifier {
    chains: Chains,
    sessions: BTreeSet<LogId>,
    entry_count: usize,
    erased_count: usize,
}

impl Verifier {
    /// Verifies the next line. The error names the line, its entry, and what is wrong with it.
    pub(super) fn apply(&mut self, json: &str) -> Result<(), String> {
        self.entry_count += 1;
        let line_number = self.entry_count;
        let entry = line::decode_strictly(json).map_err(|error| match error.field {
            "" => format!("line {line_number}{}: {error}", entry_label(json)),
            field => format!("line {line_number}{}: {field}: {error}", entry_label(json)),
        })?;
        let (origin, seq) = (&entry.header().origin, entry.header().seq.0);
        self.chains
            .apply(&entry)
            .map_err(|reason| format!("line {line_number}, entry {seq} of {origin}: {reason}"))?;
        self.sessions.insert(entry.header().log);
        self.erased_count += usize::from(entry.is_erased());
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entry_count == 0
    }
}

/// Names the entry of an invalid line by its seq and origin; empty if the line does not have both.
fn entry_label(json: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    match (
        line.get("seq").and_then(|seq| seq.as_u64()),
        line.get("origin").and_then(|origin| origin.as_str()),
    ) {
        (Some(seq), Some(origin)) => format!(", entry {seq} of {origin}"),
        _ => String::new(),
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (entries, chains, sessions) = (self.entry_count, self.chains.len(), self.sessions.len());
        write!(f, "verified: {entries} entries in {chains} chains of {sessions} sessions")?;
        if self.erased_count > 0 {
            write!(f, "; the bodies of {} were erased", self.erased_count)?;
        }
        Ok(())
    }
}
