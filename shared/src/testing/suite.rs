//! Checks the contract of [`Store`] on any store.
//!
//! Failures are reported instead of panicking, since a panic on Workers would end the runtime.

use std::{cell::Cell, rc::Rc};

use bytes::Bytes;

use super::{CallKind, Fault, Faulty, TestPlatform};
use crate::{
    entry::{
        Batch, Bucket, Cursor, Draft, Entry, Hash, Head, Kind, LogId, MAX_BATCH_ENTRIES, Origin, Seq,
        VersionVector, Wake,
    },
    log::{Decision, Fold, FoldError, View, commit},
    platform::{AppendError, INLINE_BYTES, MAX_ERASED_ENTRIES, ReadLimit, Store},
    time::Timestamp,
};

/// The result of a run of the suite.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How many cases passed.
    pub passed: usize,
    /// The cases that failed, with what was observed.
    pub failed: Vec<String>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for failure in &self.failed {
            writeln!(f, "FAILED {failure}")?;
        }
        write!(f, "{} passed, {} failed", self.passed, self.failed.len())
    }
}

/// Runs every case on `store`. `run` keeps the logs of this run apart from those of other runs on the same store.
pub async fn suite<S: Store + Clone + 'static>(store: &S, run: &str) -> Report {
    let mut report = Report::default();
    let mut note = |name: &str, result: Result<(), String>| match result {
        Ok(()) => report.passed += 1,
        Err(why) => report.failed.push(format!("{name}: {why}")),
    };
    let log = |name: &str| LogId::derive("suite", &[run.as_bytes(), name.as_bytes()]);

    note("an unknown log is empty", unknown_log(store, log("unknown")).await);
    note("appended entries are read back", read_back(store, log("read back")).await);
    note("a batch is stored as a whole", whole_batch(store, log("whole batch")).await);
    note("a stale append changes nothing", stale(store, log("stale")).await);
    note("a fork is refused", fork(store, log("fork")).await);
    note("a batch that is appended twice is stored once", twice(store, log("twice")).await);
    note("one of concurrent appends wins", race(store, log("race")).await);
    note("large bodies are read back", large(store, log("large")).await);
    note("a full batch of large bodies fits", full_batch(store, log("full batch")).await);
    note("a read respects its limits", limits(store, log("limits")).await);
    note("chains of different origins are separate", origins(store, log("origins")).await);
    note("logs are separate", apart(store, log("apart a"), log("apart b")).await);
    note("changes are listed in order", changes(store, log("changes")).await);
    note("due logs are listed", wakes(store, log("wakes a"), log("wakes b")).await);
    note("erased bodies are gone, and nothing else", erased(store, log("erased")).await);
    note("a shared body is erased with its last entry", shared(store, log("shared")).await);
    note("an erased entry can be appended", appended_erased(store, log("appended erased")).await);
    note("appends that fail before persisting", faults(store, log("before"), before).await);
    note("appends that fail after persisting", faults(store, log("after"), after).await);
    note(
        "appends that fail both ways",
        faults(store, log("both"), |n| if n.is_multiple_of(2) { after(n) } else { before(n) }).await,
    );
    report
}

/// Returns an error if the two values differ.
macro_rules! same {
    ($actual:expr, $expected:expr, $what:literal) => {{
        let (actual, expected) = (&$actual, &$expected);
        if actual != expected {
            let text = format!("{}: expected {expected:?}, got {actual:?}", $what);
            return Err(text.chars().take(400).collect());
        }
    }};
}

async fn unknown_log(store: &impl Store, log: LogId) -> Result<(), String> {
    same!(store.heads(log).await, Ok(vec![]), "heads");
    same!(store.read(log, &origin("a"), Seq::FIRST, ReadLimit::PAGE).await, Ok(vec![]), "read");
    Ok(())
}

