//! Defines the entry, of which logs are made, with its ids, order and chain. Knows nothing of stores, nor of what a
//! body means.
//!
//! Entries of one origin form a chain: dense seqs from 1, each with the hash of the one before.
//! ```text
//!   seq 1              seq 2              seq 3
//! ┌───────────┐      ┌───────────┐      ┌───────────┐
//! │ prev = 0  │◄─────┤ prev      │◄─────┤ prev      │   hash = SHA-256(domain ‖ header)
//! │ body hash │      │ body hash │      │ body hash │   header covers the body by its digest,
//! └─────┬─────┘      └─────┬─────┘      └─────┬─────┘   so a store may keep the body elsewhere
//!     body               body               body
//! ```

mod batch;
mod change;
mod codec;
pub mod line;

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    hex::{hex, unhex},
    time::Timestamp,
};
pub use batch::{Batch, BatchError, Draft, MAX_BATCH_ENTRIES, Wake};
pub use change::{Bucket, Change, Cursor};

/// The version of the header's layout that this code writes.
pub const VERSION: u8 = 1;

/// Largest body of one entry. DynamoDB's transaction limit of 4 MB does not apply to bodies stored out of line, but a
/// body must fit beside others into an isolate's 128 MB.
pub const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;

/// A SHA-256 digest, shown as 64 hexadecimal digits.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// A log's id: 16 bytes, random or derived, shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogId(pub [u8; 16]);

impl LogId {
    /// The id derived from `domain` and `parts`, for logs that are found without an index.
    pub fn derive(domain: &str, parts: &[&[u8]]) -> Self {
        Self(derive(domain, parts))
    }

    /// Parses the output of `Display`; upper-case digits are not accepted, so that each log has one spelling.
    pub fn parse(text: &str) -> Option<Self> {
        unhex(text)?.try_into().ok().map(Self)
    }
}

/// The first 16 bytes of a digest over `domain` and `parts`, each with its length, so that no two lists collide.
pub fn derive(domain: &str, parts: &[&[u8]]) -> [u8; 16] {
    let mut sha = Sha256::new();
    for part in std::iter::once(domain.as_bytes()).chain(parts.iter().copied()) {
        sha.update((part.len() as u64).to_be_bytes());
        sha.update(part);
    }
    let digest: [u8; 32] = sha.finalize().into();
    let mut id = [0; 16];
    id.iter_mut().zip(digest).for_each(|(out, byte)| *out = byte);
    id
}

/// The one writer of a chain: a node in one of its epochs. Written `node.epoch`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin {
    /// The node's name in the configuration.
    pub node: String,
    /// Rises whenever the node may have lost entries that it wrote, as after restoring a backup.
    pub epoch: u32,
}

impl Origin {
    /// Parses the output of `Display`; no other spelling is accepted.
    pub fn parse(text: &str) -> Option<Self> {
        let (node, epoch) = text.rsplit_once('.')?;
        let epoch: u32 = epoch.parse().ok()?;
        let origin = Self { node: node.to_owned(), epoch };
        (origin.to_string() == text && !node.is_empty()).then_some(origin)
    }
}

/// A place in a chain, dense from 1.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The first place of a chain.
    pub const FIRST: Self = Self(1);

    /// The place after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A hybrid logical clock: 48 bits of milliseconds, 16 bits of counter (Kulkarni et al. 2014, Buffalo TR 2014-04).
///
/// It never runs behind the wall clock by more than the clock's own error, and rises along every chain even while the
/// wall clock stands still or is set back.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Hlc(pub u64);

impl Hlc {
    /// A reading at wall-clock time `now` with a counter taken from `random`: entries that two processes of one node
    /// write in the same millisecond must differ, or one would mistake the other's entry for its own.
    pub fn at(now: Timestamp, random: u64) -> Self {
        // The upper half of the counter is left for the next readings of this millisecond.
        Self((now.0 << 16) | (random & 0x7FFF))
    }

    /// The next reading after `self`, not before `now`.
    pub fn next(self, now: Self) -> Self {
        Self(now.0.max(self.0.saturating_add(1)))
    }

    /// The wall-clock part.
    pub fn timestamp(self) -> Timestamp {
        Timestamp(self.0 >> 16)
    }
}

impl From<Timestamp> for Hlc {
    fn from(now: Timestamp) -> Self {
        Self::at(now, 0)
    }
}

