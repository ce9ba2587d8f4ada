//! The health of a candidate in one word, for people. Routing decides by breakers and pauses, not by this.

use super::CandidateHealth;
use crate::{error::ErrorClass, routing::breaker::BreakerState, time::Timestamp};

/// How a candidate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Its last call succeeded.
    Healthy,
    /// Its last call failed, and calls still flow.
    Degraded,
    /// A limit of the provider is used up; it is called last until the limit resets.
    RateLimited,
    /// Its breaker is open, or the provider refuses the account or the model.
    Down,
    /// Its breaker lets single calls through, to see whether it works again.
    Probing,
    /// This instance has not called it yet.
    Untried,
}

impl Condition {
    /// The word in the status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::RateLimited => "rate_limited",
            Self::Down => "down",
            Self::Probing => "probing",
            Self::Untried => "untried",
        }
    }
}

impl CandidateHealth {
    /// How the candidate is at `now`.
    pub fn condition(&self, now: Timestamp) -> Condition {
        match self.breaker.state(now) {
            BreakerState::Open => return Condition::Down,
            BreakerState::HalfOpen => return Condition::Probing,
            BreakerState::Closed => {}
        }
        let last_failure = self.last_failure.map(|(class, _)| class);
        let is_parked = self.parked_until.is_some_and(|until| until > now);
        match last_failure {
            _ if self.limits_until.is_some_and(|until| until > now) => Condition::RateLimited,
            Some(ErrorClass::RateLimited) if is_parked => Condition::RateLimited,
            Some(ErrorClass::Auth | ErrorClass::Quota | ErrorClass::ModelNotFound) if is_parked => {
                Condition::Down
            }
            Some(_) if self.is_suspect() => Condition::Degraded,
            _ if self.last_success.is_some() => Condition::Healthy,
            _ => Condition::Untried,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        error::ProviderError, model::Candidate, routing::health::Health, routing::rate_limit::RateLimit,
    };

    /// The condition a second after these failures, each of them a second after a success.
    fn check(failures: &[ErrorClass], expected: Condition) {
        let (mut health, candidate) =
            (Health::default(), Candidate { provider: "p".into(), model: "m".into() });
        health.record_success(&candidate, Timestamp(0));
        for class in failures {
            health.record_failure(
                &candidate,
                &ProviderError::new(*class, ""),
                false,
                Timestamp(1000),
                u32::MAX,
            );
        }
        assert_eq!(health.candidate(&candidate).condition(Timestamp(2000)), expected, "{failures:?}");
    }

    #[test]
    fn each_history_has_its_word() {
        check(&[], Condition::Healthy);
        check(&[ErrorClass::Server], Condition::Degraded);
        check(&[ErrorClass::Caller], Condition::Healthy);
        check(&[ErrorClass::RateLimited], Condition::RateLimited);
        check(&[ErrorClass::Auth], Condition::Down);
        check(&[ErrorClass::Server; 3], Condition::Down);
    }

    #[test]
    fn time_and_limits_change_the_word() {
        let candidate = Candidate { provider: "p".into(), model: "m".into() };
        let mut health = Health::default();
        let condition =
            |health: &Health, seconds: u64| health.candidate(&candidate).condition(Timestamp(seconds * 1000));
        assert_eq!(condition(&health, 0), Condition::Untried);
        for _ in 0..3 {
            let error = ProviderError::new(ErrorClass::Server, "");
            health.record_failure(&candidate, &error, false, Timestamp(0), 0);
        }
        assert_eq!([condition(&health, 0), condition(&health, 300)], [Condition::Down, Condition::Probing]);
        let used_up =
            RateLimit { requests: Some(0), wait: Some(Duration::from_secs(60)), ..RateLimit::default() };
        let mut limited = Health::default();
        limited.record_success(&candidate, Timestamp(0));
        limited.record_limits(&candidate, used_up, Timestamp(0));
        assert_eq!(
            [condition(&limited, 59), condition(&limited, 60)],
            [Condition::RateLimited, Condition::Healthy]
        );
    }
}
