//! Decides which candidate a request tries next. Pure: state, time and random numbers are arguments. Makes no calls.

pub mod breaker;
pub mod health;
pub mod hedge;
pub mod rate_limit;
pub mod retry;
pub mod warm;

use std::{collections::VecDeque, time::Duration};

use crate::price::Facts;
use crate::{
    error::{ErrorClass, ProviderError},
    model::{Candidate, Model, Prefer},
    time::Timestamp,
};
use health::{Availability, Health};

/// The candidates of a model in the order in which one request tries them.
#[derive(Debug)]
pub struct CandidateQueue {
    untried: VecDeque<Candidate>,
    second_try: SecondTry,
    /// Calls that the request may still make.
    calls_left: u32,
    /// Longest pause before a second try ahead of the other candidates.
    patience: Duration,
    /// The keys of providers that were refused, each of which has given its call back once.
    refused_keys: Vec<(Candidate, usize)>,
    /// Pauses so far while other requests probed all remaining candidates.
    waits_done: u32,
}

/// The one second try of a request: for the first candidate whose failure may pass.
#[derive(Debug)]
enum SecondTry {
    /// Not assigned yet.
    Free,
    /// Next, after a pause: the candidate has been well, and another one would have to read the prompt uncached.
    Next(Candidate),
    /// When all other candidates were tried.
    Last(Candidate),
    /// Used up.
    Spent,
}

/// What a request does next.
#[derive(Debug, PartialEq, Eq)]
pub enum NextStep {
    /// Call this candidate.
    Try(Candidate),
    /// Wait, then take the first candidate again: a second try needs a pause, or other requests are probing all
    /// remaining candidates.
    Wait(Duration),
    /// Give up: no candidate is left, or none could do better.
    Stop,
}

/// What a request requires of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestNeeds {
    /// Estimated input tokens.
    pub input_tokens: u64,
    /// Requested output tokens.
    pub output_tokens: u64,
    /// Whether the request offers functions.
    pub tools: bool,
    /// Whether the request holds images.
    pub images: bool,
}

impl RequestNeeds {
    /// Whether a model with these facts can serve the request.
    fn are_met_by(&self, facts: &Facts) -> bool {
        // The estimate is rough, so only inputs of twice the context are excluded; the vendor rejects the others
        // itself.
        let too_long = facts.context_tokens.is_some_and(|most| self.input_tokens / 2 > most);
        !too_long && (facts.tools || !self.tools) && (facts.images || !self.images)
    }
}

/// Longest pause before a second try. The pause is drawn from zero to this (full jitter), so that requests that failed
/// together do not retry together.
const MAX_RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The pause while other requests probe all remaining candidates, and the most pauses of a request: 30 s in all, the
/// default `first_token` timeout, and three of the times that a probe holds others off.
const PROBE_WAIT: Duration = Duration::from_millis(100);
const MAX_WAITS: u32 = 300;

