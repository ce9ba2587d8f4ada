//! Records what this instance observed of each candidate: outcomes, pauses, limits and latencies. Decides no order;
//! `routing.rs` does.

mod condition;

use std::{collections::BTreeMap, time::Duration};

use super::{
    breaker::{Breaker, BreakerState, LONGEST_PAUSE, Probe},
    hedge::RecentLatencies,
    rate_limit::RateLimit,
};
use crate::{
    error::{ErrorClass, ProviderError},
    model::Candidate,
    time::Timestamp,
};
pub use condition::Condition;

/// Observations of each candidate and of each key of its provider. Held in memory only, since they are cheap to
/// relearn.
#[derive(Debug, Default)]
pub struct Health {
    candidates: BTreeMap<Candidate, CandidateHealth>,
    /// How many of them the configuration lists. Clients name the others, so only [`MAX_NAMED`] of them are kept.
    listed: usize,
    /// The number of calls so far.
    calls: u64,
    /// The end of the pause of each refused key, by provider and number of the key.
    keys: BTreeMap<(String, usize), Timestamp>,
}

/// Observations of one candidate.
#[derive(Clone, Debug, Default)]
pub struct CandidateHealth {
    /// Its circuit breaker.
    pub breaker: Breaker,
    /// The end of a pause after a refusal, during which it is tried after the others.
    parked_until: Option<Timestamp>,
    /// What is left of the provider's rate limits.
    pub limits: RateLimit,
    /// When a limit that is used up resets.
    limits_until: Option<Timestamp>,
    /// The moving average of the time to the first content, in milliseconds; each new value weighs a quarter.
    pub latency_millis: Option<u64>,
    /// The same with a penalty for each failure, by which candidates are ordered.
    pub penalized_latency_millis: Option<u64>,
    recent: RecentLatencies,
    /// The class and time of the last failure.
    pub last_failure: Option<(ErrorClass, Timestamp)>,
    /// Why that failed, in the node's words.
    pub last_failure_cause: Option<String>,
    /// The provider's own text about it, for callers with the scope `admin`.
    pub last_failure_text: Option<Box<str>>,
    /// The time of the last complete answer.
    pub last_success: Option<Timestamp>,
    /// Calls in flight.
    pub in_flight: u32,
    /// Whether the configuration lists it, so that it is never forgotten.
    is_listed: bool,
    /// The number of the last call of it.
    last_call: u64,
}

/// Most candidates that clients name, by wildcards, and that are kept: more than any vendor has models.
const MAX_NAMED: usize = 256;

/// The pause after a rate limit without `retry-after`.
const SHORT_PAUSE: Duration = Duration::from_secs(5);

/// The pause after a failure of the account or key. A minute, since it may be a passing fault of the vendor: failing
/// key stores have answered 401.
const ACCOUNT_PAUSE: Duration = Duration::from_secs(60);

/// The latency that a failure counts as, so that a candidate that fails quickly does not seem fast (as in Linkerd's
/// load biaser).
const PENALTY_MILLIS: u64 = 5_000;

impl CandidateHealth {
    /// Until when it is tried after all ready candidates; `None` if it is not parked.
    pub fn parked_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.parked_until.max(self.limits_until).filter(|until| *until > now)
    }

    /// Whether the last call succeeded.
    pub fn is_proven(&self) -> bool {
        self.last_success.is_some() && self.last_success >= self.last_failure.map(|(_, at)| at)
    }

    /// Whether the last call failed.
    pub fn is_suspect(&self) -> bool {
        self.last_failure.map(|(_, at)| at) > self.last_success
    }
}

/// Adds a value to a moving average.
fn add_latency(average: &mut Option<u64>, millis: u64) {
    *average = Some(average.map_or(millis, |usual| usual.saturating_mul(3).saturating_add(millis) / 4));
}

impl Health {
    /// No observations yet of the candidates that the configuration lists.
    pub fn new(listed: impl Iterator<Item = Candidate>) -> Self {
        let record = CandidateHealth { is_listed: true, ..CandidateHealth::default() };
        let candidates: BTreeMap<_, _> = listed.map(|candidate| (candidate, record.clone())).collect();
        Self { listed: candidates.len(), candidates, ..Self::default() }
    }

    /// The candidates that clients have named lately, by wildcards.
    pub fn named(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter().filter(|(_, record)| !record.is_listed).map(|(candidate, _)| candidate)
    }

