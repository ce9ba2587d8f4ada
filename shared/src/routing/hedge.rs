//! Decides when a request may be hedged: when a second candidate is called because the first is slow. Makes no calls.
//!
//! A hedge starts after the 95th percentile of the candidate's time to the first content, and the first answer wins.
//! This cuts tail latency for little load (Dean and Barroso, "The Tail at Scale", 2013) if it stays rare; in an outage
//! it would double the load.

use std::time::Duration;

/// A budget of hedged calls: at most one for fifty requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct HedgeBudget {
    /// Fiftieths of a call.
    balance: u32,
}

/// The cost of a call, in fiftieths: each request deposits one.
const CALL: u32 = 50;

/// Largest balance: ten calls.
const MAX_BALANCE: u32 = 10 * CALL;

impl HedgeBudget {
    /// Adds the share of a request that may be hedged.
    pub fn deposit(&mut self) {
        self.balance = (self.balance + 1).min(MAX_BALANCE);
    }

    /// Takes one call. Returns whether the balance allowed it.
    pub fn withdraw(&mut self) -> bool {
        let left = self.balance.checked_sub(CALL);
        self.balance = left.unwrap_or(self.balance);
        left.is_some()
    }
}

/// The most recent times to the first content.
#[derive(Clone, Debug, Default)]
pub struct RecentLatencies {
    millis: Vec<u32>,
    next: usize,
}

/// Samples that are kept; older ones are overwritten.
const MAX_SAMPLES: usize = 64;

/// Samples below which the percentile says nothing.
const MIN_SAMPLES: usize = 20;

impl RecentLatencies {
    /// Adds a sample.
    pub fn add(&mut self, time: Duration) {
        let millis = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        match self.millis.get_mut(self.next) {
            Some(slot) => *slot = millis,
            None => self.millis.push(millis),
        }
        self.next = (self.next + 1) % MAX_SAMPLES;
    }

    /// The 95th percentile; `None` with fewer than 20 samples.
    pub fn p95(&self) -> Option<Duration> {
        if self.millis.len() < MIN_SAMPLES {
            return None;
        }
        let mut sorted = self.millis.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * 95).div_ceil(100).saturating_sub(1);
        sorted.get(at).map(|millis| Duration::from_millis((*millis).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_of_fifty_is_hedged() {
        let mut budget = HedgeBudget::default();
        let hedged = (0..1000).filter(|_| {
            budget.deposit();
            budget.withdraw()
        });
        assert_eq!(hedged.count(), 20);
    }

    #[test]
    fn the_percentile_covers_the_latest_samples() {
        let mut recent = RecentLatencies::default();
        for millis in 1..20 {
            recent.add(Duration::from_millis(millis));
        }
        assert_eq!(recent.p95(), None);
        for millis in 1..=100 {
            recent.add(Duration::from_millis(millis));
        }
        assert_eq!(recent.p95(), Some(Duration::from_millis(97)), "of 37 to 100");
    }
}