async fn read_back(store: &impl Store, log: LogId) -> Result<(), String> {
    let one = batch(log, "a", None, &[text("first"), Bytes::new(), Bytes::from_static(&[0, 255, 10])])?;
    let two = batch(log, "a", Some(&one), &[text("é🙂")])?;
    ok(store.append(&one).await)?;
    ok(store.append(&two).await)?;
    let all: Vec<Entry> = one.entries().chain(two.entries()).cloned().collect();
    same!(store.read(log, &origin("a"), Seq::FIRST, ReadLimit::PAGE).await, Ok(all), "from the start");
    same!(
        store.read(log, &origin("a"), Seq(4), ReadLimit::PAGE).await,
        Ok(two.entries().cloned().collect()),
        "from the fourth"
    );
    same!(store.read(log, &origin("a"), Seq(5), ReadLimit::PAGE).await, Ok(vec![]), "from beyond the end");
    same!(store.heads(log).await, Ok(vec![two.last().head()]), "heads");
    Ok(())
}

async fn whole_batch(store: &impl Store, log: LogId) -> Result<(), String> {
    let full = batch(log, "a", None, &vec![text("x"); MAX_BATCH_ENTRIES])?;
    ok(store.append(&full).await)?;
    same!(read_all(store, log, "a").await?.len(), MAX_BATCH_ENTRIES, "entries");
    Ok(())
}

async fn stale(store: &impl Store, log: LogId) -> Result<(), String> {
    let one = batch(log, "a", None, &[text("one")])?;
    ok(store.append(&one).await)?;
    let late = batch(log, "a", None, &[text("late"), text("later")])?;
    same!(store.append(&late).await, Err(AppendError::Conflict { head: Some(one.last().head()) }), "append");
    let early = batch(log, "a", Some(&batch(log, "a", Some(&one), &[text("never")])?), &[text("early")])?;
    same!(store.append(&early).await, Err(AppendError::Conflict { head: Some(one.last().head()) }), "a gap");
    let unknown = batch(log, "b", Some(&batch(log, "b", None, &[text("never")])?), &[text("early")])?;
    same!(store.append(&unknown).await, Err(AppendError::Conflict { head: None }), "a gap at the start");
    same!(read_all(store, log, "a").await?.len(), 1, "entries");
    Ok(())
}

async fn fork(store: &impl Store, log: LogId) -> Result<(), String> {
    let (one, other) = (batch(log, "a", None, &[text("one")])?, batch(log, "a", None, &[text("other")])?);
    ok(store.append(&one).await)?;
    let fork = batch(log, "a", Some(&other), &[text("two")])?;
    let expected = Err(AppendError::Conflict { head: Some(one.last().head()) });
    same!(store.append(&fork).await, expected, "the right seq on the wrong hash");
    Ok(())
}

async fn twice(store: &impl Store, log: LogId) -> Result<(), String> {
    let one = batch(log, "a", None, &[text("one"), text("two")])?;
    ok(store.append(&one).await)?;
    same!(store.append(&one).await, Err(AppendError::Conflict { head: Some(one.last().head()) }), "again");
    same!(read_all(store, log, "a").await?.len(), 2, "entries");
    Ok(())
}

async fn race(store: &impl Store, log: LogId) -> Result<(), String> {
    let mut batches = Vec::new();
    for n in 0..8 {
        batches.push(batch(log, "a", None, &[text(&n.to_string()), text("second")])?);
    }
    let results = futures_util::future::join_all(batches.iter().map(|batch| store.append(batch))).await;
    let winners: Vec<&Batch> =
        batches.iter().zip(&results).filter(|(_, result)| result.is_ok()).map(|(batch, _)| batch).collect();
    let [winner] = winners.as_slice() else {
        return Err(format!("expected one winner, got {results:?}"));
    };
    for result in &results {
        let conflict = AppendError::Conflict { head: Some(winner.last().head()) };
        if let Err(error) = result {
            same!(*error, conflict, "a loser");
        }
    }
    let entries: Vec<Entry> = winner.entries().cloned().collect();
    same!(read_all(store, log, "a").await?, entries, "entries");
    Ok(())
}

