//! `agent.toml`: what the operator wants.
//!
//! The same file configures every node. Reading it is pure: the environment is an argument, and the outcome is either a
//! configuration that can be run or the list of all its mistakes.

mod describe;
mod reader;
mod secret;

use std::{fmt, time::Duration};

use http::Uri;

pub use reader::{Mistake, Mistakes};
use reader::{Reader, Section};
pub use secret::Secret;

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
    /// Who may call. Empty: only this machine.
    pub keys: Vec<Key>,
    /// The clocks of models that do not set their own.
    pub timeouts: Timeouts,
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
}

/// `[[provider]]`
#[derive(Clone, Debug)]
pub struct Provider {
    /// The name that candidates and the status use.
    pub name: String,
    /// How it is spoken to.
    pub kind: ProviderKind,
    /// Where its API begins, without a slash at the end. `None` for a provider that needs no network.
    pub base_url: Option<Uri>,
    /// The key that is sent to it, and to nobody else.
    pub api_key: Option<Secret>,
}

/// The wire format of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderKind {
    /// OpenAI itself.
    OpenAi,
    /// Anything that speaks OpenAI's chat completions.
    Compatible,
    /// Built in: answers without a key, and says that it is a demo.
    Demo,
}

impl ProviderKind {
    const NAMES: [(&'static str, Self); 3] =
        [("openai", Self::OpenAi), ("compatible", Self::Compatible), ("demo", Self::Demo)];

    /// The word that the configuration uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Compatible => "compatible",
            Self::Demo => "demo",
        }
    }
}

/// `[[model]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The name that clients ask for.
    pub name: String,
    /// Who can answer, best first; at least one.
    pub candidates: Vec<Candidate>,
    /// Its clocks.
    pub timeouts: Timeouts,
}

/// One model at one provider, written `provider/model`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// The provider's name in this configuration.
    pub provider: String,
    /// The model's name at the provider. It may hold slashes.
    pub model: String,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

/// `[timeouts]`: the four clocks of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// From sending a streamed request to its first content. Keep-alives do not count.
    pub first_token: Duration,
    /// Between two pieces of content. Keep-alives do not count.
    pub idle: Duration,
    /// For the whole request, all attempts together.
    pub total: Duration,
}

impl Default for Timeouts {
    /// Healthy streams have gaps below 250 ms and keep-alives every 30 s at most, and models that think may take half
    /// a minute to begin; 10 minutes is how long OpenAI's own SDKs wait.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_token: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(600),
        }
    }
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
        let reader = Reader::new(text, file, &env)?;
        let root = reader.root();
        let agent = root.table("agent").map(|section| agent(&section));
        let (agent, agent_at) = agent.unwrap_or_else(|| (Agent::default(), 0));
        let timeouts =
            root.table("timeouts").map_or_else(Timeouts::default, |s| clocks(&s, Timeouts::default()));
        let mut providers = root.tables("provider").iter().filter_map(provider).collect::<Vec<_>>();
        let mut models =
            root.tables("model").iter().filter_map(|s| model(s, &providers, timeouts)).collect::<Vec<_>>();
        let keys = root.tables("key").iter().filter_map(key).collect::<Vec<_>>();
        root.finish();
        unique(&reader, "provider", providers.iter().map(|p| &p.name));
        unique(&reader, "model", models.iter().map(|m| &m.name));
        unique(&reader, "key", keys.iter().map(|k| &k.name));

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
        reader.finish(Self { agent, node, providers, models, keys, timeouts })
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
        let (known, timeouts) = self
            .models
            .iter()
            .find_map(|m| m.candidates.iter().find(|known| **known == candidate).map(|c| (c, m.timeouts)))?;
        Some(Model { name: name.to_owned(), candidates: vec![known.clone()], timeouts })
    }

    /// The provider of this name.
    pub fn provider(&self, name: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| provider.name == name)
    }
}

impl Default for Agent {
    fn default() -> Self {
        Self { name: "outlive".into(), instructions: String::new(), model: "default".into() }
    }
}

/// What the environment offers when the file names no provider: vendor, key variable, model.
const VENDORS: [(&str, &str, &str); 1] = [("openai", "OPENAI_API_KEY", "gpt-5-mini")];

