//! Holds in memory what this instance has spent, for which key and model, and what it may still spend.
//!
//! Does no I/O: only the budgets' logs are durable, and `gateway/reservation.rs` reads and writes them.

pub(crate) mod budget;
pub(crate) mod coverage;

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{
    config::Config,
    entry::LogId,
    log::View,
    money::{Budget, NanoUsd},
    price::Price,
    time::Timestamp,
    usage::Usage,
};
use budget::{Allowance, Exhausted, Grants, Hold, Look, Report};

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

/// The budgets that pay for one call, each of them the whole cost.
pub(crate) type Budgets = Vec<(BudgetOwner, Budget)>;

impl Config {
    /// All budgets of the configuration.
    pub(crate) fn budgets(&self) -> impl Iterator<Item = (BudgetOwner, Budget)> {
        let node = self.budget.map(|budget| (BudgetOwner::Node, budget));
        let providers = self.providers.iter();
        let providers = providers.filter_map(|p| Some((BudgetOwner::Provider(p.name.clone()), p.budget?)));
        let keys = self.keys.iter().filter_map(|key| Some((BudgetOwner::Key(key.name.clone()), key.budget?)));
        node.into_iter().chain(providers).chain(keys)
    }

    /// The budgets that pay for a call of `provider` for `caller`.
    pub(crate) fn budgets_for(&self, caller: &str, provider: &str) -> Budgets {
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
    accounts: BTreeMap<BudgetOwner, Account>,
    spend: BTreeMap<SpendKey, Spend>,
}

/// What this instance knows of one budget.
#[derive(Default)]
struct Account {
    allowance: Allowance,
    /// What the budget's log has granted to all instances, as far as this one has read it.
    grants: View<Grants>,
    /// Whether this instance is writing to the budget's log.
    is_writing: bool,
    /// What calls need that wait until the write has ended. The next grant includes it.
    awaited: NanoUsd,
    results: GrantResults,
    /// When the task that looks after the allowance did so last; `None` if it has ended.
    looked_at: Option<Timestamp>,
}

/// How many requests for a grant had too little success. Calls that wait for a request of another call compare it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GrantResults {
    /// The budget had less left.
    pub(crate) refused: u64,
    /// The store did not answer.
    pub(crate) failed: u64,
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
        self.accounts.get(owner).map(|account| account.allowance).unwrap_or_default()
    }

    /// What instances hold or have spent of a budget in the period that begins at `start`, as far as this instance has
    /// read its log.
    pub(crate) fn granted(&self, owner: &BudgetOwner, start: Timestamp) -> NanoUsd {
        self.accounts.get(owner).map_or(NanoUsd(0), |account| account.grants.fold.held(start))
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

    /// Upper bound of what the call can cost with the shortest useful answer.
    pub(crate) fn least_cost(&self) -> NanoUsd {
        let output = self.output.min(MIN_OUTPUT_TOKENS.saturating_mul(self.choices.max(1)));
        self.price.max_cost(self.input, output)
    }
}

/// What one call has reserved of each budget that it is paid from.
pub(crate) type Holds = Vec<(BudgetOwner, Hold)>;

/// Most pairs of a key and a model whose spending is counted apart: each is five series of metrics.
const MAX_SPEND_KEYS: usize = 2_000;

/// Tokens that a vendor adds to a request, to explain tools and formats to the model.
pub(crate) const OVERHEAD_TOKENS: u64 = 1_000;

/// Fewest tokens of output that a call is made for: a shorter answer is useless.
const MIN_OUTPUT_TOKENS: u64 = 16;

/// Without a look for this long, the task that looks after an allowance was dropped by its host. It is far longer than an
/// append with all its retries.
const LOOKED_AFTER: Duration = Duration::from_secs(20);

impl Ledger {
    /// The grant that is needed so that calls can reserve `amount` in the period that begins at `start`.
    pub(crate) fn shortfall(&mut self, owner: &BudgetOwner, start: Timestamp, amount: NanoUsd) -> NanoUsd {
        self.account_in(owner, start).allowance.shortfall(amount)
    }

    /// Takes the right to write to the budget's log, unless another task has it. The next grant then includes
    /// `amount`.
    pub(crate) fn begin_write(&mut self, owner: &BudgetOwner, amount: NanoUsd) -> bool {
        let account = self.account(owner);
        if account.is_writing {
            account.awaited = account.awaited.saturating_add(amount);
        }
        !std::mem::replace(&mut account.is_writing, true)
    }

    /// Whether a task of this instance is writing to the budget's log.
    pub(crate) fn is_writing(&self, owner: &BudgetOwner) -> bool {
        self.accounts.get(owner).is_some_and(|account| account.is_writing)
    }

    /// Gives back the right to write.
    pub(crate) fn end_write(&mut self, owner: &BudgetOwner) {
        self.account(owner).is_writing = false;
    }

    /// How the requests for grants of this instance ended.
    pub(crate) fn grant_results(&self, owner: &BudgetOwner) -> GrantResults {
        self.accounts.get(owner).map(|account| account.results).unwrap_or_default()
    }

    /// A copy of the view of a budget's log, for a commit to that log.
    pub(crate) fn grants(&self, owner: &BudgetOwner) -> View<Grants> {
        self.accounts.get(owner).map(|account| account.grants.clone()).unwrap_or_default()
    }

    /// Stores the view after a commit, unless a newer one was stored meanwhile.
    pub(crate) fn put_grants(&mut self, owner: &BudgetOwner, budget: Budget, view: View<Grants>) {
        let account = self.account(owner);
        if view.len() >= account.grants.len() {
            account.allowance.observe(&view.fold, budget);
            account.grants = view;
        }
    }

