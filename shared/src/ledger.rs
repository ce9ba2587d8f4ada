//! What was spent, by whom and on what, and what may still be spent.

use std::{cell::RefCell, collections::BTreeMap, fmt, rc::Rc};

use bytes::Bytes;

use crate::{
    config::Config,
    entry::{Draft, Kind, LogId, Wake},
    log::{self, CommitError, Decision, View},
    money::{Budget, NanoUsd},
    node::Node,
    platform::Platform,
    price::Price,
    routing::budget::{self, Exhausted, Granted, Hold, Purse},
    time::Timestamp,
    usage::Usage,
};

/// Whose money a budget bounds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// All that the node spends.
    Node,
    /// What goes to one provider.
    Provider(String),
    /// What one caller causes.
    Key(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Provider(name) => write!(f, "provider {name}"),
            Self::Key(name) => write!(f, "key {name}"),
        }
    }
}

impl Scope {
    /// The log that grants slices of this budget.
    fn log(&self, node: &str) -> LogId {
        LogId::derive("budget", &[node.as_bytes(), self.to_string().as_bytes()])
    }
}

impl Config {
    /// Every budget there is.
    pub(crate) fn budgets(&self) -> impl Iterator<Item = (Scope, Budget)> {
        let node = self.budget.map(|budget| (Scope::Node, budget));
        let providers = self.providers.iter();
        let providers = providers.filter_map(|p| Some((Scope::Provider(p.name.clone()), p.budget?)));
        let keys = self.keys.iter().filter_map(|key| Some((Scope::Key(key.name.clone()), key.budget?)));
        node.into_iter().chain(providers).chain(keys)
    }

    /// The budgets that a call of `provider` for `caller` is paid from.
    fn budgets_for(&self, caller: &str, provider: &str) -> Vec<(Scope, Budget)> {
        let key = self.keys.iter().find(|key| key.name == caller).and_then(|key| key.budget);
        let provided = self.provider(provider).and_then(|provider| provider.budget);
        let node = self.budget.map(|budget| (Scope::Node, budget));
        let provided = provided.map(|budget| (Scope::Provider(provider.to_owned()), budget));
        let key = key.map(|budget| (Scope::Key(caller.to_owned()), budget));
        node.into_iter().chain(provided).chain(key).collect()
    }
}

/// What this instance knows of money. Kept in memory; the budgets' logs are what is durable.
#[derive(Default)]
pub(crate) struct Ledger {
    purses: BTreeMap<Scope, Purse>,
    /// What the logs have granted, as far as was read.
    granted: BTreeMap<Scope, View<Granted>>,
    spend: BTreeMap<Payee, Spend>,
}

/// For whom and on what money was spent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Payee {
    pub(crate) key: String,
    pub(crate) provider: String,
    pub(crate) model: String,
}

/// What was spent since the instance began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spend {
    pub(crate) calls: u64,
    pub(crate) usage: Usage,
    /// As far as the price is known.
    pub(crate) cost: NanoUsd,
}

impl Ledger {
    /// What was spent on what.
    pub(crate) fn spend(&self) -> &BTreeMap<Payee, Spend> {
        &self.spend
    }

    /// What this instance has of a budget.
    pub(crate) fn purse(&self, scope: &Scope) -> Purse {
        self.purses.get(scope).copied().unwrap_or_default()
    }

    /// What is known to be granted of a budget in the period that begins at `start`.
    pub(crate) fn granted(&self, scope: &Scope, start: Timestamp) -> NanoUsd {
        self.granted.get(scope).map_or(NanoUsd(0), |view| view.fold.of(start))
    }
}

/// The most that a call can use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Worst {
    pub(crate) price: Price,
    /// Tokens of input.
    pub(crate) input: u64,
    /// Tokens of output, of all answers together.
    pub(crate) output: u64,
    /// Answers that are asked for.
    pub(crate) choices: u64,
}

/// Money that is set aside for one call, until it is settled.
pub(crate) struct Reservation {
    ledger: Rc<RefCell<Ledger>>,
    payee: Payee,
    holds: Vec<(Scope, Hold)>,
    /// Most tokens that each answer may have, where the budgets pay for no more.
    pub(crate) cap: Option<u64>,
}

/// Why there is no money for a call.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// A budget has nothing left.
    Exhausted(Exhausted),
    /// A budget binds the call, and nobody knows its price.
    Unpriced(String),
    /// The store does not answer, and nothing is spent that is not granted.
    Unavailable,
}

/// An answer of fewer tokens is none.
const LEAST_OUTPUT: u64 = 16;

/// The name of a budget that calls of `payee` are paid from, if there is one.
pub(crate) fn binding<P: Platform>(node: &Node<P>, payee: &Payee) -> Option<String> {
    let budgets = node.config().budgets_for(&payee.key, &payee.provider);
    budgets.first().map(|(scope, _)| scope.to_string())
}

