//! Writes a configuration as `outlive check` shows it. Shows no secrets.

use std::{fmt, time::Duration};

use super::Config;
use crate::{
    cron::{Rule, duration_text},
    model::{Candidate, Prefer},
    time::Timestamp,
};

/// What a node with this configuration serves, and by which providers.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "node {} runs agent {} with model {}", self.node, self.agent.name, self.agent.model)?;
        for provider in &self.providers {
            let Some(place) = &provider.base_url else {
                writeln!(f, "provider {}: {}, built in", provider.name, provider.vendor.kind)?;
                continue;
            };
            let key = match provider.keys.len() {
                0 => "without a key".into(),
                1 => "with a key".into(),
                many => format!("with {many} keys"),
            };
            writeln!(f, "provider {}: {} at {place}, {key}", provider.name, provider.vendor.kind)?;
        }
        for model in &self.models {
            let candidate = |candidate: &Candidate| match model.prefer {
                Prefer::Weight => format!("{candidate} ({})", model.weight(candidate)),
                Prefer::Order | Prefer::Cost | Prefer::Latency => candidate.to_string(),
            };
            let order = model.candidates.iter().map(candidate).collect::<Vec<_>>().join(", then ");
            let names = [&model.name].into_iter().chain(&model.aliases).map(String::as_str);
            let names = names.collect::<Vec<_>>().join(", ");
            writeln!(f, "model {names}: {order}, by {}", model.prefer.name())?;
            let timeouts = model.timeouts;
            writeln!(
                f,
                "  connect {:?}, first token {:?}, thinking {:?}, idle {:?}, total {:?}",
                timeouts.connect, timeouts.first_token, timeouts.thinking, timeouts.idle, timeouts.total
            )?;
        }
        for key in &self.keys {
            let scopes = key.scopes.iter().map(|scope| scope.name()).collect::<Vec<_>>().join(", ");
            writeln!(f, "key {}: {scopes}", key.name)?;
        }
        for terms in &self.schedules {
            let rule = match &terms.rule {
                Rule::Cron(text) => format!("{text} in {}", terms.zone),
                Rule::At(at) => format!("once at {}", Timestamp(*at).to_rfc3339()),
                Rule::Every(millis) => format!("every {}", duration_text(Duration::from_millis(*millis))),
            };
            writeln!(f, "schedule {}: {rule}, missed: {}", terms.name, terms.missed.name())?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        match self.keys.as_slice() {
            [] => write!(
                f,
                "no [[key]]: only requests from this machine are served, over the loopback interface"
            ),
            keys => write!(f, "{} may call; all other requests are refused", count(keys.len(), "key")),
        }
    }
}

fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
