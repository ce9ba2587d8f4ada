//! Money that may be spent, and how it never becomes more.
//!
//! What a budget allows for a period is granted in slices by its log, so that a request costs no durable write. An
//! instance spends only what it was granted: it reserves the most that a call can cost before it is made, and settles
//! what it did cost afterwards. What an instance that dies had left is stranded until the period ends, at most a slice
//! and what its calls had reserved.

use std::time::Duration;

use crate::{
    entry::{Entry, Kind},
    log::{Fold, FoldError},
    money::{Budget, NanoUsd},
    time::Timestamp,
};

/// What the log of a budget has granted, by period.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grants {
    /// The newest period that anything was granted for, and how much. Older ones matter no more.
    newest: (Timestamp, NanoUsd),
}

impl Grants {
    /// All that was granted for the period that begins at `start`.
    pub(crate) fn of(&self, start: Timestamp) -> NanoUsd {
        if self.newest.0 == start { self.newest.1 } else { NanoUsd(0) }
    }

    /// How much to grant when `missing` is wanted: a slice, so that the next requests need no grant, and never more
    /// than is left.
    pub(crate) fn slice(&self, budget: Budget, start: Timestamp, missing: NanoUsd) -> NanoUsd {
        let left = budget.limit.saturating_sub(self.of(start));
        // An older clock must not be granted what a newer one has already.
        if self.newest.0 > start {
            return NanoUsd(0);
        }
        missing.max(NanoUsd(budget.limit.0 / SLICES)).min(left)
    }
}

/// Slices in a budget: a crash strands a twentieth of it at most, beside what its calls had reserved.
const SLICES: u64 = 20;

/// The body of a [`Kind::GRANTED`] entry: when the period begins, in milliseconds, and how much.
pub(crate) fn grant(start: Timestamp, amount: NanoUsd) -> [u8; 16] {
    let mut body = [0; 16];
    let parts = start.0.to_be_bytes().into_iter().chain(amount.0.to_be_bytes());
    body.iter_mut().zip(parts).for_each(|(out, byte)| *out = byte);
    body
}

impl Fold for Grants {
    fn apply(&mut self, entry: &Entry) -> Result<(), FoldError> {
        if entry.header().kind != Kind::GRANTED {
            return Ok(());
        }
        let number = |range| {
            entry.body().get::<std::ops::Range<usize>>(range)?.try_into().ok().map(u64::from_be_bytes)
        };
        let (Some(start), Some(amount)) = (number(0..8), number(8..16)) else {
            let header = entry.header();
            let why = "a grant has 16 bytes".into();
            return Err(FoldError { origin: header.origin.clone(), seq: header.seq.0, why });
        };
        let start = Timestamp(start);
        let amount = NanoUsd(amount).saturating_add(self.of(start));
        if start >= self.newest.0 {
            self.newest = (start, amount);
        }
        Ok(())
    }
}

/// What an instance may spend of a budget in the period that it is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowance {
    start: Timestamp,
    /// Granted, and neither spent nor reserved.
    free: NanoUsd,
    /// Reserved by calls under way.
    held: NanoUsd,
    /// Spent by this instance.
    spent: NanoUsd,
}

impl Allowance {
    /// Begins anew if the period has. What was left of the old one is lost, and what is still held belongs to it.
    pub(crate) fn begin_period(&mut self, start: Timestamp) {
        if self.start != start {
            *self = Self { start, ..Self::default() };
        }
    }

    /// What can be reserved.
    pub(crate) fn free(&self) -> NanoUsd {
        self.free
    }

    /// What calls under way have reserved.
    pub(crate) fn reserved(&self) -> NanoUsd {
        self.held
    }

    /// What was spent.
    pub(crate) fn spent(&self) -> NanoUsd {
        self.spent
    }

    /// Puts a grant in. One for another period comes too late.
    pub(crate) fn fill(&mut self, start: Timestamp, amount: NanoUsd) {
        if self.start == start {
            self.free = self.free.saturating_add(amount);
        }
    }

    /// Reserves an amount that is free.
    pub(crate) fn reserve(&mut self, amount: NanoUsd) -> Option<Hold> {
        self.free = NanoUsd(self.free.0.checked_sub(amount.0)?);
        self.held = self.held.saturating_add(amount);
        Some(Hold { start: self.start, amount })
    }

    /// Ends a reservation with what it did cost. More than was reserved is paid from what is free, as far as it goes.
    pub(crate) fn settle(&mut self, hold: Hold, cost: NanoUsd) {
        if hold.start != self.start {
            return;
        }
        self.held = self.held.saturating_sub(hold.amount);
        self.spent = self.spent.saturating_add(cost);
        self.free = self.free.saturating_add(hold.amount).saturating_sub(cost);
    }
}

/// A reservation. It belongs to the period that it was made in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    start: Timestamp,
    amount: NanoUsd,
}

/// A budget has nothing left for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted {
    /// Which.
    pub budget: String,
    /// How long until it begins anew.
    pub resets_in: Duration,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::money::Period;

    proptest! {
        /// Several instances, any order of calls, crashes: what all have spent and hold is within the limit, always.
        #[test]
        fn spent_and_reserved_never_pass_the_limit(
            limit in 0_u64..2_000,
            steps in prop::collection::vec((0_usize..3, 0_u64..400, 0_u64..100, 0_u8..10), 0..120),
        ) {
            let budget = Budget { limit: NanoUsd(limit), per: Period::Hour };
            let start = Timestamp(0);
            let (mut granted, mut purses) = (Grants::default(), [Allowance::default(); 3]);
            let mut holds: [Vec<(Hold, u64)>; 3] = Default::default();
            let (mut spent, mut lost) = (0, 0);
            for (who, amount, percent, event) in steps {
                let (purse, held) = (&mut purses[who], &mut holds[who]);
                match event {
                    // A crash: all that it had is gone, and what it had reserved may have been spent.
                    0 => {
                        lost += held.drain(..).map(|(_, amount)| amount).sum::<u64>();
                        *purse = Allowance::default();
                    }
                    1..4 => if let Some((hold, amount)) = held.pop() {
                        spent += amount * percent / 100;
                        purse.settle(hold, NanoUsd(amount * percent / 100));
                    },
                    _ => {
                        let missing = NanoUsd(amount).saturating_sub(purse.free());
                        if missing > NanoUsd(0) {
                            let slice = granted.slice(budget, start, missing);
                            granted.newest = (start, granted.of(start).saturating_add(slice));
                            purse.fill(start, slice);
                        }
                        held.extend(purse.reserve(NanoUsd(amount)).map(|hold| (hold, amount)));
                    }
                }
                let held: u64 = holds.iter().flatten().map(|(_, amount)| amount).sum();
                prop_assert!(spent + held + lost <= limit, "{spent} spent, {held} held, {lost} lost of {limit}");
            }
        }
    }
}
