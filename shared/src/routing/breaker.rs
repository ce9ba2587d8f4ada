//! Keeps calls away from a candidate that fails, and finds out when it works again.
//!
//! A breaker is *closed* while calls flow. It opens after failures, lets one probe at a time through when its pause is
//! over (*half-open*), and closes when probes succeed.

use std::time::Duration;

use crate::time::Timestamp;

/// Whether calls flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// They do.
    Closed,
    /// One at a time does.
    HalfOpen,
    /// They don't.
    Open,
}

impl BreakerState {
    /// The word for it in the status and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The breaker of one candidate.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    /// When the pause ends; `None` while closed.
    until: Option<Timestamp>,
    /// Pauses in a row, each longer than the last.
    pauses: u32,
    /// Probes that succeeded since the last one that failed.
    proofs: u32,
    /// A probe is under way.
    probing: bool,
    /// Failures since the last success.
    row: u32,
    /// Recent successes and failures; both are halved with each [`HALF_LIFE`].
    ok: u32,
    bad: u32,
    halved: Timestamp,
}

/// Failures in a row that open it; fewer may be chance.
const ROW: u32 = 3;

/// Recent calls that must be known before their share of failures means anything.
const SAMPLES: u32 = 5;

/// How fast the past is forgotten.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// Probes that must succeed in a row: one may be luck.
const PROOFS: u32 = 2;

/// First pause; it doubles with each one that a failed probe follows.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// Longest pause, also of those that a provider asks for: one odd answer must not shut it out for long.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(300);