/// The kind of an entry. The number is part of the format: never reuse one.
///
/// An unknown number is kept and passed on, so that an old node does not lose a newer node's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind(pub u16);

impl Kind {
    /// A conversation was created. Body: owner and metadata.
    pub const CONVERSATION_CREATED: Self = Self(1);
    /// One item was added to a conversation. Body: the item.
    pub const ITEM_ADDED: Self = Self(2);
    /// The scheduled trigger ran. Empty body.
    pub const TICKED: Self = Self(3);
    /// A slice of a budget was granted to an instance, or it owed that much. Body: start of the budget's period, and amount.
    pub const GRANTED: Self = Self(4);
    /// A conversation's metadata was replaced. Body: the new metadata.
    pub const CONVERSATION_UPDATED: Self = Self(5);
    /// A turn was opened. Body: the request.
    pub const TURN_OPENED: Self = Self(6);
    /// A run of a turn started. Empty body.
    pub const TURN_RUN: Self = Self(7);
    /// A piece of a turn's answer arrived. Body: the deltas.
    pub const DELTAS: Self = Self(8);
    /// A turn ended. Body: the outcome and the last answer.
    pub const TURN_CLOSED: Self = Self(9);
    /// A turn was deleted. Body: whether its bodies are erased.
    pub const TURN_DELETED: Self = Self(10);
    /// A step of a turn ended, and the turn stays open. Body: the model's answer, and the calls that the node is going
    /// to make.
    pub const STEP_ENDED: Self = Self(11);
    /// Calls are about to be made. Body: their items, and approved calls of earlier turns.
    pub const CALLS_STARTED: Self = Self(12);
    /// A call ended. Body: the output, the error, or that the outcome is unknown.
    pub const CALL_ENDED: Self = Self(13);
    /// The functions that a turn offers were listed. Body: how each is called.
    pub const TOOLS_LISTED: Self = Self(14);
    /// A snapshot of the log's state. Body: the part that no earlier snapshot holds, and the last entry of each chain
    /// it covers.
    pub const SNAPSHOT: Self = Self(15);
    /// The whole session was deleted. Body: the reason, and whether the bodies are erased.
    pub const SESSION_DELETED: Self = Self(16);
    /// An item was removed. Body: the item's id and entry, and whether its body is erased.
    pub const ITEM_REMOVED: Self = Self(17);
    /// A note was written or forgotten. Body: its id, and its text unless it is forgotten.
    pub const NOTED: Self = Self(18);
    /// The beginning of a conversation was summarised for model requests. Body: the text, and the last item it covers.
    pub const SUMMARISED: Self = Self(19);
    /// A schedule was set. Body: its definition.
    pub const SCHEDULE_SET: Self = Self(20);
    /// A schedule was removed. Empty body.
    pub const SCHEDULE_REMOVED: Self = Self(21);
    /// A fire was claimed, in the same append that opens its turn. Body: its schedule, and when it was due.
    pub const FIRE_CLAIMED: Self = Self(22);
    /// A fire was skipped. Body: its schedule, when it was due, and the reason.
    pub const FIRE_ENDED: Self = Self(23);
    /// A schedule was listed in the directory. Body: its log and id, its owner, source and digest.
    pub const SCHEDULE_LISTED: Self = Self(24);
    /// A schedule was delisted from the directory. Body: its log and id.
    pub const SCHEDULE_DELISTED: Self = Self(25);
    /// An instance returned a part of its grants of a budget. Body: start of the budget's period, and amount.
    pub const RETURNED: Self = Self(26);

    /// Its name in an export; `unknown` for a newer node's kind.
    pub fn name(self) -> &'static str {
        match self.0 {
            1 => "conversation_created",
            2 => "item_added",
            3 => "ticked",
            4 => "granted",
            5 => "conversation_updated",
            6 => "turn_opened",
            7 => "turn_run",
            8 => "deltas",
            9 => "turn_closed",
            10 => "turn_deleted",
            11 => "step_ended",
            12 => "calls_started",
            13 => "call_ended",
            14 => "tools_listed",
            15 => "snapshot",
            16 => "session_deleted",
            17 => "item_removed",
            18 => "noted",
            19 => "summarised",
            20 => "schedule_set",
            21 => "schedule_removed",
            22 => "fire_claimed",
            23 => "fire_ended",
            24 => "schedule_listed",
            25 => "schedule_delisted",
            26 => "returned",
            _ => "unknown",
        }
    }
}