async fn large(store: &impl Store, log: LogId) -> Result<(), String> {
    let sizes = [INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1, 2 * INLINE_BYTES, 3_000_001];
    let bodies: Vec<Bytes> = sizes.iter().map(|size| pattern(*size)).collect();
    let one = batch(log, "a", None, &bodies)?;
    ok(store.append(&one).await)?;
    // The same body again must neither be lost nor disturb the first.
    let two = batch(log, "a", Some(&one), &[pattern(3_000_001)])?;
    ok(store.append(&two).await)?;
    let digests: Vec<Hash> = read_all(store, log, "a").await?.iter().map(|e| Hash::of(e.body())).collect();
    let expected: Vec<Hash> = one.entries().chain(two.entries()).map(|e| e.header().body_hash).collect();
    same!(digests, expected, "digests");
    Ok(())
}

async fn full_batch(store: &impl Store, log: LogId) -> Result<(), String> {
    let bodies: Vec<Bytes> = (0..20).map(|n| pattern(INLINE_BYTES - n)).collect();
    let one = batch(log, "a", None, &bodies)?;
    ok(store.append(&one).await)?;
    same!(read_all(store, log, "a").await?.len(), 20, "entries");
    Ok(())
}

async fn limits(store: &impl Store, log: LogId) -> Result<(), String> {
    let one = batch(log, "a", None, &vec![pattern(1000); 40])?;
    ok(store.append(&one).await)?;
    for (limit, expected) in [
        (ReadLimit { entries: 1, bytes: 0 }, 1),
        (ReadLimit { entries: 7, bytes: 1 << 20 }, 7),
        (ReadLimit { entries: 40, bytes: 3_999 }, 3),
        (ReadLimit { entries: 40, bytes: 4_000 }, 4),
        (ReadLimit { entries: 100, bytes: 1 << 20 }, 40),
    ] {
        let page = ok(store.read(log, &origin("a"), Seq::FIRST, limit).await)?;
        same!((limit, page.len()), (limit, expected), "entries");
    }
    Ok(())
}

async fn origins(store: &impl Store, log: LogId) -> Result<(), String> {
    let batches = [("b", "1"), ("a", "2"), ("a.b", "3"), ("Z", "4")];
    let mut heads = Vec::new();
    for (name, body) in batches {
        let one = batch(log, name, None, &[text(body)])?;
        ok(store.append(&one).await)?;
        heads.push(one.last().head());
    }
    heads.sort_by(|a: &Head, b| a.origin.cmp(&b.origin));
    same!(store.heads(log).await, Ok(heads), "heads");
    same!(read_all(store, log, "a").await?.len(), 1, "entries of one origin");
    Ok(())
}

async fn apart(store: &impl Store, a: LogId, b: LogId) -> Result<(), String> {
    ok(store.append(&batch(a, "a", None, &[pattern(300_000)])?).await)?;
    same!(store.heads(b).await, Ok(vec![]), "heads of the other log");
    ok(store.append(&batch(b, "a", None, &[pattern(300_000)])?).await)?;
    same!(read_all(store, a, "a").await?.len(), 1, "entries");
    Ok(())
}

async fn changes(store: &impl Store, log: LogId) -> Result<(), String> {
    let bucket = Bucket::of(log);
    let start = ok(store.changes(bucket, Cursor::default(), 10_000).await)?
        .last()
        .map_or(Cursor::default(), |c| c.cursor);
    let one = batch(log, "a", None, &[text("1")])?;
    ok(store.append(&one).await)?;
    let other = batch(log, "b", None, &[text("2")])?;
    ok(store.append(&other).await)?;
    let grown = ok(store.changes(bucket, start, 10).await)?;
    let heads: Vec<(LogId, Head)> = grown.iter().map(|c| (c.log, c.head.clone())).collect();
    same!(heads, vec![(log, one.last().head()), (log, other.last().head())], "both, oldest first");
    same!(ok(store.changes(bucket, start, 1).await)?.len(), 1, "limit");
    let last = grown.last().map_or(start, |change| change.cursor);
    same!(store.changes(bucket, last, 10).await, Ok(vec![]), "nothing since");
    let two = batch(log, "a", Some(&one), &[text("3")])?;
    ok(store.append(&two).await)?;
    let grown = ok(store.changes(bucket, last, 10).await)?;
    same!(
        grown.iter().map(|c| c.head.clone()).collect::<Vec<_>>(),
        vec![two.last().head()],
        "changes since then"
    );
    Ok(())
}

