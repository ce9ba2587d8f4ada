//! Bounds requests or tokens per minute by a token bucket. Pure: the caller passes the time.

use std::time::Duration;

use crate::time::Timestamp;

/// A bucket of `limit` tokens that refills evenly, a whole bucket per minute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    limit: u64,
    /// What is left, in parts of a token: a limit of one refills one part per millisecond. Negative if a request used
    /// more than its estimate.
    left: i64,
    /// When the bucket was last refilled.
    refilled_at: Timestamp,
}

/// The time in which an empty bucket fills.
const PERIOD: Duration = Duration::from_secs(60);

/// Parts of a token: one for each millisecond of a minute.
const PARTS_PER_TOKEN: u64 = 60_000;

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn new(limit: u64, now: Timestamp) -> Self {
        Self { limit, left: parts(limit), refilled_at: now }
    }

    /// Takes `count` tokens, or returns how long until they are available. A count above the limit is taken from a full
    /// bucket, which then is in debt: otherwise it would never pass.
    pub(crate) fn take(&mut self, count: u64, now: Timestamp) -> Result<(), Duration> {
        self.refill(now);
        let needed = parts(count.min(self.limit));
        if self.left < needed {
            return Err(self.time_for(needed - self.left));
        }
        self.left = self.left.saturating_sub(parts(count));
        Ok(())
    }

    /// Replaces an estimate by the actual use: gives `taken` back and removes `used`, even into debt.
    pub(crate) fn correct(&mut self, taken: u64, used: u64) {
        let left = self.left.saturating_add(parts(taken)).saturating_sub(parts(used));
        self.left = left.min(parts(self.limit));
    }

    /// The limit, what is left of it, and how long until the bucket is full.
    pub(crate) fn state(&mut self, now: Timestamp) -> (u64, u64, Duration) {
        self.refill(now);
        let missing = parts(self.limit).saturating_sub(self.left);
        (self.limit, u64::try_from(self.left).unwrap_or_default() / PARTS_PER_TOKEN, self.time_for(missing))
    }

    fn refill(&mut self, now: Timestamp) {
        let millis = u64::try_from(now.since(self.refilled_at).as_millis()).unwrap_or(u64::MAX);
        if millis > 0 {
            let gained = i64::try_from(millis.saturating_mul(self.limit)).unwrap_or(i64::MAX);
            self.left = self.left.saturating_add(gained).min(parts(self.limit));
        }
        // A clock that was set back by a little must not refill the same time twice. By more than a bucket takes, it would
        // keep the bucket empty for as long.
        let is_far_back = self.refilled_at.since(now) > PERIOD;
        self.refilled_at = if is_far_back { now } else { self.refilled_at.max(now) };
    }

    /// How long the bucket takes to refill `missing` parts.
    fn time_for(&self, missing: i64) -> Duration {
        Duration::from_millis(u64::try_from(missing).unwrap_or_default().div_ceil(self.limit.max(1)))
    }
}

fn parts(count: u64) -> i64 {
    i64::try_from(count.saturating_mul(PARTS_PER_TOKEN)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp(millis)
    }

    #[test]
    fn refills_evenly() {
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
    fn corrects_an_estimate_by_the_actual_use() {
        let mut bucket = TokenBucket::new(100, at(0));
        assert_eq!(bucket.take(60, at(0)), Ok(()));
        bucket.correct(60, 110);
        assert_eq!(bucket.take(10, at(0)), Err(Duration::from_secs(12)), "the debt is refilled first");
        bucket.correct(0, 0);
        assert_eq!(bucket.take(10, at(12_000)), Ok(()));
        let mut small = TokenBucket::new(10, at(0));
        assert_eq!(
            small.take(500, at(0)),
            Ok(()),
            "more than the limit passes once, then the debt is refilled"
        );
        assert!(small.take(1, at(60_000)).is_err());
    }

    #[test]
    fn a_clock_that_is_set_back_neither_fills_nor_shuts_the_bucket() {
        let mut bucket = TokenBucket::new(1, at(60_000));
        assert_eq!(bucket.take(1, at(60_000)), Ok(()));
        assert!(bucket.take(1, at(0)).is_err());
        assert!(bucket.take(1, at(60_000)).is_err());
        let mut bucket = TokenBucket::new(1, at(3_600_000));
        assert_eq!(bucket.take(1, at(3_600_000)), Ok(()));
        assert_eq!(bucket.take(1, at(0)), Err(Duration::from_secs(60)));
        assert_eq!(bucket.take(1, at(60_000)), Ok(()));
    }
}
