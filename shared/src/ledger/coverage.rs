//! Finds budgets that pay for no call, and candidates that a budget refuses. For the operator; the node decides call by
//! call.

use super::{BudgetOwner, MIN_OUTPUT_TOKENS, OVERHEAD_TOKENS, WorstCase};
use crate::{
    config::Config,
    model::Candidate,
    money::{Budget, NanoUsd},
};

/// What a budget can pay for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Whose spending it bounds: `node`, `provider NAME` or `key NAME`.
    pub owner: String,
    /// The budget.
    pub budget: Budget,
    /// The candidate whose smallest call reserves the least, and how much that is; `None` if no candidate has a price.
    pub cheapest: Option<(Candidate, NanoUsd)>,
    /// The candidates whose calls it refuses because their price is unknown.
    pub unpriced: Vec<Candidate>,
    /// Whether it pays for a wildcard, which may stand for cheaper models.
    pub has_wildcard: bool,
}

impl Coverage {
    /// Why the budget pays for no call at all; `None` if it pays for some.
    pub fn mistake(&self) -> Option<String> {
        let Self { owner, budget: Budget { limit, per }, cheapest, .. } = self;
        let budget = format!("the budget of the {owner} is {limit} USD per {}", per.name());
        match cheapest {
            _ if self.has_wildcard => None,
            None => Some(format!(
                "{budget}, but no candidate that it pays for has a price; allowed: a [[price]] for one"
            )),
            Some((candidate, least)) if least > limit => Some(format!(
                "{budget}, but the smallest call of the cheapest candidate, {candidate}, reserves {least} USD; allowed: \
                 a limit_usd of at least {least}"
            )),
            Some(_) => None,
        }
    }
}

impl Config {
    /// What each budget can pay for.
    pub fn coverage(&self) -> Vec<Coverage> {
        let of = |(owner, budget): (BudgetOwner, Budget)| {
            let all = self.models.iter().flat_map(|model| &model.candidates);
            let mut paid: Vec<&Candidate> = all
                .filter(|candidate| match &owner {
                    BudgetOwner::Provider(name) => candidate.provider == *name,
                    BudgetOwner::Node | BudgetOwner::Key(_) => true,
                })
                .collect();
            paid.sort_unstable();
            paid.dedup();
            let has_wildcard = paid.iter().any(|candidate| candidate.is_wildcard());
            paid.retain(|candidate| !candidate.is_wildcard());
            let least = |candidate: &&Candidate| {
                let price = self.facts(candidate).price?;
                let call = WorstCase { price, input: OVERHEAD_TOKENS, output: MIN_OUTPUT_TOKENS, choices: 1 };
                Some(((*candidate).clone(), call.cost()))
            };
            let cheapest = paid.iter().filter_map(least).min_by_key(|(_, least)| *least);
            let unpriced =
                paid.into_iter().filter(|candidate| self.facts(candidate).price.is_none()).cloned();
            let (owner, unpriced) = (owner.to_string(), unpriced.collect());
            Coverage { owner, budget, cheapest, unpriced, has_wildcard }
        };
        self.budgets().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_below_the_smallest_call_is_a_mistake() {
        let text = "[[provider]]\nname = \"p\"\nkind = \"compatible\"\nbase_url = \"https://p.test\"\n\
                    budget = { limit_usd = \"0.0025\", per = \"hour\" }\n\
                    [[model]]\nname = \"default\"\ncandidates = [\"p/m\", \"p/unknown\"]\n";
        let check = |price: &str, cheapest: Option<u64>, mistake: Option<&str>| {
            let config = Config::parse(&format!("{text}{price}"), "test", |_| None).unwrap();
            let coverage = config.coverage();
            let [coverage] = coverage.as_slice() else { panic!("{coverage:?}") };
            assert_eq!(coverage.cheapest.as_ref().map(|(_, least)| least.0), cheapest);
            let found = coverage.mistake();
            assert_eq!(found.is_some(), mistake.is_some(), "{found:?}");
            assert!(found.unwrap_or_default().contains(mistake.unwrap_or_default()));
            assert!(coverage.unpriced.contains(&Candidate { provider: "p".into(), model: "unknown".into() }));
        };
        // A thousand tokens of input for a dollar a million, and sixteen of output for ten or a hundred.
        let price =
            |output: &str| format!("[[price]]\ncandidate = \"p/m\"\ninput = \"1\"\noutput = \"{output}\"\n");
        check(&price("10"), Some(1_160_000), None);
        check(
            &price("100"),
            Some(2_600_000),
            Some("reserves 0.0026 USD; allowed: a limit_usd of at least 0.0026"),
        );
        check("", None, Some("no candidate that it pays for has a price"));
    }
}
