//! Bounds the retries of all requests together, so that an outage does not multiply the load. Makes no calls.
//!
//! Only calls to candidates whose last call failed are counted; in an outage those are all.

use std::time::Duration;

use crate::time::Timestamp;

/// A budget of calls beyond the first of each request: a share of the requests, plus a minimum rate for quiet times, as
/// in Finagle.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    /// In thousandths of a call.
    balance: u64,
    refilled_at: Timestamp,
}

/// The cost of a call, in thousandths.
const CALL: u64 = 1000;

/// What each request deposits: a fifth of a call.
const PER_REQUEST: u64 = CALL / 5;

/// The interval at which time adds a call, so that a node with few requests can still fail over.
const CALL_INTERVAL: Duration = Duration::from_secs(2);

/// Largest balance: what time adds in a minute.
const MAX_BALANCE: u64 = 30 * CALL;

impl Default for RetryBudget {
    fn default() -> Self {
        Self { balance: MAX_BALANCE, refilled_at: Timestamp(0) }
    }
}

impl RetryBudget {
    /// Adds the share of one request.
    pub fn deposit(&mut self, now: Timestamp) {
        self.refill(now);
        self.balance = (self.balance + PER_REQUEST).min(MAX_BALANCE);
    }

    /// Takes one call. Returns whether the balance allowed it.
    pub fn withdraw(&mut self, now: Timestamp) -> bool {
        self.refill(now);
        let left = self.balance.checked_sub(CALL);
        self.balance = left.unwrap_or(self.balance);
        left.is_some()
    }

    fn refill(&mut self, now: Timestamp) {
        let millis = u64::try_from(now.since(self.refilled_at).as_millis()).unwrap_or(u64::MAX);
        let gained =
            millis.saturating_mul(CALL) / u64::try_from(CALL_INTERVAL.as_millis()).unwrap_or(u64::MAX);
        if gained > 0 {
            (self.balance, self.refilled_at) = (self.balance.saturating_add(gained).min(MAX_BALANCE), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_fifth_of_the_requests_and_a_minimum_rate() {
        let (mut budget, now) = (RetryBudget::default(), Timestamp(1_000_000));
        let mut made = 0;
        for _ in 0..1000 {
            budget.deposit(now);
            made += u64::from(budget.withdraw(now));
        }
        assert_eq!(made, MAX_BALANCE / CALL + 1000 / 5 - 1);
        assert!(!budget.withdraw(now));
        assert!(budget.withdraw(now + CALL_INTERVAL) && !budget.withdraw(now + CALL_INTERVAL));
        assert!(!budget.withdraw(Timestamp(0)), "a clock that was set back gives nothing");
    }
}