async fn wakes(store: &impl Store, a: LogId, b: LogId) -> Result<(), String> {
    // All wakes here are earlier than those of other logs in the same store, so `limit` never hides these.
    let at = |time: u64| Wake::At(Timestamp(time));
    let due = async |now: u64, limit: usize| {
        let due = ok(store.due(Timestamp(now), limit).await)?;
        Ok::<_, String>(due.into_iter().filter(|log| [a, b].contains(log)).collect::<Vec<_>>())
    };
    let one = batch(a, "a", None, &[text("1")])?.with_wake(at(2_000));
    ok(store.append(&one).await)?;
    let other = batch(b, "a", None, &[text("1")])?.with_wake(at(1_000));
    ok(store.append(&other).await)?;
    same!(due(999, 10).await?, Vec::<LogId>::new(), "too early");
    same!(due(1_000, 10).await?, vec![b], "the first");
    same!(due(u64::MAX, 10).await?, vec![b, a], "longest wait first");
    same!(ok(store.due(Timestamp(2_000), 1).await)?, vec![b], "limit");
    let two = batch(a, "a", Some(&one), &[text("2")])?;
    ok(store.append(&two).await)?;
    same!(due(2_000, 10).await?, vec![b, a], "unchanged by an append that keeps it");
    let lost = batch(a, "a", Some(&one), &[text("late")])?.with_wake(Wake::Never);
    same!(store.append(&lost).await.is_err(), true, "a stale append");
    same!(due(2_000, 10).await?, vec![b, a], "a refused append changes no wake");
    let three = batch(a, "a", Some(&two), &[text("3")])?.with_wake(at(500));
    ok(store.append(&three).await)?;
    same!(due(2_000, 10).await?, vec![a, b], "an earlier wake");
    ok(store.append(&batch(a, "b", None, &[text("1")])?.with_wake(at(100))).await)?;
    same!(due(2_000, 10).await?, vec![a, b], "a log of two chains is named once");
    for (chain, node) in [(&three, "a"), (&batch(a, "b", None, &[text("1")])?, "b")] {
        ok(store.append(&batch(a, node, Some(chain), &[text("end")])?.with_wake(Wake::Never)).await)?;
    }
    ok(store.append(&batch(b, "a", Some(&other), &[text("end")])?.with_wake(Wake::Never)).await)?;
    same!(due(u64::MAX, 10).await?, Vec::<LogId>::new(), "no wake left");
    Ok(())
}