impl CandidateQueue {
    /// Orders the candidates: ready ones by preference, then parked ones, then those whose breaker is open, each the
    /// soonest available first. Unhealthy candidates stay in the queue, so that requests work while any candidate does.
    ///
    /// Of candidates that are as good as the first, the one of which a prompt cache is `warm` comes first. `random`
    /// returns random numbers; it is called only to draw candidates by weight.
    pub fn new(
        model: &Model,
        health: &Health,
        facts: impl Fn(&Candidate) -> Facts,
        needs: &RequestNeeds,
        now: Timestamp,
        warm: Option<&Candidate>,
        random: impl FnMut() -> u32,
    ) -> Self {
        let fits = |candidate: &&Candidate| needs.are_met_by(&facts(candidate));
        let mut order: Vec<&Candidate> = model.candidates.iter().filter(fits).collect();
        if order.is_empty() {
            // No candidate fits; the vendor's own error tells the client best what is wrong.
            order = model.candidates.iter().collect();
        }
        if model.prefer == Prefer::Weight {
            order = drawn_by_weight(model, order, random);
        }
        let unknown_cost = u64::MAX;
        let preference = |candidate: &Candidate| match model.prefer {
            // The order is right already, and the sort keeps it.
            Prefer::Order | Prefer::Weight => 0,
            Prefer::Cost => facts(candidate)
                .price
                .map_or(unknown_cost, |price| price.max_cost(needs.input_tokens, needs.output_tokens).0),
            Prefer::Latency => {
                let record = health.candidate(candidate);
                // A candidate without a measured latency counts as zero, so that it is tried and measured.
                let latency = record.penalized_latency_millis.unwrap_or_default();
                latency.saturating_mul(u64::from(record.in_flight) + 1)
            }
        };
        let is_ready = |candidate: &Candidate| health.availability(candidate, now) == Availability::Ready;
        order.sort_by_cached_key(|candidate| match health.availability(candidate, now) {
            Availability::Ready => (Availability::Ready, preference(candidate)),
            other => (other, 0),
        });
        let at = order.iter().position(|candidate| Some(*candidate) == warm);
        if let (Some(at), Some(first), Some(warm)) = (at, order.first(), warm)
            && is_ready(warm)
            && is_as_good(model, health, warm, first, preference)
        {
            let warm = order.remove(at);
            order.insert(0, warm);
        }
        let untried = order.into_iter().cloned().collect();
        Self {
            untried,
            second_try: SecondTry::Free,
            calls_left: model.attempts,
            patience: model.patience,
            refused_keys: Vec::new(),
            waits_done: 0,
        }
    }

    /// Takes the first candidate that admits a call: at the start, and after [`NextStep::Wait`].
    pub fn take(&mut self, health: &Health, now: Timestamp) -> NextStep {
        if let SecondTry::Next(candidate) = &self.second_try {
            // During the pause, other requests may have found that it is down.
            if health.has_been_well(candidate) || self.untried.is_empty() {
                self.untried.push_front(candidate.clone());
            }
            self.second_try = SecondTry::Spent;
        }
        if self.calls_left == 0 || self.untried.is_empty() {
            return NextStep::Stop;
        }
        // A candidate whose breaker is not closed admits one call at a time.
        if let Some(at) = self.untried.iter().position(|candidate| health.admits(candidate, now))
            && let Some(candidate) = self.untried.remove(at)
        {
            self.calls_left -= 1;
            return NextStep::Try(candidate);
        }
        self.waits_done += 1;
        if self.waits_done > MAX_WAITS { NextStep::Stop } else { NextStep::Wait(PROBE_WAIT) }
    }

    /// Takes the next candidate in place of one that was taken but not called.
    pub fn skip(&mut self, health: &Health, now: Timestamp) -> NextStep {
        self.calls_left += 1;
        self.take(health, now)
    }

    /// Takes the next candidate for a hedged call, if `accepts` returns true for it.
    pub fn hedge(&mut self, accepts: impl FnOnce(&Candidate) -> bool) -> Option<Candidate> {
        self.untried.front().filter(|candidate| self.calls_left > 0 && accepts(candidate))?;
        self.calls_left -= 1;
        self.untried.pop_front()
    }

    /// Moves a candidate behind all others.
    pub fn move_to_back(&mut self, candidate: &Candidate) {
        if let Some(at) = self.untried.iter().position(|other| other == candidate)
            && let Some(candidate) = self.untried.remove(at)
        {
            self.untried.push_back(candidate);
        }
    }

    /// Whether a second try leaves a call for each untried candidate that is ready, and for one at least.
    fn has_spare_call(&self, health: &Health, now: Timestamp) -> bool {
        let ready = |candidate: &&Candidate| health.availability(candidate, now) == Availability::Ready;
        let reserved = self.untried.iter().filter(ready).count().max(usize::from(!self.untried.is_empty()));
        usize::try_from(self.calls_left).unwrap_or(usize::MAX) > reserved
    }

    /// The number of candidates that the request may still call.
    pub fn candidates_left(&self) -> usize {
        self.untried.len().min(usize::try_from(self.calls_left).unwrap_or(usize::MAX))
    }

