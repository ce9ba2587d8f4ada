//! The end of a chain on its way between two objects.

use outlive::entry::{Hash, Head, Hlc, Origin, Seq};
use serde::{Deserialize, Serialize};

/// A [`Head`] that serde can write.
#[derive(Serialize, Deserialize)]
pub(crate) struct Tip {
    node: String,
    epoch: u32,
    seq: u64,
    hlc: u64,
    hash: [u8; 32],
}

impl From<&Head> for Tip {
    fn from(head: &Head) -> Self {
        let Head { origin, seq, hlc, hash } = head;
        Self { node: origin.node.clone(), epoch: origin.epoch, seq: seq.0, hlc: hlc.0, hash: hash.0 }
    }
}

impl From<Tip> for Head {
    fn from(tip: Tip) -> Self {
        let Tip { node, epoch, seq, hlc, hash } = tip;
        Self { origin: Origin { node, epoch }, seq: Seq(seq), hlc: Hlc(hlc), hash: Hash(hash) }
    }
}
