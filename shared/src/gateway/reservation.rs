//! Reserves money before a call and settles it afterwards: the ledger decides, the budgets' logs grant.

use std::{cell::RefCell, convert::Infallible, rc::Rc};

use bytes::Bytes;

use crate::{
    entry::{Draft, Kind, Wake},
    ledger::{
        BudgetOwner, Ledger, SpendKey, WorstCase,
        budget::{self, Exhausted, Grants, Hold},
    },
    log::{self, CommitError, Decision},
    money::{Budget, NanoUsd},
    node::Node,
    platform::Platform,
    usage::Usage,
};

/// Money that is set aside for one call, until it is settled.
pub(super) struct Reservation {
    ledger: Rc<RefCell<Ledger>>,
    payee: SpendKey,
    holds: Vec<(BudgetOwner, Hold)>,
    /// Most tokens that each answer may have, where the budgets pay for no more.
    pub(super) cap: Option<u64>,
}

/// Why there is no money for a call.
#[derive(Debug)]
pub(super) enum ReservationError {
    /// A budget has nothing left.
    Exhausted(Exhausted),
    /// A budget binds the call, and its price is not known.
    Unpriced(String),
    /// The store does not answer, and nothing is spent that is not granted.
    Unavailable,
}

/// The name of a budget that calls of `payee` are paid from, if there is one.
pub(super) fn binding<P: Platform>(node: &Node<P>, payee: &SpendKey) -> Option<String> {
    let budgets = node.config().budgets_for(&payee.key, &payee.provider);
    budgets.first().map(|(owner, _)| owner.to_string())
}

/// Sets aside what a call of `payee` can cost at most; `worst` is `None` where the price is not known.
pub(super) async fn reserve<P: Platform>(
    node: &Node<P>,
    payee: SpendKey,
    worst: Option<WorstCase>,
) -> Result<Reservation, ReservationError> {
    let ledger = Rc::clone(node.ledger());
    let budgets = node.config().budgets_for(&payee.key, &payee.provider);
    let worst = match (worst, budgets.first()) {
        (_, None) => return Ok(Reservation { ledger, payee, holds: Vec::new(), cap: None }),
        (None, Some((owner, _))) => return Err(ReservationError::Unpriced(owner.to_string())),
        (Some(worst), Some(_)) => worst,
    };
    for (owner, budget) in &budgets {
        fill(node, owner, *budget, worst.cost()).await?;
    }
    // Nothing is awaited between this decision and the holds, so no other call can take the same money.
    let reserved = ledger.borrow_mut().reserve(&budgets, &worst, node.platform().now());
    let (holds, cap) = reserved.map_err(ReservationError::Exhausted)?;
    Ok(Reservation { ledger, payee, holds, cap })
}

/// Gets a slice of a budget granted if less than `wanted` is free.
async fn fill<P: Platform>(
    node: &Node<P>,
    owner: &BudgetOwner,
    budget: Budget,
    wanted: NanoUsd,
) -> Result<(), ReservationError> {
    let (start, _) = budget.per.around(node.platform().now());
    let (missing, mut view) = {
        let mut ledger = node.ledger().borrow_mut();
        let missing = ledger.missing(owner, start, wanted);
        if missing == NanoUsd(0) {
            return Ok(());
        }
        // A concurrent call that also needs a grant reads the log anew.
        (missing, ledger.take_grants(owner))
    };
    let (log, cause) = (owner.log(&node.config().node), node.random_bytes());
    let decided = log::commit(node.platform(), log, node.origin(), &mut view, |granted: &Grants| {
        let slice = granted.slice(budget, start, missing);
        let body = Bytes::copy_from_slice(&budget::grant(start, slice));
        Ok::<_, Infallible>(match slice {
            NanoUsd(0) => Decision::Done(slice),
            _ => Decision::Append(vec![Draft { kind: Kind::GRANTED, cause, body }], Wake::Keep, slice),
        })
    });
    let slice = decided.await;
    let mut ledger = node.ledger().borrow_mut();
    ledger.put_grants(owner, view);
    match slice {
        Ok((slice, _)) => {
            ledger.fill(owner, start, slice);
            Ok(())
        }
        Err(CommitError::Refused(never)) => match never {},
        // A slice that was granted although the answer was lost is stranded until the period ends, as after a crash.
        Err(_) => Err(ReservationError::Unavailable),
    }
}

impl Reservation {
    /// The caller's key, which the call is counted for.
    pub(super) fn key(&self) -> &str {
        &self.payee.key
    }

    /// Whether anything was set aside.
    pub(super) fn is_bound(&self) -> bool {
        !self.holds.is_empty()
    }

    /// Ends the reservation with what the call used and cost.
    pub(super) fn settle(self, usage: Usage, cost: NanoUsd) {
        self.ledger.borrow_mut().settle(self.payee, self.holds, usage, cost);
    }
}
