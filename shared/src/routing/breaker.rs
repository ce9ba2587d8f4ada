//! Stops calls to a failing candidate and probes whether it works again. Makes no calls itself.
//!
//! A breaker is *closed* while it admits all calls. It *opens* after failures. Once its pause is over it is *half-open*
//! and admits one probe at a time. It closes when probes succeed.

use std::time::Duration;

use crate::time::Timestamp;

/// The state of a breaker. Metrics export the variants as 0, 1 and 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// All calls are admitted.
    Closed,
    /// The pause is over; one probe at a time is admitted.
    HalfOpen,
    /// The pause lasts. Only a request without a better candidate makes a call, as a probe.
    Open,
}

impl BreakerState {
    /// Its name in the status and in metrics.
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
    /// The end of the pause; `None` while closed.
    until: Option<Timestamp>,
    /// Consecutive pauses, each of which doubles the next.
    pauses_in_a_row: u32,
    /// Probes that have succeeded since the last failed one.
    probes_succeeded: u32,
    /// The probe that holds off other calls, and when it began.
    probe: Option<(Probe, Timestamp)>,
    /// Probes so far.
    probes_begun: u32,
    /// Failures since the last success.
    failures_in_a_row: u32,
    /// Recent successes and failures; both are halved with each [`HALF_LIFE`].
    recent_successes: u32,
    recent_failures: u32,
    decayed_at: Timestamp,
}

/// The number of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe(u32);

/// Consecutive failures that open a breaker; fewer may be chance.
const FAILURES_TO_OPEN: u32 = 3;

/// Recent calls below which the share of failures says nothing.
const MIN_SAMPLES: u32 = 5;

/// How fast old calls lose weight.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// Consecutive successful probes that close a breaker; one may be luck.
const PROBES_TO_CLOSE: u32 = 2;

/// How long a probe without content holds off other calls. Most models have content by then; one that thinks for minutes
/// must not shut out all other requests.
pub const LONGEST_PROBE: Duration = Duration::from_secs(10);

/// The first pause; each failed probe doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// Longest pause that the node chooses itself: a provider that works again should be used again soon.
const LONGEST_OWN_PAUSE: Duration = Duration::from_secs(30);

/// Longest pause for a `retry-after`: one odd answer must not exclude a provider for long.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(300);

