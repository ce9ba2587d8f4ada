//! Decides how much of a budget its log grants, what an instance spends of that, and what it gives back, so that the
//! total never exceeds the limit.
//!
//! A budget's log grants the limit of a period in slices, so that a request needs no durable write. An instance spends
//! only what it was granted: it reserves a call's worst case before the call and settles the actual cost afterwards.
//! What its calls no longer need, it returns to the log. What a call cost beyond its worst case is a debt, which the
//! log counts as granted too, so that no instance spends it a second time. If an instance dies, its free money and its
//! calls' reservations are lost until the period ends.

use std::{fmt, time::Duration};

use crate::{
    entry::{Entry, Kind},
    log::{Fold, FoldError},
    money::{Budget, NanoUsd},
    time::Timestamp,
};

/// What a budget's log has granted to all instances, and what they have returned.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grants {
    /// The start of the newest period with an entry. Older periods no longer matter.
    start: Timestamp,
    /// The sums of the period's grants and returns, in nano-dollars. Both only grow, so the order in which entries of
    /// several origins are added does not matter.
    granted: u128,
    returned: u128,
}

impl Grants {
    /// What instances hold or have spent in the period that begins at `start`. Debts can raise it above the limit.
    pub(crate) fn held(&self, start: Timestamp) -> NanoUsd {
        let held = if self.start == start { self.granted.saturating_sub(self.returned) } else { 0 };
        NanoUsd(u64::try_from(held).unwrap_or(u64::MAX))
    }

    /// How much to grant an instance that is short of `shortfall`: at least a slice, so that its next requests need no
    /// grant, and at most what the budget has left.
    pub(crate) fn slice(&self, budget: Budget, start: Timestamp, shortfall: NanoUsd) -> NanoUsd {
        // An instance whose clock is behind gets nothing: this fold no longer knows what the older period was granted.
        if self.start > start || shortfall == NanoUsd(0) {
            return NanoUsd(0);
        }
        shortfall.max(slice_of(budget)).min(budget.limit.saturating_sub(self.held(start)))
    }
}

/// The smallest grant of a budget, and what an idle instance keeps of it.
fn slice_of(budget: Budget) -> NanoUsd {
    NanoUsd(budget.limit.0 / SLICES)
}

/// Slices in a budget: a crash loses one or two hundredths of it, besides the reservations of running calls.
const SLICES: u64 = 100;

/// The body of a [`Kind::GRANTED`] or [`Kind::RETURNED`] entry: the period's start in milliseconds and the amount, each
/// as 8 bytes.
pub(crate) fn body(start: Timestamp, amount: NanoUsd) -> [u8; 16] {
    let mut body = [0; 16];
    let parts = start.0.to_be_bytes().into_iter().chain(amount.0.to_be_bytes());
    body.iter_mut().zip(parts).for_each(|(out, byte)| *out = byte);
    body
}

