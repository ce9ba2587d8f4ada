//! Which candidate next. All of it is pure: state, time and chance go in, a decision comes out.

pub mod breaker;
pub mod health;
pub mod hedge;
pub mod rate_limit;
pub mod retry;

use std::{collections::VecDeque, time::Duration};

use crate::price::Facts;
use crate::{
    error::{ErrorClass, ProviderError},
    model::{Candidate, Model, Prefer},
    time::Timestamp,
};
use health::{Availability, Health};

/// The way of one request through the candidates of its model.
#[derive(Debug)]
pub struct CandidateQueue {
    untried: VecDeque<Candidate>,
    again: SecondTry,
    /// Calls that may still be made.
    calls: u32,
    /// How often it was waited for a probe that others make.
    waits: u32,
}

#[derive(Debug)]
enum SecondTry {
    /// For the first candidate that fails in a way that may pass.
    Free,
    /// For this one, once all were tried.
    For(Candidate),
    /// Used up.
    Spent,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub enum NextStep {
    /// Call this one.
    Try(Candidate),
    /// Wait, then ask for the first again: a second try needs a pause, or all that are left are being probed for others.
    Wait(Duration),
    /// Nobody else can help.
    Stop,
}

/// What a request needs of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestNeeds {
    /// Tokens of input, roughly.
    pub input: u64,
    /// Tokens of output that are asked for.
    pub output: u64,
    /// It may call functions.
    pub tools: bool,
    /// It is shown images.
    pub images: bool,
}

impl RequestNeeds {
    /// Whether a model of which this is known can serve them.
    fn fit(&self, facts: &Facts) -> bool {
        // The estimate is rough, so only what is far too long is kept away; the rest the vendor says itself.
        let too_long = facts.context_tokens.is_some_and(|most| self.input / 2 > most);
        !too_long && (facts.tools || !self.tools) && (facts.images || !self.images)
    }
}

/// The pause before a second try at a candidate, drawn from zero up to this: full jitter, so that the requests that
/// failed together do not come back together.
const AGAIN_WITHIN: Duration = Duration::from_millis(200);

/// How long it is waited for a probe at a time, and how often: half a minute, the usual time to a first content.
const PROBE_WAIT: Duration = Duration::from_millis(100);
const MAX_WAITS: u32 = 300;

impl CandidateQueue {
    /// Orders the candidates: those that are well by preference, then those that are parked, then those whose breaker
    /// is open, the soonest back first. Nobody is left out who could answer, so that requests work while any candidate
    /// does.
    pub fn new(
        model: &Model,
        health: &Health,
        facts: impl Fn(&Candidate) -> Facts,
        needs: &RequestNeeds,
        now: Timestamp,
    ) -> Self {
        let fits = |candidate: &&Candidate| needs.fit(&facts(candidate));
        let mut order: Vec<&Candidate> = model.candidates.iter().filter(fits).collect();
        if order.is_empty() {
            // The vendor's own error says best what is wrong.
            order = model.candidates.iter().collect();
        }
        let unknown = u64::MAX;
        let preference = |candidate: &Candidate| match model.prefer {
            Prefer::Order => 0,
            Prefer::Cost => {
                facts(candidate).price.map_or(unknown, |price| price.at_most(needs.input, needs.output).0)
            }
            Prefer::Latency => {
                let seen = health.candidate(candidate);
                // Who was never asked is tried, to learn how quick it is.
                seen.latency_millis.unwrap_or_default().saturating_mul(u64::from(seen.in_flight) + 1)
            }
        };
        order.sort_by_cached_key(|candidate| match health.availability(candidate, now) {
            Availability::Well => (Availability::Well, preference(candidate)),
            other => (other, 0),
        });
        let untried = order.into_iter().cloned().collect();
        Self { untried, again: SecondTry::Free, calls: model.attempts, waits: 0 }
    }

    /// The candidate to begin with, or to go on with after [`Next::Wait`].
    pub fn first(&mut self, health: &Health) -> NextStep {
        if self.calls == 0 || self.untried.is_empty() {
            return NextStep::Stop;
        }
        // One whose breaker is not closed may be asked by one request at a time.
        if let Some(at) = self.untried.iter().position(|candidate| health.admits(candidate))
            && let Some(candidate) = self.untried.remove(at)
        {
            self.calls -= 1;
            return NextStep::Try(candidate);
        }
        self.waits += 1;
        if self.waits > MAX_WAITS { NextStep::Stop } else { NextStep::Wait(PROBE_WAIT) }
    }

