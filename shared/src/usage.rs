//! Counts the tokens of an answer in the kinds that prices distinguish. The wire formats convert to it.

use serde::{Deserialize, Serialize};

use crate::money::NanoUsd;

/// Tokens of one answer, in counts that do not overlap, except that `reasoning` is a part of `output`.
///
/// Vendors count differently: OpenAI's input includes cached input, Anthropic's does not. Each wire format converts.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Usage {
    /// Uncached input.
    pub input: u64,
    /// Input read from the vendor's cache.
    pub cache_read: u64,
    /// Input written to the vendor's cache for 5 minutes.
    pub cache_write: u64,
    /// Input written to the vendor's cache for an hour.
    pub cache_write_1h: u64,
    /// Output, including thoughts.
    pub output: u64,
    /// The thoughts in `output`.
    pub reasoning: u64,
    /// What the provider says that the answer cost. Only some vendors' numbers are trusted
    /// ([`reports_cost`](crate::provider::Vendor::reports_cost)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<NanoUsd>,
}

/// Where the tokens of a call are known from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum UsageSource {
    /// The provider counted them, or nothing is billed.
    #[default]
    Provider,
    /// They were estimated here, since the provider's final count is missing.
    Estimated,
}

impl UsageSource {
    /// Its name in the log and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Estimated => "estimated",
        }
    }
}

/// Average bytes per token of English text; only a vendor's own tokenizer is exact.
pub const BYTES_PER_TOKEN: u64 = 4;

/// Estimates the number of tokens in `bytes` bytes of text.
pub fn estimate_tokens(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(BYTES_PER_TOKEN)
}

impl Usage {
    /// All input tokens.
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
        // The cost of both is known only if that of each is.
        self.cost = match (self.cost, other.cost) {
            (Some(cost), Some(other)) => Some(cost.saturating_add(other)),
            (cost, _) if other.total() == 0 => cost,
            (_, cost) if self.total() == 0 => cost,
            _ => None,
        };
        self.input = self.input.saturating_add(other.input);
        self.cache_read = self.cache_read.saturating_add(other.cache_read);
        self.cache_write = self.cache_write.saturating_add(other.cache_write);
        self.cache_write_1h = self.cache_write_1h.saturating_add(other.cache_write_1h);
        self.output = self.output.saturating_add(other.output);
        self.reasoning = self.reasoning.saturating_add(other.reasoning);
    }
}
