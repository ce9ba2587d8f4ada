//! How the candidates are, as far as this instance has seen.

use std::{collections::BTreeMap, time::Duration};

use super::{
    breaker::{Breaker, BreakerState, LONGEST_PAUSE},
    hedge::RecentLatencies,
    rate_limit::RateLimit,
};
use crate::{
    error::{ErrorClass, ProviderError},
    model::Candidate,
    time::Timestamp,
};

/// What was seen of each candidate, and of each key of its provider. Kept in memory only: it is cheap to learn again.
#[derive(Debug, Default)]
pub struct Health {
    candidates: BTreeMap<Candidate, CandidateHealth>,
    /// Keys that were refused, by provider and number, and until when they rest.
    keys: BTreeMap<(String, usize), Timestamp>,
}

/// What was seen of one candidate.
#[derive(Clone, Debug, Default)]
pub struct CandidateHealth {
    /// Whether calls flow.
    pub breaker: Breaker,
    /// Until when it comes after the others, though nothing speaks against it.
    parked_until: Option<Timestamp>,
    /// What is left of its limits.
    pub limits: RateLimit,
    limits_until: Option<Timestamp>,
    /// The usual time to the first content, in milliseconds; a newer one counts a quarter.
    pub latency_millis: Option<u64>,
    recent: RecentLatencies,
    /// The last failure, and when it was.
    pub last_failure: Option<(ErrorClass, Timestamp)>,
    /// When it last answered.
    pub last_success: Option<Timestamp>,
    /// Calls under way.
    pub in_flight: u32,
}

/// A pause that a provider did not name, after it said that we are too fast.
const SHORT_PAUSE: Duration = Duration::from_secs(5);

/// Pause after a failure that a moment does not mend, and that may still be the vendor's passing fault: key stores have
/// failed as 401.
const ACCOUNT_PAUSE: Duration = Duration::from_secs(60);

/// What a refusal counts as, so that a candidate that refuses quickly does not look quick (Linkerd's load biaser).
const PENALTY_MILLIS: u64 = 5_000;

impl CandidateHealth {
    /// Until when it comes after all that are well; `None` if it is well.
    pub fn parked_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.parked_until.max(self.limits_until).filter(|until| *until > now)
    }

    /// Whether the last that was seen is a whole answer.
    pub fn is_proven(&self) -> bool {
        self.last_success.is_some() && self.last_success >= self.last_failure.map(|(_, at)| at)
    }

    /// Whether the last that was seen is a failure.
    pub fn is_suspect(&self) -> bool {
        self.last_failure.map(|(_, at)| at) > self.last_success
    }

    fn latency(&mut self, millis: u64) {
        self.latency_millis = Some(self.latency_millis.map_or(millis, |usual| (usual * 3 + millis) / 4));
    }
}

impl Health {
    /// A call begins. Says whether it is a probe.
    pub fn begin(&mut self, candidate: &Candidate) -> bool {
        let record = self.record(candidate);
        record.in_flight += 1;
        // What is left of a limit is used up by what is under way, until the provider says anew.
        record.limits.requests = record.limits.requests.map(|left| left.saturating_sub(1));
        record.breaker.begin()
    }

    /// A call has ended, whatever came of it.
    pub fn end(&mut self, candidate: &Candidate, probe: bool) {
        let record = self.record(candidate);
        record.in_flight = record.in_flight.saturating_sub(1);
        record.breaker.end(probe);
    }

