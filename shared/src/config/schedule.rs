//! Reads `[[schedule]]` and checks it against the rest of the configuration. When a schedule is due is decided in
//! `session/schedule.rs`.

use std::collections::BTreeMap;

use super::{
    Config,
    reader::{Located, Section, allowed_names},
    sections::{dollars, name_of},
};
use crate::{
    cron::{Rule, RuleError, duration},
    session::schedule::{MAX_RUNS_PER_DAY, MissedPolicy, Terms},
};

impl Config {
    /// Checks that a schedule can run with this configuration: its model exists, and a daily budget has known prices.
    pub fn check_terms(&self, terms: &Terms) -> Result<(), RuleError> {
        terms.check()?;
        let name = terms.model.as_ref().unwrap_or(&self.agent.model);
        let Some(model) = self.model(name) else {
            let allowed = allowed_names(name, self.models.iter().map(|model| model.name.as_str()));
            return Err(RuleError::new("model", format!("there is no model {name:?}; {allowed}")));
        };
        let unpriced = model.candidates.iter().find(|candidate| self.facts(candidate).price.is_none());
        match (terms.max_usd_per_day, unpriced) {
            (Some(_), Some(candidate)) => {
                let why = format!(
                    "the price of {candidate} is unknown; allowed: only with a [[price]] for each candidate"
                );
                Err(RuleError::new("max_usd_per_day", why))
            }
            _ => Ok(()),
        }
    }
}

/// Reads a `[[schedule]]` and the positions of its keys. [`Config::check_terms`] runs later, once the whole file is
/// read.
pub(super) fn schedule(section: &Section<'_>) -> Option<(Terms, KeyPositions)> {
    let name = name_of(section);
    let [cron, at, every] = ["cron", "at", "every"].map(|key| section.string(key));
    let zone = section.string("time_zone");
    let prompt = section.required("prompt");
    let model = section.string("model");
    let missed = section.one_of_or("missed", &MissedPolicy::NAMES, MissedPolicy::default());
    let jitter = section.string("jitter");
    let runs = section.whole("max_runs_per_day", 1, MAX_RUNS_PER_DAY);
    let usd = section.string("max_usd_per_day").map(|text| dollars(section, "max_usd_per_day", &text));
    let positions = KeyPositions {
        path: section.path().to_owned(),
        section: section.at(),
        keys: section.positions().collect(),
    };
    // From here on a mistake skips the schedule, so all keys must be read before.
    section.finish();
    let zone = zone.map_or_else(|| "UTC".to_owned(), |zone| zone.value);
    let rule = rule(section, cron, at, every, &zone);
    let jitter = match jitter {
        None => Some(0),
        Some(text) => {
            let millis = duration(&text.value).and_then(|jitter| u64::try_from(jitter.as_millis()).ok());
            if millis.is_none() {
                let why = format!("{:?}; allowed: a time such as \"90s\" or \"15m\"", text.value);
                section.mistake(text.at, "jitter", why);
            }
            millis
        }
    };
    let mut terms = Terms::new(&name?, rule?, &prompt?.value);
    (terms.zone, terms.missed, terms.jitter) = (zone, missed, jitter?);
    terms.model = model.map(|model| model.value);
    terms.max_runs_per_day = runs.unwrap_or(terms.max_runs_per_day);
    terms.max_usd_per_day = match usd {
        Some(usd) => Some(usd?.0),
        None => None,
    };
    if let Err(error) = terms.rule.check(&terms.zone) {
        section.mistake(positions.of(&error), error.field, error.why);
    }
    Some((terms, positions))
}

fn rule(
    section: &Section<'_>,
    cron: Option<Located<String>>,
    at: Option<Located<String>>,
    every: Option<Located<String>>,
    zone: &str,
) -> Option<Rule> {
    let (rule, position) = match (cron, at, every) {
        (Some(text), None, None) => (Ok(Rule::Cron(text.value)), text.at),
        (None, Some(text), None) => (Rule::at(&text.value, zone), text.at),
        (None, None, Some(text)) => (Rule::every(&text.value), text.at),
        // A mistake about the value of the one that is given is already recorded.
        (None, None, None) if ["cron", "at", "every"].iter().filter(|key| section.has(key)).count() == 1 => {
            return None;
        }
        _ => {
            section.mistake(
                section.at(),
                "cron",
                "none or several are given; allowed: exactly one of cron, at and every".into(),
            );
            return None;
        }
    };
    rule.inspect_err(|error| section.mistake(position, error.field, error.why.clone())).ok()
}

/// The byte offsets of a schedule's keys in the file.
pub(super) struct KeyPositions {
    pub(super) path: String,
    section: usize,
    keys: BTreeMap<String, usize>,
}

impl KeyPositions {
    /// The offset of the key that `error` is about; the section's if the key is missing.
    pub(super) fn of(&self, error: &RuleError) -> usize {
        self.keys.get(error.field).copied().unwrap_or(self.section)
    }
}
