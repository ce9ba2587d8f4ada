//! Reading and writing one log, whatever the store does in between.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use crate::{
    entry::{Batch, BatchError, Draft, Entry, EntryId, Head, Hlc, LogId, Origin, Seq, VersionVector, Wake},
    platform::{AppendError, Platform, ReadLimit, Store, StoreError},
};

/// A state that a log adds up to.
///
/// To ensure correctness: applying the same set of entries gives the same state in whatever order the chains of
/// different origins are mixed; within a chain the order is that of the chain.
pub trait Fold: Default {
    /// Takes one more entry in. An entry of unknown kind changes nothing.
    fn apply(&mut self, entry: &Entry) -> Result<(), FoldError>;

    /// What the entry says of where to begin to read.
    fn landmark(_: &Entry) -> Option<Landmark> {
        None
    }

    /// The state that the entry holds, and where the chains end that are in it; `None` if it holds none.
    fn restore(_: &Entry) -> Result<Option<(Self, Vec<Head>)>, FoldError> {
        Ok(None)
    }
}

/// Where a log need not be read from its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Landmark {
    /// At the entry that says so.
    Here,
    /// At another one.
    At(EntryId),
}

/// Pages from a chain's end in which a landmark is looked for: there is one in each turn, and few turns have thousands of
/// entries.
const MAX_PAGES_BACK: usize = 4;

/// An entry that no version of this code can have written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {seq} of {origin} can't be read: {why}")]
pub struct FoldError {
    /// Whose entry.
    pub origin: Origin,
    /// Which entry.
    pub seq: u64,
    /// What is wrong with it.
    pub why: String,
}

impl From<FoldError> for StoreError {
    fn from(error: FoldError) -> Self {
        Self::Corrupt(error.to_string())
    }
}

/// A fold and how much of the log is in it.
#[derive(Clone, Debug, Default)]
pub struct View<F> {
    /// The state.
    pub fold: F,
    heads: BTreeMap<Origin, Head>,
}

impl<F: Fold> View<F> {
    /// Reads what the log has beyond this view. Costs one look at the heads and the entries that are new.
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
                let known = self.heads.get(&head.origin).map_or_else(Default::default, |h| h.hash);
                if first.header().prev != known {
                    return Err(StoreError::Corrupt(format!("the chain of {} was rewritten", head.origin)));
                }
                for entry in &page {
                    self.apply(entry)?;
                }
            }
        }
        Ok(())
    }

    /// Begins at the newest landmark of a log that has more than one page.
    async fn restore(&mut self, store: &impl Store, log: LogId, heads: &[Head]) -> Result<(), StoreError> {
        let page = ReadLimit::PAGE.entries as u64;
        for head in heads.iter().filter(|head| head.seq.0 > page) {
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
                break;
            }
        }
        Ok(())
    }

    /// How far it has read each chain.
    pub fn heads(&self) -> impl Iterator<Item = &Head> {
        self.heads.values()
    }

    /// How many entries are in this view.
    pub fn len(&self) -> u64 {
        self.heads.values().map(|head| head.seq.0).sum()
    }

    /// Whether the log has no entry that this view knows of.
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

    fn deps(&self, own: &Origin) -> VersionVector {
        self.heads.values().filter(|h| h.origin != *own).map(|h| (h.origin.clone(), h.seq)).collect()
    }
}

/// The entries of one chain from `first` to `last`.
pub async fn read_range(
    store: &impl Store,
    log: LogId,
    origin: &Origin,
    first: Seq,
    last: Seq,
) -> Result<Vec<Entry>, StoreError> {
    let (mut found, mut from) = (Vec::new(), first);
    while from <= last {
        let left = usize::try_from(last.0 - from.0 + 1).unwrap_or(usize::MAX);
        let limit = ReadLimit { entries: left.min(ReadLimit::PAGE.entries), ..ReadLimit::PAGE };
        let page = store.read(log, origin, from, limit).await?;
        let Some(end) = page.last() else {
            return Err(StoreError::Corrupt(format!("entry {} of {origin} is missing", from.0)));
        };
        from = end.header().seq.next();
        found.extend(page);
    }
    Ok(found)
}

