//! Decides how much of a budget its log grants and an instance spends, so that the total never exceeds the limit.
//!
//! A budget's log grants the limit of a period in slices, so that a request needs no durable write. An instance spends
//! only what it was granted: it reserves a call's worst case before the call and settles the actual cost afterwards.
//! If an instance dies, its unspent slice and its calls' reservations are lost until the period ends.

use std::time::Duration;

use crate::{
    entry::{Entry, Kind},
    log::{Fold, FoldError},
    money::{Budget, NanoUsd},
    time::Timestamp,
};

/// What a budget's log has granted to all instances.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grants {
    /// The start of the newest period with a grant, and the sum of its grants. Older periods no longer matter.
    newest: (Timestamp, NanoUsd),
}

impl Grants {
    /// The sum of the grants for the period that begins at `start`.
    pub(crate) fn in_period(&self, start: Timestamp) -> NanoUsd {
        if self.newest.0 == start { self.newest.1 } else { NanoUsd(0) }
    }

    /// How much to grant an instance that is short of `shortfall`: at least a slice, so that its next requests need no
    /// grant, and at most what the budget has left.
    pub(crate) fn slice(&self, budget: Budget, start: Timestamp, shortfall: NanoUsd) -> NanoUsd {
        let left = budget.limit.saturating_sub(self.in_period(start));
        // An instance whose clock is behind gets nothing: this fold no longer knows what the older period was granted.
        if self.newest.0 > start {
            return NanoUsd(0);
        }
        shortfall.max(NanoUsd(budget.limit.0 / SLICES)).min(left)
    }
}

/// Slices in a budget: a crash loses at most a twentieth of it, besides the reservations of running calls.
const SLICES: u64 = 20;

/// The body of a [`Kind::GRANTED`] entry: the period's start in milliseconds and the amount, each as 8 bytes.
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
        let amount = NanoUsd(amount).saturating_add(self.in_period(start));
        if start >= self.newest.0 {
            self.newest = (start, amount);
        }
        Ok(())
    }
}

/// What one instance may spend of a budget in the current period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// When the period began.
    start: Timestamp,
    /// Granted, and neither spent nor reserved.
    free: NanoUsd,
    /// Reserved by calls in flight.
    reserved: NanoUsd,
    /// Spent by this instance.
    spent: NanoUsd,
}

impl Allowance {
    /// Resets the allowance if a new period has begun. Unspent money and open reservations stay with the old period.
    pub(crate) fn begin_period(&mut self, start: Timestamp) {
        if self.start != start {
            *self = Self { start, ..Self::default() };
        }
    }

    /// What calls can still reserve.
    pub(crate) fn free(&self) -> NanoUsd {
        self.free
    }

    /// What calls in flight have reserved.
    pub(crate) fn reserved(&self) -> NanoUsd {
        self.reserved
    }

    /// What this instance has spent.
    pub(crate) fn spent(&self) -> NanoUsd {
        self.spent
    }

    /// Adds a grant, unless it is for another period.
    pub(crate) fn add(&mut self, start: Timestamp, amount: NanoUsd) {
        if self.start == start {
            self.free = self.free.saturating_add(amount);
        }
    }

    /// Reserves `amount`; `None` if less is free.
    pub(crate) fn reserve(&mut self, amount: NanoUsd) -> Option<Hold> {
        self.free = NanoUsd(self.free.0.checked_sub(amount.0)?);
        self.reserved = self.reserved.saturating_add(amount);
        Some(Hold { start: self.start, amount })
    }

    /// Replaces a reservation by the actual cost. A cost above the reservation reduces what is free, at most to zero.
    pub(crate) fn settle(&mut self, hold: Hold, cost: NanoUsd) {
        if hold.start != self.start {
            return;
        }
        self.reserved = self.reserved.saturating_sub(hold.amount);
        self.spent = self.spent.saturating_add(cost);
        self.free = self.free.saturating_add(hold.amount).saturating_sub(cost);
    }
}

/// Money reserved for one call. It belongs to the period in which it was reserved.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    start: Timestamp,
    amount: NanoUsd,
}

/// A budget has too little left for a useful answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted {
    /// The budget, as in [`BudgetOwner`](super::BudgetOwner)'s text.
    pub budget: String,
    /// How long until the next period begins.
    pub resets_in: Duration,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::money::Period;

    proptest! {
        /// Whatever the order of calls and crashes, several instances together never exceed the limit.
        #[test]
        fn spent_and_reserved_never_pass_the_limit(
            limit in 0_u64..2_000,
            steps in prop::collection::vec((0_usize..3, 0_u64..400, 0_u64..100, 0_u8..10), 0..120),
        ) {
            let budget = Budget { limit: NanoUsd(limit), per: Period::Hour };
            let start = Timestamp(0);
            let (mut granted, mut allowances) = (Grants::default(), [Allowance::default(); 3]);
            let mut holds: [Vec<(Hold, u64)>; 3] = Default::default();
            let (mut spent, mut lost) = (0, 0);
            for (instance, amount, percent, event) in steps {
                let (allowance, held) = (&mut allowances[instance], &mut holds[instance]);
                match event {
                    // A crash: the allowance is gone, and what was reserved may have been spent.
                    0 => {
                        lost += held.drain(..).map(|(_, amount)| amount).sum::<u64>();
                        *allowance = Allowance::default();
                    }
                    1..4 => if let Some((hold, amount)) = held.pop() {
                        spent += amount * percent / 100;
                        allowance.settle(hold, NanoUsd(amount * percent / 100));
                    },
                    _ => {
                        let shortfall = NanoUsd(amount).saturating_sub(allowance.free());
                        if shortfall > NanoUsd(0) {
                            let slice = granted.slice(budget, start, shortfall);
                            granted.newest = (start, granted.in_period(start).saturating_add(slice));
                            allowance.add(start, slice);
                        }
                        held.extend(allowance.reserve(NanoUsd(amount)).map(|hold| (hold, amount)));
                    }
                }
                let held: u64 = holds.iter().flatten().map(|(_, amount)| amount).sum();
                prop_assert!(spent + held + lost <= limit, "{spent} spent, {held} held, {lost} lost of {limit}");
            }
        }
    }
}
