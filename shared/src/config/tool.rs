//! Reads `[[tool]]`: the servers whose functions models may call. Calls none; `mcp.rs` does.

use std::{collections::BTreeMap, time::Duration};

use http::Uri;

use super::{
    reader::Section,
    sections::{base_url, name_of},
};
use crate::{secret::Secret, session::step::Effect};

/// A server of tools that speaks MCP over streamable HTTP.
#[derive(Clone, Debug)]
pub struct ToolServer {
    /// Its name in requests and in the log.
    pub name: String,
    /// Its MCP endpoint.
    pub url: Uri,
    /// The `authorization` header of requests to it, if it needs one.
    pub authorization: Option<Secret>,
    /// The functions that models may call; all of them if empty.
    pub functions: Vec<String>,
    /// The effect of a repeated call, for functions that are not in `effects`.
    pub effect: Effect,
    /// The effect of a repeated call, by function.
    pub effects: BTreeMap<String, Effect>,
    /// The arguments that identify a call, such as an order's number; all of them if empty. Calls with equal ones count
    /// as one.
    pub key: Vec<String>,
    /// The functions whose calls need an approval; `*` is all of them.
    pub approve: Vec<String>,
    /// How long a call may take.
    pub timeout: Duration,
    from_request: bool,
}

impl ToolServer {
    /// A server that a request names by URL. The operator does not vouch for it, so every call needs an approval.
    pub fn from_request(name: &str, url: Uri) -> Self {
        Self {
            name: name.to_owned(),
            url,
            authorization: None,
            functions: Vec::new(),
            effect: Effect::Exclusive,
            effects: BTreeMap::new(),
            key: Vec::new(),
            approve: vec![ALL.to_owned()],
            timeout: DEFAULT_TIMEOUT,
            from_request: true,
        }
    }

    /// Whether a request named it, instead of the configuration.
    pub fn is_from_request(&self) -> bool {
        self.from_request
    }

    /// The effect of a repeated call of `function`.
    pub fn effect_of(&self, function: &str) -> Effect {
        self.effects.get(function).copied().unwrap_or(self.effect)
    }

    /// Whether calls of `function` need an approval.
    pub fn needs_approval(&self, function: &str) -> bool {
        self.approve.iter().any(|name| name == ALL || name == function)
    }

    /// Whether models may call `function`.
    pub fn allows(&self, function: &str) -> bool {
        self.functions.is_empty() || self.functions.iter().any(|name| name == function)
    }
}

/// The name under which requests list the built-in functions among the servers of tools.
pub const BUILT_IN: &str = "outlive";

/// The built-in functions, and the effect of a repeated call of each.
pub(crate) const BUILT_IN_FUNCTIONS: [(&str, Effect); 7] = [
    ("remember", Effect::Keyed),
    ("recall", Effect::Pure),
    ("forget", Effect::Keyed),
    ("schedule_create", Effect::Keyed),
    ("schedule_list", Effect::Pure),
    ("schedule_pause", Effect::Keyed),
    ("schedule_delete", Effect::Keyed),
];

/// Stands for every function of a server.
const ALL: &str = "*";

/// Long enough for a search or a payment, short enough for a waiting client.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest timeout of a call: the turn holds its lease meanwhile, and its client waits.
const MAX_TIMEOUT: Duration = Duration::from_secs(300);

/// Reads the URL of a server that a request names.
pub(crate) fn tool_url(text: &str) -> Result<Uri, String> {
    base_url(text, false)
}

/// Reads a `[[tool]]`.
pub(super) fn tool(section: &Section<'_>) -> Option<ToolServer> {
    // Every key is read before the first `?`, so that one run reports all mistakes of the table.
    let name = name_of(section).filter(|name| {
        let is_free = name != BUILT_IN;
        if !is_free {
            let why = format!("{name:?} is reserved for the built-in functions; allowed: another name");
            section.mistake(section.at_of("name"), "name", why);
        }
        is_free
    });
    let plain = section.boolean("plain_http").unwrap_or(false);
    let url = section.required("url").and_then(|url| match base_url(&url.value, plain) {
        Ok(uri) => Some(uri),
        Err(why) => {
            section.mistake(url.at, "url", format!("{:?}: {why}", url.value));
            None
        }
    });
    let authorizations = section.secrets("authorization", "authorizations");
    for variable in &authorizations.unset {
        let why = format!("the environment variable {} is not set; allowed: the token in it", variable.name);
        section.mistake(variable.at, "authorization", why);
    }
    let authorization = authorizations.values.into_iter().next();
    let names = |key| section.strings(key).into_iter().map(|text| text.value).collect::<Vec<_>>();
    let effect = section.one_of_or("effect", &Effect::NAMES, Effect::default());
    let mut effects = BTreeMap::new();
    for (key, effect) in Effect::NAMES {
        for text in section.strings(key) {
            if effects.insert(text.value.clone(), effect).is_some() {
                section.mistake(text.at, key, format!("{:?} has two effects; allowed: one", text.value));
            }
        }
    }
    let (functions, key, approve) = (names("functions"), names("key"), names("approve"));
    let timeout = section.duration("timeout").unwrap_or(DEFAULT_TIMEOUT);
    if timeout > MAX_TIMEOUT {
        let why = format!("{}s; allowed: at most {}s", timeout.as_secs(), MAX_TIMEOUT.as_secs());
        section.mistake(section.at_of("timeout"), "timeout", why);
    }
    section.finish();
    let (name, url, from_request) = (name?, url?, false);
    Some(ToolServer {
        name,
        url,
        authorization,
        functions,
        effect,
        effects,
        key,
        approve,
        timeout,
        from_request,
    })
}
