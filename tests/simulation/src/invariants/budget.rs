//! Checks that a provider never bills more than its budget and what the estimates of calls in flight together were wrong
//! by, whatever is lost on the way.

use std::collections::BTreeMap;

use outlive::money::NanoUsd;

/// The limit in dollars, as configured.
pub(crate) const LIMIT: &str = "0.06";

/// Dollars for a million tokens of input and of output: eight answers use the budget up.
pub(crate) const PRICE: (&str, &str) = ("1", "1000");

/// Within this time a debt is in the budget's log, also while the store fails now and then.
const COMMITTED_MS: u64 = 20_000;

/// What was billed in a run, which is shorter than the budget's period, in nano-dollars.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    billed: u64,
    /// What each call in flight cost beyond its worst case.
    in_flight: BTreeMap<u64, u64>,
    calls: u64,
    /// The largest sum of `in_flight` so far.
    most_together: u64,
    /// When calls ended whose cost beyond the worst case the node knows, and that cost.
    known: Vec<(u64, u64)>,
    /// What calls cost beyond their worst case without the node knowing, or without the time to commit it.
    lost: u64,
}

impl Budget {
    /// A call is billed: tokens of input and of output. It requested at most `limit` tokens. Returns its number.
    pub(crate) fn begin(&mut self, (input, output): (u64, u64), limit: u64) -> Result<u64, String> {
        let nano = |dollars: &str| NanoUsd::parse(dollars).map_or(0, |amount| amount.0);
        // Nano-dollars for a million tokens.
        self.billed += (input * nano(PRICE.0) + output * nano(PRICE.1)) / 1_000_000;
        self.calls += 1;
        self.in_flight.insert(self.calls, output.saturating_sub(limit) * nano(PRICE.1) / 1_000_000);
        self.most_together = self.most_together.max(self.in_flight.values().sum());
        let most = nano(LIMIT) + self.most_together + self.lost;
        if self.billed <= most {
            return Ok(self.calls);
        }
        let Self { billed, most_together, lost, .. } = self;
        Err(format!(
            "{billed} nano-dollars were billed, more than the limit of {LIMIT} dollars, {most_together} of errors in \
             flight together and {lost} that were lost"
        ))
    }

    /// A call ended at `now`. `is_known`: the node received its usage.
    pub(crate) fn end(&mut self, call: u64, is_known: bool, now: u64) {
        let error = self.in_flight.remove(&call).unwrap_or_default();
        if is_known { self.known.push((now, error)) } else { self.lost += error }
    }

    /// The node was stopped at `now`: debts that it had no time to commit are lost.
    pub(crate) fn crash(&mut self, now: u64) {
        let recent = self.known.drain(..).filter(|(ended_at, _)| ended_at + COMMITTED_MS > now);
        self.lost += recent.map(|(_, error)| error).sum::<u64>();
    }
}