async fn erased(store: &impl Store, log: LogId) -> Result<(), String> {
    let large = 3 * INLINE_BYTES + 5;
    let bodies = [text("a"), Bytes::new(), pattern(large), text("d"), pattern(INLINE_BYTES), text("f")];
    let one = batch(log, "a", None, &bodies)?.with_wake(Wake::At(Timestamp(7)));
    ok(store.append(&one).await)?;
    let other = batch(log, "b", None, &[text("of b")])?;
    ok(store.append(&other).await)?;
    let (heads, bucket) = (ok(store.heads(log).await)?, Bucket::of(log));
    let changes = ok(store.changes(bucket, Cursor::default(), 10_000).await)?;
    // Overlapping and repeated ranges are harmless, and a range may begin after the end of the chain.
    for (from, to) in [(2, 3), (2, 5), (2, 5), (7, 9)] {
        ok(store.erase(log, &origin("a"), Seq(from), Seq(to)).await)?;
    }
    ok(store.erase(log, &origin("c"), Seq(1), Seq(u64::MAX)).await)?;
    let entries = read_all(store, log, "a").await?;
    let hashes = |entries: &[Entry]| entries.iter().map(Entry::hash).collect::<Vec<_>>();
    same!(hashes(&entries), one.entries().map(Entry::hash).collect::<Vec<_>>(), "headers");
    let erased: Vec<bool> = entries.iter().map(Entry::is_erased).collect();
    same!(erased, vec![false, false, true, true, true, false], "erased entries; an empty body is not erased");
    let left: Vec<Bytes> = entries.iter().map(|entry| entry.body().clone()).collect();
    same!(
        left.iter().map(Bytes::len).collect::<Vec<_>>(),
        vec![1, 0, 0, 0, 0, 1],
        "sizes of the bodies that are left"
    );
    same!(store.heads(log).await, Ok(heads), "heads");
    same!(store.changes(bucket, Cursor::default(), 10_000).await, Ok(changes), "changes");
    same!(ok(store.due(Timestamp(7), 10_000).await)?.contains(&log), true, "the wake");
    let limit = ReadLimit { entries: 100, bytes: 1 };
    let from = ok(store.read(log, &origin("a"), Seq(2), limit).await)?;
    same!(from.len(), 5, "erased bodies count nothing in a page");
    let two = batch(log, "a", Some(&one), &[pattern(large)])?.with_wake(Wake::Never);
    ok(store.append(&two).await)?;
    let entries = read_all(store, log, "a").await?;
    same!(entries.last(), Some(two.last()), "the same body, appended again");
    same!(read_all(store, log, "b").await?, other.entries().cloned().collect::<Vec<_>>(), "the other chain");
    ok(store.erase(log, &origin("a"), Seq::FIRST, Seq(u64::MAX)).await)?;
    let erased = read_all(store, log, "a").await?.iter().filter(|entry| entry.is_erased()).count();
    same!(erased, 6, "all of a chain");

    let many = batch(log, "d", None, &vec![text("x"); MAX_BATCH_ENTRIES])?;
    ok(store.append(&many).await)?;
    ok(store.append(&batch(log, "d", Some(&many), &vec![text("y"); 3])?).await)?;
    ok(store.erase(log, &origin("d"), Seq::FIRST, Seq(u64::MAX)).await)?;
    let left = read_all(store, log, "d").await?.iter().filter(|entry| !entry.is_erased()).count() as u64;
    same!(left, MAX_BATCH_ENTRIES as u64 + 3 - MAX_ERASED_ENTRIES, "entries that one call leaves");
    Ok(())
}

async fn shared(store: &impl Store, log: LogId) -> Result<(), String> {
    let body = pattern(2 * INLINE_BYTES);
    let one = batch(log, "a", None, &[body.clone(), body.clone()])?;
    ok(store.append(&one).await)?;
    let other = batch(log, "b", None, std::slice::from_ref(&body))?;
    ok(store.append(&other).await)?;
    for (node, seq, left) in [("a", 1, vec!["a", "b"]), ("a", 2, vec!["b"]), ("b", 1, vec![])] {
        ok(store.erase(log, &origin(node), Seq(seq), Seq(seq)).await)?;
        let mut holders = Vec::new();
        for node in ["a", "b"] {
            let entries = read_all(store, log, node).await?;
            holders.extend(entries.iter().filter(|entry| *entry.body() == body).map(|_| node));
        }
        same!(holders, left, "origins that still have the body");
    }
    ok(store.append(&batch(log, "b", Some(&other), std::slice::from_ref(&body))?).await)?;
    same!(read_all(store, log, "b").await?.last().map(|entry| entry.body().len()), Some(body.len()), "anew");
    Ok(())
}

