//! Writes an entry as one line of JSON, for exports and imports, and reads it back. A line can be checked without a
//! store. Files and streams of lines are the business of others.
//!
//! ```text
//! {"log":"…","origin":"edge.0","seq":7,…,"header":"<hex>","body":"<base64>"}
//!  └── for people, follows from the header ──┘ └── read by an import ─────┘
//! ```

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Entry, Hash, Head, Header, LogId, MAX_BODY_BYTES, Origin, Seq};
use crate::hex::{hex, unhex};

/// A line is not a valid entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct LineError {
    /// The invalid field; empty for the whole line.
    pub field: &'static str,
    /// What is wrong, and what is allowed.
    pub why: String,
}

fn wrong(field: &'static str, why: impl Into<String>) -> LineError {
    LineError { field, why: why.into() }
}

/// The fields that an import reads.
#[derive(Deserialize)]
struct LineFields {
    header: String,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    erased: bool,
}

/// The line of an entry.
pub fn encode(entry: &Entry) -> Value {
    let mut line = outline(entry);
    line.insert("header".into(), hex(&entry.encode_header()).into());
    if entry.is_erased() {
        line.insert("erased".into(), true.into());
    } else {
        line.insert("body".into(), STANDARD.encode(entry.body()).into());
    }
    Value::Object(line)
}

/// Reads an entry from its line, from the fields `header`, `body` and `erased` only. An entry with an erased body is
/// valid: the chain covers the body by its digest.
///
/// # Errors
/// The line is not JSON, a field is invalid, or the body does not match the header.
pub fn decode(json: &str) -> Result<Entry, LineError> {
    let fields: LineFields =
        serde_json::from_str(json).map_err(|error| wrong("", format!("not an entry: {error}")))?;
    let header = unhex(&fields.header)
        .ok_or_else(|| wrong("header", "allowed: an even number of the digits 0 to 9 and a to f"))?;
    // Before the body is decoded, which may be large.
    let decoded = Header::decode(&header).map_err(|error| wrong("header", error.to_string()))?;
    if decoded.body_len > MAX_BODY_BYTES as u64 {
        return Err(wrong(
            "header",
            format!("{} bytes of body; allowed: at most {MAX_BODY_BYTES}", decoded.body_len),
        ));
    }
    let entry = match fields.body {
        None if fields.erased => Entry::decode_erased(&header),
        body => {
            let body = STANDARD
                .decode(body.unwrap_or_default())
                .map_err(|error| wrong("body", format!("not base64: {error}")))?;
            Entry::decode(&header, body.into())
        }
    };
    entry.map_err(|error| wrong("body", error.to_string()))
}

/// Like [`decode`], and the fields for people must match the header, too. `name` may differ, since another version may
/// name the kind differently.
pub fn decode_strictly(json: &str) -> Result<Entry, LineError> {
    let entry = decode(json)?;
    let fields: Value = serde_json::from_str(json).unwrap_or_default();
    for (field, value) in outline(&entry) {
        if field != "name" && fields.get(&field) != Some(&value) {
            return Err(wrong("", format!("{field:?} does not match the header: expected {value}")));
        }
    }
    Ok(entry)
}

