//! Reads `agent.toml`, the operator's configuration.
//!
//! The same file configures every node. Reading it is pure: the environment is an argument, and the result is either a
//! configuration that a node can run or the list of all mistakes. Applies nothing and opens no file.

mod catalog;
mod describe;
mod reader;
mod schedule;
mod sections;
pub mod tool;

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use sha2::{Digest, Sha256};

use crate::{
    model::{Candidate, Model, Timeouts},
    money::{Budget, NanoUsd},
    price::Facts,
    provider::Provider,
    secret::Secret,
    session::schedule::Terms,
};

use reader::{ConfigReader, allowed_names};
pub use reader::{Mistake, Mistakes};
use schedule::schedule;
pub(crate) use sections::is_loopback;
pub use sections::{NAME_RULE, is_name};
use sections::{
    agent, budget, key, leave_out_without_key, model, price, provider, providers_from_environment,
    read_timeouts, telemetry,
};
use tool::BUILT_IN_FUNCTIONS;
pub use tool::ToolServer;
pub(crate) use tool::tool_url;

/// The configuration of a node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The agent that this node runs.
    pub agent: Agent,
    /// This node's name: `OUTLIVE_NODE`, or else the agent's name.
    pub node: String,
    /// Accounts at model vendors.
    pub providers: Vec<Provider>,
    /// The models that clients may request.
    pub models: Vec<Rc<Model>>,
    /// What is known of the candidates that the models list: a look into the tables takes longer than one in here.
    facts: BTreeMap<Candidate, Facts>,
    /// The servers of tools.
    pub tools: Vec<ToolServer>,
    /// The callers' keys. If empty, only requests from this machine are served.
    pub keys: Vec<Key>,
    /// The prompts that the agent runs on a schedule.
    pub schedules: Vec<Terms>,
    /// The timeouts of models that set none of their own.
    pub timeouts: Timeouts,
    /// The budget of all callers together.
    pub budget: Option<Budget>,
    /// Prices that override the built-in table.
    pub prices: BTreeMap<Candidate, Facts>,
    /// Whether telemetry includes the content of requests and answers.
    pub log_content: bool,
    /// What the operator should know although the node can run: a line of text for each, with its place in the file.
    pub warnings: Vec<String>,
}

/// `[agent]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// The system instructions of every turn.
    pub instructions: String,
    /// The model of its own turns.
    pub model: String,
    /// The servers of tools for its own turns, and for requests that name no tools.
    pub tools: Vec<String>,
    /// The built-in functions whose calls need an approval.
    pub approve: Vec<String>,
    /// The hosts of servers of tools that a request may name by URL.
    pub tool_hosts: Vec<String>,
    /// The most that one turn may cost, over all its model calls.
    pub turn_limit: Option<NanoUsd>,
    /// How long a session is kept after its last activity; `None` for ever.
    pub retention: Option<Duration>,
}

/// `[[key]]`: a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The caller's name.
    pub name: String,
    /// SHA-256 of the key.
    pub sha256: [u8; 32],
    /// The operations that it may use.
    pub scopes: Vec<Scope>,
    /// Its budget.
    pub budget: Option<Budget>,
    /// Its request limits.
    pub limits: Limits,
    /// How long its sessions are kept; `None` for the agent's retention.
    pub retention: Option<Duration>,
}

impl Key {
    /// The digest by which the file and the node know the key `text`, so that neither holds it.
    pub fn digest(text: &str) -> [u8; 32] {
        Sha256::digest(text.as_bytes()).into()
    }
}

/// The request limits of a key. `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests per minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute, input and output together.
    pub tokens_per_minute: Option<u64>,
    /// Requests in flight.
    pub concurrent: Option<u64>,
}

/// A permission of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Call models and keep conversations.
    Inference,
    /// Read the node's status and metrics.
    Admin,
}

impl Scope {
    const NAMES: [(&'static str, Self); 2] = [("inference", Self::Inference), ("admin", Self::Admin)];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Admin => "admin",
        }
    }
}

/// Longest file that is read: every isolate parses it at every start.
const MAX_FILE_BYTES: usize = 256 * 1024;

impl Config {
    /// Parses the file's text. `file` is its name in mistakes; `env` looks up environment variables.
    ///
    /// Without any `[[provider]]`, the vendors whose keys are in the environment become the candidates of the model
    /// `default`. Without any such key, the demo provider is the only candidate.
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
            root.table("timeouts").map_or_else(Timeouts::default, |s| read_timeouts(&s, Timeouts::default()));
        // Models refer to providers and prices to models, so the order is fixed.
        let read = root.tables("provider").iter().filter_map(provider).collect::<Vec<_>>();
        let mut providers = read.iter().map(|entry| entry.provider.clone()).collect::<Vec<_>>();
        let read_models =
            root.tables("model").iter().filter_map(|s| model(s, &providers, timeouts)).collect::<Vec<_>>();
        check_aliases(&reader, &read_models);
        let mut models = read_models.into_iter().map(|(model, _)| model).collect::<Vec<_>>();
        let tools = root.tables("tool").iter().filter_map(tool::tool).collect::<Vec<_>>();
        let keys = root.tables("key").iter().filter_map(key).collect::<Vec<_>>();
        let schedules = root.tables("schedule").iter().filter_map(schedule).collect::<Vec<_>>();
        let budget = root.table("budget").and_then(|section| budget(&section));
        let log_content = root.table("telemetry").is_some_and(|section| telemetry(&section));
        let mut prices =
            root.tables("price").iter().filter_map(|s| price(s, &models)).collect::<BTreeMap<_, _>>();
        // Only now are all keys of the file known, so that any other is reported.
        root.finish();
        // After the tables that refer to providers, so that a name is wrong only if the file lacks it.
        let left_out = leave_out_without_key(&reader, &read, &mut providers, &mut models, &mut prices);
        check_agent_tools(&reader, &agent, agent_at, &tools);