impl Fold for Grants {
    fn apply(&mut self, entry: &Entry) -> Result<(), FoldError> {
        let header = entry.header();
        if ![Kind::GRANTED, Kind::RETURNED].contains(&header.kind) {
            return Ok(());
        }
        let number = |range| {
            entry.body().get::<std::ops::Range<usize>>(range)?.try_into().ok().map(u64::from_be_bytes)
        };
        let (Some(start), Some(amount)) = (number(0..8), number(8..16)) else {
            let why = "a grant or return has 16 bytes".into();
            return Err(FoldError { origin: header.origin.clone(), seq: header.seq.0, why });
        };
        let start = Timestamp(start);
        if start > self.start {
            *self = Self { start, ..Self::default() };
        }
        if start == self.start {
            let sum = if header.kind == Kind::GRANTED { &mut self.granted } else { &mut self.returned };
            *sum = sum.saturating_add(amount.into());
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
    /// Spent beyond the grants, and not yet in the budget's log. While there is a debt, nothing is free.
    debt: NanoUsd,
    /// How far the log is above the limit, because of debts that it counts. Not spent until it is paid.
    overdraft: NanoUsd,
    /// Reserved by calls in flight.
    reserved: NanoUsd,
    /// Spent by this instance.
    spent: NanoUsd,
    surplus: Surplus,
}

/// Finds out what an instance does not need: the least that was free during a while.
///
/// A return that is followed by a grant was too early, so the while gets longer then: otherwise each call of slow
/// traffic would cost two durable writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Surplus {
    /// The least that was free since the last decision.
    least_free: NanoUsd,
    /// Looks since the last decision, and how many a decision takes.
    looks: u32,
    looks_needed: u32,
    /// What is to be returned by the last decision.
    unneeded: NanoUsd,
    returned_at: Option<Timestamp>,
}

impl Default for Surplus {
    fn default() -> Self {
        let least_free = NanoUsd(u64::MAX);
        Self { least_free, looks: 0, looks_needed: 1, unneeded: NanoUsd(0), returned_at: None }
    }
}

/// Interval in which an instance looks at its allowances. Debts are committed that soon, and it is the shortest while
/// after which money is returned.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Most looks before a return: 30 s, so that a budget's log gets at most four returns and grants a minute for long.
const MAX_LOOKS: u32 = 150;

/// A grant this soon after a return shows that the return was too early.
const EARLY: Duration = Duration::from_secs(60);

/// What an instance does after a look at its allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It reports to the budget's log.
    Report,
    /// It looks again later.
    Wait,
    /// It needs no more looks until the next call: nothing is in flight, owed, or worth a return.
    Idle,
}