    /// The first content came after so long.
    pub fn record_first_content(&mut self, candidate: &Candidate, after: Duration) {
        let record = self.record(candidate);
        record.latency(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        record.recent.add(after);
    }

    /// The candidate gave a whole answer.
    pub fn record_success(&mut self, candidate: &Candidate, probe: bool, now: Timestamp) {
        let record = self.record(candidate);
        record.breaker.succeeded(probe, now);
        record.last_success = Some(now);
        record.parked_until = None;
    }

    /// The candidate failed. `chance` is a random number: it spreads the ends of pauses.
    pub fn record_failure(
        &mut self,
        candidate: &Candidate,
        error: &ProviderError,
        probe: bool,
        now: Timestamp,
        chance: u32,
    ) {
        let record = self.record(candidate);
        let pause = match error.class {
            // They say nothing about the provider, except that it is there.
            ErrorClass::Caller
            | ErrorClass::ContentPolicy
            | ErrorClass::ContextLength
            | ErrorClass::Bound => {
                return record.breaker.succeeded(probe, now);
            }
            ErrorClass::Unsupported | ErrorClass::Budget => return,
            ErrorClass::RateLimited => error.retry_after.unwrap_or(SHORT_PAUSE),
            ErrorClass::Quota | ErrorClass::Auth | ErrorClass::NotHere => {
                error.retry_after.unwrap_or(ACCOUNT_PAUSE)
            }
            ErrorClass::Overloaded | ErrorClass::Server | ErrorClass::Timeout | ErrorClass::Truncated => {
                record.breaker.failed(probe, error.retry_after, now, chance);
                error.retry_after.unwrap_or_default()
            }
        };
        record.last_failure = Some((error.class, now));
        record.latency(PENALTY_MILLIS);
        if !pause.is_zero() {
            record.parked_until = Some(now + pause.min(LONGEST_PAUSE));
        }
    }

    /// What the provider says about its limits. One that is used up parks the candidate before it refuses.
    pub fn record_limits(&mut self, candidate: &Candidate, limits: RateLimit, now: Timestamp) {
        if limits == RateLimit::default() {
            return;
        }
        let record = self.record(candidate);
        record.limits = limits;
        record.limits_until = limits.wait.map(|wait| now + wait.min(LONGEST_PAUSE));
    }

    /// A key of a provider was refused, or is out of money or of its limit.
    pub fn rest_key(&mut self, provider: &str, key: usize, error: &ProviderError, now: Timestamp) {
        let pause = match error.class {
            ErrorClass::RateLimited => error.retry_after.unwrap_or(SHORT_PAUSE),
            ErrorClass::Quota | ErrorClass::Auth => error.retry_after.unwrap_or(ACCOUNT_PAUSE),
            _ => return,
        };
        self.keys.insert((provider.to_owned(), key), now + pause.min(LONGEST_PAUSE));
    }

    /// The first of `count` keys of a provider that does not rest, or the one that has rested longest.
    pub fn key(&self, provider: &str, count: usize, now: Timestamp) -> usize {
        if count < 2 {
            return 0;
        }
        let rests = |key: usize| self.keys.get(&(provider.to_owned(), key)).filter(|until| **until > now);
        (0..count).min_by_key(|key| rests(*key)).unwrap_or_default()
    }

    /// Whether one of `count` keys of a provider does not rest.
    pub fn has_key(&self, provider: &str, count: usize, now: Timestamp) -> bool {
        let key = self.key(provider, count, now);
        self.keys.get(&(provider.to_owned(), key)).is_none_or(|until| *until <= now)
    }

    /// Whether a call of the candidate may begin now.
    pub fn admits(&self, candidate: &Candidate) -> bool {
        self.candidates.get(candidate).is_none_or(|record| record.breaker.admits())
    }

    /// Where the candidate stands: calls flow to those that are well, in the order of preference; then come those that
    /// are parked, then those whose breaker is open, each the soonest back first.
    pub(super) fn availability(&self, candidate: &Candidate, now: Timestamp) -> Availability {
        let Some(record) = self.candidates.get(candidate) else { return Availability::Well };
        match (record.breaker.state(now), record.parked_until(now)) {
            (BreakerState::Open, _) => Availability::Open(record.breaker.until().unwrap_or(now)),
            (BreakerState::HalfOpen, _) if !record.breaker.admits() => Availability::Open(now),
            (BreakerState::Closed | BreakerState::HalfOpen, Some(until)) => Availability::Parked(until),
            (BreakerState::Closed | BreakerState::HalfOpen, None) => Availability::Well,
        }
    }

    /// The time in which the candidate usually has its first content, while nothing speaks against it.
    pub fn p95(&self, candidate: &Candidate) -> Option<Duration> {
        let record = self.candidates.get(candidate)?;
        record.recent.p95().filter(|_| record.breaker.until().is_none())
    }

    /// Whether the last that was seen of the candidate is a whole answer.
    pub fn is_proven(&self, candidate: &Candidate) -> bool {
        self.candidates.get(candidate).is_some_and(CandidateHealth::is_proven)
    }

    /// When it will be asked again, if it is not now.
    pub fn back_at(&self, candidate: &Candidate, now: Timestamp) -> Option<Timestamp> {
        match self.availability(candidate, now) {
            Availability::Well => None,
            Availability::Parked(until) | Availability::Open(until) => Some(until),
        }
    }

    /// What was seen of the candidate.
    pub fn candidate(&self, candidate: &Candidate) -> CandidateHealth {
        self.candidates.get(candidate).cloned().unwrap_or_default()
    }

    fn record(&mut self, candidate: &Candidate) -> &mut CandidateHealth {
        self.candidates.entry(candidate.clone()).or_default()
    }
}

/// Where a candidate stands, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Availability {
    Well,
    Parked(Timestamp),
    Open(Timestamp),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate() -> Candidate {
        Candidate { provider: "p".into(), model: "m".into() }
    }

