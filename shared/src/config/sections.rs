//! The sections of `agent.toml`, one function for each.

use http::Uri;

use super::{
    Agent, Candidate, Key, Model, Provider, ProviderKind, Scope, Secret, Timeouts,
    reader::{Reader, Section},
};

/// What the environment offers when the file names no provider: vendor, key variable, model.
const VENDORS: [(&str, &str, &str); 1] = [("openai", "OPENAI_API_KEY", "gpt-5-mini")];

pub(super) fn from_environment(
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

pub(super) fn agent(section: &Section<'_>) -> (Agent, usize) {
    let default = Agent::default();
    let name = name_of(section).unwrap_or(default.name);
    let instructions = section.string("instructions").map_or(default.instructions, |v| v.value);
    let model = section.string("model");
    let at = model.as_ref().map_or(section.at(), |model| model.at);
    section.finish();
    (Agent { name, instructions, model: model.map_or(default.model, |v| v.value) }, at)
}

pub(super) fn provider(section: &Section<'_>) -> Option<Provider> {
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

pub(super) fn model(section: &Section<'_>, providers: &[Provider], timeouts: Timeouts) -> Option<Model> {
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

pub(super) fn clocks(section: &Section<'_>, default: Timeouts) -> Timeouts {
    let timeouts = Timeouts {
        connect: section.duration("connect").unwrap_or(default.connect),
        first_token: section.duration("first_token").unwrap_or(default.first_token),
        idle: section.duration("idle").unwrap_or(default.idle),
        total: section.duration("total").unwrap_or(default.total),
    };
    section.finish();
    timeouts
}

pub(super) fn key(section: &Section<'_>) -> Option<Key> {
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
pub(super) const NAME_RULE: &str = "1 to 64 of a-z A-Z 0-9 - _";

pub(super) fn is_name(text: &str) -> bool {
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

pub(super) fn unique<'a>(reader: &Reader<'_>, what: &str, names: impl Iterator<Item = &'a String>) {
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
