//! Checks that a provider never bills more than its budget, whatever is lost on the way.

use outlive::money::NanoUsd;

/// The limit in dollars, as configured.
pub(crate) const LIMIT: &str = "0.022";

/// Dollars for a million tokens of input and of output: three answers use the budget up.
pub(crate) const PRICE: (&str, &str) = ("1", "1000");

/// Nano-dollars billed in a run, which is shorter than the budget's period.
#[derive(Debug, Default)]
pub(crate) struct Budget(u64);

impl Budget {
    /// A call was billed: tokens of input and of output.
    pub(crate) fn billed(&mut self, (input, output): (u64, u64)) -> Result<(), String> {
        let nano = |dollars: &str| NanoUsd::parse(dollars).map_or(0, |amount| amount.0);
        // Nano-dollars for a million tokens.
        self.0 += (input * nano(PRICE.0) + output * nano(PRICE.1)) / 1_000_000;
        if self.0 <= nano(LIMIT) {
            Ok(())
        } else {
            Err(format!("{} nano-dollars were billed, more than the limit of {LIMIT} dollars", self.0))
        }
    }
}