/// What an instance reports to a budget's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// It spent this much more than it was granted, so the log counts that as granted.
    Debt(NanoUsd),
    /// It gives this much back.
    Return(NanoUsd),
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
        self.free.saturating_sub(self.overdraft)
    }

    /// What calls cost beyond the grants and the budget's log does not count yet.
    pub(crate) fn debt(&self) -> NanoUsd {
        self.debt
    }

    /// What calls in flight have reserved.
    pub(crate) fn reserved(&self) -> NanoUsd {
        self.reserved
    }

    /// What this instance has spent.
    pub(crate) fn spent(&self) -> NanoUsd {
        self.spent
    }

    /// The grant that is needed so that calls can reserve `amount`.
    pub(crate) fn shortfall(&self, amount: NanoUsd) -> NanoUsd {
        amount.saturating_add(self.debt).saturating_add(self.overdraft).saturating_sub(self.free)
    }

    /// Adds a grant of the period that begins at `start`. It pays a debt first.
    pub(crate) fn add(&mut self, start: Timestamp, amount: NanoUsd, now: Timestamp) {
        if self.start != start || amount == NanoUsd(0) {
            return;
        }
        self.credit(amount);
        if let Some(returned_at) = self.surplus.returned_at.take() {
            let was_early = now.since(returned_at) < EARLY;
            let looks =
                if was_early { self.surplus.looks_needed.saturating_mul(2).min(MAX_LOOKS) } else { 1 };
            self.surplus.looks_needed = looks;
        }
    }

    /// Reserves `amount`; `None` if less is free.
    pub(crate) fn reserve(&mut self, amount: NanoUsd) -> Option<Hold> {
        if self.free() < amount {
            return None;
        }
        self.free = self.free.saturating_sub(amount);
        self.surplus.least_free = self.surplus.least_free.min(self.free);
        self.reserved = self.reserved.saturating_add(amount);
        Some(Hold { start: self.start, amount })
    }

    /// Replaces a reservation by the actual cost. A cost above the reservation is paid by what is free; the rest of it
    /// is a debt.
    pub(crate) fn settle(&mut self, hold: Hold, cost: NanoUsd) {
        if hold.start != self.start {
            return;
        }
        self.reserved = self.reserved.saturating_sub(hold.amount);
        self.spent = self.spent.saturating_add(cost);
        self.credit(hold.amount);
        self.charge(cost);
    }

    /// Notes what the budget's log says: how far it is above the limit.
    pub(crate) fn observe(&mut self, grants: &Grants, budget: Budget) {
        self.overdraft = grants.held(self.start).saturating_sub(budget.limit);
    }

    /// Takes a look, and decides whether there is something to report.
    pub(crate) fn look(&mut self, budget: Budget) -> Look {
        // With one slice only, each grant would be followed by a return.
        let most_kept = slice_of(budget).saturating_add(slice_of(budget));
        self.surplus.looks += 1;
        if self.surplus.looks >= self.surplus.looks_needed {
            let least_free = self.surplus.least_free.min(self.free);
            let is_much = least_free > most_kept;
            let unneeded = if is_much { least_free.saturating_sub(slice_of(budget)) } else { NanoUsd(0) };
            self.surplus = Surplus { least_free: self.free, looks: 0, unneeded, ..self.surplus };
        }
        if self.has_report() {
            Look::Report
        } else if self.reserved == NanoUsd(0) && self.free <= most_kept {
            Look::Idle
        } else {
            Look::Wait
        }
    }

    /// Whether there is a debt, or money that pays one of the log, or money that is to be returned.
    fn has_report(&self) -> bool {
        self.debt.max(self.overdraft.max(self.surplus.unneeded).min(self.free)) > NanoUsd(0)
    }

    /// Decides to return everything that is free. Returns whether there is something to report.
    pub(crate) fn close(&mut self) -> bool {
        self.surplus.unneeded = self.free;
        self.has_report()
    }

    /// What to report now, given what the log says. The report counts as made from here on: money that was returned is
    /// never spent, even if the append's outcome stays unknown.
    pub(crate) fn take_report(&mut self, grants: &Grants, budget: Budget, now: Timestamp) -> Option<Report> {
        if self.debt > NanoUsd(0) {
            let debt = std::mem::take(&mut self.debt);
            // Before the append, so that money that becomes free meanwhile pays the debt.
            self.overdraft = grants.held(self.start).saturating_add(debt).saturating_sub(budget.limit);
            return Some(Report::Debt(debt));
        }
        self.observe(grants, budget);
        let amount = std::mem::take(&mut self.surplus.unneeded).max(self.overdraft).min(self.free);
        if amount == NanoUsd(0) {
            return None;
        }
        self.free = self.free.saturating_sub(amount);
        self.surplus.least_free = self.surplus.least_free.min(self.free);
        self.surplus.returned_at = Some(now);
        Some(Report::Return(amount))
    }

    /// Takes a report back that another writer's append prevented, or that may have failed. `is_certain` is whether it
    /// is certainly not in the log. A debt is owed in either case; a return is free again only if that is certain.
    pub(crate) fn undo_report(&mut self, start: Timestamp, report: Report, is_certain: bool) {
        match report {
            _ if self.start != start => {}
            Report::Debt(amount) => self.charge(amount),
            Report::Return(amount) if is_certain => {
                self.credit(amount);
                self.surplus.unneeded = amount;
            }
            Report::Return(_) => {}
        }
    }

    fn credit(&mut self, amount: NanoUsd) {
        let paid = self.debt.min(amount);
        self.debt = self.debt.saturating_sub(paid);
        self.free = self.free.saturating_add(amount.saturating_sub(paid));
    }

    fn charge(&mut self, amount: NanoUsd) {
        let paid = self.free.min(amount);
        self.free = self.free.saturating_sub(paid);
        self.surplus.least_free = self.surplus.least_free.min(self.free);
        self.debt = self.debt.saturating_add(amount.saturating_sub(paid));
    }
}

/// Money reserved for one call. It belongs to the period in which it was reserved.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    start: Timestamp,
    amount: NanoUsd,
}

/// A budget does not pay for a useful answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted {
    /// The budget's owner, as in [`BudgetOwner`](super::BudgetOwner)'s text.
    pub owner: String,
    /// The budget.
    pub budget: Budget,
    /// What this instance can reserve of it.
    pub free: NanoUsd,
    /// What the call can cost with the shortest useful answer.
    pub least_cost: NanoUsd,
    /// How long until the next period begins.
    pub resets_in: Duration,
}

