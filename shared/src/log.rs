//! Reads one log into a fold and commits decisions to it, over a store that may fail, answer late or have other
//! writers. Knows nothing of what the entries mean.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use crate::{
    entry::{Batch, BatchError, Draft, Entry, EntryId, Head, Hlc, LogId, Origin, Seq, VersionVector, Wake},
    platform::{AppendError, Platform, ReadLimit, Store, StoreError},
};

/// A state computed from the entries of a log.
///
/// To ensure correctness: applying the same set of entries must give the same state however the chains of different
/// origins are interleaved; within a chain the order is that of the chain.
pub trait Fold: Default {
    /// Applies one more entry. An entry of unknown kind changes nothing.
    fn apply(&mut self, entry: &Entry) -> Result<(), FoldError>;

    /// Where a reader can start instead of at the log's beginning, if the entry shows it.
    fn landmark(_: &Entry) -> Option<Landmark> {
        None
    }

    /// The state that the entry holds, and the ends of the chains that it covers; `None` if it holds none.
    fn restore(_: &Entry) -> Result<Option<(Self, Vec<Head>)>, FoldError> {
        Ok(None)
    }
}

/// The entry that a reader can start from, since it holds the state of all before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Landmark {
    /// The entry that shows the landmark.
    Here,
    /// Another entry.
    At(EntryId),
}

/// Pages from a chain's end that are searched for a landmark: every turn ends with one, and few turns have thousands of
/// entries.
const MAX_PAGES_BACK: usize = 4;

/// A stored entry has a body that no version of this code writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {seq} of {origin} can't be read: {why}")]
pub struct FoldError {
    /// The chain of the entry.
    pub origin: Origin,
    /// Its place in the chain.
    pub seq: u64,
    /// Why its body can't be read.
    pub why: String,
}

impl From<FoldError> for StoreError {
    fn from(error: FoldError) -> Self {
        Self::Corrupt(error.to_string())
    }
}

/// A fold, and how much of the log has been applied to it.
#[derive(Clone, Debug, Default)]
pub struct View<F> {
    /// The state.
    pub fold: F,
    heads: BTreeMap<Origin, Head>,
}

impl<F: Fold> View<F> {
    /// Applies the entries that the log has beyond this view. Costs one read of the heads, and the new entries.
    pub async fn catch_up(&mut self, store: &impl Store, log: LogId) -> Result<(), StoreError> {
        let heads = store.heads(log).await?;
        if self.is_empty() {
            self.restore(store, log, &heads).await?;
        }
        for head in heads {
            while self.seq(&head.origin) < head.seq {
                let from = self.seq(&head.origin).next();
                let page = store.read(log, &head.origin, from, ReadLimit::PAGE).await?;
                let Some(first) = page.first() else {
                    return Err(StoreError::Corrupt(format!(
                        "entry {} of {} is missing",
                        from.0, head.origin
                    )));
                };
                let last_hash = self.heads.get(&head.origin).map_or_else(Default::default, |h| h.hash);
                // The store has checked the links within the page, not the one to what is applied already.
                if first.header().prev != last_hash {
                    return Err(StoreError::Corrupt(format!("the chain of {} was rewritten", head.origin)));
                }
                for entry in &page {
                    self.apply(entry)?;
                }
            }
        }
        Ok(())
    }

    /// Starts from the newest landmark of a log with a chain longer than one page; does nothing if it finds none.
    async fn restore(&mut self, store: &impl Store, log: LogId, heads: &[Head]) -> Result<(), StoreError> {
        let page = ReadLimit::PAGE.entries as u64;
        for head in heads.iter().filter(|head| head.seq.0 > page) {
            // From the chain's end backwards, one page at a time.
            let mut end = head.seq.0;
            for _ in 0..MAX_PAGES_BACK {
                let from = end.saturating_sub(page - 1).max(1);
                let entries = read_range(store, log, &head.origin, Seq(from), Seq(end)).await?;
                let found = entries.iter().rev().find_map(|entry| Some((entry, F::landmark(entry)?)));
                let restored = match found {
                    None if from > 1 => {
                        end = from - 1;
                        continue;
                    }
                    None => None,
                    Some((entry, Landmark::Here)) => F::restore(entry)?,
                    Some((_, Landmark::At(EntryId { origin, seq }))) => {
                        let entries = read_range(store, log, &origin, seq, seq).await?;
                        entries.first().map(F::restore).transpose()?.flatten()
                    }
                };
                if let Some((fold, heads)) = restored {
                    self.fold = fold;
                    self.heads = heads.into_iter().map(|head| (head.origin.clone(), head)).collect();
                    return Ok(());
                }
                // The landmark can't be restored, or the chain has none: another chain may have one.
                break;
            }
        }
        Ok(())
    }

