//! Names the changes of a store: the chains that have grown, in that order. The feed itself is a store's.

use super::{Head, LogId};

/// One of 256 parts of all logs, so that reading changes has no single hot spot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket(pub u8);

impl Bucket {
    /// The bucket of `log`. Ids are random or digests, so their first byte is evenly spread.
    pub fn of(log: LogId) -> Self {
        let [first, ..] = log.0;
        Self(first)
    }
}

/// A position in the order of a bucket's changes. Valid only in the store that returned it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub u64);

/// A chain that has grown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The position after which the next read continues.
    pub cursor: Cursor,
    /// The log.
    pub log: LogId,
    /// The chain's newest end.
    pub head: Head,
}
