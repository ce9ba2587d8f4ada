//! What an answer used, in the one way of counting that prices need.

use serde::{Deserialize, Serialize};

/// Tokens of one answer, in counts that do not overlap, except that `reasoning` is a part of `output`.
///
/// Vendors count differently: OpenAI's input includes what was read from the cache, Anthropic's does not. Each wire
/// format converts at its edge.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Usage {
    /// Input that no cache had.
    pub input: u64,
    /// Input that was read from the vendor's cache.
    pub cache_read: u64,
    /// Input that was written to the vendor's cache, for 5 minutes.
    pub cache_write: u64,
    /// Input that was written to the vendor's cache, for an hour.
    pub cache_write_1h: u64,
    /// Output, thoughts included.
    pub output: u64,
    /// The thoughts in `output`.
    pub reasoning: u64,
}

/// Bytes of a token of English text, as far as can be told without the vendor's own tokenizer.
pub const BYTES_PER_TOKEN: u64 = 4;

/// About how many tokens so many bytes are.
pub fn estimate(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(BYTES_PER_TOKEN)
}

impl Usage {
    /// All input.
    pub fn total_input(&self) -> u64 {
        [self.cache_read, self.cache_write, self.cache_write_1h]
            .into_iter()
            .fold(self.input, u64::saturating_add)
    }

    /// All tokens.
    pub fn total(&self) -> u64 {
        self.total_input().saturating_add(self.output)
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input = self.input.saturating_add(other.input);
        self.cache_read = self.cache_read.saturating_add(other.cache_read);
        self.cache_write = self.cache_write.saturating_add(other.cache_write);
        self.cache_write_1h = self.cache_write_1h.saturating_add(other.cache_write_1h);
        self.output = self.output.saturating_add(other.output);
        self.reasoning = self.reasoning.saturating_add(other.reasoning);
    }
}
