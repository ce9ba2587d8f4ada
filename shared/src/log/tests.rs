//! Checks commits of two processes of one node that write equal entries at the same time.

use std::{cell::Cell, convert::Infallible, task::Poll};

use bytes::Bytes;
use futures_executor::block_on;
use futures_util::future::join;

use super::*;
use crate::{
    entry::Kind,
    session::Session,
    testing::{CallKind, Fault, Faulty, MemoryStore, TestPlatform},
};

const LOG: LogId = LogId([1; 16]);

/// A process over `store`. Its first appends have these `faults`, and each append yields once to the other process. Its
/// random numbers start at number `draws` of the sequence.
fn process(store: &MemoryStore, faults: &'static [Fault], draws: usize) -> impl Platform {
    let sent = Cell::new(0);
    let plan = async move |call: CallKind| {
        if call != CallKind::Append {
            return Fault::None;
        }
        let mut has_yielded = false;
        std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            if std::mem::replace(&mut has_yielded, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        faults.get(sent.replace(sent.get() + 1)).copied().unwrap_or(Fault::None)
    };
    let platform = TestPlatform::new(Faulty::new(store.clone(), plan));
    platform.random(&mut vec![0; 8 * draws]);
    platform
}

/// Writes an entry equal to the other process's, unless the log has it. Returns whether this process wrote it.
async fn write(platform: &impl Platform) -> bool {
    let origin = Origin { node: "node".into(), epoch: 0 };
    let mut view = View::<Session>::default();
    let decide = |fold: &Session| {
        let is_there = fold.active_at() > Default::default();
        let draft = Draft { kind: Kind::GRANTED, cause: [7; 16], body: Bytes::new() };
        Ok::<_, Infallible>(match is_there {
            true => Decision::Done(false),
            false => Decision::Append(vec![draft], Wake::Keep, true),
        })
    };
    commit(platform, LOG, &origin, &mut view, decide).await.unwrap().0
}

#[test]
fn one_of_two_equal_writers_writes() {
    for draws in [0, 1] {
        let store = MemoryStore::default();
        let (one, other) = (process(&store, &[], 0), process(&store, &[], draws));
        assert_eq!(block_on(join(write(&one), write(&other))), (true, false), "{draws}");
        assert_eq!(store.entries().len(), 1);
    }
}

#[test]
fn a_lost_answer_is_resolved_by_reading() {
    let store = MemoryStore::default();
    let one = process(&store, &[Fault::After], 0);
    assert!(block_on(write(&one)));
    // An entry of the other process is not mistaken for it, though they differ only in their random clock bits.
    let store = MemoryStore::default();
    let (one, other) = (process(&store, &[Fault::Before], 0), process(&store, &[], 1));
    assert_eq!(block_on(join(write(&one), write(&other))), (false, true));
}
