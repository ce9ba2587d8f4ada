//! `agent.toml`: what the operator wants.
//!
//! The same file configures every node. Reading it is pure: the environment is an argument, and the outcome is either a
//! configuration that can be run or the list of all its mistakes.

mod describe;
mod reader;
mod schedule;
mod sections;
pub mod tool;

use std::{collections::BTreeMap, time::Duration};

use crate::{
    model::{Candidate, Model, Timeouts},
    money::{Budget, NanoUsd},
    price::Facts,
    provider::Provider,
    session::schedule::Terms,
};

use reader::ConfigReader;
pub use reader::{Mistake, Mistakes};
use schedule::schedule;
use sections::{
    NAME_RULE, agent, budget, clocks, from_environment, key, model, price, provider, telemetry, unique,
};
pub(crate) use sections::{is_loopback, is_name};
use tool::BUILT_IN_FUNCTIONS;
pub use tool::ToolServer;
pub(crate) use tool::tool_url;

/// Everything a node needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The agent that this node runs.
    pub agent: Agent,
    /// This node's name: `OUTLIVE_NODE`, or else the agent's name.
    pub node: String,
    /// Accounts at model vendors.
    pub providers: Vec<Provider>,
    /// Names that clients may ask for.
    pub models: Vec<Model>,
    /// Servers of tools.
    pub tools: Vec<ToolServer>,
    /// Who may call. Empty: only this machine.
    pub keys: Vec<Key>,
    /// What the agent is asked again and again.
    pub schedules: Vec<Terms>,
    /// The clocks of models that do not set their own.
    pub timeouts: Timeouts,
    /// What all callers together may spend.
    pub budget: Option<Budget>,
    /// Prices that the operator knows better.
    pub prices: BTreeMap<Candidate, Facts>,
    /// Whether what is said is logged.
    pub log_content: bool,
}

/// `[agent]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// What it is told before every turn.
    pub instructions: String,
    /// The model of its own turns.
    pub model: String,
    /// The servers of tools that its own turns use, and requests that name no tools.
    pub tools: Vec<String>,
    /// The built-in functions of which somebody must approve each call.
    pub approve: Vec<String>,
    /// Hosts whose servers of tools a request may name by their URL.
    pub tool_hosts: Vec<String>,
    /// What one turn may cost, with all that it calls.
    pub turn_limit: Option<NanoUsd>,
    /// How long a session is kept after its last activity. `None`: for ever.
    pub retention: Option<Duration>,
}

/// `[[key]]`: a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Whose key it is.
    pub name: String,
    /// SHA-256 of the key.
    pub sha256: [u8; 32],
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// What it may spend.
    pub budget: Option<Budget>,
    /// How fast it may ask.
    pub limits: Limits,
    /// How long its sessions are kept, if not as long as the agent says.
    pub retention: Option<Duration>,
}

/// How fast a key may ask. `None`: as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests in a minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens in a minute, of input and output.
    pub tokens_per_minute: Option<u64>,
    /// Requests at once.
    pub concurrent: Option<u64>,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Ask models; keep conversations.
    Inference,
    /// See how the node is.
    Admin,
}

impl Scope {
    const NAMES: [(&'static str, Self); 2] = [("inference", Self::Inference), ("admin", Self::Admin)];

    /// The word that the configuration uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Admin => "admin",
        }
    }
}

/// Larger files are a mistake: everything here is read at every start of every isolate.
const MAX_FILE_BYTES: usize = 256 * 1024;

