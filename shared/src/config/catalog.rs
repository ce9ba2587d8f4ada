//! Finds the model that a name in a request means: by its name, an alias, a candidate or a wildcard. Reads no file and
//! chooses no candidate.

use std::rc::Rc;

use super::Config;
use crate::{
    model::{Candidate, Model},
    money::NanoUsd,
    price::{self, Facts},
    time::Timestamp,
    usage::Usage,
};

/// Longest name that a wildcard accepts: as long as the names in the configuration.
const MAX_NAME_BYTES: usize = 128;

/// The names that a wildcard accepts. They come from clients and get into URLs and logs.
const NAME_RULE: &str = "1 to 128 of a-z A-Z 0-9 . - _ : / @ [ ], without \"..\"";

/// What Claude Code adds to a name to have a context of a million tokens.
///
/// It is left out. The beta behind it ended on 2026-04-30: models from 4.6 on have that context without it, and older
/// ones no longer get it (<https://platform.claude.com/docs/en/build-with-claude/context-windows>).
const LONG_CONTEXT: &str = "[1m]";

impl Config {
    /// The model that `name` means. Of several possibilities the first counts: a model of this name or alias; the one
    /// candidate of a model that `provider/model` names; the wildcard with the longest prefix. Where none fits, a name
    /// with `[1m]` at its end means the model without it.
    pub fn model(&self, name: &str) -> Option<Rc<Model>> {
        self.find(name).or_else(|| self.find(without_long_context(name)?))
    }

    fn find(&self, name: &str) -> Option<Rc<Model>> {
        if let Some(model) = self.named(name) {
            return Some(Rc::clone(model));
        }
        if let Some(model) = self.candidate_model(name) {
            return Some(Rc::new(model));
        }
        let wildcard = self.wildcard(name).filter(|_| is_request_name(name))?;
        // A wildcard takes no `[1m]`, so that the name goes on without it.
        without_long_context(name).is_none().then(|| Rc::new(wildcard.of_wildcard(name)))
    }

    fn named(&self, name: &str) -> Option<&Rc<Model>> {
        self.models.iter().find(|model| {
            model.prefix().is_none()
                && (model.name == name || model.aliases.iter().any(|alias| alias == name))
        })
    }

    fn wildcard(&self, name: &str) -> Option<&Rc<Model>> {
        let matching = self.models.iter().filter_map(|model| {
            let prefix = model.prefix().filter(|prefix| name.starts_with(prefix))?;
            Some((prefix.len(), model))
        });
        matching.max_by_key(|(length, _)| *length).map(|(_, model)| model)
    }

    /// The model with the one candidate that `name` names as `provider/model`.
    ///
    /// Only candidates that the operator listed: a caller must not reach a more expensive model of the account.
    fn candidate_model(&self, name: &str) -> Option<Model> {
        let (provider, model) = name.split_once('/')?;
        let wanted = Candidate { provider: provider.to_owned(), model: model.to_owned() };
        let listed = self.models.iter().find(|model| model.candidates.contains(&wanted));
        if let Some(listed) = listed.filter(|_| !wanted.is_wildcard()) {
            return Some(listed.of_candidate(name, wanted));
        }
        let is_request_name = is_request_name(model) && without_long_context(model).is_none();
        let patterns = self.models.iter().flat_map(|model| model.candidates.iter().map(move |c| (model, c)));
        for (listed, pattern) in patterns.filter(|_| is_request_name) {
            // A candidate of a wildcard stands for the names that mean this wildcard, and for no other.
            if let Some(rest) = pattern.matched(&wanted)
                && self.named(rest).is_none()
                && self.wildcard(rest).is_some_and(|wildcard| wildcard.name == listed.name)
            {
                return Some(listed.of_candidate(&listed.name, wanted));
            }
        }
        None
    }

    /// The error message for a request with an unknown model.
    pub(crate) fn unknown_model(&self, name: &str) -> String {
        if self.wildcard(name).is_some() && !is_request_name(name) {
            let start: String = name.chars().take(200).collect();
            return format!("{start:?} is not the name of a model; allowed: {NAME_RULE}");
        }
        let name: String = name.chars().take(200).collect();
        let known: Vec<&str> = self.models.iter().map(|model| model.name.as_str()).collect();
        format!("there is no model {name:?}; there are: {}", known.join(", "))
    }

