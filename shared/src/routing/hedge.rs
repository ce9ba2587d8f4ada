//! When a slow candidate is overtaken: before its first content, and rarely.
//!
//! After the time in which it answers 95 of 100 requests, a second candidate is asked as well, and the first to answer
//! wins. It cuts the long waits for little more load (Dean and Barroso, "The Tail at Scale", 2013), as long as it stays
//! rare; in an outage it would double the load.

use std::time::Duration;

/// What is left for second calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct HedgeBudget {
    /// Fiftieths of a call.
    balance: u32,
}

/// One call for fifty requests.
const CALL: u32 = 50;

/// The most that is saved up.
const MOST: u32 = 10 * CALL;

impl HedgeBudget {
    /// A request has come that may be hedged.
    pub fn deposit(&mut self) {
        self.balance = (self.balance + 1).min(MOST);
    }

    /// Takes one call, if there is one left.
    pub fn withdraw(&mut self) -> bool {
        let left = self.balance.checked_sub(CALL);
        self.balance = left.unwrap_or(self.balance);
        left.is_some()
    }
}

/// The last times to the first content.
#[derive(Clone, Debug, Default)]
pub struct RecentLatencies {
    millis: Vec<u32>,
    next: usize,
}

/// Times that are kept.
const KEPT: usize = 64;

/// Times that must be known before their slowest mean anything.
const SAMPLES: usize = 20;

impl RecentLatencies {
    /// One more.
    pub fn add(&mut self, time: Duration) {
        let millis = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        match self.millis.get_mut(self.next) {
            Some(slot) => *slot = millis,
            None => self.millis.push(millis),
        }
        self.next = (self.next + 1) % KEPT;
    }

    /// The time in which 95 of 100 have come.
    pub fn p95(&self) -> Option<Duration> {
        if self.millis.len() < SAMPLES {
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
    fn the_slowest_of_the_last_times() {
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