    /// Records the start of a call. Returns its number if it is a probe.
    pub fn begin(&mut self, candidate: &Candidate, now: Timestamp) -> Option<Probe> {
        self.make_room(candidate);
        self.calls += 1;
        let call = self.calls;
        let record = self.record(candidate);
        record.last_call = call;
        record.in_flight += 1;
        // Calls in flight use up the limit, until the provider reports it anew.
        record.limits.requests = record.limits.requests.map(|left| left.saturating_sub(1));
        record.breaker.begin(now)
    }

    /// Records the end of a call, whatever its outcome.
    pub fn end(&mut self, candidate: &Candidate, probe: Option<Probe>) {
        let record = self.record(candidate);
        record.in_flight = record.in_flight.saturating_sub(1);
        if let Some(probe) = probe {
            record.breaker.end(probe);
        }
    }

    /// Records the first content of a call and the time to it. With that, a probe has succeeded and admits the next call.
    pub fn record_first_content(
        &mut self,
        candidate: &Candidate,
        after: Duration,
        probe: Option<Probe>,
        now: Timestamp,
    ) {
        let record = self.record(candidate);
        if let Some(probe) = probe {
            record.breaker.end(probe);
            record.breaker.record_probe(now);
        }
        let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        add_latency(&mut record.latency_millis, millis);
        add_latency(&mut record.penalized_latency_millis, millis);
        record.recent.add(after);
    }

    /// Records a complete answer.
    pub fn record_success(&mut self, candidate: &Candidate, now: Timestamp) {
        let record = self.record(candidate);
        // A probe has been recorded with its first content.
        record.breaker.record_success(false, now);
        record.last_success = Some(now);
        record.parked_until = None;
    }