/// Says what the call would cost and what there is, in dollars.
impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, budget: Budget { limit, per }, free, least_cost, .. } = self;
        let (call, per) =
            (format!("this request can cost {least_cost} USD even with a short answer"), per.name());
        if least_cost > limit {
            let allowed = "allowed: a smaller request, a cheaper model or a larger limit_usd";
            return write!(
                f,
                "{call}, and the whole budget of the {owner} is {limit} USD per {per}; {allowed}"
            );
        }
        write!(f, "{call}, and of the budget of the {owner} ({limit} USD per {per}), {free} USD are left")
    }
}

impl Exhausted {
    /// How long until a retry may succeed; `None` if the whole budget is too small for the call.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        (self.least_cost <= self.budget.limit).then_some(self.resets_in)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::money::Period;

    const START: Timestamp = Timestamp(0);

    /// Instances of a node, and the one log of their budget.
    struct Instances {
        budget: Budget,
        grants: Grants,
        now: Timestamp,
        all: Vec<Instance>,
        /// What all calls have cost, those that a crash cut included.
        billed: u64,
        /// What calls cost beyond their reservation, where a crash prevented the debt.
        lost: u64,
        /// The most of what calls cost beyond their reservations, of all that were in flight together, of instances
        /// that crashed.
        errors: u64,
    }

    #[derive(Default)]
    struct Instance {
        allowance: Allowance,
        /// Calls in flight: what is reserved and what they are going to cost.
        calls: Vec<(Hold, u64)>,
        errors: u64,
    }

    impl Instance {
        fn error_in_flight(&self) -> u64 {
            self.calls.iter().map(|(hold, cost)| cost.saturating_sub(hold.amount.0)).sum()
        }
    }

    impl Instances {
        fn new(count: usize, limit: u64) -> Self {
            Self {
                budget: Budget { limit: NanoUsd(limit), per: Period::Hour },
                grants: Grants::default(),
                now: START,
                all: (0..count).map(|_| Instance::default()).collect(),
                billed: 0,
                lost: 0,
                errors: 0,
            }
        }

        /// Begins a call, with a grant if it needs one. `is_lost`: the append persists, and the instance does not know.
        fn begin(&mut self, at: usize, amount: u64, cost: u64, is_lost: bool) -> bool {
            let Self { budget, grants, now, all, .. } = self;
            let Some(Instance { allowance, calls, errors }) = all.get_mut(at) else { return false };
            if allowance.shortfall(NanoUsd(amount)) > NanoUsd(0) {
                allowance.observe(grants, *budget);
                let slice = grants.slice(*budget, START, allowance.shortfall(NanoUsd(amount)));
                grants.granted += u128::from(slice.0);
                if !is_lost {
                    allowance.add(START, slice, *now);
                }
            }
            let Some(hold) = allowance.reserve(NanoUsd(amount)) else { return false };
            calls.push((hold, cost));
            let in_flight = calls.iter().map(|(hold, cost)| cost.saturating_sub(hold.amount.0)).sum();
            *errors = (*errors).max(in_flight);
            true
        }

        fn settle(&mut self, at: usize) {
            let Some(instance) = self.all.get_mut(at) else { return };
            if !instance.calls.is_empty() {
                let (hold, cost) = instance.calls.remove(0);
                self.billed += cost;
                instance.allowance.settle(hold, NanoUsd(cost));
            }
        }

        /// What the background task of an instance does. Of an append without an outcome, `persists` is whether it is
        /// in the log.
        fn report(&mut self, at: usize, all: bool, outcome: Outcome) {
            let Self { budget, grants, now, all: instances, .. } = self;
            now.0 += 200;
            let Some(Instance { allowance, .. }) = instances.get_mut(at) else { return };
            let look = if all && allowance.close() { Look::Report } else { allowance.look(*budget) };
            if look != Look::Report {
                return;
            }
            let Some(report) = allowance.take_report(grants, *budget, *now) else { return };
            match report {
                _ if outcome == Outcome::Lost => {}
                Report::Debt(amount) => grants.granted += u128::from(amount.0),
                Report::Return(amount) => grants.returned += u128::from(amount.0),
            }
            if outcome != Outcome::Known {
                allowance.undo_report(START, report, false);
            }
        }