    /// The next step after the provider refused the key number `key`: the candidate is called at once with another key.
    /// The first call with each key does not count, so that many keys of one candidate leave calls for the others.
    pub fn after_refused_key(
        &mut self,
        candidate: Candidate,
        key: usize,
        health: &Health,
        now: Timestamp,
    ) -> NextStep {
        let refused = (candidate.clone(), key);
        if !self.refused_keys.contains(&refused) {
            self.refused_keys.push(refused);
            self.calls_left += 1;
        }
        self.untried.push_front(candidate);
        self.take(health, now)
    }

    /// The next step after `failed` failed with `error`. `chance` is a random number.
    ///
    /// Each candidate is tried once, and the first one whose failure may pass a second time: at once if it has been well
    /// and the pause is within the patience, or else when no other is left.
    pub fn after_failure(
        &mut self,
        failed: Candidate,
        error: &ProviderError,
        health: &Health,
        now: Timestamp,
        chance: u32,
    ) -> NextStep {
        if !error.class.fails_over() {
            return NextStep::Stop;
        }
        if error.class == ErrorClass::BoundThoughts
            && matches!(self.second_try, SecondTry::Free)
            && self.calls_left > 0
        {
            // The same candidate is called once more, now without the bound thoughts.
            self.second_try = SecondTry::Spent;
            self.calls_left -= 1;
            return NextStep::Try(failed);
        }
        if error.class.is_local() {
            // The candidate was not called, so the call is given back.
            self.calls_left += 1;
        }
        let jitter = MAX_RETRY_PAUSE.mul_f64(f64::from(chance) / f64::from(u32::MAX));
        if matches!(self.second_try, SecondTry::Free) {
            let pause = match error.class {
                ErrorClass::RateLimited => error.retry_after,
                class => class.is_transient().then(|| error.retry_after.unwrap_or_default()),
            };
            let is_patient = pause.is_some_and(|pause| pause <= self.patience) && !self.patience.is_zero();
            if is_patient && self.has_spare_call(health, now) && health.has_been_well(&failed) {
                self.second_try = SecondTry::Next(failed);
                return NextStep::Wait(pause.unwrap_or_default() + jitter);
            }
            if error.class.is_transient() {
                self.second_try = SecondTry::Last(failed);
            }
        }
        if !self.untried.is_empty() || self.calls_left == 0 {
            return self.take(health, now);
        }
        match std::mem::replace(&mut self.second_try, SecondTry::Spent) {
            SecondTry::Last(candidate) if health.admits(&candidate, now) => {
                // The candidate is taken only after the pause: another request may be probing it by then.
                self.untried.push_front(candidate);
                NextStep::Wait(jitter)
            }
            SecondTry::Last(_) | SecondTry::Next(_) | SecondTry::Free | SecondTry::Spent => NextStep::Stop,
        }
    }
}

/// Whether a candidate with a warm cache may be called before the first one: with weights if it has one, else if it
/// costs or takes at most a fifth more. The operator's order always holds.
fn is_as_good(
    model: &Model,
    health: &Health,
    warm: &Candidate,
    first: &Candidate,
    cost: impl Fn(&Candidate) -> u64,
) -> bool {
    let within_a_fifth = |warm: u64, first: u64| warm <= first.saturating_add(first / 5);
    match model.prefer {
        Prefer::Order => false,
        Prefer::Weight => model.weight(warm) > 0,
        Prefer::Cost => within_a_fifth(cost(warm), cost(first)),
        Prefer::Latency => {
            // Without the calls in flight, or each would move the session to a cold cache.
            let latency = |candidate| health.candidate(candidate).latency_millis.unwrap_or_default();
            within_a_fifth(latency(warm), latency(first))
        }
    }
}

