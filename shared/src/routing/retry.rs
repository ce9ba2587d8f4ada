//! Bounds the calls that are made beyond one for each request, so that an outage is not answered with a storm.
//!
//! Only calls of candidates whose last answer was a failure count: in an outage those are all.

use std::time::Duration;

use crate::time::Timestamp;

/// What is left for calls beyond the first of each request.
///
/// As Finagle's: a share of the requests, and a floor for quiet times.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    /// Thousandths of a call.
    balance: u64,
    filled: Timestamp,
}

/// A call, in thousandths.
const CALL: u64 = 1000;

/// What each request adds: one call for five requests.
const PER_REQUEST: u64 = CALL / 5;

/// What time adds: a call in two seconds, so that a node with few requests can still fail over.
const FLOOR: Duration = Duration::from_secs(2);

/// The most that is saved up: a minute of the floor.
const MOST: u64 = 30 * CALL;

impl Default for RetryBudget {
    fn default() -> Self {
        Self { balance: MOST, filled: Timestamp(0) }
    }
}

impl RetryBudget {
    /// A request has come.
    pub fn deposit(&mut self, now: Timestamp) {
        self.fill(now);
        self.balance = (self.balance + PER_REQUEST).min(MOST);
    }

    /// Takes one call, if there is one left.
    pub fn withdraw(&mut self, now: Timestamp) -> bool {
        self.fill(now);
        let left = self.balance.checked_sub(CALL);
        self.balance = left.unwrap_or(self.balance);
        left.is_some()
    }

    fn fill(&mut self, now: Timestamp) {
        let millis = u64::try_from(now.since(self.filled).as_millis()).unwrap_or(u64::MAX);
        let gained = millis.saturating_mul(CALL) / u64::try_from(FLOOR.as_millis()).unwrap_or(u64::MAX);
        if gained > 0 {
            (self.balance, self.filled) = (self.balance.saturating_add(gained).min(MOST), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_beyond_the_first_are_a_fifth_of_the_requests_and_a_floor() {
        let (mut budget, now) = (RetryBudget::default(), Timestamp(1_000_000));
        let mut made = 0;
        for _ in 0..1000 {
            budget.deposit(now);
            made += u64::from(budget.withdraw(now));
        }
        assert_eq!(made, MOST / CALL + 1000 / 5 - 1);
        assert!(!budget.withdraw(now));
        assert!(budget.withdraw(now + FLOOR) && !budget.withdraw(now + FLOOR));
        assert!(!budget.withdraw(Timestamp(0)), "a clock that was set back gives nothing");
    }
}
