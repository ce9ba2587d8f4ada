//! Reserves money before a call and settles it afterwards. The ledger decides; this file reads and writes the budgets'
//! logs.

use std::{cell::RefCell, convert::Infallible, rc::Rc};

use bytes::Bytes;

use crate::{
    entry::{Draft, Kind, Wake},
    ledger::{
        BudgetOwner, Holds, Ledger, SpendKey, WorstCase,
        budget::{self, Exhausted, Grants},
    },
    log::{self, CommitError, Decision},
    money::{Budget, NanoUsd},
    node::Node,
    platform::Platform,
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

/// The name of a budget that has to pay for calls of `spend_key`; `None` if no budget does.
pub(super) fn binding<P: Platform>(node: &Node<P>, spend_key: &SpendKey) -> Option<String> {
    let budgets = node.config().budgets_for(&spend_key.key, &spend_key.provider);
    budgets.first().map(|(owner, _)| owner.to_string())
}

/// Reserves the worst case of a call of `spend_key`; `worst` is `None` if the price is unknown.
///
/// Also returns the worst case that was reserved, and the limit of each choice's tokens if that is lower than `worst`.
pub(super) async fn reserve<P: Platform>(
    node: &Node<P>,
    spend_key: SpendKey,
    worst: Option<WorstCase>,
) -> Result<(Reservation, Option<WorstCase>, Option<u64>), ReservationError> {
    let ledger = Rc::clone(node.ledger());
    let budgets = node.config().budgets_for(&spend_key.key, &spend_key.provider);
    let worst = match (worst, budgets.first()) {
        (worst, None) => return Ok((Reservation { ledger, spend_key, holds: Vec::new() }, worst, None)),
        (None, Some((owner, _))) => return Err(ReservationError::Unpriced(owner.to_string())),
        (Some(worst), Some(_)) => worst,
    };
    for (owner, budget) in &budgets {
        request_grant(node, owner, *budget, worst.cost()).await?;
    }
    // The ledger decides and reserves without an await in between, so no other call can take the same money.
    let reserved = ledger.borrow_mut().reserve(&budgets, &worst, node.platform().now());
    let (holds, cap) = reserved.map_err(ReservationError::Exhausted)?;
    let output = cap.map_or(worst.output, |cap| cap.saturating_mul(worst.choices));
    Ok((Reservation { ledger, spend_key, holds }, Some(WorstCase { output, ..worst }), cap))
}

/// Commits a grant to the budget's log if less than `amount` is free.
async fn request_grant<P: Platform>(
    node: &Node<P>,
    owner: &BudgetOwner,
    budget: Budget,
    amount: NanoUsd,
) -> Result<(), ReservationError> {
    let (start, _) = budget.per.around(node.platform().now());
    let (shortfall, mut view) = {
        let mut ledger = node.ledger().borrow_mut();
        let shortfall = ledger.shortfall(owner, start, amount);
        if shortfall == NanoUsd(0) {
            return Ok(());
        }
        // Taken out over the await. A concurrent call that also needs a grant finds no view and reads the whole log.
        (shortfall, ledger.take_grants(owner))
    };
    let (log, cause) = (owner.log(&node.config().node), node.random_bytes());
    let committed = log::commit(node.platform(), log, node.origin(), &mut view, |granted: &Grants| {
        let slice = granted.slice(budget, start, shortfall);
        let body = Bytes::copy_from_slice(&budget::grant(start, slice));
        Ok::<_, Infallible>(match slice {
            NanoUsd(0) => Decision::Done(slice),
            _ => Decision::Append(vec![Draft { kind: Kind::GRANTED, cause, body }], Wake::Keep, slice),
        })
    });
    let slice = committed.await;
    let mut ledger = node.ledger().borrow_mut();
    ledger.put_grants(owner, view);
    match slice {
        Ok((slice, _)) => {
            ledger.add_slice(owner, start, slice);
            Ok(())
        }
        Err(CommitError::Refused(never)) => match never {},
        // If the append succeeded but its answer was lost, the slice is lost until the period ends, as after a crash.
        Err(_) => Err(ReservationError::Unavailable),
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