/// Sets aside what a call of `payee` can cost at most; `worst` is `None` where nobody knows and nothing bounds it.
pub(crate) async fn reserve<P: Platform>(
    node: &Node<P>,
    payee: Payee,
    worst: Option<Worst>,
) -> Result<Reservation, Refusal> {
    let ledger = Rc::clone(node.ledger());
    let budgets = node.config().budgets_for(&payee.key, &payee.provider);
    let mut reservation = Reservation { ledger: Rc::clone(&ledger), payee, holds: Vec::new(), cap: None };
    let worst = match (worst, budgets.first()) {
        (_, None) => return Ok(reservation),
        (None, Some((scope, _))) => return Err(Refusal::Unpriced(scope.to_string())),
        (Some(worst), Some(_)) => worst,
    };
    let most = worst.price.at_most(worst.input, worst.output);
    for (scope, budget) in &budgets {
        fill(node, scope, *budget, most).await?;
    }
    // From here to the reservation nothing waits, so nobody else can take what was found.
    let now = node.platform().now();
    let mut ledger = ledger.borrow_mut();
    let free = |ledger: &mut Ledger, scope: &Scope, budget: &Budget| {
        let purse = ledger.purses.entry(scope.clone()).or_default();
        purse.turn(budget.per.around(now).0);
        purse.free()
    };
    let least = budgets
        .iter()
        .map(|(scope, budget)| (free(&mut ledger, scope, budget), scope, budget))
        .min_by_key(|(free, ..)| *free);
    let Some((free, scope, budget)) = least else { return Ok(reservation) };
    let mut amount = most;
    if free < most {
        let each = worst.price.affords(free, worst.input).unwrap_or_default() / worst.choices.max(1);
        if each < LEAST_OUTPUT {
            let resets_in = budget.per.around(now).1.since(now);
            return Err(Refusal::Exhausted(Exhausted { budget: scope.to_string(), resets_in }));
        }
        amount = worst.price.at_most(worst.input, each.saturating_mul(worst.choices));
        reservation.cap = Some(each);
    }
    for (scope, _) in &budgets {
        let hold = ledger.purses.get_mut(scope).and_then(|purse| purse.reserve(amount));
        reservation.holds.extend(hold.map(|hold| (scope.clone(), hold)));
    }
    Ok(reservation)
}

/// Gets a slice of a budget granted if less than `wanted` is free.
async fn fill<P: Platform>(
    node: &Node<P>,
    scope: &Scope,
    budget: Budget,
    wanted: NanoUsd,
) -> Result<(), Refusal> {
    let (start, _) = budget.per.around(node.platform().now());
    let (missing, mut view) = {
        let mut ledger = node.ledger().borrow_mut();
        let purse = ledger.purses.entry(scope.clone()).or_default();
        purse.turn(start);
        let missing = wanted.saturating_sub(purse.free());
        // Whoever asks meanwhile reads the log anew.
        (missing, ledger.granted.remove(scope).unwrap_or_default())
    };
    if missing == NanoUsd(0) {
        node.ledger().borrow_mut().granted.insert(scope.clone(), view);
        return Ok(());
    }
    let (log, cause) = (scope.log(&node.config().node), node.random_bytes());
    let decided = log::commit(node.platform(), log, node.origin(), &mut view, |granted: &Granted| {
        let slice = granted.slice(budget, start, missing);
        let body = Bytes::copy_from_slice(&budget::grant(start, slice));
        Ok::<_, std::convert::Infallible>(match slice {
            NanoUsd(0) => Decision::Done(slice),
            _ => Decision::Append(vec![Draft { kind: Kind::GRANTED, cause, body }], Wake::Keep, slice),
        })
    });
    let slice = decided.await;
    let mut ledger = node.ledger().borrow_mut();
    ledger.granted.insert(scope.clone(), view);
    match slice {
        Ok((slice, _)) => {
            ledger.purses.entry(scope.clone()).or_default().fill(start, slice);
            Ok(())
        }
        // What may have been granted after all is lost until the period ends, as after a crash.
        Err(CommitError::Refused(never)) => match never {},
        Err(_) => Err(Refusal::Unavailable),
    }
}

impl Reservation {
    /// Who asked for the call.
    pub(crate) fn key(&self) -> &str {
        &self.payee.key
    }

    /// Whether anything was set aside.
    pub(crate) fn is_bound(&self) -> bool {
        !self.holds.is_empty()
    }

    /// The call has ended, and this is what it used and cost.
    pub(crate) fn settle(self, usage: Usage, cost: NanoUsd) {
        let mut ledger = self.ledger.borrow_mut();
        for (scope, hold) in self.holds {
            if let Some(purse) = ledger.purses.get_mut(&scope) {
                purse.settle(hold, cost);
            }
        }
        let spend = ledger.spend.entry(self.payee).or_default();
        spend.calls += 1;
        spend.usage += usage;
        spend.cost = spend.cost.saturating_add(cost);
    }
}
