//! Checks that sessions fold the same from any order of chains, and that deletions, pages, causes and the cache hold.

use serde_json::value::RawValue;

use super::*;
use crate::{
    entry::{Batch, LogId, VersionVector, Wake},
    log::{self, Decision, View},
    session::deletion,
};

fn item(text: &str) -> Item {
    let json = format!(r#"{{"type":"message","role":"user","content":"{text}"}}"#);
    Item::parse(&RawValue::from_string(json).unwrap(), "items[0]").unwrap()
}

fn log() -> Vec<Entry> {
    let mut entries = Vec::new();
    for (node, n) in [("a", 3), ("b", 2)] {
        let mut drafts = vec![draft_created([n; 16], node, BTreeMap::new())];
        drafts.push(draft_updated([n + 10; 16], BTreeMap::from([("by".into(), node.into())])));
        drafts.extend(draft_items([n; 16], &vec![item(node); usize::from(n)]).unwrap());
        let origin = Origin { node: node.into(), epoch: 0 };
        let now = Timestamp(1000 + u64::from(n));
        let batch = Batch::build(LogId([0; 16]), &origin, None, &VersionVector::new(), now, drafts).unwrap();
        entries.extend(batch.entries().cloned());
    }
    entries
}

fn fold<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Session {
    let mut fold = Session::default();
    entries.into_iter().for_each(|entry| fold.apply(entry).unwrap());
    fold
}

fn ids(fold: &Session, after: Option<&str>, limit: usize, newest_first: bool) -> (Vec<String>, bool) {
    let (page, more) = fold.page(after, limit, newest_first).unwrap();
    (page.into_iter().map(|item| item.id).collect(), more)
}

#[test]
fn chains_fold_in_any_order() {
    let entries = log();
    let (one, other) = (fold(&entries), fold(entries.iter().skip(5).chain(entries.iter().take(5))));
    assert_eq!(ids(&one, None, 100, false), ids(&other, None, 100, false));
    assert_eq!(one.created().unwrap().owner, "b", "the earliest one counts");
    assert_eq!(one.created(), other.created());
    assert_eq!(one.metadata(), other.metadata());
    assert_eq!(one.metadata().unwrap()["by"], "a", "the latest one counts");
}

#[test]
fn deletions_hold_in_any_order_of_chains() {
    let mut entries = log();
    let all = fold(&entries);
    let item = all.item(&ids(&all, None, 1, false).0[0]).unwrap();
    let (conversation, removed_id) = (entries[0].clone(), item.id.clone());
    let chain = |drafts: Vec<Draft>| {
        let (origin, deps) = (Origin { node: "c".into(), epoch: 0 }, VersionVector::new());
        let batch = Batch::build(LogId([0; 16]), &origin, None, &deps, Timestamp(900), drafts).unwrap();
        batch.entries().cloned().collect::<Vec<_>>()
    };
    let removed = chain(vec![deletion::draft_item(&item, false)]);
    for fold in [fold(entries.iter().chain(&removed)), fold(removed.iter().chain(&entries))] {
        assert_eq!((fold.item(&removed_id), ids(&fold, None, 100, false).0.len()), (None, 4));
        let expected = Erasure::Item(removed_id.clone(), Some((item.origin.clone(), item.seq)));
        assert_eq!(fold.pending_erasures(), [expected]);
    }
    // The body is erased and the log folded anew, before an entry records the erasure: the erasure is still pending,
    // and the cause is still known.
    let place =
        entries.iter().position(|entry| entry.head().seq == item.seq && entry.head().origin == item.origin);
    let place = place.unwrap();
    entries[place] = entries[place].clone().without_body();
    let known = fold(entries.iter().chain(&removed));
    assert_eq!(known.pending_erasures().len(), 1);
    assert_eq!(
        known.has_written(&draft_items([2; 16], &vec![self::item("b"); 2]).unwrap()),
        Err(IdempotencyConflict)
    );
    let done = chain(vec![deletion::draft_item(&item, false), known.pending_erasures()[0].draft()]);
    assert_eq!(fold(entries.iter().chain(&done)).pending_erasures(), []);

    let deleted = chain(vec![deletion::draft_session(deletion::DeletionReason::Asked)]);
    entries[0] = conversation.without_body();
    for fold in [fold(entries.iter().chain(&deleted)), fold(deleted.iter().chain(&entries))] {
        assert!(fold.is_deleted() && fold.created().is_none() && fold.items().next().is_none());
        assert!(matches!(fold.pending_erasures().as_slice(), [Erasure::Session(_)]));
    }
}

#[test]
fn pages_join_without_gap_or_overlap() {
    let fold = fold(&log());
    let (all, more) = ids(&fold, None, 100, false);
    assert_eq!((all.len(), more), (5, false));
    for newest_first in [false, true] {
        let (mut joined, mut more) = ids(&fold, None, 2, newest_first);
        while more {
            let (page, rest) = ids(&fold, joined.last().map(String::as_str), 2, newest_first);
            joined.extend(page);
            more = rest;
        }
        if newest_first {
            joined.reverse();
        }
        assert_eq!(joined, all);
    }
    assert_eq!(fold.page(Some("msg_nope"), 2, false), None);
}

#[test]
fn a_retry_is_told_from_another_request() {
    let fold = fold(&log());
    let same = draft_items([2; 16], &vec![item("b"); 2]).unwrap();
    let mut whole = vec![draft_created([2; 16], "b", BTreeMap::new())];
    whole.extend(same.clone());
    assert_eq!(fold.has_written(&whole), Ok(true));
    assert_eq!(fold.has_written(&same), Err(IdempotencyConflict));
    assert_eq!(fold.has_written(&draft_items([9; 16], &[item("b")]).unwrap()), Ok(false));
}

#[test]
fn the_cache_evicts_the_least_recently_used() {
    let mut cache = Cache::default();
    let mut view = View::<Session>::default();
    let store = crate::testing::MemoryStore::default();
    let platform = crate::testing::TestPlatform::new(store);
    let drafts = |n: usize| draft_items([1; 16], &vec![item("x"); n]);
    for n in 0..30_u8 {
        let log = LogId([n; 16]);
        let mut own = View::<Session>::default();
        for _ in 0..40 {
            let decide = |_: &Session| Ok::<_, ItemError>(Decision::Append(drafts(60)?, Wake::Keep, ()));
            let origin = Origin { node: "a".into(), epoch: 0 };
            futures_executor::block_on(log::commit(&platform, log, &origin, &mut own, decide)).unwrap();
        }
        view = own.clone();
        cache.put(log, own);
    }
    assert!(cache.weight <= Cache::MAX_WEIGHT);
    assert!(cache.take(LogId([0; 16])).is_empty());
    assert_eq!(cache.take(LogId([29; 16])).len(), view.len());
}
