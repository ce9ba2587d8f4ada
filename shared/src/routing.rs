//! Which candidate next. All of it is pure: state, time and chance go in, a decision comes out.

pub mod health;
pub mod price;

use std::{collections::VecDeque, time::Duration};

use crate::{
    config::{Candidate, Model},
    platform::Timestamp,
    provider::{Class, ProviderError},
};
use health::Health;

/// The way of one request through the candidates of its model.
#[derive(Debug)]
pub struct Route {
    untried: VecDeque<Candidate>,
    /// The one second try that a request has, and for whom.
    again: Again,
}

#[derive(Debug)]
enum Again {
    /// For the first candidate that fails in a way that may pass.
    Free,
    /// For this one, once all were tried.
    For(Candidate),
    /// Used up.
    Spent,
}

/// What to do after a failure.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait, then try this one.
    Try(Candidate, Duration),
    /// Nobody else can help.
    Stop,
}

/// The pause before a second try at a candidate, drawn from zero up to this: full jitter, so that the requests that
/// failed together do not come back together.
const AGAIN_WITHIN: Duration = Duration::from_millis(200);

impl Route {
    /// Orders the candidates: those that are well as the model lists them, then those that are parked, the soonest
    /// back first. Nobody is left out, so that requests work while any candidate does.
    pub fn new(model: &Model, health: &Health, now: Timestamp) -> Self {
        let mut order: Vec<&Candidate> = model.candidates.iter().collect();
        order.sort_by_key(|candidate| health.parked_until(candidate, now));
        Self { untried: order.into_iter().cloned().collect(), again: Again::Free }
    }

    /// The candidate to begin with; `None` if the model has none.
    pub fn first(&mut self) -> Option<Candidate> {
        self.untried.pop_front()
    }

    /// Puts a candidate behind all others.
    pub fn avoid(&mut self, candidate: &Candidate) {
        if let Some(at) = self.untried.iter().position(|other| other == candidate)
            && let Some(candidate) = self.untried.remove(at)
        {
            self.untried.push_back(candidate);
        }
    }

    /// How many candidates are still to be tried.
    pub fn left(&self) -> usize {
        self.untried.len()
    }

    /// Where to go after `failed` failed with `error`. `chance` is a random number.
    ///
    /// Each candidate is tried once; when none is left, the best of those whose failure may have been a moment's is
    /// tried a second time. A request is tried at most `candidates + 1` times.
    pub fn next(&mut self, failed: Candidate, error: &ProviderError, chance: u32) -> Next {
        if !error.class.fails_over() {
            return Next::Stop;
        }
        if error.class == Class::Bound && matches!(self.again, Again::Free) {
            // The same candidate answers once the thoughts are left out.
            self.again = Again::Spent;
            return Next::Try(failed, Duration::ZERO);
        }
        if error.class.may_pass() && matches!(self.again, Again::Free) {
            self.again = Again::For(failed);
        }
        if let Some(candidate) = self.untried.pop_front() {
            return Next::Try(candidate, Duration::ZERO);
        }
        match std::mem::replace(&mut self.again, Again::Spent) {
            Again::For(candidate) => {
                Next::Try(candidate, AGAIN_WITHIN.mul_f64(f64::from(chance) / f64::from(u32::MAX)))
            }
            Again::Free | Again::Spent => Next::Stop,
        }
    }
}

impl Class {
    /// Whether another candidate may succeed where this one failed.
    pub fn fails_over(self) -> bool {
        !matches!(self, Self::Caller | Self::ContentPolicy)
    }

    /// Whether the same candidate may succeed a moment later. Not after a time-out: the caller has waited enough.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Server | Self::Overloaded | Self::Truncated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Timeouts;

    fn candidate(name: &str) -> Candidate {
        Candidate { provider: name.into(), model: "m".into() }
    }

    fn model(names: &[&str]) -> Model {
        Model::new("m", names.iter().copied().map(candidate).collect(), Timeouts::default())
    }

    /// The order in which candidates are tried if each fails with its class, in order of the tries.
    fn check(names: &[&str], health: &Health, classes: &[Class], expected: &[&str]) {
        let mut route = Route::new(&model(names), health, Timestamp(0));
        let mut tried = Vec::new();
        let mut current = route.first();
        let mut classes = classes.iter();
        while let Some(candidate) = current {
            tried.push(candidate.provider.clone());
            let error = ProviderError::new(*classes.next().unwrap(), "");
            current = match route.next(candidate, &error, u32::MAX) {
                Next::Try(candidate, _) => Some(candidate),
                Next::Stop => None,
            };
        }
        assert_eq!(tried, expected);
    }

    #[test]
    fn failures_walk_through_the_candidates() {
        use Class::{Auth, Caller, Overloaded, RateLimited, Server, Timeout};
        let well = Health::default();
        check(&["a", "b", "c"], &well, &[RateLimited, Timeout, Auth], &["a", "b", "c"]);
        check(&["a", "b"], &well, &[Server, RateLimited, Server], &["a", "b", "a"]);
        check(&["a", "b"], &well, &[RateLimited, Overloaded, Overloaded], &["a", "b", "b"]);
        check(&["a"], &well, &[Server, Server], &["a", "a"]);
        check(&["a", "b"], &well, &[Server, Caller], &["a", "b"]);
        check(&["a", "b"], &well, &[Caller], &["a"]);
    }

    #[test]
    fn the_parked_come_last_but_they_come() {
        let mut health = Health::default();
        let limited = |seconds| ProviderError {
            retry_after: Some(Duration::from_secs(seconds)),
            ..ProviderError::new(Class::RateLimited, "")
        };
        health.failed(&candidate("a"), &limited(60), Timestamp(0), 0);
        health.failed(&candidate("b"), &limited(30), Timestamp(0), 0);
        check(&["a", "b", "c"], &health, &[Class::Auth; 3], &["c", "b", "a"]);
    }
}