fn from_environment(
    reader: &Reader<'_>,
    env: &dyn Fn(&str) -> Option<String>,
    models: Vec<Model>,
    timeouts: Timeouts,
) -> (Vec<Provider>, Vec<Model>) {
    if !models.is_empty() {
        reader.mistake(0, "provider", "there is no [[provider]] for the models of this file".into());
    }
    let mut providers = Vec::new();
    let mut candidates = Vec::new();
    for (name, variable, model) in VENDORS {
        let Some(key) = env(variable).filter(|key| !key.is_empty()) else { continue };
        let Some(key) = Secret::new(key) else {
            reader.mistake(0, variable, "the key holds characters that a header can't carry".into());
            continue;
        };
        providers.push(Provider {
            name: name.into(),
            kind: ProviderKind::OpenAi,
            base_url: Some(Uri::from_static(OPENAI_URL)),
            api_key: Some(key),
        });
        candidates.push(Candidate { provider: name.into(), model: model.into() });
    }
    if providers.is_empty() {
        providers.push(Provider {
            name: "demo".into(),
            kind: ProviderKind::Demo,
            base_url: None,
            api_key: None,
        });
        candidates.push(Candidate { provider: "demo".into(), model: "demo".into() });
    }
    (providers, vec![Model { name: "default".into(), candidates, timeouts }])
}

const OPENAI_URL: &str = "https://api.openai.com/v1";

fn agent(section: &Section<'_>) -> (Agent, usize) {
    let default = Agent::default();
    let name = name_of(section).unwrap_or(default.name);
    let instructions = section.string("instructions").map_or(default.instructions, |v| v.value);
    let model = section.string("model");
    let at = model.as_ref().map_or(section.at(), |model| model.at);
    section.finish();
    (Agent { name, instructions, model: model.map_or(default.model, |v| v.value) }, at)
}

fn provider(section: &Section<'_>) -> Option<Provider> {
    let name = name_of(section);
    let kind = section.one_of("kind", &ProviderKind::NAMES);
    let plain = section.boolean("plain_http").unwrap_or(false);
    let base_url = section.string("base_url").map(|url| match base_url(&url.value, plain) {
        Ok(uri) => Some(uri),
        Err(why) => {
            section.mistake(url.at, "base_url", format!("{:?}: {why}", url.value));
            None
        }
    });
    let api_key = section.secret("api_key");
    let wrong = |key: &str, why: &str| section.mistake(section.at(), key, why.to_owned());
    match kind {
        Some(ProviderKind::OpenAi) if !section.has("api_key") => {
            wrong("api_key", "missing; allowed: { env = \"NAME\" }")
        }
        Some(ProviderKind::Compatible) if !section.has("base_url") => {
            wrong("base_url", "missing; allowed: the URL before /chat/completions");
        }
        Some(ProviderKind::Demo) if section.has("api_key") || section.has("base_url") => {
            wrong("kind", "a demo provider has no base_url and no api_key");
        }
        _ => {}
    }
    section.finish();
    let kind = kind?;
    let base_url = match base_url {
        Some(url) => url,
        None => (kind == ProviderKind::OpenAi).then(|| Uri::from_static(OPENAI_URL)),
    };
    Some(Provider { name: name?, kind, base_url, api_key })
}

fn model(section: &Section<'_>, providers: &[Provider], timeouts: Timeouts) -> Option<Model> {
    // A request tries each at most twice, so this bounds how long one request can wander.
    const MAX_CANDIDATES: usize = 16;
    let name = section.required("name").filter(|name| {
        let good = !name.value.is_empty()
            && name.value.len() <= 128
            && name.value.chars().all(|c| c.is_ascii_graphic() && c != '/');
        if !good {
            let why = format!(
                "{:?} is not a model name; allowed: 1 to 128 visible ASCII characters but '/'",
                name.value
            );
            section.mistake(name.at, "name", why);
        }
        good
    });
    let mut candidates = Vec::new();
    let listed = section.strings("candidates");
    if listed.is_empty() || listed.len() > MAX_CANDIDATES {
        let why =
            format!("{} candidates; allowed: 1 to {MAX_CANDIDATES}, each \"provider/model\"", listed.len());
        section.mistake(section.at(), "candidates", why);
    }
    for text in listed {
        match candidate(&text.value, providers) {
            Ok(candidate) if candidates.contains(&candidate) => {
                section.mistake(text.at, "candidates", format!("{:?} is listed twice", text.value));
            }
            Ok(candidate) => candidates.push(candidate),
            Err(why) => section.mistake(text.at, "candidates", format!("{:?}: {why}", text.value)),
        }
    }
    section.one_of("prefer", &[("order", ())]);
    let timeouts = section.table("timeouts").map_or(timeouts, |section| clocks(&section, timeouts));
    section.finish();
    Some(Model { name: name?.value, candidates, timeouts })
}

