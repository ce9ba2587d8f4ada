use std::{collections::BTreeSet, fmt};

use outlive::entry::{
    LogId,
    line::{self, Chains},
};

/// What was found to be whole.
#[derive(Default)]
pub(super) struct Verified {
    chains: Chains,
    sessions: BTreeSet<LogId>,
    lines: usize,
    erased: usize,
}

impl Verified {
    /// Takes one more line in; else says which entry is wrong, and how.
    pub(super) fn apply(&mut self, json: &str) -> Result<(), String> {
        self.lines += 1;
        let at = self.lines;
        let entry = line::decode_strictly(json).map_err(|error| match error.field {
            "" => format!("line {at}{}: {error}", named(json)),
            field => format!("line {at}{}: {field}: {error}", named(json)),
        })?;
        let (origin, seq) = (&entry.header().origin, entry.header().seq.0);
        self.chains.apply(&entry).map_err(|why| format!("line {at}, entry {seq} of {origin}: {why}"))?;
        self.sessions.insert(entry.header().log);
        self.erased += usize::from(entry.is_erased());
        Ok(())
    }

    /// Whether there was nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.lines == 0
    }
}

/// Which entry a line is that can't be read, as far as it says so.
fn named(json: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    match (
        line.get("seq").and_then(|seq| seq.as_u64()),
        line.get("origin").and_then(|origin| origin.as_str()),
    ) {
        (Some(seq), Some(origin)) => format!(", entry {seq} of {origin}"),
        _ => String::new(),
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (entries, chains, sessions) = (self.lines, self.chains.len(), self.sessions.len());
        write!(f, "verified: {entries} entries in {chains} chains of {sessions} sessions")?;
        if self.erased > 0 {
            write!(f, "; the bodies of {} were erased", self.erased)?;
        }
        Ok(())
    }
}