    /// The names that clients can choose from: of models, their aliases and, for a wildcard, the names that match it
    /// and that the built-in table has for one of its candidates. A wildcard's own name is no model.
    pub fn model_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for model in self.models.iter().filter(|model| model.prefix().is_none()) {
            names.extend([&model.name].into_iter().chain(&model.aliases).map(String::as_str));
        }
        for name in price::names() {
            let wildcard = self.wildcard(name).filter(|_| self.named(name).is_none());
            let is_known = wildcard.is_some_and(|model| {
                // A vendor without a table knows no context of any model.
                let facts = model.candidates.iter().map(|candidate| self.vendor_facts(&candidate.of(name)));
                facts.flatten().any(|facts| facts.context_tokens.is_some())
            });
            if is_known && !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// The candidate as the configuration lists it: itself, or the candidate of a wildcard that stands for it. There
    /// are few of these, however many names clients request.
    pub(crate) fn listed(&self, candidate: &Candidate) -> Candidate {
        listed_as(self.listed_candidates(), candidate).unwrap_or(candidate).clone()
    }

    /// The price and limits of a candidate's model: the operator's `[[price]]`, then the built-in table, then the
    /// `[[price]]` of the wildcard candidate that stands for it.
    pub fn facts(&self, candidate: &Candidate) -> Facts {
        self.facts.get(candidate).copied().unwrap_or_else(|| self.look_up(candidate))
    }

    /// As [`Config::facts`], from the tables.
    pub(super) fn look_up(&self, candidate: &Candidate) -> Facts {
        let table = self.vendor_facts(candidate);
        let known = table.unwrap_or(Facts::UNKNOWN);
        let of_wildcard = || match table.and_then(|facts| facts.price) {
            None => self.prices.get(listed_as(self.listed_candidates(), candidate)?),
            Some(_) => None,
        };
        let Some(own) = self.prices.get(candidate).or_else(of_wildcard) else { return known };
        Facts {
            price: own.price,
            context_tokens: own.context_tokens.or(known.context_tokens),
            output_tokens: own.output_tokens.or(known.output_tokens),
            ..known
        }
    }

    /// The cost of an answer of a candidate that started at `at`: what the provider says if it is to be trusted, else by
    /// the price; `None` if that is unknown.
    pub(crate) fn cost(&self, candidate: &Candidate, usage: &Usage, at: Timestamp) -> Option<NanoUsd> {
        let is_reported = self.provider(&candidate.provider)?.vendor.reports_cost;
        let by_price = || Some(self.facts(candidate).price?.cost(usage, at));
        usage.cost.filter(|_| is_reported).or_else(by_price)
    }

    fn listed_candidates(&self) -> impl Iterator<Item = &Candidate> + Clone {
        self.models.iter().flat_map(|model| &model.candidates)
    }

    fn vendor_facts(&self, candidate: &Candidate) -> Option<Facts> {
        let provider = self.provider(&candidate.provider)?;
        (provider.vendor.facts)(&candidate.model)
    }
}

/// The candidate of `listed` that is `candidate`, or the one of a wildcard that stands for it.
pub(super) fn listed_as<'a>(
    mut listed: impl Iterator<Item = &'a Candidate> + Clone,
    candidate: &Candidate,
) -> Option<&'a Candidate> {
    let patterns = listed.clone().filter(|pattern| pattern.matched(candidate).is_some());
    listed.find(|known| *known == candidate).or_else(|| patterns.max_by_key(|pattern| pattern.model.len()))
}

/// Whether a wildcard accepts `name` from a client.
fn is_request_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:/@[]".contains(&byte);
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_allowed) && !name.contains("..")
}