impl Breaker {
    /// The state at `now`.
    pub fn state(&self, now: Timestamp) -> BreakerState {
        match self.until {
            None => BreakerState::Closed,
            Some(until) if until > now => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// The end of the pause; `None` while closed.
    pub fn open_until(&self) -> Option<Timestamp> {
        self.until
    }

    /// Whether another call may start: always while closed, otherwise only if no probe holds it off. Also true during
    /// the pause, so that a request whose candidates are all down can still try one.
    pub fn admits(&self, now: Timestamp) -> bool {
        let is_held = self.probe.is_some_and(|(_, begun_at)| now.since(begun_at) < LONGEST_PROBE);
        self.until.is_none() || !is_held
    }

    /// Records the start of a call. If it is a probe, the caller passes its number to [`Breaker::end`].
    pub fn begin(&mut self, now: Timestamp) -> Option<Probe> {
        self.until?;
        self.probes_begun = self.probes_begun.wrapping_add(1);
        let probe = Probe(self.probes_begun);
        self.probe = Some((probe, now));
        Some(probe)
    }

    /// Admits the next call: the probe has content, or its call has ended.
    pub fn end(&mut self, probe: Probe) {
        self.probe = self.probe.filter(|(current, _)| *current != probe);
    }

    /// Records a successful call. `probe`: it is a probe that was not recorded by [`Breaker::record_probe`] already.
    pub fn record_success(&mut self, probe: bool, now: Timestamp) {
        self.decay(now);
        self.recent_successes = self.recent_successes.saturating_add(1);
        self.failures_in_a_row = 0;
        if probe {
            self.record_probe(now);
        }
    }

    /// Records a probe that has content. Whether its answer becomes whole is not waited for: that may take minutes, and
    /// longer if the client reads slowly.
    pub fn record_probe(&mut self, now: Timestamp) {
        if self.until.is_none() {
            return;
        }
        self.probes_succeeded += 1;
        if self.probes_succeeded >= PROBES_TO_CLOSE {
            // Half of the pauses are remembered, so that a flapping candidate pauses longer than a new one.
            *self = Self {
                pauses_in_a_row: self.pauses_in_a_row / 2,
                decayed_at: now,
                probe: self.probe,
                probes_begun: self.probes_begun,
                ..Self::default()
            };
        }
    }

    /// Records a failure that the provider is to blame for. `chance` is a random number that spreads the ends of
    /// pauses, so that candidates that failed together are not probed together.
    pub fn record_failure(
        &mut self,
        probe: bool,
        retry_after: Option<Duration>,
        now: Timestamp,
        chance: u32,
    ) {
        self.decay(now);
        self.recent_failures = self.recent_failures.saturating_add(1);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        let fails_often = self.recent_successes + self.recent_failures >= MIN_SAMPLES
            && self.recent_failures >= self.recent_successes;
        // While it is open, calls that started before it opened do not lengthen the pause.
        let opens = match self.until {
            Some(_) => probe,
            None => self.failures_in_a_row >= FAILURES_TO_OPEN || fails_often,
        };
        if !opens {
            return;
        }
        let grown = FIRST_PAUSE.saturating_mul(1 << self.pauses_in_a_row.min(16)).min(LONGEST_OWN_PAUSE);
        // Jitter over 20 to 100 %: a pause near zero would be none.
        let drawn = grown.mul_f64(0.2 + 0.8 * f64::from(chance) / f64::from(u32::MAX));
        let pause = drawn.max(retry_after.unwrap_or_default()).min(LONGEST_PAUSE);
        self.until = Some(now + pause);
        self.pauses_in_a_row = self.pauses_in_a_row.saturating_add(1);
        self.probes_succeeded = 0;
    }

    /// The share of recent calls that failed, in percent; `None` without recent calls.
    pub fn error_percent(&self) -> Option<u32> {
        (self.recent_failures * 100).checked_div(self.recent_successes + self.recent_failures)
    }

    fn decay(&mut self, now: Timestamp) {
        let halvings = now.since(self.decayed_at).as_secs() / HALF_LIFE.as_secs();
        if halvings > 0 {
            let halve =
                |count: u32| count.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX)).unwrap_or(0);
            self.recent_successes = halve(self.recent_successes);
            self.recent_failures = halve(self.recent_failures);
            self.decayed_at = now;
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
    fn consecutive_failures_open_it_and_probes_close_it() {
        let mut breaker = Breaker::default();
        for _ in 0..2 {
            breaker.record_failure(false, None, at(0), u32::MAX);
        }
        assert_eq!(breaker.state(at(0)), BreakerState::Closed);
        breaker.record_failure(false, None, at(0), u32::MAX);
        assert_eq!(
            (breaker.state(at(4)), breaker.state(at(5))),
            (BreakerState::Open, BreakerState::HalfOpen)
        );
        let probe = breaker.begin(at(5)).unwrap();
        assert!(!breaker.admits(at(5)), "one probe at a time");
        breaker.record_failure(false, None, at(6), u32::MAX);
        assert_eq!(breaker.state(at(6)), BreakerState::HalfOpen, "an earlier call changes nothing");
        breaker.end(probe);
        breaker.record_failure(true, None, at(6), u32::MAX);
        assert_eq!(
            (breaker.state(at(15)), breaker.state(at(16))),
            (BreakerState::Open, BreakerState::HalfOpen),
            "twice as long"
        );
        for probe in 0..2 {
            assert_eq!(breaker.state(at(16)), BreakerState::HalfOpen, "after {probe} probes");
            let probe = breaker.begin(at(16)).unwrap();
            breaker.record_success(true, at(16));
            breaker.end(probe);
        }
        assert_eq!(breaker.state(at(16)), BreakerState::Closed);
    }

    #[test]
    fn a_probe_without_content_holds_others_off_for_ten_seconds() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            breaker.record_failure(false, None, at(0), u32::MAX);
        }
        let slow = breaker.begin(at(5)).unwrap();
        assert_eq!([breaker.admits(at(14)), breaker.admits(at(15))], [false, true]);
        let next = breaker.begin(at(15)).unwrap();
        breaker.end(slow);
        assert!(!breaker.admits(at(16)), "the end of the slow one does not admit a third");
        breaker.end(next);
        assert!(breaker.admits(at(16)));
    }

