//! What has changed in a store: chains that have grown, in the order in which they did.

use super::{Head, LogId};

/// One of 256 parts of all logs, so that looking for changes has no single hot spot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket(pub u8);

impl Bucket {
    /// The bucket of `log`. Ids are random or digests, so their first byte is evenly spread.
    pub fn of(log: LogId) -> Self {
        let [first, ..] = log.0;
        Self(first)
    }
}

/// A place in the order in which a bucket's chains have grown. Means something to the store that gave it only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub u64);

/// A chain that has grown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where to go on from.
    pub cursor: Cursor,
    /// The log.
    pub log: LogId,
    /// The chain's newest end.
    pub head: Head,
}
