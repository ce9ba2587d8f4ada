//! Runs `outlive check`: shows what the node would do with its configuration, with budgets, prices and approvals. Fails
//! on a budget that pays for no call. Reads no file; `main.rs` does.

use std::{collections::BTreeSet, fmt::Write};

use outlive::{Config, Coverage, model::Candidate, money::NanoUsd};

/// Shows `config` on stdout, or fails with the budgets that pay for no call.
pub(crate) fn run(config: &Config) -> Result<(), String> {
    let coverage = config.coverage();
    println!("{}{config}", describe(config, &coverage));
    let mistakes: Vec<String> = coverage.iter().filter_map(Coverage::mistake).collect();
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes.join("\n")) }
}

/// The lines for budgets, prices and approvals, and a warning for each candidate that costs an unknown amount.
fn describe(config: &Config, coverage: &[Coverage]) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    for Coverage { owner, budget, .. } in coverage {
        let _ = writeln!(out, "budget of the {owner}: {} USD per {}", budget.limit, budget.per.name());
    }
    let candidates: BTreeSet<&Candidate> = config.models.iter().flat_map(|model| &model.candidates).collect();
    for candidate in candidates.into_iter().filter(|candidate| !candidate.is_wildcard()) {
        let Some(price) = config.facts(candidate).price else {
            let refusing = coverage.iter().find(|coverage| coverage.unpriced.contains(candidate));
            let effect = match refusing {
                Some(Coverage { owner, .. }) => format!("the budget of the {owner} refuses its calls"),
                None => "its calls count as free".to_owned(),
            };
            let _ = writeln!(out, "warning: {candidate} has no price: {effect}; allowed: a [[price]] for it");
            continue;
        };
        // A rate is in nano-dollars for a thousand tokens.
        let dollars = |rate: u64| NanoUsd(rate.saturating_mul(1000));
        let rates = price.rates;
        let _ = writeln!(
            out,
            "price of {candidate}: {} USD for a million tokens of input, {} of cached input, {} of output",
            dollars(rates.input),
            dollars(rates.cache_read),
            dollars(rates.output)
        );
    }
    let of_servers = config.tools.iter().map(|tool| (tool.name.as_str(), &tool.approve));
    for (name, approve) in std::iter::once(("outlive", &config.agent.approve)).chain(of_servers) {
        let which = match approve.as_slice() {
            [] => "no call needs an approval".to_owned(),
            names if names.iter().any(|name| name == "*") => "every call needs an approval".to_owned(),
            names => format!("calls of {} need an approval", names.join(", ")),
        };
        let _ = writeln!(out, "tools of {name}: {which}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_prices_and_approvals_are_shown() {
        let text = "[agent]\nname = \"a\"\napprove = [\"remember\"]\n[budget]\nlimit_usd = \"5\"\nper = \"day\"\n\
                    [[provider]]\nname = \"p\"\nkind = \"compatible\"\nbase_url = \"https://p.test\"\n\
                    [[model]]\nname = \"default\"\ncandidates = [\"p/m\", \"p/unknown\"]\n\
                    [[price]]\ncandidate = \"p/m\"\ninput = \"1.25\"\noutput = \"10\"\n\
                    [[tool]]\nname = \"shop\"\nurl = \"https://shop.test/mcp\"\napprove = [\"*\"]\n";
        let config = Config::parse(text, "test", |_| None).unwrap();
        let expected = "budget of the node: 5.00 USD per day\n\
            price of p/m: 1.25 USD for a million tokens of input, 1.25 of cached input, 10.00 of output\n\
            warning: p/unknown has no price: the budget of the node refuses its calls; allowed: a [[price]] for it\n\
            tools of outlive: calls of remember need an approval\n\
            tools of shop: every call needs an approval\n";
        assert_eq!(describe(&config, &config.coverage()), expected);
    }
}