    /// The last applied entry of each chain.
    pub fn heads(&self) -> impl Iterator<Item = &Head> {
        self.heads.values()
    }

    /// How many entries are applied, those inside a snapshot included.
    pub fn len(&self) -> u64 {
        self.heads.values().map(|head| head.seq.0).sum()
    }

    /// Whether no entry is applied.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    fn seq(&self, origin: &Origin) -> Seq {
        self.heads.get(origin).map_or(Seq(0), |head| head.seq)
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), FoldError> {
        self.fold.apply(entry)?;
        self.heads.insert(entry.header().origin.clone(), entry.head());
        Ok(())
    }

    /// The last applied entries of all chains but `own`.
    fn deps(&self, own: &Origin) -> VersionVector {
        self.heads.values().filter(|h| h.origin != *own).map(|h| (h.origin.clone(), h.seq)).collect()
    }
}

/// The entries of one chain from `first` to `last`, in as many pages as needed.
///
/// # Errors
/// `Corrupt` if one of them is missing.
pub async fn read_range(
    store: &impl Store,
    log: LogId,
    origin: &Origin,
    first: Seq,
    last: Seq,
) -> Result<Vec<Entry>, StoreError> {
    let (mut found, mut from) = (Vec::new(), first);
    while from <= last {
        let remaining = usize::try_from(last.0 - from.0 + 1).unwrap_or(usize::MAX);
        let limit = ReadLimit { entries: remaining.min(ReadLimit::PAGE.entries), ..ReadLimit::PAGE };
        let page = store.read(log, origin, from, limit).await?;
        let Some(end) = page.last() else {
            return Err(StoreError::Corrupt(format!("entry {} of {origin} is missing", from.0)));
        };
        from = end.header().seq.next();
        found.extend(page);
    }
    Ok(found)
}

/// What a writer decides from the state.
pub enum Decision<T> {
    /// Append these entries, set the log's next wake, then return `T`.
    Append(Vec<Draft>, Wake, T),
    /// Append nothing and return `T`.
    Done(T),
}

/// A commit failed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError<E> {
    /// The writer refused, given the state.
    #[error("{0}")]
    Refused(E),
    /// The store did not answer, or other writers were faster. **The entries may have been written.**
    #[error("{0}")]
    Unavailable(String),
    /// The entries exceed a limit of the store; a retry can't help.
    #[error("{0}")]
    TooLarge(String),
    /// The log is damaged.
    #[error("{0}")]
    Corrupt(String),
}

impl<E> From<StoreError> for CommitError<E> {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(why) => Self::Unavailable(why),
            StoreError::Corrupt(why) => Self::Corrupt(why),
        }
    }
}

/// A writer that never refuses has only a reader's errors.
impl From<CommitError<Infallible>> for StoreError {
    fn from(error: CommitError<Infallible>) -> Self {
        match error {
            CommitError::Refused(never) => match never {},
            CommitError::Unavailable(why) | CommitError::TooLarge(why) => Self::Unavailable(why),
            CommitError::Corrupt(why) => Self::Corrupt(why),
        }
    }
}

/// Most conflicts of one commit. With 64 concurrent writers to a session, each round lets at least one through.
const MAX_CONFLICTS: u32 = 64;

