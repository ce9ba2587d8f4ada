//! Processes of one node that write the same in the same moment.

use std::{cell::Cell, convert::Infallible, task::Poll};

use bytes::Bytes;
use futures_executor::block_on;
use futures_util::future::join;

use super::*;
use crate::{
    entry::Kind,
    session::Session,
    testing::{Call, Fault, Faulty, MemoryStore, TestPlatform},
};

const LOG: LogId = LogId([1; 16]);

/// A process over `store`, the first appends of which go as `faults` say, each after the others have had their turn. What it
/// draws by chance begins at the number `draws`.
fn process(store: &MemoryStore, faults: &'static [Fault], draws: usize) -> impl Platform {
    let sent = Cell::new(0);
    let plan = async move |call: Call| {
        if call != Call::Append {
            return Fault::None;
        }
        let mut waited = false;
        std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        faults.get(sent.replace(sent.get() + 1)).copied().unwrap_or(Fault::None)
    };
    let platform = TestPlatform::new(Faulty::new(store.clone(), plan));
    platform.random(&mut vec![0; 8 * draws]);
    platform
}

/// Writes the same as everybody, unless it is there. Whether it was written by this process.
async fn write(platform: &impl Platform) -> bool {
    let origin = Origin { node: "node".into(), epoch: 0 };
    let mut view = View::<Session>::default();
    let decide = |fold: &Session| {
        let there = fold.active_at() > Default::default();
        let draft = Draft { kind: Kind::GRANTED, cause: [7; 16], body: Bytes::new() };
        Ok::<_, Infallible>(match there {
            true => Decision::Done(false),
            false => Decision::Append(vec![draft], Wake::Keep, true),
        })
    };
    commit(platform, LOG, &origin, &mut view, decide).await.unwrap().0
}

#[test]
fn of_two_that_write_the_same_one_has_written_it() {
    for draws in [0, 1] {
        let store = MemoryStore::default();
        let (one, other) = (process(&store, &[], 0), process(&store, &[], draws));
        assert_eq!(block_on(join(write(&one), write(&other))), (true, false), "{draws}");
        assert_eq!(store.entries().len(), 1);
    }
}

#[test]
fn what_was_written_and_not_answered_is_known_again() {
    let store = MemoryStore::default();
    let one = process(&store, &[Fault::After], 0);
    assert!(block_on(write(&one)));
    // What another has written meanwhile is not taken for it, though it is the same but for chance.
    let store = MemoryStore::default();
    let (one, other) = (process(&store, &[Fault::Before], 0), process(&store, &[], 1));
    assert_eq!(block_on(join(write(&one), write(&other))), (false, true));
}
