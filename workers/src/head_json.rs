//! The JSON of a chain's head between two objects: in replies of the store and in reports to the index.

use outlive::entry::{Hash, Head, Hlc, Origin, Seq};
use serde::{Deserialize, Serialize};

/// A [`Head`] for serde. Not derived in the core, whose ids and hashes serialise as strings: objects of an older
/// deployment read these fields.
#[derive(Serialize, Deserialize)]
pub(crate) struct HeadJson {
    node: String,
    epoch: u32,
    seq: u64,
    hlc: u64,
    hash: [u8; 32],
}

impl From<&Head> for HeadJson {
    fn from(head: &Head) -> Self {
        let Head { origin, seq, hlc, hash } = head;
        Self { node: origin.node.clone(), epoch: origin.epoch, seq: seq.0, hlc: hlc.0, hash: hash.0 }
    }
}

impl From<HeadJson> for Head {
    fn from(json: HeadJson) -> Self {
        let HeadJson { node, epoch, seq, hlc, hash } = json;
        Self { origin: Origin { node, epoch }, seq: Seq(seq), hlc: Hlc(hlc), hash: Hash(hash) }
    }
}
