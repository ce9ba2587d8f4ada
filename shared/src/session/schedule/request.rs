//! Parses a request for a schedule in JSON, as a client sends it or a model calls the agent's built-in function with
//! it. Checks the fields' types; `Terms::check` checks their values.

use serde_json::{Map, Value};

use super::{MissedPolicy, Terms};
use crate::{
    cron::{Rule, RuleError, duration},
    money::NanoUsd,
    wire::{
        RequestError,
        raw::{parse_object, parse_text},
    },
};

/// A parsed request for a schedule.
#[derive(Clone, Debug)]
pub struct ScheduleRequest {
    /// The terms of the schedule.
    pub terms: Terms,
    /// The id of the conversation that it runs in; `None` for a new one.
    pub conversation: Option<String>,
}

const FIELDS: [&str; 12] = [
    "name",
    "cron",
    "at",
    "every",
    "time_zone",
    "prompt",
    "missed",
    "model",
    "conversation",
    "jitter",
    "max_runs_per_day",
    "max_usd_per_day",
];

impl ScheduleRequest {
    /// Parses a request in JSON.
    ///
    /// # Errors
    /// Names the missing, unknown or invalid field and what is allowed.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let fields: Map<String, Value> = parse_object(parse_text(body)?)?;
        // With a misspelt field ignored, the schedule would run at a wrong time.
        if let Some(name) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
            let name: String = name.chars().take(100).collect();
            return Err(wrong(&name, format!("unknown field; allowed: {}", FIELDS.join(", "))));
        }
        let get = |name: &str| fields.get(name).filter(|value| !value.is_null());
        let text = |name: &str| match get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(other) => Err(wrong(name, format!("{}; allowed: a string", short(other)))),
        };
        let missing = |name: &str| RequestError::Missing(name.into());
        let required = |name: &str| text(name)?.ok_or_else(|| missing(name));
        let zone = text("time_zone")?.unwrap_or("UTC");
        let rule = rule(text("cron")?, get("at"), text("every")?, zone)?;
        let mut terms = Terms::new(required("name")?, rule, required("prompt")?);
        zone.clone_into(&mut terms.zone);
        terms.model = text("model")?.map(str::to_owned);
        if let Some(value) = text("missed")? {
            let policy = MissedPolicy::NAMES.iter().find(|(name, _)| *name == value);
            let why = || format!("{}; allowed: skip, once, all", short(&value.into()));
            terms.missed = policy.map(|(_, missed)| *missed).ok_or_else(|| wrong("missed", why()))?;
        }
        if let Some(value) = text("jitter")? {
            let why = || format!("{}; allowed: a time such as \"90s\" or \"15m\"", short(&value.into()));
            let jitter = duration(value).ok_or_else(|| wrong("jitter", why()))?;
            terms.jitter = u64::try_from(jitter.as_millis()).unwrap_or(u64::MAX);
        }
        if let Some(value) = get("max_runs_per_day") {
            let why = || format!("{}; allowed: a whole number", short(value));
            terms.max_runs_per_day = value.as_u64().ok_or_else(|| wrong("max_runs_per_day", why()))?;
        }
        if let Some(value) = get("max_usd_per_day") {
            // The digits as the client sent them: a float would round them.
            let number = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let why = || format!("{}; allowed: dollars as a decimal number such as \"0.25\"", short(value));
            let amount = NanoUsd::parse(&number).ok_or_else(|| wrong("max_usd_per_day", why()))?;
            terms.max_usd_per_day = Some(amount.0);
        }
        let conversation = text("conversation")?.map(str::to_owned);
        Ok(Self { terms, conversation })
    }
}

fn wrong(param: &str, why: impl std::fmt::Display) -> RequestError {
    RequestError::Value { param: param.to_owned(), why: why.to_string() }
}

/// The beginning of a value, for an error message.
fn short(value: &Value) -> String {
    value.to_string().chars().take(100).collect()
}

/// The rule in `cron`, `at` or `every`; exactly one must be there.
fn rule(
    cron: Option<&str>,
    at: Option<&Value>,
    every: Option<&str>,
    zone: &str,
) -> Result<Rule, RequestError> {
    let rule = match (cron, at, every) {
        (Some(text), None, None) => Ok(Rule::Cron(text.to_owned())),
        (None, Some(Value::String(text)), None) => Rule::at(text, zone),
        // Seconds since the Unix epoch, as all times of the API are.
        (None, Some(value), None) => match value.as_u64().and_then(|seconds| seconds.checked_mul(1000)) {
            Some(millis) => Ok(Rule::At(millis)),
            None => Err(RuleError::new("at", format!("{}; allowed: seconds, or RFC 3339", short(value)))),
        },
        (None, None, Some(text)) => Rule::every(text),
        _ => Err(RuleError::new("cron", "allowed: one of cron, at and every")),
    };
    rule.map_err(|RuleError { field, why }| wrong(field, why))
}