    /// The candidate to go on with instead of one that is not called after all.
    pub fn skip(&mut self, health: &Health) -> NextStep {
        self.calls += 1;
        self.first(health)
    }

    /// Takes the candidate that comes next for a call beside the one under way, if `may` says so.
    pub fn hedge(&mut self, may: impl FnOnce(&Candidate) -> bool) -> Option<Candidate> {
        self.untried.front().filter(|candidate| self.calls > 0 && may(candidate))?;
        self.calls -= 1;
        self.untried.pop_front()
    }

    /// Puts a candidate behind all others.
    pub fn move_to_back(&mut self, candidate: &Candidate) {
        if let Some(at) = self.untried.iter().position(|other| other == candidate)
            && let Some(candidate) = self.untried.remove(at)
        {
            self.untried.push_back(candidate);
        }
    }

    /// How many calls may still be made after this one.
    pub fn candidates_left(&self) -> usize {
        self.untried.len().min(usize::try_from(self.calls).unwrap_or(usize::MAX))
    }

    /// Tries the candidate again at once: what failed was the key, and there is another.
    pub fn retry_with_next_key(&mut self, candidate: Candidate) {
        self.untried.push_front(candidate);
    }

    /// Where to go after `failed` failed with `error`. `chance` is a random number.
    ///
    /// Each candidate is tried once; when none is left, the first of those whose failure may have been a moment's is
    /// tried a second time.
    pub fn next(
        &mut self,
        failed: Candidate,
        error: &ProviderError,
        health: &Health,
        chance: u32,
    ) -> NextStep {
        if !error.class.fails_over() {
            return NextStep::Stop;
        }
        if error.class == ErrorClass::Bound && matches!(self.again, SecondTry::Free) && self.calls > 0 {
            // The same candidate answers once the thoughts are left out.
            self.again = SecondTry::Spent;
            self.calls -= 1;
            return NextStep::Try(failed);
        }
        if error.class.is_local() {
            // It was not called.
            self.calls += 1;
        }
        if error.class.is_transient() && matches!(self.again, SecondTry::Free) {
            self.again = SecondTry::For(failed);
        }
        if !self.untried.is_empty() || self.calls == 0 {
            return self.first(health);
        }
        match std::mem::replace(&mut self.again, SecondTry::Spent) {
            SecondTry::For(candidate) if health.admits(&candidate) => {
                // Whether it may be asked is looked at after the pause: another may be probing it by then.
                self.untried.push_front(candidate);
                NextStep::Wait(AGAIN_WITHIN.mul_f64(f64::from(chance) / f64::from(u32::MAX)))
            }
            SecondTry::For(_) | SecondTry::Free | SecondTry::Spent => NextStep::Stop,
        }
    }
}

impl ErrorClass {
    /// Whether another candidate may succeed where this one failed.
    pub fn fails_over(self) -> bool {
        !matches!(self, Self::Caller | Self::ContentPolicy)
    }

    /// Whether the candidate was not called at all.
    pub fn is_local(self) -> bool {
        matches!(self, Self::Unsupported | Self::Budget)
    }

    /// Whether another key of the same provider may succeed where this one failed.
    pub fn is_key_specific(self) -> bool {
        matches!(self, Self::RateLimited | Self::Quota | Self::Auth)
    }

    /// Whether the same candidate may succeed a moment later. Not after a time-out: the caller has waited enough.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Server | Self::Overloaded | Self::Truncated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timeouts;
    use crate::price::{Price, Rates};

    fn candidate(name: &str) -> Candidate {
        Candidate { provider: name.into(), model: "m".into() }
    }

    fn model(names: &[&str]) -> Model {
        Model::new("m", names.iter().copied().map(candidate).collect(), Timeouts::default())
    }

    /// The order in which candidates are tried if each fails with its class, in order of the tries.
    fn check(model: &Model, health: &Health, classes: &[ErrorClass], expected: &[&str]) {
        let mut route =
            CandidateQueue::new(model, health, |_| Facts::UNKNOWN, &RequestNeeds::default(), Timestamp(0));
        let mut tried = Vec::new();
        let mut next = route.first(health);
        let mut classes = classes.iter();
        while next != NextStep::Stop {
            next = match next {
                NextStep::Try(candidate) => {
                    tried.push(candidate.provider.clone());
                    let error = ProviderError::new(*classes.next().unwrap(), "");
                    route.next(candidate, &error, health, u32::MAX)
                }
                _ => route.first(health),
            };
        }
        assert_eq!(tried, expected);
    }