    fn standing(errors: &[(ErrorClass, Option<u64>)]) -> Availability {
        let mut health = Health::default();
        for (class, retry_after) in errors {
            let retry_after = retry_after.map(Duration::from_secs);
            let error = ProviderError { retry_after, ..ProviderError::new(*class, "") };
            health.record_failure(&candidate(), &error, false, Timestamp(0), u32::MAX);
        }
        health.availability(&candidate(), Timestamp(0))
    }

    #[test]
    fn pauses_fit_the_failure() {
        let parked = |seconds: u64| Availability::Parked(Timestamp(seconds * 1000));
        let open = |seconds: u64| Availability::Open(Timestamp(seconds * 1000));
        assert_eq!(standing(&[(ErrorClass::RateLimited, Some(7))]), parked(7));
        assert_eq!(standing(&[(ErrorClass::RateLimited, None); 9]), parked(5), "no breaker: it works");
        assert_eq!(standing(&[(ErrorClass::RateLimited, Some(9999))]), parked(300));
        assert_eq!(standing(&[(ErrorClass::Auth, None)]), parked(60));
        assert_eq!(standing(&[(ErrorClass::Caller, Some(7))]), Availability::Well);
        assert_eq!(standing(&[(ErrorClass::Server, None); 2]), Availability::Well);
        assert_eq!(standing(&[(ErrorClass::Server, None); 3]), open(5));
    }

    #[test]
    fn what_is_used_up_is_not_asked_before_it_is_back() {
        let mut health = Health::default();
        let wait = Some(Duration::from_secs(60));
        health.record_limits(
            &candidate(),
            RateLimit { requests: Some(0), wait, ..RateLimit::default() },
            Timestamp(0),
        );
        health.record_success(&candidate(), false, Timestamp(0));
        assert_eq!(
            health.availability(&candidate(), Timestamp(59_000)),
            Availability::Parked(Timestamp(60_000))
        );
        assert_eq!(health.availability(&candidate(), Timestamp(60_000)), Availability::Well);
    }

    #[test]
    fn keys_take_turns_when_they_are_refused() {
        let mut health = Health::default();
        let now = Timestamp(0);
        assert_eq!(health.key("p", 3, now), 0);
        health.rest_key("p", 0, &ProviderError::new(ErrorClass::Auth, ""), now);
        assert_eq!(health.key("p", 3, now), 1);
        health.rest_key("p", 1, &ProviderError::new(ErrorClass::RateLimited, ""), now);
        health.rest_key("p", 2, &ProviderError::new(ErrorClass::Quota, ""), now);
        assert!(!health.has_key("p", 3, now));
        assert_eq!(health.key("p", 3, now), 1, "the soonest back");
        assert_eq!(health.key("p", 3, Timestamp(60_000)), 0);
    }
}