/// What a writer wants after a look at the state.
pub enum Decision<T> {
    /// Append these, say when the log wants to be looked at again, then answer with `T`.
    Append(Vec<Draft>, Wake, T),
    /// Nothing is to be written.
    Done(T),
}

/// Why nothing could be committed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError<E> {
    /// The writer refused, having seen the state.
    #[error("{0}")]
    Refused(E),
    /// The store did not answer, or others wrote faster. **The entries may have been written.**
    #[error("{0}")]
    Unavailable(String),
    /// The entries can never be stored.
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

/// A writer that refuses nothing fails as a reader does.
impl From<CommitError<Infallible>> for StoreError {
    fn from(error: CommitError<Infallible>) -> Self {
        match error {
            CommitError::Refused(never) => match never {},
            CommitError::Unavailable(why) | CommitError::TooLarge(why) => Self::Unavailable(why),
            CommitError::Corrupt(why) => Self::Corrupt(why),
        }
    }
}

/// Times that one commit looks again after somebody else was first. With 64 writers at once on one session each round
/// lets at least one through.
const MAX_CONFLICTS: u32 = 64;

/// Times that one batch is sent again while the store does not answer: 50 ms doubling makes 1.5 s in all, which
/// outlasts a leader election but not a caller's patience.
const MAX_SENDS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Lets `decide` look at the newest state and appends what it wants, or nothing. Gives its answer and what was appended.
///
/// `decide` is called again whenever another writer was first. After a failure with an unknown outcome the identical
/// batch is sent again, so the entries are there once or not at all.
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
        let (drafts, wake, then) = match decide(&view.fold).map_err(CommitError::Refused)? {
            Decision::Done(then) => return Ok((then, Vec::new())),
            Decision::Append(drafts, wake, then) => (drafts, wake, then),
        };
        if let Some(entries) = append_drafts(platform, log, origin, view, drafts, wake).await? {
            return Ok((then, entries));
        }
    }
    Err(CommitError::Unavailable(format!("{MAX_CONFLICTS} other writers were first")))
}

/// Appends `drafts` to the log as `view` has it, and gives the entries; `None` if another writer was first.
pub async fn append_drafts<P: Platform, F: Fold, E>(
    platform: &P,
    log: LogId,
    origin: &Origin,
    view: &mut View<F>,
    drafts: Vec<Draft>,
    wake: Wake,
) -> Result<Option<Vec<Entry>>, CommitError<E>> {
    let mut chance = [0; 8];
    platform.random(&mut chance);
    let now = Hlc::at(platform.now(), u64::from_be_bytes(chance));
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

/// Appends `batch` and says whether it is in the log; `false` means that another writer was first.
async fn append<P: Platform, E>(platform: &P, batch: &Batch) -> Result<bool, CommitError<E>> {
    let store = platform.store();
    let mut pause = FIRST_PAUSE;
    let mut last = String::new();
    for send in 0..MAX_SENDS {
        match store.append(batch).await {
            Ok(()) => return Ok(true),
            // Whatever is there, it is not of this batch: that has not been sent before.
            Err(AppendError::Conflict { .. }) if send == 0 => return Ok(false),
            Err(AppendError::Conflict { .. }) => match written(store, batch).await {
                Ok(written) => return Ok(written),
                Err(StoreError::Corrupt(why)) => return Err(CommitError::Corrupt(why)),
                Err(StoreError::Unavailable(why)) => last = why,
            },
            Err(AppendError::Unavailable(why)) => last = why,
            Err(AppendError::TooLarge(why)) => return Err(CommitError::TooLarge(why)),
            Err(AppendError::Corrupt(why)) => return Err(CommitError::Corrupt(why)),
        }
        platform.sleep(pause).await;
        pause *= 2;
    }
    Err(CommitError::Unavailable(last))
}

/// Whether an earlier send of `batch`, the outcome of which was lost, did persist.
async fn written(store: &impl Store, batch: &Batch) -> Result<bool, StoreError> {
    let first = batch.first();
    let limit = ReadLimit { entries: 1, bytes: 0 };
    let found = store.read(batch.log(), batch.origin(), first.header().seq, limit).await?;
    Ok(found.first().is_some_and(|entry| entry.hash() == first.hash()))
}

#[cfg(test)]
mod tests;