fn candidate(text: &str, providers: &[Provider]) -> Result<Candidate, String> {
    let (provider, model) = text.split_once('/').ok_or("allowed: \"provider/model\"")?;
    if !providers.iter().any(|known| known.name == provider) {
        let names = providers.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(format!("there is no provider {provider:?}; allowed: {names}"));
    }
    if model.is_empty() || model.len() > 256 || !model.chars().all(|c| c.is_ascii_graphic()) {
        return Err("a provider's model has 1 to 256 visible ASCII characters".into());
    }
    Ok(Candidate { provider: provider.into(), model: model.into() })
}

fn clocks(section: &Section<'_>, default: Timeouts) -> Timeouts {
    let timeouts = Timeouts {
        connect: section.duration("connect").unwrap_or(default.connect),
        first_token: section.duration("first_token").unwrap_or(default.first_token),
        idle: section.duration("idle").unwrap_or(default.idle),
        total: section.duration("total").unwrap_or(default.total),
    };
    section.finish();
    timeouts
}

fn key(section: &Section<'_>) -> Option<Key> {
    let name = name_of(section);
    let sha256 = section.required("sha256").and_then(|digest| {
        let parsed = parse_digest(&digest.value);
        if parsed.is_none() {
            // Not shown: somebody may have written the key itself here.
            section.mistake(
                digest.at,
                "sha256",
                "allowed: the key's SHA-256 as 64 hexadecimal digits".into(),
            );
        }
        parsed
    });
    let mut scopes = Vec::new();
    let listed = section.strings("scopes");
    if listed.is_empty() {
        section.mistake(section.at(), "scopes", "missing; allowed: a list of inference, admin".into());
    }
    for text in listed {
        match Scope::NAMES.iter().find(|(name, _)| *name == text.value) {
            Some((_, scope)) => scopes.push(*scope),
            None => {
                section.mistake(text.at, "scopes", format!("{:?}; allowed: inference, admin", text.value))
            }
        }
    }
    section.finish();
    Some(Key { name: name?, sha256: sha256?, scopes })
}

fn parse_digest(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |d: &u8| char::from(*d).to_digit(16);
        let &[high, low] = pair else { return None };
        *byte = u8::try_from(digit(&high)? * 16 + digit(&low)?).ok()?;
    }
    Some(out)
}

fn base_url(text: &str, plain: bool) -> Result<Uri, String> {
    const ALLOWED: &str = "allowed: https://host[:port]/path";
    let uri: Uri = text.trim_end_matches('/').parse().map_err(|_| format!("not a URL; {ALLOWED}"))?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or(format!("no host; {ALLOWED}"))?;
    if uri.query().is_some() || text.contains('#') || text.contains('@') {
        return Err(format!("no query, fragment or user belongs here; {ALLOWED}"));
    }
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if plain || is_loopback(host) => Ok(uri),
        Some("http") => Err("the key would travel in the clear; allowed: https, http to this machine, or \
                             http with plain_http = true"
            .into()),
        _ => Err(ALLOWED.into()),
    }
}

/// Whether `host` (of a URL or a `Host` header, without port) is this machine by name or number.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Names travel in headers, log keys and file names.
const NAME_RULE: &str = "1 to 64 of a-z A-Z 0-9 - _";

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

fn name_of(section: &Section<'_>) -> Option<String> {
    let name = section.required("name")?;
    if is_name(&name.value) {
        return Some(name.value);
    }
    section.mistake(name.at, "name", format!("{:?} is not a name; allowed: {NAME_RULE}", name.value));
    None
}

fn unique<'a>(reader: &Reader<'_>, what: &str, names: impl Iterator<Item = &'a String>) {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            reader.mistake(
                0,
                &format!("{what}.name"),
                format!("{name:?} is used twice; allowed: each name once"),
            );
        }
    }
}

#[cfg(test)]
mod tests;
