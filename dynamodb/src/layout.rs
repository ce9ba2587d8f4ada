//! Defines the items of the table: their keys, their attributes, and what each means. Sends no request.
//!
//! ```text
//! pk           sk                      attributes (? = may be absent)            one item is
//! ───────────  ──────────────────────  ────────────────────────────────────────  ─────────────────────────────────
//! S#<log>      E#<origin>#<seq>        header, body?, erased?                    an entry
//!              C#<digest>#<part>       body                                      a chunk of a large body
//!              H#<origin>              origin, seq, hlc, hash, cursor, wake?     the head of a chain
//! ───────────  ──────────────────────  ────────────────────────────────────────  ─────────────────────────────────
//! B#<bucket>   <cursor>                log, origin, seq, hlc, hash, cursor       the newest change of a chain
//! ───────────  ──────────────────────  ────────────────────────────────────────  ─────────────────────────────────
//! W#<shard>    <time>#<log>#<origin>   log                                       the wake that a chain has set
//! ```
//! - A log is one partition. An entry without `body` and without `erased` has its body in chunks.
//! - Chunks are named by the body's digest, so entries of a log with equal bodies share them, and putting them twice
//!   changes nothing.
//! - A bucket is one partition too. A chain has one item in it, which moves to a new cursor with each append; its head
//!   says where the item is.
//! - A wake has an item while it is set. The head of its chain has its time too, so that the next append can delete it.
//!
//! What is read is not trusted: an attribute that is missing or malformed is damage, never a panic.

use std::collections::HashMap;

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use outlive::{
    entry::{Bucket, Change, Cursor, Entry, Hash, Head, Header, Hlc, LogId, Origin, Seq},
    platform::StoreError,
    time::Timestamp,
};

use crate::error::corrupt;

/// The partition key's attribute.
pub(crate) const PARTITION_KEY: &str = "pk";

/// The sort key's attribute.
pub(crate) const SORT_KEY: &str = "sk";

/// The hash's attribute in the items of heads and changes.
pub(crate) const HASH: &str = "hash";

/// Marks an entry as erased and removes its body; `:true` is the Boolean.
pub(crate) const ERASE_EXPRESSION: &str = "SET erased = :true REMOVE body";

/// Partitions of all wakes: several, since one takes 1,000 writes in a second; few, since each tick reads them all.
pub(crate) const WAKE_SHARDS: u8 = 16;

/// The attributes of one item.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// The key of one item.
pub(crate) struct Key {
    partition: String,
    sort: String,
}

impl Key {
    pub(crate) fn entry(log: LogId, origin: &Origin, seq: Seq) -> Self {
        Self { partition: log_partition(log), sort: format!("E#{}#{}", escape(origin), digits(seq.0)) }
    }

    pub(crate) fn chunk(header: &Header, part: usize) -> Self {
        let sort = format!("C#{}#{}", header.body_hash, digits(part as u64));
        Self { partition: log_partition(header.log), sort }
    }

    pub(crate) fn head(log: LogId, origin: &Origin) -> Self {
        Self { partition: log_partition(log), sort: format!("H#{}", escape(origin)) }
    }

    pub(crate) fn change(bucket: Bucket, cursor: Cursor) -> Self {
        Self { partition: bucket_partition(bucket), sort: digits(cursor.0) }
    }

    pub(crate) fn wake(log: LogId, origin: &Origin, at: Timestamp) -> Self {
        let shard = Bucket::of(log).0 % WAKE_SHARDS;
        Self { partition: shard_partition(shard), sort: format!("{}#{log}#{}", digits(at.0), escape(origin)) }
    }

    /// The key that `item` lies under.
    pub(crate) fn of(item: &Item) -> Result<Self, StoreError> {
        Ok(Self { partition: string(item, PARTITION_KEY)?.into(), sort: string(item, SORT_KEY)?.into() })
    }

    /// The key as attributes.
    pub(crate) fn attributes(self) -> Item {
        HashMap::from([
            (PARTITION_KEY.to_owned(), text(self.partition)),
            (SORT_KEY.to_owned(), text(self.sort)),
        ])
    }

    /// The item with this key and `attributes`.
    fn item<const N: usize>(self, attributes: [(&str, AttributeValue); N]) -> Item {
        let mut item = self.attributes();
        item.extend(attributes.map(|(name, value)| (name.to_owned(), value)));
        item
    }
}

/// The keys of one partition from `first` to `last`, both included.
pub(crate) struct KeyRange {
    pub(crate) partition: String,
    pub(crate) first: String,
    pub(crate) last: String,
}

impl KeyRange {
    /// The entries `from..=to` of one chain.
    pub(crate) fn entries(log: LogId, origin: &Origin, from: Seq, to: Seq) -> Self {
        Self::between(Key::entry(log, origin, from), Key::entry(log, origin, to))
    }