    #[test]
    fn failures_walk_through_the_candidates() {
        use ErrorClass::{Auth, Caller, Overloaded, RateLimited, Server, Timeout, Unsupported};
        let well = Health::default();
        check(&model(&["a", "b", "c"]), &well, &[RateLimited, Timeout, Auth], &["a", "b", "c"]);
        check(&model(&["a", "b"]), &well, &[Server, RateLimited, Server], &["a", "b", "a"]);
        check(&model(&["a", "b"]), &well, &[RateLimited, Overloaded, Overloaded], &["a", "b", "b"]);
        check(&model(&["a"]), &well, &[Server, Server], &["a", "a"]);
        check(&model(&["a", "b"]), &well, &[Server, Caller], &["a", "b"]);
        check(&model(&["a", "b"]), &well, &[Caller], &["a"]);
        check(&model(&["a", "b", "c", "d"]), &well, &[Server; 3], &["a", "b", "c"]);
        check(
            &model(&["a", "b", "c", "d"]),
            &well,
            &[Unsupported, Server, Server, Server],
            &["a", "b", "c", "d"],
        );
    }

    #[test]
    fn the_parked_come_last_but_they_come() {
        let mut health = Health::default();
        let mut fail = |name, class, times| {
            for _ in 0..times {
                health.record_failure(
                    &candidate(name),
                    &ProviderError::new(class, ""),
                    false,
                    Timestamp(0),
                    u32::MAX,
                );
            }
        };
        fail("a", ErrorClass::Server, 3);
        fail("b", ErrorClass::Auth, 1);
        fail("c", ErrorClass::RateLimited, 1);
        let model = Model { attempts: 9, ..model(&["a", "b", "c", "d"]) };
        check(&model, &health, &[ErrorClass::Auth; 4], &["d", "c", "b", "a"]);
    }

    #[test]
    fn one_at_a_time_asks_whom_the_breaker_keeps_away() {
        let mut health = Health::default();
        for _ in 0..3 {
            health.record_failure(
                &candidate("a"),
                &ProviderError::new(ErrorClass::Server, ""),
                false,
                Timestamp(0),
                0,
            );
        }
        let route = || {
            CandidateQueue::new(
                &model(&["a"]),
                &health,
                |_| Facts::UNKNOWN,
                &RequestNeeds::default(),
                Timestamp(0),
            )
        };
        let (mut first, mut second) = (route(), route());
        assert_eq!(first.first(&health), NextStep::Try(candidate("a")));
        assert!(health.begin(&candidate("a")), "a probe");
        assert_eq!(second.first(&health), NextStep::Wait(PROBE_WAIT));
        health.end(&candidate("a"), true);
        assert_eq!(second.first(&health), NextStep::Try(candidate("a")));
    }

    #[test]
    fn preferences_order_those_that_are_well() {
        let mut health = Health::default();
        health.record_first_content(&candidate("a"), Duration::from_millis(900));
        health.record_first_content(&candidate("b"), Duration::from_millis(100));
        health.record_first_content(&candidate("c"), Duration::from_millis(80));
        health.begin(&candidate("c"));
        let facts = |candidate: &Candidate| {
            let output = match candidate.provider.as_str() {
                "a" => 30,
                "b" => 20,
                _ => 10,
            };
            let rates = Rates { output, ..Rates::default() };
            let price = Some(Price { rates, long: None, off_peak: None });
            Facts { price, tools: candidate.provider != "c", ..Facts::UNKNOWN }
        };
        let order = |prefer, needs| {
            let model = Model { prefer, ..model(&["a", "b", "c"]) };
            let route = CandidateQueue::new(&model, &health, facts, &needs, Timestamp(0));
            route.untried.into_iter().map(|candidate| candidate.provider).collect::<String>()
        };
        let needs = RequestNeeds { output: 1000, ..RequestNeeds::default() };
        assert_eq!(order(Prefer::Order, needs), "abc");
        assert_eq!(order(Prefer::Cost, needs), "cba");
        assert_eq!(order(Prefer::Latency, needs), "bca");
        assert_eq!(order(Prefer::Cost, RequestNeeds { tools: true, ..needs }), "ba");
    }
}