impl Breaker {
    /// Whether calls flow.
    pub fn state(&self, now: Timestamp) -> BreakerState {
        match self.until {
            None => BreakerState::Closed,
            Some(until) if until > now => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// When the pause ends; `None` while closed.
    pub fn until(&self) -> Option<Timestamp> {
        self.until
    }

    /// Whether another call may begin: always while closed, else only if no probe is under way.
    pub fn admits(&self) -> bool {
        self.until.is_none() || !self.probing
    }

    /// A call begins. Says whether it is a probe, which must be told when the call has ended.
    pub fn begin(&mut self) -> bool {
        self.probing |= self.until.is_some();
        self.until.is_some()
    }

    /// A call has ended, whatever came of it.
    pub fn end(&mut self, probe: bool) {
        if probe {
            self.probing = false;
        }
    }

    /// A call succeeded.
    pub fn succeeded(&mut self, probe: bool, now: Timestamp) {
        self.age(now);
        self.ok = self.ok.saturating_add(1);
        self.row = 0;
        if !probe || self.until.is_none() {
            return;
        }
        self.proofs += 1;
        if self.proofs >= PROOFS {
            // What flaps is watched: half of its pauses are remembered.
            *self = Self { pauses: self.pauses / 2, halved: now, probing: self.probing, ..Self::default() };
        }
    }

    /// A call failed in a way that speaks against the provider. `chance` is a random number: pauses end at different
    /// moments, so that what failed together does not come back together.
    pub fn failed(&mut self, probe: bool, asked: Option<Duration>, now: Timestamp, chance: u32) {
        self.age(now);
        self.bad = self.bad.saturating_add(1);
        self.row = self.row.saturating_add(1);
        let often = self.ok + self.bad >= SAMPLES && self.bad >= self.ok;
        // Calls that began before it opened say nothing new.
        let opens = if self.until.is_some() { probe } else { self.row >= ROW || often };
        if !opens {
            return;
        }
        let grown = FIRST_PAUSE.saturating_mul(1 << self.pauses.min(16)).min(LONGEST_PAUSE);
        // Full jitter, but never so little that it is no pause.
        let drawn = grown.mul_f64(0.2 + 0.8 * f64::from(chance) / f64::from(u32::MAX));
        let pause = drawn.max(asked.unwrap_or_default()).min(LONGEST_PAUSE);
        self.until = Some(now + pause);
        self.pauses = self.pauses.saturating_add(1);
        self.proofs = 0;
    }

    /// The share of recent calls that failed, in percent; `None` without any.
    pub fn error_percent(&self) -> Option<u32> {
        (self.bad * 100).checked_div(self.ok + self.bad)
    }

    fn age(&mut self, now: Timestamp) {
        let halvings = now.since(self.halved).as_secs() / HALF_LIFE.as_secs();
        if halvings > 0 {
            let halve =
                |count: u32| count.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX)).unwrap_or(0);
            (self.ok, self.bad, self.halved) = (halve(self.ok), halve(self.bad), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1000)
    }

    #[test]
    fn failures_in_a_row_open_it_and_probes_close_it() {
        let mut breaker = Breaker::default();
        for _ in 0..2 {
            breaker.failed(false, None, at(0), u32::MAX);
        }
        assert_eq!(breaker.state(at(0)), BreakerState::Closed);
        breaker.failed(false, None, at(0), u32::MAX);
        assert_eq!(
            (breaker.state(at(4)), breaker.state(at(5))),
            (BreakerState::Open, BreakerState::HalfOpen)
        );
        assert!(breaker.admits() && breaker.begin() && !breaker.admits(), "one probe at a time");
        breaker.failed(false, None, at(6), u32::MAX);
        assert_eq!(breaker.state(at(6)), BreakerState::HalfOpen, "an old call says nothing");
        breaker.end(true);
        breaker.failed(true, None, at(6), u32::MAX);
        assert_eq!(
            (breaker.state(at(15)), breaker.state(at(16))),
            (BreakerState::Open, BreakerState::HalfOpen),
            "twice as long"
        );
        for proof in 0..2 {
            assert_eq!(breaker.state(at(16)), BreakerState::HalfOpen, "{proof} proofs");
            assert!(breaker.begin());
            breaker.succeeded(true, at(16));
            breaker.end(true);
        }
        assert_eq!(breaker.state(at(16)), BreakerState::Closed);
    }

    #[test]
    fn half_of_the_recent_calls_open_it() {
        let mut breaker = Breaker::default();
        for second in [0, 1] {
            breaker.succeeded(false, at(second));
            breaker.failed(false, None, at(second), 0);
        }
        assert_eq!((breaker.state(at(1)), breaker.error_percent()), (BreakerState::Closed, Some(50)));
        breaker.failed(false, None, at(2), 0);
        assert_eq!(breaker.state(at(2)), BreakerState::Open);
        let mut old = Breaker::default();
        old.failed(false, None, at(0), 0);
        old.age(at(30));
        assert_eq!(old.error_percent(), Some(100));
        old.age(at(100_000));
        assert_eq!(old.error_percent(), None, "the past is forgotten");
    }

    #[test]
    fn what_a_provider_asks_for_lengthens_the_pause_but_not_for_ever() {
        let pause = |asked| {
            let mut breaker = Breaker::default();
            for _ in 0..3 {
                breaker.failed(false, Some(Duration::from_secs(asked)), at(0), 0);
            }
            breaker.until().unwrap().unix_seconds()
        };
        assert_eq!((pause(0), pause(30), pause(9999)), (1, 30, 300));
    }

    proptest! {
        /// Whatever happens, no second probe begins before the first has ended, and a healed provider is found.
        #[test]
        fn one_probe_at_a_time_and_it_heals(events in prop::collection::vec((0_u64..20, any::<bool>(), any::<u32>()), 0..60)) {
            let (mut breaker, mut now) = (Breaker::default(), 0);
            let mut flying: Vec<bool> = Vec::new();
            for (wait, good, chance) in events {
                now += wait;
                if breaker.admits() {
                    let probe = breaker.begin();
                    flying.push(probe);
                    prop_assert!(flying.iter().filter(|probe| **probe).count() <= 1);
                }
                if chance % 2 == 0 && let Some(probe) = flying.pop() {
                    breaker.end(probe);
                    if good { breaker.succeeded(probe, at(now)) } else { breaker.failed(probe, None, at(now), chance) }
                }
            }
            for probe in flying.drain(..) {
                breaker.end(probe);
            }
            now += LONGEST_PAUSE.as_secs();
            for _ in 0..PROOFS {
                prop_assert!(breaker.admits());
                let probe = breaker.begin();
                breaker.end(probe);
                breaker.succeeded(probe, at(now));
            }
            prop_assert_eq!(breaker.state(at(now)), BreakerState::Closed);
        }
    }
}