/// Draws the candidates one after the other, each with its weight as its chance among those that are left. Those of
/// weight 0 come last, in the operator's order.
fn drawn_by_weight<'a>(
    model: &Model,
    mut left: Vec<&'a Candidate>,
    mut random: impl FnMut() -> u32,
) -> Vec<&'a Candidate> {
    let weight = |candidate: &Candidate| u64::from(model.weight(candidate));
    let mut drawn = Vec::with_capacity(left.len());
    loop {
        let total: u64 = left.iter().map(|candidate| weight(candidate)).sum();
        // In integers, so that every platform draws the same.
        let mut point = (u64::from(random()) * total) >> 32;
        let at = left.iter().position(|candidate| {
            let is_hit = point < weight(candidate);
            point = point.saturating_sub(weight(candidate));
            is_hit
        });
        match at {
            Some(at) => drawn.push(left.remove(at)),
            None => return [drawn, left].concat(),
        }
    }
}

impl ErrorClass {
    /// Whether another candidate may succeed where this one failed.
    pub fn fails_over(self) -> bool {
        !matches!(self, Self::Caller | Self::ContentPolicy)
    }

    /// Whether the node failed before it called the candidate.
    pub fn is_local(self) -> bool {
        matches!(self, Self::Unsupported | Self::Budget)
    }

    /// Whether another key of the same provider may succeed where this one failed.
    pub fn is_key_specific(self) -> bool {
        matches!(self, Self::RateLimited | Self::Quota | Self::Auth)
    }

    /// Whether the same candidate may succeed a moment later. A timeout is excluded: the caller has waited long enough.
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

    fn queue(model: &Model, health: &Health) -> CandidateQueue {
        let needs = RequestNeeds::default();
        CandidateQueue::new(model, health, |_| Facts::UNKNOWN, &needs, Timestamp(0), None, || 0)
    }

    /// Checks the order in which candidates are tried if the tries fail with these classes.
    fn check(model: &Model, health: &Health, classes: &[ErrorClass], expected: &[&str]) {
        let mut queue = queue(model, health);
        let mut tried = Vec::new();
        let now = Timestamp(0);
        let mut next = queue.take(health, now);
        let mut classes = classes.iter();
        while next != NextStep::Stop {
            next = match next {
                NextStep::Try(candidate) => {
                    tried.push(candidate.provider.clone());
                    let error = ProviderError::new(*classes.next().unwrap(), "");
                    queue.after_failure(candidate, &error, health, now, u32::MAX)
                }
                _ => queue.take(health, now),
            };
        }
        assert_eq!(tried, expected);
    }

    #[test]
    fn each_class_of_failure_leads_to_the_right_next_candidate() {
        use ErrorClass::{Auth, Caller, Overloaded, RateLimited, Server, Timeout, Unsupported};
        let healthy = Health::default();
        check(&model(&["a", "b", "c"]), &healthy, &[RateLimited, Timeout, Auth], &["a", "b", "c"]);
        check(&model(&["a", "b"]), &healthy, &[Server, RateLimited, Server], &["a", "b", "a"]);
        check(&model(&["a", "b"]), &healthy, &[RateLimited, Overloaded, Overloaded], &["a", "b", "b"]);
        check(&model(&["a"]), &healthy, &[Server, Server], &["a", "a"]);
        check(&model(&["a", "b"]), &healthy, &[Server, Caller], &["a", "b"]);
        check(&model(&["a", "b"]), &healthy, &[Caller], &["a"]);
        check(&model(&["a", "b", "c", "d"]), &healthy, &[Server; 3], &["a", "b", "c"]);
        check(
            &model(&["a", "b", "c", "d"]),
            &healthy,
            &[Unsupported, Server, Server, Server],
            &["a", "b", "c", "d"],
        );
    }