        // A file with a [[provider]], even an invalid one, does not fall back to the environment.
        if providers.is_empty() && !root.has("provider") {
            (providers, models) = providers_from_environment(&reader, &env, models, timeouts);
        }
        if models.is_empty() && reader.is_clean() {
            let (name, provider) = (&agent.model, providers.first().map_or("PROVIDER", |first| &first.name));
            let why = format!(
                "there is no [[model]]; allowed: at least one, such as [[model]] with name = {name:?} and \
                 candidates = [\"{provider}/MODEL\"]"
            );
            reader.mistake(0, "model", why);
        }
        let node = env("OUTLIVE_NODE").filter(|name| !name.is_empty()).unwrap_or_else(|| agent.name.clone());
        if !is_name(&node) {
            reader.mistake(0, "OUTLIVE_NODE", format!("{node:?} is not a name; allowed: {NAME_RULE}"));
        }
        let (terms, positions): (Vec<Terms>, Vec<_>) = schedules.into_iter().unzip();
        let mut config = Self {
            agent,
            node,
            providers,
            models: models.into_iter().map(Rc::new).collect(),
            facts: BTreeMap::new(),
            tools,
            keys,
            schedules: terms,
            timeouts,
            budget,
            prices,
            log_content,
            warnings: reader.warnings(),
        };
        let listed = config.models.iter().flat_map(|model| &model.candidates);
        config.facts = listed.map(|candidate| (candidate.clone(), config.look_up(candidate))).collect();
        if !config.models.is_empty() && config.model(&config.agent.model).is_none() {
            let name = &config.agent.model;
            let problem = if left_out.contains(name) { "no candidate is left of the" } else { "there is no" };
            let allowed = allowed_names(name, config.models.iter().map(|model| model.name.as_str()));
            reader.mistake(agent_at, "agent.model", format!("{problem} model {name:?}; {allowed}"));
        }
        // Schedules refer to models and prices, so other mistakes would only be repeated here.
        let is_clean = reader.is_clean();
        for (terms, positions) in config.schedules.iter().zip(positions).filter(|_| is_clean) {
            if let Err(error) = config.check_terms(terms) {
                let key = format!("{}.{}", positions.path, error.field);
                reader.mistake(positions.of(&error), &key, error.why);
            }
        }
        reader.finish(config)
    }

    /// The server of tools of this name.
    pub fn tool(&self, name: &str) -> Option<&ToolServer> {
        self.tools.iter().find(|tool| tool.name == name)
    }

    /// The provider of this name.
    pub fn provider(&self, name: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| provider.name == name)
    }

    /// The keys of a provider; none if there is no such provider.
    pub(crate) fn provider_keys(&self, name: &str) -> &[Secret] {
        self.provider(name).map_or(&[], |provider| &provider.keys)
    }

    /// How long a session of the caller `owner` is kept after its last activity; `None` for ever.
    pub fn retention(&self, owner: &str) -> Option<Duration> {
        let key = self.keys.iter().find(|key| key.name == owner);
        key.and_then(|key| key.retention).or(self.agent.retention)
    }
}

/// Checks that each alias, which stands at its position, means one model: that aliases form no duplicates or cycles.
fn check_aliases(reader: &ConfigReader<'_>, models: &[(Model, Vec<usize>)]) {
    let mut owners = models.iter().map(|(model, _)| (&model.name, model)).collect::<BTreeMap<_, _>>();
    for (model, positions) in models {
        for (alias, at) in model.aliases.iter().zip(positions) {
            let name = &model.name;
            let why = match owners.get(alias) {
                Some(owner) if owner.name == *alias => {
                    format!("{alias:?}, an alias of {name:?}, is the name of a model; allowed: other names")
                }
                Some(owner) => {
                    let other = &owner.name;
                    format!("{alias:?} is an alias of {other:?} and of {name:?}; allowed: each alias once")
                }
                None => {
                    owners.insert(alias, model);
                    continue;
                }
            };
            reader.mistake(*at, "model.aliases", why);
        }
    }
}

/// Checks that the functions and servers that `[agent]` names exist.
fn check_agent_tools(reader: &ConfigReader<'_>, agent: &Agent, agent_at: usize, tools: &[ToolServer]) {
    for name in &agent.approve {
        if !BUILT_IN_FUNCTIONS.iter().any(|(known, _)| known == name) {
            let allowed = allowed_names(name, BUILT_IN_FUNCTIONS.iter().map(|(known, _)| *known));
            let why = format!("there is no built-in function {name:?}; {allowed}");
            reader.mistake(agent_at, "agent.approve", why);
        }
    }
    for name in &agent.tools {
        if name != tool::BUILT_IN && !tools.iter().any(|tool| tool.name == *name) {
            let names = tools.iter().map(|tool| tool.name.as_str()).chain([tool::BUILT_IN]);
            let why = format!("there is no tool {name:?}; {}", allowed_names(name, names));
            reader.mistake(agent_at, "agent.tools", why);
        }
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
