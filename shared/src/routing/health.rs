//! How the candidates are, as far as this instance has seen.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    config::Candidate,
    platform::Timestamp,
    provider::{Class, ProviderError},
};

/// What was seen of each candidate. Kept in memory only: it is cheap to learn again.
#[derive(Debug, Default)]
pub struct Health(BTreeMap<Candidate, State>);

/// What was seen of one candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Failures since the last success that say something about the provider.
    pub failures: u32,
    /// Until when it comes after all others.
    pub parked_until: Option<Timestamp>,
    /// The class of the last failure.
    pub last: Option<Class>,
}

/// Failures in a row that park a candidate; fewer may be chance.
const FAILURES: u32 = 3;

/// First pause of a candidate that keeps failing; it doubles with each further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// Longest pause, also of those that a provider asks for: a wrong answer must not shut it out for long.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Pause after a failure that a moment does not mend, and that may still be the vendor's passing fault.
const ACCOUNT_PAUSE: Duration = Duration::from_secs(60);

impl Health {
    /// The candidate answered.
    pub fn succeeded(&mut self, candidate: &Candidate) {
        // Nothing is kept of those that are well, so that the common case writes nothing.
        self.0.remove(candidate);
    }

    /// The candidate failed. `chance` is a random number: it spreads the ends of pauses over half their length.
    pub fn failed(&mut self, candidate: &Candidate, error: &ProviderError, now: Timestamp, chance: u32) {
        let fixed = match error.class {
            // They say nothing about the provider.
            Class::Caller
            | Class::ContentPolicy
            | Class::ContextLength
            | Class::Unsupported
            | Class::Bound => return,
            Class::RateLimited => Some(error.retry_after.unwrap_or(FIRST_PAUSE)),
            Class::Quota | Class::Auth | Class::NotHere => Some(error.retry_after.unwrap_or(ACCOUNT_PAUSE)),
            Class::Overloaded | Class::Server | Class::Timeout | Class::Truncated => error.retry_after,
        };
        let state = self.0.entry(candidate.clone()).or_default();
        state.failures = state.failures.saturating_add(1);
        state.last = Some(error.class);
        let grown = state.failures.checked_sub(FAILURES).map(|doublings| {
            let pause = FIRST_PAUSE.saturating_mul(1 << doublings.min(16)).min(LONGEST_PAUSE);
            pause.mul_f64(0.5 + 0.5 * f64::from(chance) / f64::from(u32::MAX))
        });
        if let Some(pause) = fixed.max(grown) {
            state.parked_until = Some(now + pause.min(LONGEST_PAUSE));
        }
    }

    /// Until when the candidate is parked; `None` if it is not.
    pub fn parked_until(&self, candidate: &Candidate, now: Timestamp) -> Option<Timestamp> {
        self.0.get(candidate)?.parked_until.filter(|until| *until > now)
    }

    /// What was seen of the candidate.
    pub fn state(&self, candidate: &Candidate) -> State {
        self.0.get(candidate).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked_for(errors: &[(Class, Option<u64>)]) -> Option<u64> {
        let (mut health, candidate) =
            (Health::default(), Candidate { provider: "p".into(), model: "m".into() });
        for (class, retry_after) in errors {
            let retry_after = retry_after.map(Duration::from_secs);
            let error = ProviderError { retry_after, ..ProviderError::new(*class, "") };
            health.failed(&candidate, &error, Timestamp(0), u32::MAX);
        }
        let until = health.parked_until(&candidate, Timestamp(0));
        health.succeeded(&candidate);
        assert_eq!(health.parked_until(&candidate, Timestamp(0)), None, "a success forgets all");
        until.map(Timestamp::unix_seconds)
    }

    #[test]
    fn pauses_fit_the_failure() {
        assert_eq!(parked_for(&[(Class::RateLimited, Some(7))]), Some(7));
        assert_eq!(parked_for(&[(Class::RateLimited, None)]), Some(5));
        assert_eq!(parked_for(&[(Class::RateLimited, Some(9999))]), Some(300));
        assert_eq!(parked_for(&[(Class::Auth, None)]), Some(60));
        assert_eq!(parked_for(&[(Class::Caller, Some(7))]), None);
        assert_eq!(parked_for(&[(Class::Server, None); 2]), None);
        assert_eq!(parked_for(&[(Class::Server, None); 3]), Some(5));
        assert_eq!(parked_for(&[(Class::Server, None); 5]), Some(20));
        assert_eq!(parked_for(&[(Class::Server, None); 50]), Some(300));
    }
}
