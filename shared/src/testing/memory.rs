//! Keeps logs in memory. The reference for all other stores; nothing is durable.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use crate::{
    entry::{Batch, Bucket, Change, Cursor, Entry, Head, LogId, Origin, Seq, Wake},
    platform::{AppendError, MAX_ERASED_ENTRIES, ReadLimit, Store, StoreError},
    time::Timestamp,
};

/// A store in memory, as simple as possible. Clones share the logs, so in the simulator a clone keeps them across a
/// crash of the node.
#[derive(Clone, Default)]
pub struct MemoryStore(Rc<RefCell<Inner>>);

#[derive(Clone, Default)]
struct Inner {
    chains: BTreeMap<(LogId, Origin), Vec<Entry>>,
    changes: BTreeMap<(LogId, Origin), Cursor>,
    last: Cursor,
    wakes: BTreeMap<(LogId, Origin), Timestamp>,
}

impl MemoryStore {
    /// An independent store with the same entries.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(Rc::new(RefCell::new(self.0.borrow().clone())))
    }

    /// Every entry of every log, for an invariant over all of them.
    pub fn entries(&self) -> Vec<Entry> {
        self.0.borrow().chains.values().flatten().cloned().collect()
    }
}

impl Store for MemoryStore {
    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        let mut inner = self.0.borrow_mut();
        let key = (batch.log(), batch.origin().clone());
        let head = inner.chains.get(&key).and_then(|chain| chain.last()).map(Entry::head);
        if !batch.follows(head.as_ref()) {
            return Err(AppendError::Conflict { head });
        }
        inner.last.0 += 1;
        let cursor = inner.last;
        inner.changes.insert(key.clone(), cursor);
        match batch.wake() {
            Wake::Keep => {}
            Wake::Never => drop(inner.wakes.remove(&key)),
            Wake::At(at) => drop(inner.wakes.insert(key.clone(), at)),
        }
        inner.chains.entry(key).or_default().extend(batch.entries().cloned());
        Ok(())
    }

    async fn read(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        limit: ReadLimit,
    ) -> Result<Vec<Entry>, StoreError> {
        let inner = self.0.borrow();
        let chain = inner.chains.get(&(log, origin.clone())).map(Vec::as_slice).unwrap_or_default();
        let mut bytes = 0;
        Ok(chain
            .iter()
            .skip_while(|entry| entry.header().seq < from)
            .take(limit.entries.max(1))
            .enumerate()
            .take_while(|(i, entry)| {
                bytes += entry.body().len();
                *i == 0 || bytes <= limit.bytes
            })
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    async fn heads(&self, log: LogId) -> Result<Vec<Head>, StoreError> {
        let inner = self.0.borrow();
        let chains = inner.chains.iter().filter(|((id, _), _)| *id == log);
        Ok(chains.filter_map(|(_, chain)| chain.last()).map(Entry::head).collect())
    }

    async fn changes(&self, bucket: Bucket, after: Cursor, limit: usize) -> Result<Vec<Change>, StoreError> {
        let inner = self.0.borrow();
        let mut changes: Vec<Change> = inner
            .changes
            .iter()
            .filter(|((log, _), cursor)| Bucket::of(*log) == bucket && **cursor > after)
            .filter_map(|(key, cursor)| {
                let head = inner.chains.get(key)?.last()?.head();
                Some(Change { cursor: *cursor, log: key.0, head })
            })
            .collect();
        changes.sort_by_key(|change| change.cursor);
        changes.truncate(limit);
        Ok(changes)
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LogId>, StoreError> {
        let inner = self.0.borrow();
        let mut logs: BTreeMap<LogId, Timestamp> = BTreeMap::new();
        for ((log, _), at) in inner.wakes.iter().filter(|(_, at)| **at <= now) {
            logs.entry(*log).and_modify(|first| *first = (*first).min(*at)).or_insert(*at);
        }
        let mut due: Vec<(Timestamp, LogId)> = logs.into_iter().map(|(log, at)| (at, log)).collect();
        due.sort_unstable();
        Ok(due.into_iter().take(limit).map(|(_, log)| log).collect())
    }

    async fn erase(&self, log: LogId, origin: &Origin, from: Seq, to: Seq) -> Result<(), StoreError> {
        let mut inner = self.0.borrow_mut();
        let chain = inner.chains.get_mut(&(log, origin.clone())).map(Vec::as_mut_slice).unwrap_or_default();
        let end = to.0.min(from.0.saturating_add(MAX_ERASED_ENTRIES - 1));
        for entry in chain.iter_mut().filter(|entry| (from.0..=end).contains(&entry.header().seq.0)) {
            *entry = entry.clone().without_body();
        }
        Ok(())
    }
}
