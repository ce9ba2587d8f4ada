//! Sessions: what a log means.

pub mod conversation;
pub mod deletion;
pub mod history;
pub mod notes;
mod pairs;
mod progress;
mod reply;
pub mod schedule;
pub mod snapshot;
pub mod step;
pub mod turn;

use bytes::Bytes;
use serde::Serialize;

use crate::{
    entry::{Entry, Head},
    log::FoldError,
};
pub use progress::{CallStage, NextAction, TurnProgress};
pub use reply::ResponseFold;

/// Strings, maps of strings and checked JSON always serialise.
fn to_json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

fn unreadable(entry: &Entry, error: &serde_json::Error) -> FoldError {
    let Head { origin, seq, .. } = entry.head();
    FoldError { origin, seq: seq.0, why: error.to_string() }
}