        /// The instance dies. Its calls may cost all that they would have cost.
        fn crash(&mut self, at: usize) {
            let Some(instance) = self.all.get_mut(at) else { return };
            self.lost += instance.allowance.debt.0 + instance.error_in_flight();
            self.billed += instance.calls.iter().map(|(_, cost)| cost).sum::<u64>();
            self.errors += instance.errors;
            *instance = Instance::default();
        }

        /// The most that may be billed: the limit, and what estimates were wrong by.
        fn bound(&self) -> u64 {
            let errors: u64 = self.all.iter().map(|instance| instance.errors).sum();
            self.budget.limit.0 + self.errors + errors + self.lost
        }
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Outcome {
        Known,
        Uncertain,
        Lost,
    }

    /// An event at an instance: its kind, an amount, its cost in percent, and how an append of it ends.
    fn events() -> impl Strategy<Value = Vec<(usize, u8, u64, u64, Outcome)>> {
        let outcome = prop_oneof![
            8 => Just(Outcome::Known),
            1 => Just(Outcome::Uncertain),
            1 => Just(Outcome::Lost),
        ];
        prop::collection::vec((0_usize..3, 0_u8..20, 1_u64..400, 0_u64..150, outcome), 0..200)
    }

    proptest! {
        /// Whatever the order of calls, reports and crashes, what is billed stays within the limit and the errors of
        /// calls that were in flight together.
        #[test]
        fn billed_never_passes_the_limit_and_the_errors_in_flight(
            limit in 0_u64..3_000, count in 1_usize..=3, events in events(),
        ) {
            let mut instances = Instances::new(count, limit);
            for (at, kind, amount, percent, outcome) in events {
                let at = at % count;
                match kind {
                    0 => instances.crash(at),
                    1..6 => instances.settle(at),
                    6..11 => instances.report(at, kind == 6, outcome),
                    _ => {
                        instances.begin(at, amount, amount * percent / 100, outcome == Outcome::Uncertain);
                    }
                }
                let (billed, bound) = (instances.billed, instances.bound());
                prop_assert!(billed <= bound, "{billed} billed, allowed {bound}");
            }
        }
    }

    /// Forty callers, each cost a tenth of what is reserved for it; the process is killed three times.
    #[test]
    fn three_kills_under_load_leave_the_budget_usable() {
        const AMOUNT: u64 = 500;
        let mut instances = Instances::new(1, 1_000_000);
        let (mut cut, mut answered) = (0, 0);
        let calls = |instances: &mut Instances, rounds: usize| {
            for round in 0..rounds {
                // Calls overlap: a call begins when another one ends. Their number falls and rises again.
                let callers = if round % 100 < 50 { 40 } else { 20 };
                instances.settle(0);
                while instances.all[0].calls.len() < callers && instances.begin(0, AMOUNT, AMOUNT / 10, false)
                {
                }
                if round % 10 == 0 {
                    instances.report(0, false, Outcome::Known);
                }
            }
        };
        for _ in 0..3 {
            calls(&mut instances, 1_000);
            cut += instances.all[0].calls.len() as u64 * AMOUNT;
            instances.billed -= instances.all[0].calls.len() as u64 * AMOUNT / 10;
            instances.crash(0);
        }
        let before = instances.billed;
        while instances.begin(0, AMOUNT, AMOUNT, false) {
            instances.settle(0);
            answered += 1;
        }
        let (usable, possible) = (before + answered * AMOUNT, 1_000_000 - cut);
        assert!(usable * 10 >= possible * 9, "{usable} of {possible}");
        assert!(instances.billed <= 1_000_000);
    }
}