/// The fields for people.
fn outline(entry: &Entry) -> Map<String, Value> {
    let header = entry.header();
    let fields: [(&str, Value); 9] = [
        ("log", header.log.to_string().into()),
        ("origin", header.origin.to_string().into()),
        ("seq", header.seq.0.into()),
        // As text, since JavaScript would round a number of this size.
        ("hlc", format!("{:016x}", header.hlc.0).into()),
        ("at", header.hlc.timestamp().unix_seconds().into()),
        ("kind", header.kind.0.into()),
        ("name", header.kind.name().into()),
        ("cause", hex(&header.cause).into()),
        ("hash", entry.hash().to_string().into()),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The ends of chains while their entries are read in order, each from its beginning or from a known end.
#[derive(Clone, Debug, Default)]
pub struct Chains(BTreeMap<(LogId, Origin), (Seq, Hash)>);

impl Chains {
    /// The chains of `log` that end at `heads`.
    pub fn of(log: LogId, heads: &[Head]) -> Self {
        Self(heads.iter().map(|head| ((log, head.origin.clone()), (head.seq, head.hash))).collect())
    }

    /// How many chains there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no chains.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The last place read of a chain; seq 0 before its first entry.
    pub fn end(&self, log: LogId, origin: &Origin) -> Seq {
        self.0.get(&(log, origin.clone())).map_or(Seq(0), |(seq, _)| *seq)
    }

    /// Moves the chain's end to `entry`.
    ///
    /// # Errors
    /// The entry is not the next of its chain; the text says why.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), String> {
        let Header { log, origin, seq, prev, .. } = entry.header();
        let (end, hash) = self.0.entry((*log, origin.clone())).or_default();
        if *seq != end.next() {
            return Err(format!(
                "entry {} of {origin}; allowed: entry {}, the next of its chain",
                seq.0,
                end.next().0
            ));
        }
        if prev != hash {
            return Err(format!(
                "the chain is broken: 'prev' is not the hash of entry {} of {origin}",
                end.0
            ));
        }
        (*end, *hash) = (*seq, entry.hash());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        entry::{Batch, Draft, Kind, VersionVector},
        time::Timestamp,
    };

    fn entries() -> Vec<Entry> {
        let drafts = ["a", "", "é"].map(|body| Draft {
            kind: Kind::ITEM_ADDED,
            cause: [7; 16],
            body: Bytes::from_static(body.as_bytes()),
        });
        let origin = Origin { node: "edge".into(), epoch: 0 };
        let now = Timestamp(1_700_000_000_000);
        let batch = Batch::build(LogId([1; 16]), &origin, None, &VersionVector::new(), now, drafts).unwrap();
        batch.entries().cloned().collect()
    }

    #[test]
    fn a_line_decodes_to_its_entry() {
        let mut chains = Chains::default();
        for entry in entries() {
            assert_eq!(decode_strictly(&encode(&entry).to_string()), Ok(entry.clone()));
            chains.apply(&entry).unwrap();
        }
        assert_eq!(chains.end(LogId([1; 16]), &entries()[0].header().origin), Seq(3));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let json = encode(&entries()[0]).to_string();
        let name = json.find("item_added").unwrap();
        for at in (0..json.len()).filter(|at| !(name..name + 10).contains(at)) {
            let mut bad = json.clone().into_bytes();
            bad[at] ^= 1;
            let text = String::from_utf8(bad).unwrap();
            // A changed key `name` leaves the kind's name under another key, which is not read.
            if !text.contains(r#""name":"#) {
                continue;
            }
            assert!(decode_strictly(&text).is_err(), "byte {at}: {text}");
        }
    }

    #[test]
    fn an_erased_body_leaves_the_chain_whole() {
        let (mut chains, lines) = (Chains::default(), entries());
        let mut erased = encode(&lines[0]);
        erased.as_object_mut().unwrap().remove("body");
        assert!(decode(&erased.to_string()).is_err(), "a missing body");
        erased["erased"] = true.into();
        let entry = decode_strictly(&erased.to_string()).unwrap();
        assert_eq!(entry, lines[0].clone().without_body());
        assert_eq!(encode(&entry), erased);
        chains.apply(&entry).unwrap();
        chains.apply(&lines[1]).unwrap();
    }

    #[test]
    fn a_gap_or_a_branch_is_no_chain() {
        let lines = entries();
        let mut chains = Chains::default();
        assert!(chains.apply(&lines[1]).is_err(), "no first entry");
        chains.apply(&lines[0]).unwrap();
        assert!(chains.apply(&lines[2]).is_err(), "a gap");
        assert!(chains.apply(&lines[0]).is_err(), "twice");
        let branch = Head { hash: Hash([1; 32]), ..lines[0].head() };
        let draft = Draft { kind: Kind::ITEM_ADDED, cause: [7; 16], body: Bytes::new() };
        let (origin, now) = (branch.origin.clone(), Timestamp(1_700_000_000_000));
        let other = Batch::build(LogId([1; 16]), &origin, Some(&branch), &VersionVector::new(), now, [draft]);
        assert!(chains.apply(other.unwrap().first()).unwrap_err().contains("broken"));
        chains.apply(&lines[1]).unwrap();
    }
}