/// The cause of an entry: the digest of a request, or the id of a turn or fire. A cause that comes again, as in a
/// retry, must not take effect again.
pub type Cause = [u8; 16];

/// The last entries of other chains that a writer had applied when it wrote.
pub type VersionVector = BTreeMap<Origin, Seq>;

/// The id of an entry within its log: its chain, and its place in the chain.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct EntryId {
    /// The chain.
    pub origin: Origin,
    /// The place in the chain.
    pub seq: Seq,
}

/// The position of an entry in the order of its log: by clock, then by origin. It is the same on every node.
pub type Place = (Hlc, Origin, Seq);

/// An entry without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The layout of the header.
    pub version: u8,
    /// The log that the entry belongs to.
    pub log: LogId,
    /// The writer of its chain.
    pub origin: Origin,
    /// Its place in the chain.
    pub seq: Seq,
    /// When it was written.
    pub hlc: Hlc,
    /// Hash of the entry at `seq - 1`; all zero for the first.
    pub prev: Hash,
    /// The last entries of other chains that the writer had applied.
    pub deps: VersionVector,
    /// Its cause.
    pub cause: Cause,
    /// Its kind.
    pub kind: Kind,
    /// The body's size in bytes.
    pub body_len: u64,
    /// The body's digest.
    pub body_hash: Hash,
}

impl Header {
    /// Decodes the canonical bytes of a header, for a store that needs the body's size before it fetches the body.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }
}

/// One entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    header: Header,
    hash: Hash,
    body: Bytes,
}

impl Entry {
    /// Restores an entry from the canonical bytes of its header and its body.
    ///
    /// # Errors
    /// The header is not canonical, or the body does not match it.
    pub fn decode(header: &[u8], body: Bytes) -> Result<Self, DecodeError> {
        let hash = codec::hash(header);
        let header = codec::decode(header)?;
        if header.body_len != body.len() as u64 || header.body_hash != Hash::of(&body) {
            return Err(DecodeError("the body does not match its digest"));
        }
        Ok(Self { header, hash, body })
    }

    /// Restores an entry whose body was erased from the canonical bytes of its header. An entry that never had a body
    /// is restored whole.
    pub fn decode_erased(header: &[u8]) -> Result<Self, DecodeError> {
        let hash = codec::hash(header);
        let header = codec::decode(header)?;
        if header.body_len == 0 && header.body_hash != Hash::of(&[]) {
            return Err(DecodeError("the body does not match its digest"));
        }
        Ok(Self { header, hash, body: Bytes::new() })
    }

    /// The entry after its body is erased.
    #[must_use]
    pub fn without_body(self) -> Self {
        Self { body: Bytes::new(), ..self }
    }

    /// Whether its body was erased, so that only its header is left.
    pub fn is_erased(&self) -> bool {
        self.body.is_empty() && self.header.body_len > 0
    }