    #[test]
    fn unhealthy_candidates_are_tried_last() {
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
    fn an_open_breaker_admits_one_request_at_a_time() {
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
        let (mut first, mut second, now) =
            (queue(&model(&["a"]), &health), queue(&model(&["a"]), &health), Timestamp(0));
        assert_eq!(first.take(&health, now), NextStep::Try(candidate("a")));
        let probe = health.begin(&candidate("a"), now);
        assert_eq!(second.take(&health, now), NextStep::Wait(PROBE_WAIT));
        // The probe ends with its first content; its answer goes on.
        health.record_first_content(&candidate("a"), Duration::ZERO, probe, now);
        assert_eq!(second.take(&health, now), NextStep::Try(candidate("a")));
    }

    #[test]
    fn a_candidate_that_has_been_well_gets_a_second_try_before_the_next() {
        use ErrorClass::{Auth, Overloaded, RateLimited, Server, Timeout, Truncated};
        let mut well = Health::default();
        well.record_success(&candidate("a"), Timestamp(0));
        let all = model(&["a", "b", "c"]);
        check(&model(&["a", "b"]), &well, &[Server; 3], &["a", "a", "b"]);
        check(&model(&["a", "b"]), &well, &[Truncated, Timeout, Server], &["a", "a", "b"]);
        // Each candidate that is ready gets its call before one gets a second.
        check(&all, &well, &[Server; 3], &["a", "b", "c"]);
        check(&Model { attempts: 4, ..all.clone() }, &well, &[Server; 4], &["a", "a", "b", "c"]);
        check(&all, &well, &[Timeout, Server, Server], &["a", "b", "c"]);
        check(&model(&["a", "b"]), &well, &[RateLimited, Auth], &["a", "b"]);
        let impatient = Model { patience: Duration::ZERO, ..model(&["a", "b"]) };
        check(&impatient, &well, &[Server; 3], &["a", "b", "a"]);
        check(&Model { attempts: 2, ..all }, &well, &[Server; 2], &["a", "b"]);
        let mut limited = Health::default();
        limited.record_success(&candidate("a"), Timestamp(0));
        let error = ProviderError::new(RateLimited, "");
        limited.record_failure(&candidate("c"), &error, false, Timestamp(0), u32::MAX);
        check(&model(&["a", "b", "c"]), &limited, &[Server; 3], &["a", "a", "b"]);
        let all = model(&["a", "b"]);
        let after = |class, seconds| {
            let mut queue = queue(&all, &well);
            queue.take(&well, Timestamp(0));
            let retry_after = Some(Duration::from_secs(seconds));
            let error = ProviderError { retry_after, ..ProviderError::new(class, "") };
            queue.after_failure(candidate("a"), &error, &well, Timestamp(0), 0)
        };
        assert_eq!(after(RateLimited, 2), NextStep::Wait(Duration::from_secs(2)));
        assert_eq!(after(Overloaded, 1), NextStep::Wait(Duration::from_secs(1)));
        assert_eq!(after(RateLimited, 3), NextStep::Try(candidate("b")));
        for _ in 0..3 {
            well.record_failure(&candidate("a"), &ProviderError::new(Server, ""), false, Timestamp(0), 0);
        }
        check(&model(&["a"]), &well, &[Server, Server], &["a", "a"]);
        check(&model(&["b", "a"]), &well, &[Server, Server, Server], &["b", "a", "b"]);
    }

    #[test]
    fn refused_keys_of_a_candidate_leave_calls_for_the_next() {
        let (health, now) = (Health::default(), Timestamp(0));
        let mut queue = queue(&model(&["a", "b"]), &health);
        assert_eq!(queue.take(&health, now), NextStep::Try(candidate("a")));
        for key in 0..7 {
            let next = queue.after_refused_key(candidate("a"), key, &health, now);
            assert_eq!(next, NextStep::Try(candidate("a")));
        }
        let error = ProviderError::new(ErrorClass::RateLimited, "");
        let next = queue.after_failure(candidate("a"), &error, &health, now, 0);
        assert_eq!(next, NextStep::Try(candidate("b")));
        // A key that is refused again counts, so that a pause of zero is no endless loop.
        assert_eq!(queue.after_refused_key(candidate("b"), 0, &health, now), NextStep::Try(candidate("b")));
        assert_eq!(queue.after_refused_key(candidate("b"), 0, &health, now), NextStep::Try(candidate("b")));
        assert_eq!(queue.after_refused_key(candidate("b"), 0, &health, now), NextStep::Stop);
    }

    #[test]
    fn preferences_order_the_ready_candidates() {
        let mut health = Health::default();
        for (name, millis) in [("a", 900), ("b", 100), ("c", 80)] {
            let after = Duration::from_millis(millis);
            health.record_first_content(&candidate(name), after, None, Timestamp(0));
        }
        health.begin(&candidate("c"), Timestamp(0));
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
            let queue = CandidateQueue::new(&model, &health, facts, &needs, Timestamp(0), None, || 0);
            queue.untried.into_iter().map(|candidate| candidate.provider).collect::<String>()
        };
        let needs = RequestNeeds { output_tokens: 1000, ..RequestNeeds::default() };
        assert_eq!(order(Prefer::Order, needs), "abc");
        assert_eq!(order(Prefer::Cost, needs), "cba");
        assert_eq!(order(Prefer::Latency, needs), "bca");
        assert_eq!(order(Prefer::Cost, RequestNeeds { tools: true, ..needs }), "ba");
    }

