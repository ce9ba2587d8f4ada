//! Holds in memory what this instance has spent, for which key and model, and what it may still spend.
//!
//! Does no I/O: only the budgets' logs are durable, and `gateway/reservation.rs` reads and writes them.

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

/// Whose spending a budget bounds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BudgetOwner {
    /// Everything that the node spends.
    Node,
    /// Calls of one provider.
    Provider(String),
    /// Calls for one caller's key.
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
    /// All budgets of the configuration.
    pub(crate) fn budgets(&self) -> impl Iterator<Item = (BudgetOwner, Budget)> {
        let node = self.budget.map(|budget| (BudgetOwner::Node, budget));
        let providers = self.providers.iter();
        let providers = providers.filter_map(|p| Some((BudgetOwner::Provider(p.name.clone()), p.budget?)));
        let keys = self.keys.iter().filter_map(|key| Some((BudgetOwner::Key(key.name.clone()), key.budget?)));
        node.into_iter().chain(providers).chain(keys)
    }

    /// The budgets that pay for a call of `provider` for `caller`. Each must have the whole cost free.
    pub(crate) fn budgets_for(&self, caller: &str, provider: &str) -> Vec<(BudgetOwner, Budget)> {
        let key = self.keys.iter().find(|key| key.name == caller).and_then(|key| key.budget);
        let of_provider = self.provider(provider).and_then(|provider| provider.budget);
        let node = self.budget.map(|budget| (BudgetOwner::Node, budget));
        let of_provider = of_provider.map(|budget| (BudgetOwner::Provider(provider.to_owned()), budget));
        let key = key.map(|budget| (BudgetOwner::Key(caller.to_owned()), budget));
        node.into_iter().chain(of_provider).chain(key).collect()
    }
}

/// The allowances and the spending of this instance.
#[derive(Default)]
pub(crate) struct Ledger {
    allowances: BTreeMap<BudgetOwner, Allowance>,
    /// What the budgets' logs have granted to all instances, as far as this one has read them.
    granted: BTreeMap<BudgetOwner, View<Grants>>,
    spend: BTreeMap<SpendKey, Spend>,
}

/// What spending is counted by: the caller's key and the model that was called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SpendKey {
    /// The name of the caller's key; empty for the node's own probes.
    pub(crate) key: String,
    pub(crate) provider: String,
    pub(crate) model: String,
}

/// What was spent since the instance started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spend {
    pub(crate) calls: u64,
    pub(crate) usage: Usage,
    /// Calls without a known price count as 0.
    pub(crate) cost: NanoUsd,
}

impl Ledger {
    /// All spending since the instance started.
    pub(crate) fn spend(&self) -> &BTreeMap<SpendKey, Spend> {
        &self.spend
    }

    /// This instance's allowance of a budget; empty if it never used the budget.
    pub(crate) fn allowance(&self, owner: &BudgetOwner) -> Allowance {
        self.allowances.get(owner).copied().unwrap_or_default()
    }

    /// What a budget's log has granted for the period that begins at `start`, as far as this instance has read it.
    pub(crate) fn granted(&self, owner: &BudgetOwner, start: Timestamp) -> NanoUsd {
        self.granted.get(owner).map_or(NanoUsd(0), |view| view.fold.in_period(start))
    }
}

/// Upper bound of what a call can use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorstCase {
    pub(crate) price: Price,
    /// Tokens of input.
    pub(crate) input: u64,
    /// Tokens of output, of all choices together.
    pub(crate) output: u64,
    /// Answers that the request asks for (`n`).
    pub(crate) choices: u64,
}

impl WorstCase {
    /// Upper bound of what the call can cost.
    pub(crate) fn cost(&self) -> NanoUsd {
        self.price.max_cost(self.input, self.output)
    }
}

/// What one call has reserved of each budget that it is paid from.
pub(crate) type Holds = Vec<(BudgetOwner, Hold)>;

/// Fewest tokens of output that a call is made for: a shorter answer is useless.
const MIN_OUTPUT_TOKENS: u64 = 16;

impl Ledger {
    /// How much `amount` exceeds what is free in the period that begins at `start`.
    pub(crate) fn shortfall(&mut self, owner: &BudgetOwner, start: Timestamp, amount: NanoUsd) -> NanoUsd {
        amount.saturating_sub(self.allowance_in(owner, start).free())
    }

    /// Takes the view of a budget's log out of the ledger, for a commit to that log.
    pub(crate) fn take_grants(&mut self, owner: &BudgetOwner) -> View<Grants> {
        self.granted.remove(owner).unwrap_or_default()
    }

    /// Stores the view again that [`Ledger::take_grants`] took out.
    pub(crate) fn put_grants(&mut self, owner: &BudgetOwner, view: View<Grants>) {
        self.granted.insert(owner.clone(), view);
    }

    /// Adds a granted slice to the allowance.
    pub(crate) fn add_slice(&mut self, owner: &BudgetOwner, start: Timestamp, slice: NanoUsd) {
        self.allowances.entry(owner.clone()).or_default().add(start, slice);
    }

    /// Reserves the worst case of a call in each of `budgets`.
    ///
    /// If one of them has less free, reserves what that one can pay, and returns the tokens of output that each choice
    /// may have then. Fails if that is too little for a useful answer.
    pub(crate) fn reserve(
        &mut self,
        budgets: &[(BudgetOwner, Budget)],
        worst: &WorstCase,
        now: Timestamp,
    ) -> Result<(Holds, Option<u64>), Exhausted> {
        // All budgets get the same reservation, so the one with the least money decides.
        let tightest = budgets
            .iter()
            .map(|(owner, budget)| (self.allowance_in(owner, budget.per.around(now).0).free(), owner, budget))
            .min_by_key(|(free, ..)| *free);
        let Some((free, owner, budget)) = tightest else { return Ok((Vec::new(), None)) };
        let (mut amount, mut cap) = (worst.cost(), None);
        if free < amount {
            let output_per_choice =
                worst.price.affordable_output(free, worst.input).unwrap_or_default() / worst.choices.max(1);
            if output_per_choice < MIN_OUTPUT_TOKENS {
                let resets_in = budget.per.around(now).1.since(now);
                return Err(Exhausted { budget: owner.to_string(), resets_in });
            }
            amount = worst.price.max_cost(worst.input, output_per_choice.saturating_mul(worst.choices));
            cap = Some(output_per_choice);
        }
        let mut holds = Vec::new();
        for (owner, _) in budgets {
            let hold = self.allowances.get_mut(owner).and_then(|allowance| allowance.reserve(amount));
            holds.extend(hold.map(|hold| (owner.clone(), hold)));
        }
        Ok((holds, cap))
    }

    /// Replaces the reservations of a call by its cost, and counts its usage.
    pub(crate) fn settle(&mut self, spend_key: SpendKey, holds: Holds, usage: Usage, cost: NanoUsd) {
        for (owner, hold) in holds {
            if let Some(allowance) = self.allowances.get_mut(&owner) {
                allowance.settle(hold, cost);
            }
        }
        let spend = self.spend.entry(spend_key).or_default();
        spend.calls += 1;
        spend.usage += usage;
        spend.cost = spend.cost.saturating_add(cost);
    }

    /// The allowance of a budget, in the period that begins at `start`.
    fn allowance_in(&mut self, owner: &BudgetOwner, start: Timestamp) -> &mut Allowance {
        let allowance = self.allowances.entry(owner.clone()).or_default();
        allowance.begin_period(start);
        allowance
    }
}