    /// The canonical bytes of the header, which the hash covers.
    pub fn encode_header(&self) -> Vec<u8> {
        codec::encode(&self.header)
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The payload, in the format of the entry's kind; empty once it is erased.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Its position in the order of its log.
    pub fn place(&self) -> Place {
        (self.header.hlc, self.header.origin.clone(), self.header.seq)
    }

    /// Its id within its log.
    pub fn id(&self) -> EntryId {
        EntryId { origin: self.header.origin.clone(), seq: self.header.seq }
    }

    /// SHA-256 of the header, which the next entry of the chain holds.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// This entry as the end of its chain.
    pub fn head(&self) -> Head {
        Head {
            origin: self.header.origin.clone(),
            seq: self.header.seq,
            hlc: self.header.hlc,
            hash: self.hash,
        }
    }
}

/// Checks that `entries` are the piece of `origin`'s chain in `log` that begins at `from`. Every store calls it before
/// it returns entries, so that a lost or swapped row is noticed.
pub fn verify(log: LogId, origin: &Origin, from: Seq, entries: &[Entry]) -> Result<(), DecodeError> {
    let mut seq = from;
    let mut prev = None;
    for entry in entries {
        let header = &entry.header;
        // The entry before the first one is not read, so its hash is not checked here.
        let linked = prev.is_none_or(|prev| header.prev == prev);
        if header.log != log || header.origin != *origin || header.seq != seq || !linked {
            return Err(DecodeError("the chain is broken"));
        }
        (seq, prev) = (seq.next(), Some(entry.hash));
    }
    Ok(())
}

/// Bytes or text that are not a valid entry, hash or origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub &'static str);

/// The end of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The writer of the chain.
    pub origin: Origin,
    /// The last entry's place.
    pub seq: Seq,
    /// The last entry's clock.
    pub hlc: Hlc,
    /// The last entry's hash.
    pub hash: Hash,
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for Hash {
    type Error = DecodeError;

    fn try_from(text: String) -> Result<Self, DecodeError> {
        let bytes = unhex(&text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(DecodeError("not a hash; allowed: 64 digits 0 to 9 and a to f"))
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        origin.to_string()
    }
}

impl TryFrom<String> for Origin {
    type Error = DecodeError;

    fn try_from(text: String) -> Result<Self, DecodeError> {
        Self::parse(&text).ok_or(DecodeError("not an origin; allowed: a node's name, a dot and a number"))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin { node: "edge.eu".into(), epoch: 3 }
    }

    fn batch(head: Option<&Head>, bodies: &[&'static str]) -> Batch {
        let drafts = bodies.iter().map(|b| Draft {
            kind: Kind::ITEM_ADDED,
            cause: [7; 16],
            body: Bytes::from_static(b.as_bytes()),
        });
        let deps = VersionVector::from([(Origin { node: "twin".into(), epoch: 0 }, Seq(9))]);
        Batch::build(LogId([1; 16]), &origin(), head, &deps, Timestamp(1_700_000_000_000), drafts).unwrap()
    }

    #[test]
    fn a_batch_continues_the_chain() {
        let one = batch(None, &["a", "b"]);
        let two = batch(Some(&one.last().head()), &["c"]);
        assert!(one.follows(None) && two.follows(Some(&one.last().head())));
        assert!(!two.follows(None) && !two.follows(Some(&one.first().head())));
        assert_eq!(two.first().header().seq, Seq(3));
        assert!(
            two.first().header().hlc > one.last().header().hlc,
            "the clock rises while the wall clock stands still"
        );
        let all: Vec<Entry> = one.entries().chain(two.entries()).cloned().collect();
        assert_eq!(Batch::from_entries(all.clone()).unwrap().entries().count(), 3);
        assert_eq!(Batch::from_entries(vec![all[0].clone(), all[2].clone()]), Err(BatchError::Broken));
        assert_eq!(Batch::from_entries(vec![]), Err(BatchError::Empty));
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let entry = batch(None, &["hello"]).first().clone();
        let header = entry.encode_header();
        assert_eq!(Entry::decode(&header, entry.body().clone()), Ok(entry.clone()));
        for at in 0..header.len() {
            let mut bad = header.clone();
            bad[at] ^= 1;
            let decoded = Entry::decode(&bad, entry.body().clone());
            assert!(decoded.is_err() || decoded.unwrap().hash() != entry.hash(), "byte {at}");
            assert!(Entry::decode(&header[..at], entry.body().clone()).is_err(), "cut at {at}");
        }
        assert!(Entry::decode(&header, Bytes::from_static(b"hellO")).is_err());
    }

    #[test]
    fn the_header_layout_is_stable() {
        let header = batch(None, &["hello"]).first().encode_header();
        assert_eq!(
            Hash::of(&header).to_string(),
            "0b56222d4ddc99cee241025b743152e0b205cfe37580a081101df32fdc13be08",
            "a changed layout needs a new version number"
        );
    }

    #[test]
    fn ids_have_one_spelling() {
        let id = LogId::derive("test", &[b"ab", b"c"]);
        assert_ne!(id, LogId::derive("test", &[b"a", b"bc"]));
        assert_eq!(LogId::parse(&id.to_string()), Some(id));
        assert_eq!(LogId::parse(&id.to_string().to_uppercase()), None);
        assert_eq!(LogId::parse("x"), None);
        assert_eq!(Origin::parse(&origin().to_string()), Some(origin()));
        for bad in ["edge", "edge.", ".1", "edge.01", "edge.+1"] {
            assert_eq!(Origin::parse(bad), None, "{bad}");
        }
    }
}