    #[test]
    fn weights_share_the_requests_and_order_the_rest() {
        let mut health = Health::default();
        let weights = [(candidate("a"), 3), (candidate("c"), 0)].into();
        let model = Model { prefer: Prefer::Weight, weights, ..model(&["c", "a", "b"]) };
        let order = |health: &Health, random: u32| {
            let needs = RequestNeeds::default();
            let facts = |_: &Candidate| Facts::UNKNOWN;
            let queue = CandidateQueue::new(&model, health, facts, &needs, Timestamp(0), None, || random);
            queue.untried.into_iter().map(|candidate| candidate.provider).collect::<String>()
        };
        // Three quarters of all random numbers draw the first of the two with weight.
        let quarter = 1 << 30;
        assert_eq!(order(&health, 0), "abc");
        assert_eq!(order(&health, 3 * quarter - 1), "abc");
        assert_eq!(order(&health, 3 * quarter), "bac");
        assert_eq!(order(&health, u32::MAX), "bac");
        // A candidate of weight 0 is ready, so it comes before those that are not.
        for _ in 0..3 {
            let error = ProviderError::new(ErrorClass::Server, "");
            health.record_failure(&candidate("a"), &error, false, Timestamp(0), 0);
        }
        assert_eq!(order(&health, 0), "bca");
    }

    #[test]
    fn a_session_stays_with_its_warm_cache_among_equals() {
        let mut health = Health::default();
        for (name, millis) in [("a", 100), ("b", 120), ("c", 121)] {
            health.record_first_content(&candidate(name), Duration::from_millis(millis), None, Timestamp(0));
        }
        let facts = |candidate: &Candidate| {
            let output = match candidate.provider.as_str() {
                "a" => 1000,
                "b" => 1200,
                _ => 1201,
            };
            let rates = Rates { output, ..Rates::default() };
            Facts { price: Some(Price { rates, long: None, off_peak: None }), ..Facts::UNKNOWN }
        };
        let first = |health: &Health, prefer, warm: &str| {
            let weights = [(candidate("c"), 0)].into();
            let model = Model { prefer, weights, ..model(&["a", "b", "c"]) };
            let needs = RequestNeeds { output_tokens: 1_000_000, ..RequestNeeds::default() };
            let warm = candidate(warm);
            let mut queue =
                CandidateQueue::new(&model, health, facts, &needs, Timestamp(0), Some(&warm), || 0);
            queue.untried.pop_front().map(|first| first.provider)
        };
        for prefer in [Prefer::Weight, Prefer::Cost, Prefer::Latency] {
            assert_eq!(first(&health, prefer, "b").as_deref(), Some("b"), "{prefer:?}");
            assert_eq!(first(&health, prefer, "c").as_deref(), Some("a"), "{prefer:?}");
        }
        assert_eq!(first(&health, Prefer::Order, "b").as_deref(), Some("a"));
        health.record_failure(
            &candidate("b"),
            &ProviderError::new(ErrorClass::RateLimited, ""),
            false,
            Timestamp(0),
            0,
        );
        assert_eq!(first(&health, Prefer::Weight, "b").as_deref(), Some("a"), "parked");
    }
}