    /// Records a failure. `chance` is a random number that spreads the ends of pauses.
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
            // The request is at fault: for the breaker the provider works, but this is no complete answer either.
            ErrorClass::Caller
            | ErrorClass::ContentPolicy
            | ErrorClass::ContextLength
            | ErrorClass::Incapable
            | ErrorClass::BoundThoughts => {
                return record.breaker.record_success(probe, now);
            }
            // The candidate was not called.
            ErrorClass::Unsupported | ErrorClass::Budget => return,
            // The provider works and refuses this account: a pause, and no probes.
            ErrorClass::RateLimited => error.retry_after.unwrap_or(SHORT_PAUSE),
            ErrorClass::Quota | ErrorClass::Auth | ErrorClass::ModelNotFound => {
                error.retry_after.unwrap_or(ACCOUNT_PAUSE)
            }
            ErrorClass::Overloaded | ErrorClass::Server | ErrorClass::Timeout | ErrorClass::Truncated => {
                record.breaker.record_failure(probe, error.retry_after, now, chance);
                error.retry_after.unwrap_or_default()
            }
        };
        record.last_failure = Some((error.class, now));
        (record.last_failure_cause, record.last_failure_text) = (Some(error.cause()), error.text.clone());
        add_latency(&mut record.penalized_latency_millis, PENALTY_MILLIS);
        if !pause.is_zero() {
            record.parked_until = Some(now + pause.min(LONGEST_PAUSE));
        }
    }

    /// Records the rate limits that a provider reports. A limit that is used up parks the candidate until it resets.
    pub fn record_limits(&mut self, candidate: &Candidate, limits: RateLimit, now: Timestamp) {
        if limits == RateLimit::default() {
            return;
        }
        let record = self.record(candidate);
        record.limits = limits;
        record.limits_until = limits.wait.map(|wait| now + wait.min(LONGEST_PAUSE));
    }

    /// Pauses a key of a provider after a refusal of the key, its quota or its rate limit.
    pub fn pause_key(&mut self, provider: &str, key: usize, error: &ProviderError, now: Timestamp) {
        let pause = match error.class {
            ErrorClass::RateLimited => error.retry_after.unwrap_or(SHORT_PAUSE),
            ErrorClass::Quota | ErrorClass::Auth => error.retry_after.unwrap_or(ACCOUNT_PAUSE),
            _ => return,
        };
        self.keys.insert((provider.to_owned(), key), now + pause.min(LONGEST_PAUSE));
    }

    /// The number of the first of `count` keys of a provider that is not paused, or else of the one available soonest.
    pub fn pick_key(&self, provider: &str, count: usize, now: Timestamp) -> usize {
        if count < 2 {
            return 0;
        }
        let paused_until =
            |key: usize| self.keys.get(&(provider.to_owned(), key)).filter(|until| **until > now);
        (0..count).min_by_key(|key| paused_until(*key)).unwrap_or_default()
    }

    /// Whether any of `count` keys of a provider is not paused.
    pub fn has_key(&self, provider: &str, count: usize, now: Timestamp) -> bool {
        let key = self.pick_key(provider, count, now);
        self.keys.get(&(provider.to_owned(), key)).is_none_or(|until| *until <= now)
    }

    /// Whether the breaker of the candidate admits a call.
    pub fn admits(&self, candidate: &Candidate, now: Timestamp) -> bool {
        self.candidates.get(candidate).is_none_or(|record| record.breaker.admits(now))
    }

    /// Whether the candidate has answered and its breaker is closed, so that a failure just now may be a passing one.
    pub fn has_been_well(&self, candidate: &Candidate) -> bool {
        let is_well =
            |record: &CandidateHealth| record.last_success.is_some() && record.breaker.open_until().is_none();
        self.candidates.get(candidate).is_some_and(is_well)
    }

    /// The rank of the candidate at `now`.
    pub(super) fn availability(&self, candidate: &Candidate, now: Timestamp) -> Availability {
        let Some(record) = self.candidates.get(candidate) else { return Availability::Ready };
        match (record.breaker.state(now), record.parked_until(now)) {
            (BreakerState::Open, _) => Availability::Open(record.breaker.open_until().unwrap_or(now)),
            (BreakerState::HalfOpen, _) if !record.breaker.admits(now) => Availability::Open(now),
            (BreakerState::Closed | BreakerState::HalfOpen, Some(until)) => Availability::Parked(until),
            (BreakerState::Closed | BreakerState::HalfOpen, None) => Availability::Ready,
        }
    }

    /// The 95th percentile of the time to the first content; `None` with few samples or a breaker that is not closed.
    pub fn p95(&self, candidate: &Candidate) -> Option<Duration> {
        let record = self.candidates.get(candidate)?;
        record.recent.p95().filter(|_| record.breaker.open_until().is_none())
    }

    /// Whether the last call of the candidate succeeded.
    pub fn is_proven(&self, candidate: &Candidate) -> bool {
        self.candidates.get(candidate).is_some_and(CandidateHealth::is_proven)
    }

    /// When the candidate is ready again; `None` if it is ready now.
    pub fn available_at(&self, candidate: &Candidate, now: Timestamp) -> Option<Timestamp> {
        match self.availability(candidate, now) {
            Availability::Ready => None,
            Availability::Parked(until) | Availability::Open(until) => Some(until),
        }
    }

    /// A copy of the observations of the candidate.
    pub fn candidate(&self, candidate: &Candidate) -> CandidateHealth {
        self.candidates.get(candidate).cloned().unwrap_or_default()
    }

    /// Forgets a candidate that clients named if there is no room for another: of those without calls in flight first
    /// one that has never answered, since any name can be requested, then the one not called for the longest time.
    fn make_room(&mut self, candidate: &Candidate) {
        if self.candidates.contains_key(candidate) || self.candidates.len() - self.listed < MAX_NAMED {
            return;
        }
        let idle = self.candidates.iter().filter(|(_, record)| !record.is_listed && record.in_flight == 0);
        let oldest = idle.min_by_key(|(_, record)| (record.last_success.is_some(), record.last_call));
        if let Some(oldest) = oldest.map(|(candidate, _)| candidate.clone()) {
            self.candidates.remove(&oldest);
        }
    }

    fn record(&mut self, candidate: &Candidate) -> &mut CandidateHealth {
        self.candidates.entry(candidate.clone()).or_default()
    }
}

