//! How fast a caller may ask.

use std::time::Duration;

use crate::platform::Timestamp;

/// A limit for each minute that is used up by what is taken and comes back evenly.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    limit: u64,
    /// What is left, in thousandths; below zero if more was used than was foreseen.
    left: i64,
    filled: Timestamp,
}

const MINUTE_MILLIS: u64 = 60_000;

impl Bucket {
    /// A full one.
    pub fn new(limit: u64, now: Timestamp) -> Self {
        Self { limit, left: thousandths(limit), filled: now }
    }

    /// Takes `count`, or says how long until it is there. More than the whole limit is taken once the bucket is full,
    /// since it would never be there.
    pub fn take(&mut self, count: u64, now: Timestamp) -> Result<(), Duration> {
        self.fill(now);
        let wanted = thousandths(count.min(self.limit));
        if self.left < wanted {
            return Err(self.time_for(wanted - self.left));
        }
        self.left = self.left.saturating_sub(thousandths(count));
        Ok(())
    }

    /// Corrects what was taken by what was used: `taken` comes back, `used` is gone.
    pub fn correct(&mut self, taken: u64, used: u64) {
        let left = self.left.saturating_add(thousandths(taken)).saturating_sub(thousandths(used));
        self.left = left.min(thousandths(self.limit));
    }

    /// The limit, what is left of it, and how long until it is full.
    pub fn state(&mut self, now: Timestamp) -> (u64, u64, Duration) {
        self.fill(now);
        let missing = thousandths(self.limit).saturating_sub(self.left);
        (self.limit, u64::try_from(self.left / 1000).unwrap_or_default(), self.time_for(missing))
    }

    fn fill(&mut self, now: Timestamp) {
        let millis = u64::try_from(now.since(self.filled).as_millis()).unwrap_or(u64::MAX);
        // A limit in a minute is a thousandth of it in 60 ms.
        let gained = u128::from(millis) * u128::from(self.limit) * 1000 / u128::from(MINUTE_MILLIS);
        if gained > 0 {
            let left = self.left.saturating_add(i64::try_from(gained).unwrap_or(i64::MAX));
            (self.left, self.filled) = (left.min(thousandths(self.limit)), now);
        }
    }

    fn time_for(&self, missing: i64) -> Duration {
        let missing = u128::try_from(missing).unwrap_or_default();
        let rate = u128::from(self.limit.max(1)) * 1000;
        let millis = (missing * u128::from(MINUTE_MILLIS)).div_ceil(rate);
        Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }
}

fn thousandths(count: u64) -> i64 {
    i64::try_from(count.saturating_mul(1000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp(millis)
    }

    #[test]
    fn what_is_taken_comes_back_evenly() {
        let mut bucket = Bucket::new(3, at(0));
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
        let mut bucket = Bucket::new(100, at(0));
        assert_eq!(bucket.take(60, at(0)), Ok(()));
        bucket.correct(60, 110);
        assert_eq!(bucket.take(10, at(0)), Err(Duration::from_secs(12)), "the debt first");
        bucket.correct(0, 0);
        assert_eq!(bucket.take(10, at(12_000)), Ok(()));
        let mut small = Bucket::new(10, at(0));
        assert_eq!(small.take(500, at(0)), Ok(()), "larger than the limit: once, and then a long wait");
        assert!(small.take(1, at(60_000)).is_err());
    }

    #[test]
    fn a_clock_that_was_set_back_gives_nothing() {
        let mut bucket = Bucket::new(1, at(60_000));
        assert_eq!(bucket.take(1, at(60_000)), Ok(()));
        assert!(bucket.take(1, at(0)).is_err());
    }
}