impl Config {
    /// Reads the file's text. `file` is what mistakes call it; `env` looks up the variables that the file names.
    ///
    /// Without any `[[provider]]` the vendors whose keys are in the environment become the candidates of the model
    /// `default`, and without any such key the demo provider does.
    pub fn parse(text: &str, file: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, Mistakes> {
        if text.len() > MAX_FILE_BYTES {
            let why = format!("the file has {} bytes; allowed: at most {MAX_FILE_BYTES}", text.len());
            return Err(Mistakes::one(file, why));
        }
        let reader = ConfigReader::new(text, file, &env)?;
        let root = reader.root();
        let agent = root.table("agent").map(|section| agent(&section));
        let (agent, agent_at) = agent.unwrap_or_else(|| (Agent::default(), 0));
        let timeouts =
            root.table("timeouts").map_or_else(Timeouts::default, |s| clocks(&s, Timeouts::default()));
        let mut providers = root.tables("provider").iter().filter_map(provider).collect::<Vec<_>>();
        let mut models =
            root.tables("model").iter().filter_map(|s| model(s, &providers, timeouts)).collect::<Vec<_>>();
        let tools = root.tables("tool").iter().filter_map(tool::tool).collect::<Vec<_>>();
        let keys = root.tables("key").iter().filter_map(key).collect::<Vec<_>>();
        let schedules = root.tables("schedule").iter().filter_map(schedule).collect::<Vec<_>>();
        let budget = root.table("budget").and_then(|section| budget(&section));
        let log_content = root.table("telemetry").is_some_and(|section| telemetry(&section));
        let prices =
            root.tables("price").iter().filter_map(|s| price(s, &models)).collect::<BTreeMap<_, _>>();
        root.finish();
        unique(&reader, "provider", providers.iter().map(|p| &p.name));
        unique(&reader, "model", models.iter().map(|m| &m.name));
        unique(&reader, "key", keys.iter().map(|k| &k.name));
        unique(&reader, "schedule", schedules.iter().map(|(terms, _)| &terms.name));
        unique(&reader, "tool", tools.iter().map(|t| &t.name));
        for name in &agent.approve {
            if !BUILT_IN_FUNCTIONS.iter().any(|(known, _)| known == name) {
                let names = BUILT_IN_FUNCTIONS.map(|(known, _)| known).join(", ");
                let why = format!("there is no built-in function {name:?}; allowed: {names}");
                reader.mistake(agent_at, "agent.approve", why);
            }
        }
        for name in &agent.tools {
            if name != tool::BUILT_IN && !tools.iter().any(|tool| tool.name == *name) {
                let names = tools.iter().map(|tool| tool.name.as_str()).chain([tool::BUILT_IN]);
                let why =
                    format!("there is no tool {name:?}; allowed: {}", names.collect::<Vec<_>>().join(", "));
                reader.mistake(agent_at, "agent.tools", why);
            }
        }

        if providers.is_empty() && !root.has("provider") {
            (providers, models) = from_environment(&reader, &env, models, timeouts);
        }
        if models.is_empty() && reader.is_clean() {
            reader.mistake(0, "model", "there is no [[model]]; allowed: at least one".into());
        }
        if !models.is_empty() && !models.iter().any(|model| model.name == agent.model) {
            let names = models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
            reader.mistake(
                agent_at,
                "agent.model",
                format!("there is no model {:?}; allowed: {names}", agent.model),
            );
        }
        let node = env("OUTLIVE_NODE").filter(|name| !name.is_empty()).unwrap_or_else(|| agent.name.clone());
        if !is_name(&node) {
            reader.mistake(0, "OUTLIVE_NODE", format!("{node:?} is not a name; allowed: {NAME_RULE}"));
        }
        let (terms, places): (Vec<Terms>, Vec<_>) = schedules.into_iter().unzip();
        let config = Self {
            agent,
            node,
            providers,
            models,
            tools,
            keys,
            schedules: terms,
            timeouts,
            budget,
            prices,
            log_content,
        };
        // Whether terms can be kept depends on everything else.
        let clean = reader.is_clean();
        for (terms, places) in config.schedules.iter().zip(places).filter(|_| clean) {
            if let Err(error) = config.check_terms(terms) {
                reader.mistake(places.of(&error), &format!("{}.{}", places.path, error.field), error.why);
            }
        }
        reader.finish(config)
    }

    /// The model that clients call `name`, or the one candidate that `provider/model` names.
    pub fn model(&self, name: &str) -> Option<Model> {
        if let Some(model) = self.models.iter().find(|model| model.name == name) {
            return Some(model.clone());
        }
        let (provider, model) = name.split_once('/')?;
        let provider = self.provider(provider)?;
        let candidate = Candidate { provider: provider.name.clone(), model: model.to_owned() };
        // Only what the operator listed: a caller must not be able to ask for a dearer model of the account.
        let (known, listed) = self
            .models
            .iter()
            .find_map(|m| Some((m.candidates.iter().find(|known| **known == candidate)?, m)))?;
        Some(Model { name: name.to_owned(), candidates: vec![known.clone()], ..listed.clone() })
    }

    /// The message for a caller who asks for a model that there is not.
    pub(crate) fn unknown_model(&self, name: &str) -> String {
        let name: String = name.chars().take(200).collect();
        let known: Vec<&str> = self.models.iter().map(|model| model.name.as_str()).collect();
        format!("there is no model {name:?}; there are: {}", known.join(", "))
    }

    /// What is known of a candidate's model.
    pub fn facts(&self, candidate: &Candidate) -> Facts {
        let provider = self.provider(&candidate.provider);
        let known =
            provider.and_then(|provider| (provider.vendor.facts)(&candidate.model)).unwrap_or(Facts::UNKNOWN);
        let Some(own) = self.prices.get(candidate) else { return known };
        Facts {
            price: own.price,
            context_tokens: own.context_tokens.or(known.context_tokens),
            output_tokens: own.output_tokens.or(known.output_tokens),
            ..known
        }
    }

    /// The server of tools of this name.
    pub fn tool(&self, name: &str) -> Option<&ToolServer> {
        self.tools.iter().find(|tool| tool.name == name)
    }

    /// The provider of this name.
    pub fn provider(&self, name: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| provider.name == name)
    }

    /// How long a session of the caller `owner` is kept after its last activity. `None`: for ever.
    pub fn retention(&self, owner: &str) -> Option<Duration> {
        let key = self.keys.iter().find(|key| key.name == owner);
        key.and_then(|key| key.retention).or(self.agent.retention)
    }
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            name: "outlive".into(),
            instructions: String::new(),
            model: "default".into(),
            tools: Vec::new(),
            approve: Vec::new(),
            tool_hosts: Vec::new(),
            turn_limit: None,
            retention: None,
        }
    }
}

#[cfg(test)]
mod tests;
