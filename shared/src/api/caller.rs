//! Authorizes callers by their keys. [`authorize`] is the only way in, and allows nothing by default. Limits are
//! counted in `rate_limit.rs`.

use http::{HeaderMap, Uri, header, request};
use subtle::ConstantTimeEq;

use super::{ApiError, Arrival};
use crate::{
    config::{self, Config, Key, Scope},
    session::schedule::AGENT,
};

/// A caller with the scope that its request needs. Only [`authorize`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// The name of the key, which is also the owner of what the caller creates. Empty without a key.
    pub(super) name: String,
    /// Whether the key has the scope `admin`. On a node without keys, every caller has it.
    pub(super) admin: bool,
}

impl Caller {
    /// Whether the caller may see what belongs to `owner`: to itself or, for an admin, to the agent.
    pub(super) fn may_see(&self, owner: &str) -> bool {
        self.name == owner || (self.admin && owner == AGENT)
    }
}

/// Identifies the caller of a request and checks that it has `scope`. `None` needs no key. If the configuration has no
/// keys, requests from this machine are allowed and all others refused.
pub(super) fn authorize(
    config: &Config,
    head: &request::Parts,
    arrival: Arrival,
    scope: Option<Scope>,
) -> Result<Caller, ApiError> {
    let Some(scope) = scope else { return Ok(Caller { name: String::new(), admin: false }) };
    if config.keys.is_empty() {
        let local = arrival.loopback && is_local(&head.headers, &head.uri);
        let caller = Caller { name: String::new(), admin: true };
        return if local { Ok(caller) } else { Err(ApiError::only_loopback()) };
    }
    let token = token(&head.headers).ok_or_else(ApiError::no_key)?;
    let key = find_key(config, token).ok_or_else(ApiError::wrong_key)?;
    if key.scopes.contains(&scope) {
        Ok(Caller { name: key.name.clone(), admin: key.scopes.contains(&Scope::Admin) })
    } else {
        Err(ApiError::missing_scope(scope.name()))
    }
}

/// The key, from the header of OpenAI's clients or, without that, of Anthropic's.
fn token(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then_some(token.trim());
    }
    headers.get("x-api-key")?.to_str().ok()
}

/// The key of this token. Compares all keys in constant time, so that the time taken reveals nothing about them.
fn find_key<'a>(config: &'a Config, token: &str) -> Option<&'a Key> {
    let digest = Key::digest(token);
    let mut found = None;
    for key in &config.keys {
        if bool::from(key.sha256.ct_eq(&digest)) {
            found = Some(key);
        }
    }
    found
}

/// Whether a request over loopback comes from this machine's user. A foreign page in the user's browser, or a proxy on
/// this machine, also connects over loopback, but on behalf of strangers.
fn is_local(headers: &HeaderMap, uri: &Uri) -> bool {
    let host =
        headers.get(header::HOST).and_then(|host| host.to_str().ok()).or(uri.authority().map(|a| a.as_str()));
    let local = |authority: &str| {
        authority.parse::<http::uri::Authority>().is_ok_and(|authority| config::is_loopback(authority.host()))
    };
    let proxied = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"]
        .iter()
        .any(|name| headers.contains_key(*name));
    let foreign = headers.get(header::ORIGIN).is_some_and(|origin| {
        let origin = origin.to_str().unwrap_or_default();
        !origin.split_once("://").is_some_and(|(_, authority)| local(authority))
    });
    host.is_some_and(local) && !proxied && !foreign
}