fn without_long_context(name: &str) -> Option<&str> {
    let (name, suffix) = name.split_at_checked(name.len().checked_sub(LONG_CONTEXT.len())?)?;
    suffix.eq_ignore_ascii_case(LONG_CONTEXT).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(models: &str) -> Config {
        let provider = |name: &str, kind: &str| {
            format!("[[provider]]\nname = \"{name}\"\nkind = \"{kind}\"\napi_key = {{ env = \"KEY\" }}\n")
        };
        let compatible =
            "[[provider]]\nname = \"local\"\nkind = \"compatible\"\nbase_url = \"http://localhost\"\n";
        let text = [&provider("anthropic", "anthropic"), &provider("openai", "openai"), compatible, models];
        Config::parse(&text.concat(), "agent.toml", |_| Some("key".into())).unwrap()
    }

    const MODELS: &str = r#"
[agent]
name = "scout"
model = "claude-opus-5"
[[model]]
name = "default"
aliases = ["gpt-4o", "gpt-4o-mini"]
candidates = ["openai/gpt-5-mini"]
[[model]]
name = "claude-*"
candidates = ["anthropic/*", "local/anthropic/*", "openai/gpt-5"]
[[model]]
name = "claude-haiku-*"
candidates = ["local/small"]
[[model]]
name = "claude-fable-5"
candidates = ["anthropic/claude-fable-5-1"]
[[model]]
name = "gpt-5[1m]"
candidates = ["openai/gpt-5"]
[[price]]
candidate = "local/anthropic/*"
input = "1"
output = "1"
"#;

    /// Checks the model that `name` means, and the candidates that are called for it; empty if it means none.
    fn check(config: &Config, name: &str, expected: &str) {
        let found = config.model(name).map(|model| {
            let candidates = model.candidates.iter().map(ToString::to_string).collect::<Vec<_>>();
            format!("{}: {}", model.name, candidates.join(" "))
        });
        assert_eq!(found.unwrap_or_default(), expected, "{name}");
    }

    #[test]
    fn a_name_means_the_most_specific_model() {
        let config = config(MODELS);
        check(&config, "gpt-4o", "default: openai/gpt-5-mini");
        check(
            &config,
            "claude-opus-5",
            "claude-*: anthropic/claude-opus-5 local/anthropic/claude-opus-5 openai/gpt-5",
        );
        check(&config, "claude-haiku-4-5", "claude-haiku-*: local/small");
        check(&config, "claude-fable-5", "claude-fable-5: anthropic/claude-fable-5-1");
        check(&config, "claude-*", "");
        check(&config, "gpt-5-nano", "");
        check(&config, "anthropic/claude-opus-5", "claude-*: anthropic/claude-opus-5");
        check(&config, "local/anthropic/claude-opus-5", "claude-*: local/anthropic/claude-opus-5");
        for other in
            ["anthropic/claude-haiku-4-5", "anthropic/claude-fable-5", "anthropic/gpt-5", "anthropic/*"]
        {
            check(&config, other, "");
        }
        let all = self::config(
            "[agent]\nname = \"a\"\nmodel = \"x\"\n[[model]]\nname = \"*\"\ncandidates = [\"local/*\"]\n",
        );
        check(&all, "@cf/meta/llama-4:free", "*: local/@cf/meta/llama-4:free");
    }

    #[test]
    fn a_million_tokens_of_context_are_no_part_of_the_name() {
        let config = config(MODELS);
        check(&config, "default[1m]", "default: openai/gpt-5-mini");
        check(&config, "claude-haiku-4-5[1M]", "claude-haiku-*: local/small");
        check(&config, "anthropic/claude-opus-4-8[1m]", "claude-*: anthropic/claude-opus-4-8");
        assert_eq!(config.model("claude-opus-4-8[1m]"), config.model("claude-opus-4-8"));
        check(&config, "gpt-5[1m]", "gpt-5[1m]: openai/gpt-5");
        check(&config, "[1m]", "");
    }

    #[test]
    fn names_that_do_not_belong_in_a_url_are_refused() {
        let config = config(MODELS);
        let long = format!("claude-{}", "x".repeat(122));
        for name in [
            "claude-../../admin",
            "claude-..%2f",
            "claude-a b",
            "claude-\n",
            "claude-é",
            "claude-?a=b",
            "claude-#",
            "claude-\\",
            &long,
            "anthropic/claude-..",
        ] {
            check(&config, name, "");
        }
        assert_eq!(
            config.unknown_model("claude-..%2f\n"),
            r#""claude-..%2f\n" is not the name of a model; allowed: 1 to 128 of a-z A-Z 0-9 . - _ : / @ [ ], without "..""#
        );
    }

    #[test]
    fn clients_can_choose_from_names_that_the_table_knows() {
        let config = config(MODELS);
        let names = config.model_names();
        let has = |name: &str| names.iter().filter(|known| **known == name).count();
        assert_eq!(names[..5], ["default", "gpt-4o", "gpt-4o-mini", "claude-fable-5", "gpt-5[1m]"]);
        assert_eq!((has("claude-opus-5"), has("claude-fable-5"), has("claude-sonnet-5")), (1, 1, 1));
        assert_eq!((has("claude-*"), has("claude-haiku-4-5"), has("gpt-5-nano")), (0, 0, 0));
        for name in names {
            assert!(config.model(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_wildcards_facts_are_those_of_the_name() {
        let config = config(MODELS);
        let facts = |name: &str| {
            config.model(name).map(|model| {
                let facts = model.candidates.iter().map(|candidate| config.facts(candidate).price);
                facts.map(|price| price.map(|price| price.rates.output)).collect::<Vec<_>>()
            })
        };
        let gpt = Some(10_000_000);
        assert_eq!(facts("claude-opus-5"), Some(vec![Some(25_000_000), Some(1_000_000), gpt]));
        assert_eq!(facts("claude-new"), Some(vec![None, Some(1_000_000), gpt]));
        let of = |provider: &str, model: &str| {
            config.listed(&Candidate { provider: provider.into(), model: model.into() }).to_string()
        };
        assert_eq!(of("anthropic", "claude-new"), "anthropic/*");
        assert_eq!(of("local", "small"), "local/small");
    }
}
