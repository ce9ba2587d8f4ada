//! An entry outside of a store: one line of JSON, which says itself whether it is whole.
//!
//! ```text
//! {"log":"…","origin":"edge.0","seq":7,…,"header":"<hex>","body":"<base64>"}
//!  └── for people, follows from the header ──┘ └── all that counts ───────┘
//! ```

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Entry, Hash, Head, Header, LogId, MAX_BODY_BYTES, Origin, Seq};
use crate::hex::{hex, unhex};

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct LineError {
    /// The field that is to blame; empty if it is the whole line.
    pub field: &'static str,
    /// Why.
    pub why: String,
}

fn wrong(field: &'static str, why: impl Into<String>) -> LineError {
    LineError { field, why: why.into() }
}

/// The fields that count.
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

/// Reads a line. Looks at nothing but `header`, `body` and `erased`: an entry whose body was erased leaves its chain whole.
pub fn decode(json: &str) -> Result<Entry, LineError> {
    let fields: LineFields =
        serde_json::from_str(json).map_err(|error| wrong("", format!("it is no entry: {error}")))?;
    let header = unhex(&fields.header)
        .ok_or_else(|| wrong("header", "allowed: an even number of the digits 0 to 9 and a to f"))?;
    let known = Header::decode(&header).map_err(|error| wrong("header", error.to_string()))?;
    if known.body_len > MAX_BODY_BYTES as u64 {
        return Err(wrong("header", format!("the body has more than {MAX_BODY_BYTES} bytes")));
    }
    let entry = match fields.body {
        None if fields.erased => Entry::decode_erased(&header),
        body => {
            let body = STANDARD
                .decode(body.unwrap_or_default())
                .map_err(|error| wrong("body", format!("it is not base64: {error}")))?;
            Entry::decode(&header, body.into())
        }
    };
    entry.map_err(|error| wrong("body", error.to_string()))
}

/// Reads a line, and also what it says for people must follow from its header. The kind's word may differ, since another
/// version may know another one.
pub fn decode_strictly(json: &str) -> Result<Entry, LineError> {
    let entry = decode(json)?;
    let said: Value = serde_json::from_str(json).unwrap_or_default();
    for (field, value) in outline(&entry) {
        if field != "name" && said.get(&field) != Some(&value) {
            return Err(wrong("", format!("{field:?} is not what the header says: {value}")));
        }
    }
    Ok(entry)
}

fn outline(entry: &Entry) -> Map<String, Value> {
    let header = entry.header();
    let fields: [(&str, Value); 9] = [
        ("log", header.log.to_string().into()),
        ("origin", header.origin.to_string().into()),
        ("seq", header.seq.0.into()),
        // As text, since JavaScript would round it.
        ("hlc", format!("{:016x}", header.hlc.0).into()),
        ("at", header.hlc.timestamp().unix_seconds().into()),
        ("kind", header.kind.0.into()),
        ("name", header.kind.name().into()),
        ("cause", hex(&header.cause).into()),
        ("hash", entry.hash().to_string().into()),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Chains as they are read, each from its beginning or from a known end.
#[derive(Clone, Debug, Default)]
pub struct Chains(BTreeMap<(LogId, Origin), (Seq, Hash)>);

impl Chains {
    /// The chains of `log` that end at `heads`.
    pub fn of(log: LogId, heads: &[Head]) -> Self {
        Self(heads.iter().map(|head| ((log, head.origin.clone()), (head.seq, head.hash))).collect())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The end of a chain; seq 0 if it has not begun.
    pub fn end(&self, log: LogId, origin: &Origin) -> Seq {
        self.0.get(&(log, origin.clone())).map_or(Seq(0), |(seq, _)| *seq)
    }

    /// Takes one more entry in, which must be the next of its chain; else says why it is not.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), String> {
        let Header { log, origin, seq, prev, .. } = entry.header();
        let (end, hash) = self.0.entry((*log, origin.clone())).or_default();
        if *seq != end.next() {
            return Err(format!("the chain of {origin} goes on with entry {}", end.next().0));
        }
        if prev != hash {
            return Err(format!("it does not follow from entry {} of {origin}: the chain is broken", end.0));
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
    fn a_line_is_read_as_it_was_written() {
        let mut chains = Chains::default();
        for entry in entries() {
            assert_eq!(decode_strictly(&encode(&entry).to_string()), Ok(entry.clone()));
            chains.apply(&entry).unwrap();
        }
        assert_eq!(chains.end(LogId([1; 16]), &entries()[0].header().origin), Seq(3));
    }

    #[test]
    fn every_byte_that_changed_is_noticed() {
        let json = encode(&entries()[0]).to_string();
        let name = json.find("item_added").unwrap();
        for at in (0..json.len()).filter(|at| !(name..name + 10).contains(at)) {
            let mut bad = json.clone().into_bytes();
            bad[at] ^= 1;
            let text = String::from_utf8(bad).unwrap();
            // The word for the kind is the one field that is not looked at.
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
        assert!(decode(&erased.to_string()).is_err(), "a body is lost");
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
        assert!(chains.apply(&lines[1]).is_err(), "no beginning");
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