/// The rank of a candidate, best first: ready ones, then parked ones and those with an open breaker, each with the time
/// at which it is available again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Availability {
    Ready,
    Parked(Timestamp),
    Open(Timestamp),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate() -> Candidate {
        Candidate { provider: "p".into(), model: "m".into() }
    }

    fn availability_after(errors: &[(ErrorClass, Option<u64>)]) -> Availability {
        let mut health = Health::default();
        for (class, retry_after) in errors {
            let retry_after = retry_after.map(Duration::from_secs);
            let error = ProviderError { retry_after, ..ProviderError::new(*class, "") };
            health.record_failure(&candidate(), &error, false, Timestamp(0), u32::MAX);
        }
        health.availability(&candidate(), Timestamp(0))
    }

    #[test]
    fn each_class_of_failure_has_its_pause() {
        let parked = |seconds: u64| Availability::Parked(Timestamp(seconds * 1000));
        let open = |seconds: u64| Availability::Open(Timestamp(seconds * 1000));
        assert_eq!(availability_after(&[(ErrorClass::RateLimited, Some(7))]), parked(7));
        assert_eq!(
            availability_after(&[(ErrorClass::RateLimited, None); 9]),
            parked(5),
            "rate limits do not open the breaker"
        );
        assert_eq!(availability_after(&[(ErrorClass::RateLimited, Some(9999))]), parked(300));
        assert_eq!(availability_after(&[(ErrorClass::Auth, None)]), parked(60));
        assert_eq!(availability_after(&[(ErrorClass::Caller, Some(7))]), Availability::Ready);
        assert_eq!(availability_after(&[(ErrorClass::Server, None); 2]), Availability::Ready);
        assert_eq!(availability_after(&[(ErrorClass::Server, None); 3]), open(5));
    }

    #[test]
    fn a_failure_counts_as_slow_but_is_no_measured_latency() {
        let mut health = Health::default();
        let error = ProviderError::new(ErrorClass::Server, "");
        health.record_failure(&candidate(), &error, false, Timestamp(0), 0);
        let seen = health.candidate(&candidate());
        assert_eq!((seen.latency_millis, seen.penalized_latency_millis), (None, Some(5_000)));
        health.record_first_content(&candidate(), Duration::from_millis(100), None, Timestamp(0));
        let seen = health.candidate(&candidate());
        assert_eq!((seen.latency_millis, seen.penalized_latency_millis), (Some(100), Some(3_775)));
    }

    #[test]
    fn a_used_up_limit_parks_the_candidate_until_it_resets() {
        let mut health = Health::default();
        let wait = Some(Duration::from_secs(60));
        health.record_limits(
            &candidate(),
            RateLimit { requests: Some(0), wait, ..RateLimit::default() },
            Timestamp(0),
        );
        health.record_success(&candidate(), Timestamp(0));
        assert_eq!(
            health.availability(&candidate(), Timestamp(59_000)),
            Availability::Parked(Timestamp(60_000))
        );
        assert_eq!(health.availability(&candidate(), Timestamp(60_000)), Availability::Ready);
    }

    #[test]
    fn a_refused_key_is_replaced_by_the_next() {
        let mut health = Health::default();
        let now = Timestamp(0);
        assert_eq!(health.pick_key("p", 3, now), 0);
        health.pause_key("p", 0, &ProviderError::new(ErrorClass::Auth, ""), now);
        assert_eq!(health.pick_key("p", 3, now), 1);
        health.pause_key("p", 1, &ProviderError::new(ErrorClass::RateLimited, ""), now);
        health.pause_key("p", 2, &ProviderError::new(ErrorClass::Quota, ""), now);
        assert!(!health.has_key("p", 3, now));
        assert_eq!(health.pick_key("p", 3, now), 1, "the key available soonest");
        assert_eq!(health.pick_key("p", 3, Timestamp(60_000)), 0);
    }

    #[test]
    fn names_of_clients_are_forgotten_and_listed_candidates_are_not() {
        let name = |n: usize| Candidate { provider: "p".into(), model: format!("x{n}") };
        let mut health = Health::new([candidate()].into_iter());
        let call = |health: &mut Health, candidate: &Candidate| {
            let probe = health.begin(candidate, Timestamp(0));
            health.end(candidate, probe);
        };
        call(&mut health, &candidate());
        health.begin(&name(0), Timestamp(0));
        call(&mut health, &name(1));
        health.record_success(&name(1), Timestamp(1));
        for n in 2..10 * MAX_NAMED {
            call(&mut health, &name(n));
        }
        assert_eq!(health.candidates.len(), MAX_NAMED + 1);
        assert!(health.candidates.contains_key(&candidate()), "listed");
        assert_eq!(health.candidate(&name(0)).in_flight, 1, "in flight");
        assert!(health.is_proven(&name(1)), "it has answered");
        assert!(health.named().any(|named| *named == name(10 * MAX_NAMED - 1)), "the newest");
        for n in 0..2 * MAX_NAMED {
            health.begin(&name(n), Timestamp(2));
            health.record_success(&name(n), Timestamp(2));
            health.end(&name(n), None);
        }
        assert!(!health.is_proven(&name(1)), "not called for long");
    }
}