    /// The entries of all chains of a log.
    pub(crate) fn all_entries(log: LogId) -> Self {
        Self::prefixed(log, "E")
    }

    /// The heads of all chains of a log.
    pub(crate) fn heads(log: LogId) -> Self {
        Self::prefixed(log, "H")
    }

    /// The chunks of one body.
    pub(crate) fn chunks(header: &Header) -> Self {
        Self::between(Key::chunk(header, 0), Key::chunk(header, usize::MAX))
    }

    /// The changes of a bucket from `first` on.
    pub(crate) fn changes(bucket: Bucket, first: Cursor) -> Self {
        Self::between(Key::change(bucket, first), Key::change(bucket, Cursor(u64::MAX)))
    }

    /// The wakes of a shard that are due at `now`.
    pub(crate) fn wakes(shard: u8, now: Timestamp) -> Self {
        // `~` sorts after `#`, so the wakes of the millisecond `now` itself are included.
        Self { partition: shard_partition(shard), first: digits(0), last: format!("{}~", digits(now.0)) }
    }

    fn between(first: Key, last: Key) -> Self {
        Self { partition: first.partition, first: first.sort, last: last.sort }
    }

    fn prefixed(log: LogId, prefix: &str) -> Self {
        // `$` is the character after `#`.
        Self { partition: log_partition(log), first: format!("{prefix}#"), last: format!("{prefix}$") }
    }
}

/// Which attributes a query returns.
#[derive(Clone, Copy)]
pub(crate) enum Projection {
    /// All.
    Whole,
    /// Those of an entry except its body, which may be large.
    WithoutBody,
}

impl Projection {
    /// The projection expression; `None` for all attributes.
    pub(crate) fn expression(self) -> Option<String> {
        match self {
            Self::Whole => None,
            Self::WithoutBody => Some("header, erased".to_owned()),
        }
    }
}

/// The item of an entry.
pub(crate) struct EntryItem {
    /// The header as it was appended: its hash is over these bytes.
    pub(crate) raw_header: Vec<u8>,
    pub(crate) header: Header,
    /// `None` if it is in chunks, was erased, or was not asked for.
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) is_erased: bool,
}

impl EntryItem {
    /// `is_chunked`: the body is in chunks.
    pub(crate) fn encode(entry: &Entry, is_chunked: bool) -> Item {
        let header = entry.header();
        let key = Key::entry(header.log, &header.origin, header.seq);
        let mut item = key.item([("header", bytes(entry.encode_header()))]);
        if entry.is_erased() {
            item.insert("erased".to_owned(), AttributeValue::Bool(true));
        } else if !is_chunked {
            item.insert("body".to_owned(), bytes(entry.body().to_vec()));
        }
        item
    }

    pub(crate) fn decode(mut item: Item) -> Result<Self, StoreError> {
        let raw_header = take_bytes(&mut item, "header")?;
        let header = Header::decode(&raw_header).map_err(corrupt)?;
        let body = if item.contains_key("body") { Some(take_bytes(&mut item, "body")?) } else { None };
        Ok(Self { raw_header, header, body, is_erased: item.contains_key("erased") })
    }
}

/// One chunk of the body that `header` belongs to.
pub(crate) fn encode_chunk(header: &Header, part: usize, chunk: &[u8]) -> Item {
    Key::chunk(header, part).item([("body", bytes(chunk))])
}

/// The bytes of a chunk.
pub(crate) fn decode_chunk(mut item: Item) -> Result<Vec<u8>, StoreError> {
    take_bytes(&mut item, "body")
}

/// The item of a chain's head.
pub(crate) struct HeadItem {
    pub(crate) head: Head,
    /// Where the chain's change is in its bucket.
    pub(crate) cursor: Cursor,
    /// When the wake of the chain is due; `None` while none is set.
    pub(crate) wake: Option<Timestamp>,
}

impl HeadItem {
    pub(crate) fn encode(&self, log: LogId) -> Item {
        let mut item = Key::head(log, &self.head.origin).item(head_attributes(&self.head, self.cursor));
        if let Some(at) = self.wake {
            item.insert("wake".to_owned(), integer(at.0));
        }
        item
    }

    pub(crate) fn decode(item: &Item) -> Result<Self, StoreError> {
        let wake = item.contains_key("wake").then(|| parse_integer(item, "wake")).transpose()?;
        Ok(Self { head: decode_head(item)?, cursor: decode_cursor(item)?, wake: wake.map(Timestamp) })
    }
}

/// The item of a change.
pub(crate) fn encode_change(change: &Change) -> Item {
    let key = Key::change(Bucket::of(change.log), change.cursor);
    let mut item = key.item(head_attributes(&change.head, change.cursor));
    item.insert("log".to_owned(), text(change.log.to_string()));
    item
}