/// Most sends of one batch while the store does not answer. With pauses from 50 ms, doubling, they span 1.5 s: longer
/// than a leader election, shorter than a client's patience.
const MAX_SENDS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Calls `decide` with the newest state and appends the entries that it returns. Returns its `T` and the appended
/// entries.
///
/// `decide` is called again whenever another writer was first. After a failure with an unknown outcome the identical
/// batch is sent again, so the entries are in the log once or not at all.
pub async fn commit<P: Platform, F: Fold, T, E>(
    platform: &P,
    log: LogId,
    origin: &Origin,
    view: &mut View<F>,
    mut decide: impl FnMut(&F) -> Result<Decision<T>, E>,
) -> Result<(T, Vec<Entry>), CommitError<E>> {
    let store = platform.store();
    for _ in 0..MAX_CONFLICTS {
        view.catch_up(store, log).await?;
        let (drafts, wake, value) = match decide(&view.fold).map_err(CommitError::Refused)? {
            Decision::Done(value) => return Ok((value, Vec::new())),
            Decision::Append(drafts, wake, value) => (drafts, wake, value),
        };
        if let Some(entries) = append_drafts(platform, log, origin, view, drafts, wake).await? {
            return Ok((value, entries));
        }
    }
    Err(CommitError::Unavailable(format!("other writers were faster {MAX_CONFLICTS} times in a row")))
}

/// Appends `drafts` to the log in the state of `view` and returns the entries; `None` if another writer was first.
pub async fn append_drafts<P: Platform, F: Fold, E>(
    platform: &P,
    log: LogId,
    origin: &Origin,
    view: &mut View<F>,
    drafts: Vec<Draft>,
    wake: Wake,
) -> Result<Option<Vec<Entry>>, CommitError<E>> {
    let mut random = [0; 8];
    platform.random(&mut random);
    let now = Hlc::at(platform.now(), u64::from_be_bytes(random));
    let batch = Batch::build(log, origin, view.heads.get(origin), &view.deps(origin), now, drafts)
        .map_err(|error: BatchError| CommitError::TooLarge(error.to_string()))?
        .with_wake(wake);
    if !append(platform, &batch).await? {
        return Ok(None);
    }
    for entry in batch.entries() {
        view.apply(entry).map_err(StoreError::from)?;
    }
    Ok(Some(batch.entries().cloned().collect()))
}

/// Appends `batch`. Returns whether it is in the log; `false` means that another writer was first.
async fn append<P: Platform, E>(platform: &P, batch: &Batch) -> Result<bool, CommitError<E>> {
    let store = platform.store();
    let mut pause = FIRST_PAUSE;
    let mut last_error = String::new();
    for send in 0..MAX_SENDS {
        match store.append(batch).await {
            Ok(()) => return Ok(true),
            // This batch was not sent before, so the entries in its place are another writer's.
            Err(AppendError::Conflict { .. }) if send == 0 => return Ok(false),
            // An earlier send whose outcome is unknown may have written it.
            Err(AppendError::Conflict { .. }) => match is_written(store, batch).await {
                Ok(is_written) => return Ok(is_written),
                Err(StoreError::Corrupt(why)) => return Err(CommitError::Corrupt(why)),
                Err(StoreError::Unavailable(why)) => last_error = why,
            },
            Err(AppendError::Unavailable(why)) => last_error = why,
            Err(AppendError::TooLarge(why)) => return Err(CommitError::TooLarge(why)),
            Err(AppendError::Corrupt(why)) => return Err(CommitError::Corrupt(why)),
        }
        platform.sleep(pause).await;
        pause *= 2;
    }
    Err(CommitError::Unavailable(last_error))
}

/// Whether an earlier send of `batch` whose outcome is unknown was persisted.
async fn is_written(store: &impl Store, batch: &Batch) -> Result<bool, StoreError> {
    let first = batch.first();
    let limit = ReadLimit { entries: 1, bytes: 0 };
    let found = store.read(batch.log(), batch.origin(), first.header().seq, limit).await?;
    Ok(found.first().is_some_and(|entry| entry.hash() == first.hash()))
}

#[cfg(test)]
mod tests;
