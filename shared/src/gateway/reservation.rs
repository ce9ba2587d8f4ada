//! Reserves money before a call and settles it afterwards; commits debts and returns what calls no longer need. The
//! ledger decides; this file reads and writes the budgets' logs.

use std::{cell::RefCell, convert::Infallible, rc::Rc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;

use crate::{
    entry::{Draft, Kind, Wake},
    ledger::{
        BudgetOwner, Budgets, Holds, Ledger, SpendKey, WorstCase,
        budget::{self, Exhausted, Grants, LOOK_INTERVAL, Look, Report},
    },
    log::{self, CommitError, Decision},
    money::{Budget, NanoUsd},
    node::Node,
    platform::Platform,
    time::Timestamp,
    usage::Usage,
};

/// Money that is reserved for one call until it is settled.
pub(super) struct Reservation {
    ledger: Rc<RefCell<Ledger>>,
    spend_key: SpendKey,
    holds: Holds,
}

/// Why no money was reserved for a call.
#[derive(Debug)]
pub(super) enum ReservationError {
    /// A budget has too little left.
    Exhausted(Exhausted),
    /// This budget has to pay for the call, but the call's price is unknown.
    Unpriced(String),
    /// The store can't be reached, so the budget's log grants nothing.
    Unavailable,
}

/// Reserves the worst case of a call of `spend_key` in each of `budgets`; `worst` is `None` if the price is unknown.
///
/// Also returns the worst case that was reserved, and the limit of each choice's tokens if that is lower than `worst`.
pub(super) async fn reserve<P: Platform>(
    node: &Node<P>,
    spend_key: SpendKey,
    budgets: &Budgets,
    worst: Option<WorstCase>,
) -> Result<(Reservation, Option<WorstCase>, Option<u64>), ReservationError> {
    let ledger = Rc::clone(node.ledger());
    let worst = match (worst, budgets.first()) {
        (worst, None) => return Ok((Reservation { ledger, spend_key, holds: Vec::new() }, worst, None)),
        (None, Some((owner, _))) => return Err(ReservationError::Unpriced(owner.to_string())),
        (Some(worst), Some(_)) => worst,
    };
    cover_all(node, budgets, worst.cost()).await?;
    // The ledger decides and reserves without an await in between, so no other call can take the same money.
    let reserved = ledger.borrow_mut().reserve(budgets, &worst, node.platform().now());
    let (holds, cap) = reserved.map_err(ReservationError::Exhausted)?;
    for (owner, budget) in budgets {
        look_after(node, owner.clone(), *budget);
    }
    let output = cap.map_or(worst.output, |cap| cap.saturating_mul(worst.choices));
    Ok((Reservation { ledger, spend_key, holds }, Some(WorstCase { output, ..worst }), cap))
}

/// Requests grants until `amount` is free in each of `budgets` at once, but for those that have less left.
async fn cover_all<P: Platform>(
    node: &Node<P>,
    budgets: &Budgets,
    amount: NanoUsd,
) -> Result<(), ReservationError> {
    for _ in 0..MAX_GRANTS {
        let mut covered = Vec::new();
        for (owner, budget) in budgets {
            if cover(node, owner, *budget, amount).await? {
                covered.push((owner, budget.per));
            }
        }
        // While the log of one budget was written, other calls may have taken what was free in another.
        let (mut ledger, now) = (node.ledger().borrow_mut(), node.platform().now());
        if covered.iter().all(|(owner, per)| ledger.shortfall(owner, per.around(now).0, amount) == NanoUsd(0))
        {
            break;
        }
    }
    Ok(())
}

/// Requests grants until `amount` is free, or until the budget has less left. Returns whether it is free.
async fn cover<P: Platform>(
    node: &Node<P>,
    owner: &BudgetOwner,
    budget: Budget,
    amount: NanoUsd,
) -> Result<bool, ReservationError> {
    for _ in 0..MAX_GRANTS {
        let (start, _) = budget.per.around(node.platform().now());
        let (begins, results) = {
            let mut ledger = node.ledger().borrow_mut();
            if ledger.shortfall(owner, start, amount) == NanoUsd(0) {
                return Ok(true);
            }
            (ledger.begin_write(owner, amount), ledger.grant_results(owner))
        };
        if begins {
            let write = grant(node.clone(), owner.clone(), budget, start, amount).boxed_local().shared();
            // Spawned too, so that the slice is not lost if the client disconnects meanwhile.
            node.platform().spawn(Box::pin(write.clone().map(drop)));
            write.await;
        } else {
            await_write(node, owner).await;
        }
        let new_results = node.ledger().borrow().grant_results(owner);
        if new_results.failed != results.failed {
            return Err(ReservationError::Unavailable);
        }
        if new_results.refused != results.refused {
            return Ok(false);
        }
    }
    Ok(false)
}

/// Most grants that a call requests: other calls may take the money of each, but not forever.
const MAX_GRANTS: u32 = 16;

/// Waits until no other task writes to the budget's log, since writes at once would only conflict. Gives up after a
/// while: on Workers a task can be dropped in the middle of its write.
async fn await_write<P: Platform>(node: &Node<P>, owner: &BudgetOwner) {
    for _ in 0..MAX_WAITS {
        // A timer of this task: on Workers no task may depend on the I/O of another request.
        node.platform().sleep(WAIT).await;
        if !node.ledger().borrow().is_writing(owner) {
            return;
        }
    }
    node.ledger().borrow_mut().end_write(owner);
}

/// About the time of an append.
const WAIT: Duration = Duration::from_millis(5);

/// Two seconds: as long as an append with all its retries.
const MAX_WAITS: u32 = 400;

/// Commits a grant to the budget's log, for `amount` and for the calls that wait for this write.
async fn grant<P: Platform>(
    node: Node<P>,
    owner: BudgetOwner,
    budget: Budget,
    start: Timestamp,
    mut amount: NanoUsd,
) {
    let mut view = node.ledger().borrow().grants(&owner);
    let (log, cause) = (owner.log(&node.config().node), node.random_bytes());
    let committed = log::commit(node.platform(), log, node.origin(), &mut view, |grants: &Grants| {
        let mut ledger = node.ledger().borrow_mut();
        amount = amount.saturating_add(ledger.take_awaited(&owner));
        let slice = ledger.plan_slice(&owner, budget, start, amount, grants);
        Ok::<_, Infallible>(match slice {
            NanoUsd(0) => Decision::Done(slice),
            _ => {
                let body = Bytes::copy_from_slice(&budget::body(start, slice));
                Decision::Append(vec![Draft { kind: Kind::GRANTED, cause, body }], Wake::Keep, slice)
            }
        })
    });
    let slice = committed.await;
    let mut ledger = node.ledger().borrow_mut();
    ledger.end_write(&owner);
    match slice {
        Ok((slice, _)) => {
            ledger.put_grants(&owner, budget, view);
            ledger.add_slice(&owner, start, slice, node.platform().now());
        }
        Err(CommitError::Refused(never)) => match never {},
        // If the append succeeded but its answer was lost, the slice is lost until the period ends, as after a crash.
        Err(_) => ledger.fail_grant(&owner),
    }
}

/// Starts a task that looks after the allowance of a budget, unless one runs: it commits debts, and returns what calls
/// have not needed for a while. It ends when no call is in flight and nothing is left to report.
fn look_after<P: Platform>(node: &Node<P>, owner: BudgetOwner, budget: Budget) {
    if !node.ledger().borrow_mut().begin_looks(&owner, node.platform().now()) {
        return;
    }
    let node = node.clone();
    node.clone().platform().spawn(Box::pin(async move {
        let mut pause = LOOK_INTERVAL;
        loop {
            node.platform().sleep(pause).await;
            let now = node.platform().now();
            let look = node.ledger().borrow_mut().look(&owner, budget, now);
            pause = match look {
                Look::Idle => return,
                Look::Wait => LOOK_INTERVAL,
                Look::Report => match report(&node, &owner, budget, now).await {
                    Ok(()) => LOOK_INTERVAL,
                    Err(Unavailable) => (pause * 2).min(MAX_PAUSE),
                },
            };
        }
    }));
}

/// Longest pause between reports while the store does not answer.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The store can't be reached.
struct Unavailable;

/// Appends to the budget's log what the allowance has to report.
async fn report<P: Platform>(
    node: &Node<P>,
    owner: &BudgetOwner,
    budget: Budget,
    now: Timestamp,
) -> Result<(), Unavailable> {
    while !node.ledger().borrow_mut().begin_write(owner, NanoUsd(0)) {
        await_write(node, owner).await;
    }
    let (start, _) = budget.per.around(now);
    let mut view = node.ledger().borrow().grants(owner);
    let (log, cause) = (owner.log(&node.config().node), node.random_bytes());
    let mut reported = None;
    let committed = log::commit(node.platform(), log, node.origin(), &mut view, |grants: &Grants| {
        let mut ledger = node.ledger().borrow_mut();
        if let Some(report) = reported.take() {
            // Another writer was first, so the report is not in the log.
            ledger.undo_report(owner, start, report, true);
        }
        reported = ledger.take_report(owner, budget, (start, now), grants);
        let (kind, amount) = match reported {
            None => return Ok::<_, Infallible>(Decision::Done(())),
            Some(Report::Debt(amount)) => (Kind::GRANTED, amount),
            Some(Report::Return(amount)) => (Kind::RETURNED, amount),
        };
        let body = Bytes::copy_from_slice(&budget::body(start, amount));
        Ok(Decision::Append(vec![Draft { kind, cause, body }], Wake::Keep, ()))
    });
    let committed = committed.await;
    let mut ledger = node.ledger().borrow_mut();
    ledger.end_write(owner);
    match committed {
        Ok(_) => {
            ledger.put_grants(owner, budget, view);
            Ok(())
        }
        Err(CommitError::Refused(never)) => match never {},
        Err(_) => {
            if let Some(report) = reported {
                ledger.undo_report(owner, start, report, false);
            }
            Err(Unavailable)
        }
    }
}

impl<P: Platform> Node<P> {
    /// Returns everything that this instance holds of its budgets and no call has reserved, so that other instances
    /// and the next start can spend it. For an instance that is about to end.
    pub async fn return_grants(&self) {
        for (owner, budget) in self.config().budgets() {
            let now = self.platform().now();
            if !self.ledger().borrow_mut().close(&owner, budget.per.around(now).0) {
                continue;
            }
            // Without the store the money is lost until the period ends, as after a crash.
            let _ = report(self, &owner, budget, now).await;
        }
    }
}

impl Reservation {
    /// The name of the caller's key.
    pub(super) fn key(&self) -> &str {
        &self.spend_key.key
    }

    /// Whether a budget pays for the call.
    pub(super) fn is_bound(&self) -> bool {
        !self.holds.is_empty()
    }

    /// Ends the reservation with what the call used and cost.
    pub(super) fn settle(self, usage: Usage, cost: NanoUsd) {
        self.ledger.borrow_mut().settle(self.spend_key, self.holds, usage, cost);
    }
}
