//! What was spent, for whom and on what, and what may still be spent: plain state, kept in memory.
//!
//! The budgets' logs are what is durable; `gateway/reservation.rs` reads and writes them.

pub(crate) mod budget;

use std::{collections::BTreeMap, fmt};

use crate::{
    config::Config,
    entry::LogId,
    log::View,
    money::{Budget, NanoUsd},
    price::Price,
    time::Timestamp,
    usage::Usage,
};
use budget::{Allowance, Exhausted, Grants, Hold};

/// Whose money a budget bounds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BudgetOwner {
    /// All that the node spends.
    Node,
    /// What goes to one provider.
    Provider(String),
    /// What one caller causes.
    Key(String),
}

impl fmt::Display for BudgetOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Provider(name) => write!(f, "provider {name}"),
            Self::Key(name) => write!(f, "key {name}"),
        }
    }
}

impl BudgetOwner {
    /// The log that grants slices of this budget.
    pub(crate) fn log(&self, node: &str) -> LogId {
        LogId::derive("budget", &[node.as_bytes(), self.to_string().as_bytes()])
    }
}

impl Config {
    /// Every budget there is.
    pub(crate) fn budgets(&self) -> impl Iterator<Item = (BudgetOwner, Budget)> {
        let node = self.budget.map(|budget| (BudgetOwner::Node, budget));
        let providers = self.providers.iter();
        let providers = providers.filter_map(|p| Some((BudgetOwner::Provider(p.name.clone()), p.budget?)));
        let keys = self.keys.iter().filter_map(|key| Some((BudgetOwner::Key(key.name.clone()), key.budget?)));
        node.into_iter().chain(providers).chain(keys)
    }

    /// The budgets that a call of `provider` for `caller` is paid from.
    pub(crate) fn budgets_for(&self, caller: &str, provider: &str) -> Vec<(BudgetOwner, Budget)> {
        let key = self.keys.iter().find(|key| key.name == caller).and_then(|key| key.budget);
        let provided = self.provider(provider).and_then(|provider| provider.budget);
        let node = self.budget.map(|budget| (BudgetOwner::Node, budget));
        let provided = provided.map(|budget| (BudgetOwner::Provider(provider.to_owned()), budget));
        let key = key.map(|budget| (BudgetOwner::Key(caller.to_owned()), budget));
        node.into_iter().chain(provided).chain(key).collect()
    }
}

/// What this instance knows of money. Kept in memory; the budgets' logs are what is durable.
#[derive(Default)]
pub(crate) struct Ledger {
    purses: BTreeMap<BudgetOwner, Allowance>,
    /// What the logs have granted, as far as was read.
    granted: BTreeMap<BudgetOwner, View<Grants>>,
    spend: BTreeMap<SpendKey, Spend>,
}

/// For whom and on what money was spent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SpendKey {
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
    pub(crate) fn spend(&self) -> &BTreeMap<SpendKey, Spend> {
        &self.spend
    }

    /// What this instance has of a budget.
    pub(crate) fn allowance(&self, owner: &BudgetOwner) -> Allowance {
        self.purses.get(owner).copied().unwrap_or_default()
    }

    /// What is known to be granted of a budget in the period that begins at `start`.
    pub(crate) fn granted(&self, owner: &BudgetOwner, start: Timestamp) -> NanoUsd {
        self.granted.get(owner).map_or(NanoUsd(0), |view| view.fold.of(start))
    }
}

/// The most that a call can use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorstCase {
    pub(crate) price: Price,
    /// Tokens of input.
    pub(crate) input: u64,
    /// Tokens of output, of all answers together.
    pub(crate) output: u64,
    /// Answers that are asked for.
    pub(crate) choices: u64,
}

impl WorstCase {
    /// What it costs.
    pub(crate) fn cost(&self) -> NanoUsd {
        self.price.at_most(self.input, self.output)
    }
}

/// Fewest tokens of output that a call is made for: an answer of fewer is useless.
const MIN_OUTPUT_TOKENS: u64 = 16;

impl Ledger {
    /// How much of `wanted` is not free in the period that begins at `start`.
    pub(crate) fn missing(&mut self, owner: &BudgetOwner, start: Timestamp, wanted: NanoUsd) -> NanoUsd {
        wanted.saturating_sub(self.allowance_in(owner, start).free())
    }

    /// Takes what was read of a budget's log, for a commit to it.
    pub(crate) fn take_grants(&mut self, owner: &BudgetOwner) -> View<Grants> {
        self.granted.remove(owner).unwrap_or_default()
    }

    /// Puts back what [`Ledger::take_grants`] took.
    pub(crate) fn put_grants(&mut self, owner: &BudgetOwner, view: View<Grants>) {
        self.granted.insert(owner.clone(), view);
    }

    /// Puts a granted slice into the purse.
    pub(crate) fn fill(&mut self, owner: &BudgetOwner, start: Timestamp, slice: NanoUsd) {
        self.purses.entry(owner.clone()).or_default().fill(start, slice);
    }

    /// Holds what a call can cost at most in each of `budgets`. If one has less, holds what it has and gives the tokens of
    /// output that each answer may have then.
    pub(crate) fn reserve(
        &mut self,
        budgets: &[(BudgetOwner, Budget)],
        worst: &WorstCase,
        now: Timestamp,
    ) -> Result<(Vec<(BudgetOwner, Hold)>, Option<u64>), Exhausted> {
        let tightest = budgets
            .iter()
            .map(|(owner, budget)| (self.allowance_in(owner, budget.per.around(now).0).free(), owner, budget))
            .min_by_key(|(free, ..)| *free);
        let Some((free, owner, budget)) = tightest else { return Ok((Vec::new(), None)) };
        let (mut amount, mut cap) = (worst.cost(), None);
        if free < amount {
            let each = worst.price.affords(free, worst.input).unwrap_or_default() / worst.choices.max(1);
            if each < MIN_OUTPUT_TOKENS {
                let resets_in = budget.per.around(now).1.since(now);
                return Err(Exhausted { budget: owner.to_string(), resets_in });
            }
            amount = worst.price.at_most(worst.input, each.saturating_mul(worst.choices));
            cap = Some(each);
        }
        let mut holds = Vec::new();
        for (owner, _) in budgets {
            let hold = self.purses.get_mut(owner).and_then(|purse| purse.reserve(amount));
            holds.extend(hold.map(|hold| (owner.clone(), hold)));
        }
        Ok((holds, cap))
    }

    /// Ends the holds of a call with what it cost, and counts what it used.
    pub(crate) fn settle(
        &mut self,
        payee: SpendKey,
        holds: Vec<(BudgetOwner, Hold)>,
        usage: Usage,
        cost: NanoUsd,
    ) {
        for (owner, hold) in holds {
            if let Some(purse) = self.purses.get_mut(&owner) {
                purse.settle(hold, cost);
            }
        }
        let spend = self.spend.entry(payee).or_default();
        spend.calls += 1;
        spend.usage += usage;
        spend.cost = spend.cost.saturating_add(cost);
    }

    /// The purse of a budget, in the period that begins at `start`.
    fn allowance_in(&mut self, owner: &BudgetOwner, start: Timestamp) -> &mut Allowance {
        let purse = self.purses.entry(owner.clone()).or_default();
        purse.begin_period(start);
        purse
    }
}