    #[test]
    fn a_pause_that_nobody_asked_for_is_short() {
        let (mut breaker, mut now) = (Breaker::default(), 0);
        for _ in 0..20 {
            breaker.record_failure(true, None, at(now), u32::MAX);
            let until = breaker.open_until().map_or(now, Timestamp::unix_seconds);
            assert!(until - now <= 30, "{until} after {now}");
            now = until;
        }
    }

    #[test]
    fn failures_of_half_the_recent_calls_open_it() {
        let mut breaker = Breaker::default();
        for second in [0, 1] {
            breaker.record_success(false, at(second));
            breaker.record_failure(false, None, at(second), 0);
        }
        assert_eq!((breaker.state(at(1)), breaker.error_percent()), (BreakerState::Closed, Some(50)));
        breaker.record_failure(false, None, at(2), 0);
        assert_eq!(breaker.state(at(2)), BreakerState::Open);
        let mut old = Breaker::default();
        old.record_failure(false, None, at(0), 0);
        old.decay(at(30));
        assert_eq!(old.error_percent(), Some(100));
        old.decay(at(100_000));
        assert_eq!(old.error_percent(), None, "the past is forgotten");
    }

    #[test]
    fn retry_after_lengthens_the_pause_within_a_bound() {
        let pause = |retry_after| {
            let mut breaker = Breaker::default();
            for _ in 0..3 {
                breaker.record_failure(false, Some(Duration::from_secs(retry_after)), at(0), 0);
            }
            breaker.open_until().unwrap().unix_seconds()
        };
        assert_eq!((pause(0), pause(30), pause(9999)), (1, 30, 300));
    }

    proptest! {
        /// No second probe starts before the first has ended, and a breaker closes once the provider works again.
        #[test]
        fn probes_never_overlap_and_close_it_again(
            events in prop::collection::vec((0_u64..20, any::<bool>(), any::<u32>()), 0..60)
        ) {
            let (mut breaker, mut now) = (Breaker::default(), 0);
            let mut in_flight: Vec<(Option<Probe>, u64)> = Vec::new();
            for (wait, succeeds, chance) in events {
                now += wait;
                if breaker.admits(at(now)) {
                    in_flight.push((breaker.begin(at(now)), now));
                    let holds = |(probe, begun_at): &&(Option<Probe>, u64)| {
                        probe.is_some() && now < begun_at + LONGEST_PROBE.as_secs()
                    };
                    prop_assert!(in_flight.iter().filter(holds).count() <= 1);
                }
                if chance % 2 == 0 && let Some((probe, _)) = in_flight.pop() {
                    probe.into_iter().for_each(|probe| breaker.end(probe));
                    if succeeds {
                        breaker.record_success(probe.is_some(), at(now));
                    } else {
                        breaker.record_failure(probe.is_some(), None, at(now), chance);
                    }
                }
            }
            now += LONGEST_OWN_PAUSE.as_secs();
            for _ in 0..PROBES_TO_CLOSE {
                prop_assert!(breaker.admits(at(now)));
                let probe = breaker.begin(at(now));
                probe.into_iter().for_each(|probe| breaker.end(probe));
                breaker.record_success(probe.is_some(), at(now));
            }
            prop_assert_eq!(breaker.state(at(now)), BreakerState::Closed);
        }
    }
}