async fn appended_erased(store: &impl Store, log: LogId) -> Result<(), String> {
    let whole = batch(log, "a", None, &[text("small"), pattern(2 * INLINE_BYTES), text("stays")])?;
    let peers = whole.entries().cloned().enumerate();
    let peers = peers.map(|(at, entry)| if at < 2 { entry.without_body() } else { entry });
    let peers = Batch::from_entries(peers.collect()).map_err(|error| error.to_string())?;
    ok(store.append(&peers).await)?;
    same!(read_all(store, log, "a").await?, peers.entries().cloned().collect::<Vec<_>>(), "entries");
    Ok(())
}

/// Every append fails twice before it succeeds; each committed entry is stored exactly once, in order.
async fn faults<S: Store + Clone + 'static>(
    store: &S,
    log: LogId,
    fault: impl Fn(u32) -> Fault + 'static,
) -> Result<(), String> {
    let calls = Rc::new(Cell::new(0));
    let plan = async move |call: CallKind| {
        if call == CallKind::Read {
            return Fault::None;
        }
        calls.set(calls.get() + 1);
        fault(calls.get())
    };
    let platform = TestPlatform::new(Faulty::new(store.clone(), plan));
    let mut view = View::<Bodies>::default();
    for n in 0..5_u8 {
        let draft = Draft { kind: Kind::ITEM_ADDED, cause: [n; 16], body: Bytes::copy_from_slice(&[n]) };
        let decide =
            |_: &Bodies| Ok::<_, ()>(Decision::Append(vec![draft.clone(), draft.clone()], Wake::Keep, ()));
        commit(&platform, log, &origin("a"), &mut view, decide)
            .await
            .map_err(|e| format!("commit {n}: {e:?}"))?;
    }
    let expected: Vec<u8> = (0..5).flat_map(|n| [n, n]).collect();
    same!(view.fold.0, expected, "the writer's own view");
    // Another reader folds the log from its beginning.
    let mut fresh = View::<Bodies>::default();
    ok(fresh.catch_up(store, log).await)?;
    same!(fresh.fold.0, expected, "a reader's view");
    Ok(())
}

fn before(call: u32) -> Fault {
    if call.is_multiple_of(3) { Fault::None } else { Fault::Before }
}

fn after(call: u32) -> Fault {
    if call.is_multiple_of(3) { Fault::None } else { Fault::After }
}

/// The bodies of a log, one after the other.
#[derive(Clone, Debug, Default)]
struct Bodies(Vec<u8>);

impl Fold for Bodies {
    fn apply(&mut self, entry: &Entry) -> Result<(), FoldError> {
        self.0.extend_from_slice(entry.body());
        Ok(())
    }
}

fn origin(node: &str) -> Origin {
    Origin { node: node.into(), epoch: 0 }
}

fn batch(log: LogId, node: &str, after: Option<&Batch>, bodies: &[Bytes]) -> Result<Batch, String> {
    let head = after.map(|batch| batch.last().head());
    let drafts =
        bodies.iter().map(|body| Draft { kind: Kind::ITEM_ADDED, cause: [1; 16], body: body.clone() });
    Batch::build(
        log,
        &origin(node),
        head.as_ref(),
        &VersionVector::new(),
        Timestamp(1_700_000_000_000),
        drafts,
    )
    .map_err(|error| error.to_string())
}

async fn read_all(store: &impl Store, log: LogId, node: &str) -> Result<Vec<Entry>, String> {
    let (mut all, origin) = (Vec::new(), origin(node));
    loop {
        let from = all.last().map_or(Seq::FIRST, |entry: &Entry| entry.header().seq.next());
        let page = ok(store.read(log, &origin, from, ReadLimit::PAGE).await)?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn pattern(size: usize) -> Bytes {
    (0..size).map(|i| (i * 31 % 251) as u8).collect()
}

fn ok<T, E: std::fmt::Debug>(result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| format!("{error:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryStore;

    #[test]
    fn memory() {
        let report = futures_executor::block_on(suite(&MemoryStore::default(), "memory"));
        assert!(report.failed.is_empty(), "{report}");
    }
}
