//! Chains drafts into a batch: entries of one chain that a store appends together or not at all. The store checks that
//! the batch fits its end of the chain.

use bytes::Bytes;

use super::{
    Cause, Entry, Hash, Head, Header, Hlc, Kind, LogId, MAX_BODY_BYTES, Origin, Seq, VERSION, VersionVector,
    codec,
};
use crate::time::Timestamp;

/// Most entries in one batch: with the head, the change mark and its predecessor, 67 of the 100 actions that DynamoDB
/// allows.
pub const MAX_BATCH_ENTRIES: usize = 64;

/// An entry to be appended, before its chain gives it a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Its kind.
    pub kind: Kind,
    /// Its cause.
    pub cause: Cause,
    /// The payload.
    pub body: Bytes,
}

/// One or more consecutive entries of one chain, appended together or not at all, with the log's next wake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    first: Entry,
    rest: Vec<Entry>,
    wake: Wake,
}

/// When the node must handle a log again without a request: to continue a turn whose process died, or to run a
/// schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wake {
    /// The wake stays as it was.
    #[default]
    Keep,
    /// At this time, instead of the wake before.
    At(Timestamp),
    /// Never; the wake is cleared.
    Never,
}

impl Batch {
    /// Chains `drafts` to the end `head` of `origin`'s chain; `None` starts the chain.
    ///
    /// # Errors
    /// There is no draft, there are too many, or a body is too large.
    pub fn build(
        log: LogId,
        origin: &Origin,
        head: Option<&Head>,
        deps: &VersionVector,
        now: impl Into<Hlc>,
        drafts: impl IntoIterator<Item = Draft>,
    ) -> Result<Self, BatchError> {
        let (mut seq, mut hlc, mut prev) =
            head.map_or((Seq::FIRST, Hlc::default(), Hash::default()), |h| (h.seq.next(), h.hlc, h.hash));
        let (now, mut entries) = (now.into(), Vec::new());
        for draft in drafts {
            if draft.body.len() > MAX_BODY_BYTES {
                return Err(BatchError::BodyTooLarge(draft.body.len()));
            }
            hlc = hlc.next(now);
            let header = Header {
                version: VERSION,
                log,
                origin: origin.clone(),
                seq,
                hlc,
                prev,
                deps: deps.clone(),
                cause: draft.cause,
                kind: draft.kind,
                body_len: draft.body.len() as u64,
                body_hash: Hash::of(&draft.body),
            };
            let hash = codec::hash(&codec::encode(&header));
            entries.push(Entry { header, hash, body: draft.body });
            (seq, prev) = (seq.next(), hash);
        }
        Self::from_entries(entries)
    }

    /// A batch of entries that another node wrote.
    ///
    /// # Errors
    /// They are not one unbroken piece of one chain, or too many.
    pub fn from_entries(entries: Vec<Entry>) -> Result<Self, BatchError> {
        if entries.len() > MAX_BATCH_ENTRIES {
            return Err(BatchError::TooMany(entries.len()));
        }
        for pair in entries.windows(2) {
            let [a, b] = pair else { continue };
            let linked = a.header.log == b.header.log
                && a.header.origin == b.header.origin
                && a.header.seq.next() == b.header.seq
                && a.hash == b.header.prev;
            if !linked {
                return Err(BatchError::Broken);
            }
        }
        let mut entries = entries.into_iter();
        let first = entries.next().ok_or(BatchError::Empty)?;
        Ok(Self { first, rest: entries.collect(), wake: Wake::Keep })
    }

    /// The batch, with the log's next wake.
    #[must_use]
    pub fn with_wake(self, wake: Wake) -> Self {
        Self { wake, ..self }
    }

    /// The log's next wake.
    pub fn wake(&self) -> Wake {
        self.wake
    }

    /// The log it belongs to.
    pub fn log(&self) -> LogId {
        self.first.header.log
    }

    /// The writer of the chain that it continues.
    pub fn origin(&self) -> &Origin {
        &self.first.header.origin
    }

    /// Whether the chain that ends at `head` is the one this batch was built on.
    pub fn follows(&self, head: Option<&Head>) -> bool {
        let first = &self.first.header;
        match head {
            None => first.seq == Seq::FIRST && first.prev == Hash::default(),
            Some(head) => {
                first.seq == head.seq.next() && first.prev == head.hash && first.origin == head.origin
            }
        }
    }

    /// The first entry.
    pub fn first(&self) -> &Entry {
        &self.first
    }

    /// The last entry.
    pub fn last(&self) -> &Entry {
        self.rest.last().unwrap_or(&self.first)
    }

    /// All entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        std::iter::once(&self.first).chain(&self.rest)
    }
}

/// Entries can't be appended together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// There are no entries.
    #[error("a batch has at least one entry")]
    Empty,
    /// More than [`MAX_BATCH_ENTRIES`].
    #[error("a batch has at most {MAX_BATCH_ENTRIES} entries, not {0}")]
    TooMany(usize),
    /// More than [`MAX_BODY_BYTES`].
    #[error("an entry has at most {MAX_BODY_BYTES} bytes, not {0}")]
    BodyTooLarge(usize),
    /// The entries do not follow each other in one chain.
    #[error("the entries are not one piece of one chain")]
    Broken,
}
