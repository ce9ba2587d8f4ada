//! Writes the fold of a log into the log as a snapshot and reads it back, so that loading a session reads only the
//! newest part of its log. When to write one is decided in `part.rs`; the node writes it.
//!
//! ```text
//!   entries … │ snapshot │ entries … │ snapshot │ entries … │ head
//!             │ part 1   │           │ part 2   │
//!             └────◄─────┼───older───┘    ▲
//!                        └───◄── named by the end of every later turn
//! ```
//! Each snapshot holds the items and turns since the one before it, and all state whose size does not grow with the
//! log. A node that loads the log reads its end, finds the newest snapshot there, and continues from it; it reads older
//! parts when a request needs them. The entries stay, so losing a snapshot costs only time.

use serde::{Deserialize, Serialize};

use super::{Session, to_json, unreadable};
use crate::{
    entry::{Draft, Entry, Hash, Head, Hlc, Kind, Origin, Seq},
    log::FoldError,
};

/// The body of a [`Kind::SNAPSHOT`] entry.
#[derive(Deserialize, Serialize)]
struct Snapshot {
    /// How far it goes in each chain.
    covers: Vec<Covered>,
    fold: Session,
}

/// The last entry of a chain that a snapshot covers.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Covered {
    origin: Origin,
    seq: Seq,
    hlc: Hlc,
    hash: Hash,
}

/// Turns after which another snapshot is written: it costs a write of about 40 KB and saves readers a page of entries.
pub const EVERY_TURNS: usize = 64;

/// Items after which another snapshot is written, for sessions with many items per turn.
pub const EVERY_ITEMS: usize = 512;

/// The entry that holds what `fold` has gained since its last snapshot. `heads` are the ends of the chains folded into
/// it.
pub fn draft<'a>(fold: &Session, heads: impl Iterator<Item = &'a Head>) -> Draft {
    let covers = heads.map(|head| {
        let Head { origin, seq, hlc, hash } = head.clone();
        Covered { origin, seq, hlc, hash }
    });
    let body = Snapshot { covers: covers.collect(), fold: fold.part() };
    Draft { kind: Kind::SNAPSHOT, cause: [0; 16], body: to_json(&body) }
}

/// The last entry of each chain that a snapshot covers.
pub fn covers(entry: &Entry) -> Result<Vec<(Origin, Seq)>, FoldError> {
    #[derive(Deserialize)]
    struct SnapshotOutline {
        covers: Vec<Covered>,
    }
    let outline: SnapshotOutline =
        serde_json::from_slice(entry.body()).map_err(|error| unreadable(entry, &error))?;
    Ok(outline.covers.into_iter().map(|covered| (covered.origin, covered.seq)).collect())
}

/// The state that a snapshot holds, and the ends of the chains folded into it.
pub fn read(entry: &Entry) -> Result<(Session, Vec<Head>), FoldError> {
    let body: Snapshot = serde_json::from_slice(entry.body()).map_err(|error| unreadable(entry, &error))?;
    let heads = body.covers.into_iter().map(|covered| {
        let Covered { origin, seq, hlc, hash } = covered;
        Head { origin, seq, hlc, hash }
    });
    Ok((body.fold, heads.collect()))
}