    /// The sum that waiting calls need granted. The caller requests a grant of it, since it is no longer noted here.
    pub(crate) fn take_awaited(&mut self, owner: &BudgetOwner) -> NanoUsd {
        std::mem::take(&mut self.account(owner).awaited)
    }

    /// Plans the grant that is needed so that calls can reserve `amount`, given what the budget's log says.
    pub(crate) fn plan_slice(
        &mut self,
        owner: &BudgetOwner,
        budget: Budget,
        start: Timestamp,
        amount: NanoUsd,
        grants: &Grants,
    ) -> NanoUsd {
        let account = self.account_in(owner, start);
        account.allowance.observe(grants, budget);
        let shortfall = account.allowance.shortfall(amount);
        let slice = grants.slice(budget, start, shortfall);
        account.results.refused += u64::from(slice < shortfall);
        slice
    }

    /// Notes that a request for a grant failed.
    pub(crate) fn fail_grant(&mut self, owner: &BudgetOwner) {
        self.account(owner).results.failed += 1;
    }

    /// Adds a granted slice to the allowance.
    pub(crate) fn add_slice(
        &mut self,
        owner: &BudgetOwner,
        start: Timestamp,
        slice: NanoUsd,
        now: Timestamp,
    ) {
        self.account(owner).allowance.add(start, slice, now);
    }

    /// Whether a task must be started that looks after the allowance. If so, it counts as started.
    pub(crate) fn begin_looks(&mut self, owner: &BudgetOwner, now: Timestamp) -> bool {
        let account = self.account(owner);
        let is_looked_after = account.looked_at.is_some_and(|at| now.since(at) < LOOKED_AFTER);
        if !is_looked_after {
            account.looked_at = Some(now);
        }
        !is_looked_after
    }

    /// Looks at an allowance, as [`Allowance::look`].
    pub(crate) fn look(&mut self, owner: &BudgetOwner, budget: Budget, now: Timestamp) -> Look {
        let account = self.account_in(owner, budget.per.around(now).0);
        let look = account.allowance.look(budget);
        account.looked_at = (look != Look::Idle).then_some(now);
        look
    }

    /// Decides to return all of an allowance, as [`Allowance::close`].
    pub(crate) fn close(&mut self, owner: &BudgetOwner, start: Timestamp) -> bool {
        self.account_in(owner, start).allowance.close()
    }

    /// What to report of an allowance, as [`Allowance::take_report`]; `start` is the beginning of the period.
    pub(crate) fn take_report(
        &mut self,
        owner: &BudgetOwner,
        budget: Budget,
        (start, now): (Timestamp, Timestamp),
        grants: &Grants,
    ) -> Option<Report> {
        self.account_in(owner, start).allowance.take_report(grants, budget, now)
    }

    /// Takes a report back, as [`Allowance::undo_report`].
    pub(crate) fn undo_report(
        &mut self,
        owner: &BudgetOwner,
        start: Timestamp,
        report: Report,
        is_certain: bool,
    ) {
        self.account(owner).allowance.undo_report(start, report, is_certain);
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
            .map(|(owner, budget)| {
                (self.account_in(owner, budget.per.around(now).0).allowance.free(), owner, *budget)
            })
            .min_by_key(|(free, ..)| *free);
        let Some((free, owner, budget)) = tightest else { return Ok((Vec::new(), None)) };
        let (mut amount, mut cap) = (worst.cost(), None);
        if free < amount {
            let output_per_choice =
                worst.price.affordable_output(free, worst.input).unwrap_or_default() / worst.choices.max(1);
            if output_per_choice < MIN_OUTPUT_TOKENS {
                return Err(Exhausted {
                    owner: owner.to_string(),
                    budget,
                    free,
                    least_cost: worst.least_cost(),
                    resets_in: budget.per.around(now).1.since(now),
                });
            }
            amount = worst.price.max_cost(worst.input, output_per_choice.saturating_mul(worst.choices));
            cap = Some(output_per_choice);
        }
        let mut holds = Vec::new();
        for (owner, _) in budgets {
            let hold = self.account(owner).allowance.reserve(amount);
            holds.extend(hold.map(|hold| (owner.clone(), hold)));
        }
        Ok((holds, cap))
    }

    /// Replaces the reservations of a call by its cost, and counts its usage. Beyond [`MAX_SPEND_KEYS`], new models of a
    /// provider count as one, since clients may name as many as they like.
    pub(crate) fn settle(&mut self, spend_key: SpendKey, holds: Holds, usage: Usage, cost: NanoUsd) {
        for (owner, hold) in holds {
            self.account(&owner).allowance.settle(hold, cost);
        }
        let is_full = self.spend.len() >= MAX_SPEND_KEYS && !self.spend.contains_key(&spend_key);
        let spend_key = if is_full { SpendKey { model: "*".into(), ..spend_key } } else { spend_key };
        let spend = self.spend.entry(spend_key).or_default();
        spend.calls += 1;
        spend.usage += usage;
        spend.cost = spend.cost.saturating_add(cost);
    }

    fn account(&mut self, owner: &BudgetOwner) -> &mut Account {
        self.accounts.entry(owner.clone()).or_default()
    }

    /// The account of a budget, with its allowance in the period that begins at `start`.
    fn account_in(&mut self, owner: &BudgetOwner, start: Timestamp) -> &mut Account {
        let account = self.account(owner);
        account.allowance.begin_period(start);
        account
    }
}
