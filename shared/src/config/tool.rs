//! `[[tool]]`: servers whose functions the agent may use.

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
    /// What requests and the log call it.
    pub name: String,
    /// Its MCP endpoint.
    pub url: Uri,
    /// Who asks, for those servers that want to know.
    pub authorization: Option<Secret>,
    /// The functions that may be used; all of them if none is named.
    pub functions: Vec<String>,
    /// What happens if a function that is not in `effects` is called twice.
    pub effect: Effect,
    /// The same for single functions.
    pub effects: BTreeMap<String, Effect>,
    /// The arguments that tell one business from another; all of them if none is named.
    pub key: Vec<String>,
    /// The functions of which somebody must approve each call; `*` is all.
    pub approve: Vec<String>,
    /// How long a call may take.
    pub timeout: Duration,
    stranger: bool,
}

impl ToolServer {
    /// A server that only a request names: nobody vouches for it, so somebody must approve of each call.
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
            timeout: TIMEOUT,
            stranger: true,
        }
    }

    /// Whether the configuration knows it.
    pub fn is_from_request(&self) -> bool {
        self.stranger
    }

    /// What happens if `function` is called twice.
    pub fn effect_of(&self, function: &str) -> Effect {
        self.effects.get(function).copied().unwrap_or(self.effect)
    }

    /// Whether somebody must approve of calls of `function`.
    pub fn needs_approval(&self, function: &str) -> bool {
        self.approve.iter().any(|name| name == ALL || name == function)
    }

    /// Whether `function` may be used.
    pub fn allows(&self, function: &str) -> bool {
        self.functions.is_empty() || self.functions.iter().any(|name| name == function)
    }
}

/// The name of the functions that are built in, among those of servers.
pub const BUILT_IN: &str = "outlive";

/// The built-in functions, and what a second call of each does.
pub(crate) const BUILT_IN_FUNCTIONS: [(&str, Effect); 7] = [
    ("remember", Effect::Keyed),
    ("recall", Effect::Pure),
    ("forget", Effect::Keyed),
    ("schedule_create", Effect::Keyed),
    ("schedule_list", Effect::Pure),
    ("schedule_pause", Effect::Keyed),
    ("schedule_delete", Effect::Keyed),
];

/// Every function of a server.
const ALL: &str = "*";

/// Long enough for a search or a payment, short beside the client's patience.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A turn holds its lease while a call goes on, and its client waits.
const LONGEST: Duration = Duration::from_secs(300);

/// Reads the URL of a server.
pub(crate) fn tool_url(text: &str) -> Result<Uri, String> {
    base_url(text, false)
}

pub(super) fn tool(section: &Section<'_>) -> Option<ToolServer> {
    let name = name_of(section).filter(|name| {
        let free = name != BUILT_IN;
        if !free {
            let why = format!("{name:?} is what is built in; allowed: another name");
            section.mistake(section.at(), "name", why);
        }
        free
    });
    let plain = section.boolean("plain_http").unwrap_or(false);
    let url = section.required("url").and_then(|url| match base_url(&url.value, plain) {
        Ok(uri) => Some(uri),
        Err(why) => {
            section.mistake(url.at, "url", format!("{:?}: {why}", url.value));
            None
        }
    });
    let authorization = section.secrets("authorization", "authorizations").into_iter().next();
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
    let timeout = section.duration("timeout").unwrap_or(TIMEOUT);
    if timeout > LONGEST {
        let why = format!("{} s; allowed: at most {} s", timeout.as_secs(), LONGEST.as_secs());
        section.mistake(section.at(), "timeout", why);
    }
    section.finish();
    let (name, url, stranger) = (name?, url?, false);
    Some(ToolServer { name, url, authorization, functions, effect, effects, key, approve, timeout, stranger })
}
