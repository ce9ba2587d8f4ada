//! Snapshots: what a log has come to, written into the log, so that reading it takes no longer than its newest part.
//!
//! ```text
//!   entries … │ snapshot │ entries … │ snapshot │ entries … │ head
//!             │ part 1   │           │ part 2   │
//!             └────◄─────┼───older───┘    ▲
//!                        └───◄── said by the end of every later turn
//! ```
//! Each has the items and turns since the one before it, and all that does not grow with the log. Who opens the log reads
//! its end, finds the newest snapshot there, and goes on from it; older parts are read when somebody asks for what is in
//! them. The entries stay, so a snapshot that is lost costs time and nothing else.

use serde::{Deserialize, Serialize};

use super::{Session, to_json, unreadable};
use crate::{
    entry::{Draft, Entry, Hash, Head, Hlc, Kind, Origin, Seq},
    log::FoldError,
};

/// The body of a [`Kind::SNAPSHOT`] entry.
#[derive(Deserialize, Serialize)]
struct Snapshot {
    /// What is in it.
    covers: Vec<Covered>,
    fold: Session,
}

/// How far a chain is in a snapshot.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Covered {
    origin: Origin,
    seq: Seq,
    hlc: Hlc,
    hash: Hash,
}

/// Turns after which another snapshot is taken: reading one page of entries more is no hardship, and a snapshot costs a
/// write of about 40 KB.
pub const EVERY_TURNS: usize = 64;

/// Items after which it is, where there are many for each turn.
pub const EVERY_ITEMS: usize = 512;

/// The entry that holds what `fold` has gained since its last snapshot, and where the chains end that are in it.
pub fn draft<'a>(fold: &Session, heads: impl Iterator<Item = &'a Head>) -> Draft {
    let covers = heads.map(|head| {
        let Head { origin, seq, hlc, hash } = head.clone();
        Covered { origin, seq, hlc, hash }
    });
    let body = Snapshot { covers: covers.collect(), fold: fold.part() };
    Draft { kind: Kind::SNAPSHOT, cause: [0; 16], body: to_json(&body) }
}

/// Up to where a snapshot goes.
pub fn covers(entry: &Entry) -> Result<Vec<(Origin, Seq)>, FoldError> {
    #[derive(Deserialize)]
    struct SnapshotOutline {
        covers: Vec<Covered>,
    }
    let outline: SnapshotOutline =
        serde_json::from_slice(entry.body()).map_err(|error| unreadable(entry, &error))?;
    Ok(outline.covers.into_iter().map(|covered| (covered.origin, covered.seq)).collect())
}

/// What a snapshot holds, and up to where.
pub fn read(entry: &Entry) -> Result<(Session, Vec<Head>), FoldError> {
    let body: Snapshot = serde_json::from_slice(entry.body()).map_err(|error| unreadable(entry, &error))?;
    let heads = body.covers.into_iter().map(|covered| {
        let Covered { origin, seq, hlc, hash } = covered;
        Head { origin, seq, hlc, hash }
    });
    Ok((body.fold, heads.collect()))
}
