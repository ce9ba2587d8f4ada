//! Divides long work into pieces. The work is a future that waits for nothing: it is pending only to let others run.

use std::pin::pin;

use futures_util::{FutureExt, pending};

/// Bytes of one piece: about two milliseconds of work. Most requests are smaller.
const PIECE_BYTES: usize = 256 * 1024;

/// What an element of a list costs beside its bytes, in bytes.
const ELEMENT_COST: usize = 256;

/// Counts work, and pauses after each piece.
#[derive(Debug, Default)]
pub struct Pace {
    bytes: usize,
}

impl Pace {
    /// Notes that an element of `bytes` bytes was processed, and pauses if the piece is full.
    pub(crate) async fn advance(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes).saturating_add(ELEMENT_COST);
        if self.bytes > PIECE_BYTES {
            self.bytes = 0;
            pending!();
        }
    }
}

/// Does all of `work` at once.
pub fn at_once<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        if let Some(done) = work.as_mut().now_or_never() {
            return done;
        }
    }
}
