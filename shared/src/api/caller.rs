//! Who asks. There is one way in, and nothing is allowed by default.

use http::{HeaderMap, Uri, header, request};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{ApiError, Arrival};
use crate::{
    config::{self, Config, Key, Scope},
    session::schedule::AGENT,
};

/// Somebody who may do what was asked for. Only [`authorize`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// The name of the key, and so the owner of what is made with it. Empty for this machine's own user.
    pub(super) name: String,
    /// Whether they may see what is everybody's.
    pub(super) admin: bool,
}

impl Caller {
    /// Whether they may see what belongs to `owner`: their own, and an admin what the agent does by itself.
    pub(super) fn may_see(&self, owner: &str) -> bool {
        self.name == owner || (self.admin && owner == AGENT)
    }
}

/// Finds out who sent the request, and whether they may do what needs `scope`.
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
    let key = find(config, token).ok_or_else(ApiError::wrong_key)?;
    if key.scopes.contains(&scope) {
        Ok(Caller { name: key.name.clone(), admin: key.scopes.contains(&Scope::Admin) })
    } else {
        Err(ApiError::missing_scope(scope.name()))
    }
}

/// The key, from where OpenAI's clients put it or from where Anthropic's do.
fn token(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then_some(token.trim());
    }
    headers.get("x-api-key")?.to_str().ok()
}

/// Looks at every key, so that the time taken tells nothing about which one was near.
fn find<'a>(config: &'a Config, token: &str) -> Option<&'a Key> {
    let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
    let mut found = None;
    for key in &config.keys {
        if bool::from(key.sha256.ct_eq(&digest)) {
            found = Some(key);
        }
    }
    found
}

/// Whether a request over loopback was really meant for this machine: a page in the user's browser, or a proxy on this
/// machine, must not speak for everybody outside.
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
