//! A token bucket: how much a caller may ask in a minute.

use std::time::Duration;

use crate::time::Timestamp;

/// A limit for each minute that is used up by what is taken and comes back evenly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    limit: u64,
    /// What is left, in parts: one is what comes back in a millisecond for a limit of one. Below zero if more was used
    /// than was foreseen.
    left: i64,
    filled: Timestamp,
}

/// Parts of one: milliseconds in a minute.
const PARTS: u64 = 60_000;

impl TokenBucket {
    /// A full one.
    pub(crate) fn new(limit: u64, now: Timestamp) -> Self {
        Self { limit, left: parts(limit), filled: now }
    }

    /// Takes `count`, or says how long until it is there. More than the whole limit is taken once the bucket is full,
    /// since it would never be there.
    pub(crate) fn take(&mut self, count: u64, now: Timestamp) -> Result<(), Duration> {
        self.fill(now);
        let wanted = parts(count.min(self.limit));
        if self.left < wanted {
            return Err(self.time_for(wanted - self.left));
        }
        self.left = self.left.saturating_sub(parts(count));
        Ok(())
    }

    /// Corrects what was taken by what was used: `taken` comes back, `used` is gone.
    pub(crate) fn correct(&mut self, taken: u64, used: u64) {
        let left = self.left.saturating_add(parts(taken)).saturating_sub(parts(used));
        self.left = left.min(parts(self.limit));
    }

    /// The limit, what is left of it, and how long until it is full.
    pub(crate) fn state(&mut self, now: Timestamp) -> (u64, u64, Duration) {
        self.fill(now);
        let missing = parts(self.limit).saturating_sub(self.left);
        (self.limit, u64::try_from(self.left).unwrap_or_default() / PARTS, self.time_for(missing))
    }

    fn fill(&mut self, now: Timestamp) {
        let millis = u64::try_from(now.since(self.filled).as_millis()).unwrap_or(u64::MAX);
        if millis > 0 {
            let gained = i64::try_from(millis.saturating_mul(self.limit)).unwrap_or(i64::MAX);
            self.left = self.left.saturating_add(gained).min(parts(self.limit));
        }
        self.filled = self.filled.max(now);
    }

    fn time_for(&self, missing: i64) -> Duration {
        Duration::from_millis(u64::try_from(missing).unwrap_or_default().div_ceil(self.limit.max(1)))
    }
}

fn parts(count: u64) -> i64 {
    i64::try_from(count.saturating_mul(PARTS)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp(millis)
    }

    #[test]
    fn what_is_taken_comes_back_evenly() {
        let mut bucket = TokenBucket::new(3, at(0));
        for _ in 0..3 {
            assert_eq!(bucket.take(1, at(0)), Ok(()));
        }
        assert_eq!(bucket.take(1, at(0)), Err(Duration::from_secs(20)));
        assert_eq!(bucket.take(1, at(19_999)), Err(Duration::from_millis(1)));
        assert_eq!(bucket.take(1, at(20_000)), Ok(()));
        assert_eq!(bucket.state(at(40_000)), (3, 1, Duration::from_secs(40)));
        assert_eq!(bucket.state(at(999_999)), (3, 3, Duration::ZERO));
    }

    #[test]
    fn what_was_foreseen_is_corrected() {
        let mut bucket = TokenBucket::new(100, at(0));
        assert_eq!(bucket.take(60, at(0)), Ok(()));
        bucket.correct(60, 110);
        assert_eq!(bucket.take(10, at(0)), Err(Duration::from_secs(12)), "the debt first");
        bucket.correct(0, 0);
        assert_eq!(bucket.take(10, at(12_000)), Ok(()));
        let mut small = TokenBucket::new(10, at(0));
        assert_eq!(small.take(500, at(0)), Ok(()), "larger than the limit: once, and then a long wait");
        assert!(small.take(1, at(60_000)).is_err());
    }

    #[test]
    fn a_clock_that_was_set_back_gives_nothing() {
        let mut bucket = TokenBucket::new(1, at(60_000));
        assert_eq!(bucket.take(1, at(60_000)), Ok(()));
        assert!(bucket.take(1, at(0)).is_err());
    }
}