/// The change that an item holds.
pub(crate) fn decode_change(item: &Item) -> Result<Change, StoreError> {
    Ok(Change { cursor: decode_cursor(item)?, log: decode_log(item)?, head: decode_head(item)? })
}

/// The item of a wake.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WakeItem {
    /// Begins with the time, so that the earliest wake sorts first.
    sort_key: String,
    pub(crate) log: LogId,
}

impl WakeItem {
    pub(crate) fn encode(log: LogId, origin: &Origin, at: Timestamp) -> Item {
        Key::wake(log, origin, at).item([("log", text(log.to_string()))])
    }

    pub(crate) fn decode(item: &Item) -> Result<Self, StoreError> {
        Ok(Self { sort_key: Key::of(item)?.sort, log: decode_log(item)? })
    }
}

fn log_partition(log: LogId) -> String {
    format!("S#{log}")
}

fn bucket_partition(bucket: Bucket) -> String {
    format!("B#{:02x}", bucket.0)
}

fn shard_partition(shard: u8) -> String {
    format!("W#{shard:02x}")
}

/// As many digits for each number, so that keys sort as numbers do.
fn digits(number: u64) -> String {
    format!("{number:020}")
}

/// Without `#`, which ends an origin in a key: so no origin's entries are in the range of another's.
fn escape(origin: &Origin) -> String {
    origin.to_string().replace('%', "%25").replace('#', "%23")
}

fn head_attributes(head: &Head, cursor: Cursor) -> [(&'static str, AttributeValue); 5] {
    [
        ("origin", text(head.origin.to_string())),
        ("seq", integer(head.seq.0)),
        ("hlc", text(format!("{:016x}", head.hlc.0))),
        (HASH, bytes(head.hash.0)),
        ("cursor", integer(cursor.0)),
    ]
}

/// The head that the item of a head or a change holds.
pub(crate) fn decode_head(item: &Item) -> Result<Head, StoreError> {
    let hash = item.get(HASH).and_then(|value| value.as_b().ok()?.as_ref().try_into().ok());
    Ok(Head {
        origin: Origin::parse(string(item, "origin")?).ok_or_else(|| malformed("origin"))?,
        seq: Seq(parse_integer(item, "seq")?),
        hlc: Hlc(u64::from_str_radix(string(item, "hlc")?, 16).map_err(|_| malformed("hlc"))?),
        hash: Hash(hash.ok_or_else(|| malformed(HASH))?),
    })
}

/// The cursor that the item of a head or a change holds.
pub(crate) fn decode_cursor(item: &Item) -> Result<Cursor, StoreError> {
    parse_integer(item, "cursor").map(Cursor)
}

fn decode_log(item: &Item) -> Result<LogId, StoreError> {
    LogId::parse(string(item, "log")?).ok_or_else(|| malformed("log"))
}

/// A string attribute.
pub(crate) fn text(text: String) -> AttributeValue {
    AttributeValue::S(text)
}

/// A binary attribute.
pub(crate) fn bytes(bytes: impl Into<Vec<u8>>) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

fn integer(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn string<'a>(item: &'a Item, name: &str) -> Result<&'a str, StoreError> {
    item.get(name).and_then(|value| value.as_s().ok()).map(String::as_str).ok_or_else(|| malformed(name))
}

fn parse_integer(item: &Item, name: &str) -> Result<u64, StoreError> {
    item.get(name).and_then(|value| value.as_n().ok()?.parse().ok()).ok_or_else(|| malformed(name))
}

fn take_bytes(item: &mut Item, name: &str) -> Result<Vec<u8>, StoreError> {
    match item.remove(name) {
        Some(AttributeValue::B(blob)) => Ok(blob.into_inner()),
        _ => Err(malformed(name)),
    }
}

fn malformed(name: &str) -> StoreError {
    StoreError::Corrupt(format!("the attribute {name} is missing or odd"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: Key, partition: &str, sort: &str) {
        assert_eq!((key.partition.as_str(), key.sort.as_str()), (partition, sort));
    }

    /// Existing tables have these keys: a store with other keys finds nothing in them.
    #[test]
    fn keys_are_as_drawn() {
        let (log, origin) = (LogId([0xab; 16]), Origin { node: "a#b%".into(), epoch: 2 });
        let partition = "S#abababababababababababababababab";
        check(Key::entry(log, &origin, Seq(7)), partition, "E#a%23b%25.2#00000000000000000007");
        check(Key::head(log, &origin), partition, "H#a%23b%25.2");
        check(Key::change(Bucket(10), Cursor(u64::MAX)), "B#0a", "18446744073709551615");
        let wake = "00000001700000000000#abababababababababababababababab#a%23b%25.2";
        check(Key::wake(log, &origin, Timestamp(1_700_000_000_000)), "W#0b", wake);
    }
}
