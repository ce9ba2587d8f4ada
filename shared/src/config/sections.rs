//! Reads the sections of `agent.toml`, one function for each. Records mistakes and carries on, so that one run finds
//! all.

use std::collections::BTreeMap;

use http::{HeaderValue, Uri};

use super::{
    Agent, Key, Limits, Scope,
    catalog::listed_as,
    reader::{ConfigReader, Item, Located, Section, UnsetVariable, allowed_names},
};
use crate::{
    hex::unhex,
    model::{Candidate, Hints, Model, Prefer, Rescue, Timeouts, Translation, WILDCARD},
    money::{Budget, NanoUsd, Period},
    price::{Facts, Price, Rates},
    provider::{Address, CallerBetas, Provider, VENDORS, Vendor, demo},
    secret::Secret,
};

/// Makes providers from the vendors' usual environment variables, and the model `default` of them.
pub(super) fn providers_from_environment(
    reader: &ConfigReader<'_>,
    env: &dyn Fn(&str) -> Option<String>,
    models: Vec<Model>,
    timeouts: Timeouts,
) -> (Vec<Provider>, Vec<Model>) {
    if !models.is_empty() {
        reader.mistake(
            0,
            "provider",
            "there is no [[provider]] for the [[model]]s of this file; allowed: at least one".into(),
        );
    }
    let mut providers = Vec::new();
    let mut candidates = Vec::new();
    let mut vendors: Vec<_> =
        VENDORS.into_iter().filter_map(|vendor| Some((vendor, vendor.environment?))).collect();
    vendors.sort_by_key(|(_, environment)| environment.rank);
    for (vendor, environment) in vendors {
        let Some(key) = env(environment.key).filter(|key| !key.is_empty()) else { continue };
        let Some(key) = Secret::new(key) else {
            reader.mistake(0, environment.key, "the key holds characters that a header can't carry".into());
            continue;
        };
        let mut url = vendor.url();
        if let Some(variable) = environment.url {
            let Some(endpoint) = env(variable).filter(|text| !text.is_empty()) else {
                reader.warning(
                    0,
                    variable,
                    format!("not set, so the key in {} is not used", environment.key),
                );
                continue;
            };
            match base_url(&endpoint, false) {
                Ok(endpoint) => url = Some(endpoint),
                Err(why) => reader.mistake(0, variable, format!("{endpoint:?}: {why}")),
            }
        }
        candidates.push(Candidate { provider: vendor.kind.into(), model: environment.model.into() });
        providers.push(Provider { base_url: url, keys: vec![key], ..Provider::new(vendor.kind, vendor) });
    }
    if providers.is_empty() {
        let variables = VENDORS.iter().filter_map(|vendor| Some(vendor.environment?.key));
        let variables = variables.collect::<Vec<_>>().join(", ");
        let why = format!("none is configured and none of {variables} is set, so the built-in demo answers");
        // Beside mistakes it would only distract from them.
        if reader.is_clean() {
            reader.warning(0, "provider", why);
        }
        providers.push(Provider::new(demo::VENDOR.kind, &demo::VENDOR));
        candidates.push(Candidate { provider: demo::VENDOR.kind.into(), model: "demo".into() });
    }
    (providers, vec![Model::new("default", candidates, timeouts)])
}

/// Reads `[agent]`. Returns it with the byte offset for mistakes about its model and tools.
pub(super) fn agent(section: &Section<'_>) -> (Agent, usize) {
    let default = Agent::default();
    let name = name_of(section).unwrap_or(default.name);
    let instructions = section.string("instructions").map_or(default.instructions, |v| v.value);
    let model = section.string("model");
    let at = model.as_ref().map_or(section.at(), |model| model.at);
    let tools = section.strings("tools").into_iter().map(|text| text.value).collect();
    let approve = section.strings("approve").into_iter().map(|text| text.value).collect();
    let tool_hosts = section.strings("tool_hosts").into_iter().map(|text| text.value).collect();
    let turn_limit =
        section.string("turn_limit_usd").and_then(|text| dollars(section, "turn_limit_usd", &text));
    let retention = section.lifetime("retention");
    section.finish();
    let model = model.map_or(default.model, |v| v.value);
    (Agent { name, instructions, model, tools, approve, tool_hosts, turn_limit, retention }, at)
}

/// Reads `[telemetry]`: whether content is logged.
pub(super) fn telemetry(section: &Section<'_>) -> bool {
    let log_content = section.boolean("log_content").unwrap_or_default();
    section.finish();
    log_content
}

/// A `[[provider]]`, and the environment variables of its keys that are not set.
pub(super) struct ReadProvider {
    pub(super) provider: Provider,
    pub(super) unset: Vec<UnsetVariable>,
}

impl ReadProvider {
    /// Whether it has keys in the file, and none of them in the environment.
    fn lacks_key(&self) -> bool {
        self.provider.keys.is_empty() && !self.unset.is_empty()
    }
}

/// Leaves out the providers whose keys are not set, with their candidates and prices and the models that have no other
/// candidate, and warns about each. That no provider would be left is a mistake.
///
/// Returns the names of the models that are left out.
pub(super) fn leave_out_without_key(
    reader: &ConfigReader<'_>,
    read: &[ReadProvider],
    providers: &mut Vec<Provider>,
    models: &mut Vec<Model>,
    prices: &mut BTreeMap<Candidate, Facts>,
) -> Vec<String> {
    let none_is_left = read.iter().all(ReadProvider::lacks_key);
    for (entry, variable) in read.iter().flat_map(|entry| entry.unset.iter().map(move |unset| (entry, unset)))
    {
        let (UnsetVariable { name, path, at }, provider) = (variable, &entry.provider.name);
        let unset = format!("the environment variable {name} is not set");
        if none_is_left {
            let why = format!(
                "{unset}, and without it no provider is left; allowed: the key of {provider:?} in it"
            );
            reader.mistake(*at, path, why);
        } else if entry.lacks_key() {
            reader.warning(
                *at,
                path,
                format!("{unset}, so the provider {provider:?} and its candidates are left out"),
            );
        } else {
            reader.warning(
                *at,
                path,
                format!("{unset}, so the provider {provider:?} is used with its other keys"),
            );
        }
    }
    if none_is_left {
        return Vec::new();
    }
    let is_left_out = |name: &str| read.iter().any(|entry| entry.lacks_key() && entry.provider.name == name);
    providers.retain(|provider| !is_left_out(&provider.name));
    prices.retain(|candidate, _| !is_left_out(&candidate.provider));
    let mut left_out = Vec::new();
    models.retain_mut(|model| {
        let listed = model.candidates.len();
        model.candidates.retain(|candidate| !is_left_out(&candidate.provider));
        let is_kept = listed == 0 || !model.candidates.is_empty();
        if !is_kept {
            let why = format!("{:?} is left out, because each of its candidates is", model.name);
            reader.warning(0, "model", why);
            left_out.extend([model.name.clone()].into_iter().chain(model.aliases.iter().cloned()));
        }
        is_kept
    });
    left_out
}

/// Reads a `[[provider]]`.
pub(super) fn provider(section: &Section<'_>) -> Option<ReadProvider> {
    let name = name_of(section);
    let vendor = section.one_of("kind", &VENDORS.map(|vendor| (vendor.kind, vendor)));
    let plain = section.boolean("plain_http").unwrap_or(false);
    let base_url = section.string("base_url").map(|url| match base_url(&url.value, plain) {
        Ok(uri) => Some(uri),
        Err(why) => {
            section.mistake(url.at, "base_url", format!("{:?}: {why}", url.value));
            None
        }
    });
    let keys = section.secrets("api_key", "api_keys");
    let api_version = section.string("api_version").and_then(|version| {
        let good =
            !version.value.is_empty() && version.value.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if !good {
            let why = format!("{:?}; allowed: a version such as \"2024-10-21\"", version.value);
            section.mistake(version.at, "api_version", why);
        }
        good.then_some(version.value)
    });
    let beta = section.string("beta").and_then(|beta| {
        let value = HeaderValue::from_str(&beta.value).ok();
        if value.is_none() {
            section.mistake(
                beta.at,
                "beta",
                "not a header value; allowed: names of betas, separated by commas".into(),
            );
        }
        value
    });
    let caller_betas = caller_betas(section);
    // Which keys are required or allowed depends on the vendor.
    let wrong = |key: &str, why: &str| section.mistake(section.at_of(key), key, why.to_owned());
    let has_key = section.has("api_key") || section.has("api_keys");
    let vendor = vendor.inspect(|vendor| match vendor.address {
        Address::BuiltIn if has_key || section.has("base_url") => {
            wrong("kind", &format!("a {} provider takes neither base_url nor api_key", vendor.kind));
        }
        Address::Configured(allowed) if !section.has("base_url") => {
            wrong("base_url", &format!("missing; allowed: {allowed}"));
        }
        _ if vendor.needs_key && !has_key => wrong("api_key", "missing; allowed: { env = \"NAME\" }"),
        _ => {}
    });
    for key in ["api_version", "beta", "caller_betas"] {
        let is_set = section.has(key);
        let takes = |vendor: &&Vendor| vendor.options.contains(&key);
        let only = VENDORS.into_iter().find(takes).map_or("", |vendor| vendor.kind);
        if is_set && vendor.is_some_and(|vendor| !takes(&vendor)) {
            wrong(key, &format!("not an option of this kind; allowed: only with kind = {only:?}"));
        }
    }
    let budget = section.table("budget").and_then(|section| self::budget(&section));
    section.finish();
    let vendor = vendor?;
    let base_url = base_url.unwrap_or_else(|| vendor.url());
    let (name, keys_set) = (name?, keys.values);
    let provider =
        Provider { name, vendor, base_url, keys: keys_set, api_version, beta, caller_betas, budget };
    Some(ReadProvider { provider, unset: keys.unset })
}

/// Reads `caller_betas`: "pass", "none" or a list of names.
fn caller_betas(section: &Section<'_>) -> CallerBetas {
    if section.is_array("caller_betas") {
        return CallerBetas::Only(
            section.strings("caller_betas").into_iter().map(|name| name.value).collect(),
        );
    }
    let names = [("pass", CallerBetas::Pass), ("none", CallerBetas::None)];
    let Some(text) = section.string("caller_betas") else { return CallerBetas::default() };
    names.into_iter().find(|(name, _)| *name == text.value).map_or_else(
        || {
            let why = format!("{:?}; allowed: \"pass\", \"none\" or a list of names", text.value);
            section.mistake(text.at, "caller_betas", why);
            CallerBetas::default()
        },
        |(_, betas)| betas,
    )
}

/// Reads a `[[model]]`. Returns it with the byte offsets of its aliases.
pub(super) fn model(
    section: &Section<'_>,
    providers: &[Provider],
    timeouts: Timeouts,
) -> Option<(Model, Vec<usize>)> {
    let name = section.required("name").filter(|name| {
        let rule = match name.value.strip_suffix(WILDCARD).unwrap_or(&name.value) {
            rest if rest.contains(WILDCARD) => Err("it has a '*' elsewhere; allowed: one '*', at the end"),
            "" if !name.value.is_empty() => Ok(()),
            rest => check_model_name(rest),
        };
        section.check_unique(name);
        rule.map_err(|why| section.mistake(name.at, "name", format!("{:?}: {why}", name.value))).is_ok()
    });
    let is_wildcard = name.as_ref().is_some_and(|name| name.value.ends_with(WILDCARD));
    let (aliases, alias_positions) = aliases(section, is_wildcard);
    let (candidates, weights) = candidates(section, providers, is_wildcard);
    let prefer = section.one_of_or("prefer", &Prefer::NAMES, Prefer::default());
    check_weights(section, prefer, &candidates, &weights);
    let rescue = section.one_of_or("rescue", &Rescue::NAMES, Rescue::default());
    let hints = section.one_of_or("hints", &Hints::NAMES, Hints::default());
    let drop_tools = read_drop_tools(section);
    let hedge = section.boolean("hedge").unwrap_or_default();
    let attempts = section.whole("attempts", 1, MAX_CANDIDATES as u64);
    let patience = section.pause("patience");
    let thinks = section.boolean("thinks");
    let timeouts = section.table("timeouts").map_or(timeouts, |section| read_timeouts(&section, timeouts));
    section.finish();
    let model = Model::new(&name?.value, candidates, timeouts);
    let attempts = attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(model.attempts);
    let patience = patience.unwrap_or(model.patience);
    let translation = Translation { hints, drop_tools };
    let model =
        Model { aliases, weights, prefer, rescue, hedge, attempts, patience, thinks, translation, ..model };
    Some((model, alias_positions))
}

/// Most candidates of a model. A request tries each at most twice, so this bounds its calls.
const MAX_CANDIDATES: usize = 16;

/// Most aliases of a model: more than any vendor has names for one.
const MAX_ALIASES: usize = 64;

/// Highest weight of a candidate: a share of a thousandth can be expressed.
const MAX_WEIGHT: u64 = 1000;

fn check_model_name(name: &str) -> Result<(), &'static str> {
    let good = !name.is_empty()
        && name.len() <= 128
        && name.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != WILDCARD);
    good.then_some(())
        .ok_or("not a model name; allowed: 1 to 128 visible ASCII characters except '/' and '*'")
}

/// Reads the other names of a model. Whether they are unique shows only once all models are read.
fn aliases(section: &Section<'_>, is_wildcard: bool) -> (Vec<String>, Vec<usize>) {
    let listed = section.strings("aliases");
    if is_wildcard && !listed.is_empty() {
        let why = "a wildcard has none, since the client's name goes on to the provider; allowed: only with a \
                   name without '*'";
        section.mistake(section.at_of("aliases"), "aliases", why.into());
    }
    if listed.len() > MAX_ALIASES {
        let why = format!("{} aliases; allowed: at most {MAX_ALIASES}", listed.len());
        section.mistake(section.at_of("aliases"), "aliases", why);
    }
    for alias in &listed {
        if let Err(why) = check_model_name(&alias.value) {
            section.mistake(alias.at, "aliases", format!("{:?}: {why}", alias.value));
        }
    }
    listed.into_iter().map(|alias| (alias.value, alias.at)).unzip()
}

/// Reads the candidates of a model, each `"provider/model"` or `{ candidate = "provider/model", weight = 3 }`, and the
/// weights that are given.
fn candidates(
    section: &Section<'_>,
    providers: &[Provider],
    is_wildcard: bool,
) -> (Vec<Candidate>, BTreeMap<Candidate, u32>) {
    let (mut candidates, mut weights) = (Vec::new(), BTreeMap::new());
    let listed = section.items("candidates");
    if listed.is_empty() || listed.len() > MAX_CANDIDATES {
        let why =
            format!("{} candidates; allowed: 1 to {MAX_CANDIDATES}, each \"provider/model\"", listed.len());
        section.mistake(section.at_of("candidates"), "candidates", why);
    }
    for item in listed {
        let (text, weight) = match item {
            Item::Text(text) => (Some(text), None),
            Item::Table(table) => {
                let (text, weight) = (table.required("candidate"), table.whole("weight", 0, MAX_WEIGHT));
                table.finish();
                (text, weight)
            }
        };
        let Some(text) = text else { continue };
        let why = match candidate(&text.value, providers) {
            Ok(candidate) if candidates.contains(&candidate) => {
                "it is listed twice; allowed: each candidate once".into()
            }
            Ok(candidate) if candidate.is_wildcard() && !is_wildcard => {
                "a '*' stands for the name that the client requests; allowed: only if the name of the [[model]] \
                 ends with '*'"
                    .into()
            }
            Ok(candidate) => {
                weights.extend(weight.and_then(|weight| Some((candidate.clone(), u32::try_from(weight).ok()?))));
                candidates.push(candidate);
                continue;
            }
            Err(why) => why,
        };
        section.mistake(text.at, "candidates", format!("{:?}: {why}", text.value));
    }
    (candidates, weights)
}

/// Checks that weights are used, and that one of them is above 0.
fn check_weights(
    section: &Section<'_>,
    prefer: Prefer,
    candidates: &[Candidate],
    weights: &BTreeMap<Candidate, u32>,
) {
    let why = if prefer != Prefer::Weight && !weights.is_empty() {
        format!("a candidate has a weight, but prefer is {:?}; allowed: only with \"weight\"", prefer.name())
    } else if !candidates.is_empty() && candidates.iter().all(|candidate| weights.get(candidate) == Some(&0))
    {
        "every weight is 0; allowed: at least one above 0".to_owned()
    } else {
        return;
    };
    section.mistake(section.at_of("candidates"), "candidates", why);
}

/// Reads `drop_tools`: types of tools, as vendors name them.
fn read_drop_tools(section: &Section<'_>) -> Vec<String> {
    // More types than all vendors have together.
    const MAX_DROP_TOOLS: usize = 32;
    let listed = section.strings("drop_tools");
    if listed.len() > MAX_DROP_TOOLS {
        let why = format!("{} types of tools; allowed: at most {MAX_DROP_TOOLS}", listed.len());
        section.mistake(section.at(), "drop_tools", why);
    }
    let is_kind = |text: &str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    for text in listed.iter().filter(|text| !is_kind(&text.value)) {
        let why = format!(
            "{:?} is not the type of a tool; allowed: 1 to 64 lower-case letters, digits and '_', such as \"web_search\"",
            text.value
        );
        section.mistake(text.at, "drop_tools", why);
    }
    listed.into_iter().map(|text| text.value).collect()
}

/// Reads `provider/model`. The error says what is wrong and what is allowed.
fn candidate(text: &str, providers: &[Provider]) -> Result<Candidate, String> {
    let (provider, model) =
        text.split_once('/').ok_or("it names no provider; allowed: \"provider/model\"")?;
    if !providers.iter().any(|known| known.name == provider) {
        let allowed = allowed_names(provider, providers.iter().map(|known| known.name.as_str()));
        return Err(format!("there is no provider {provider:?}; {allowed}"));
    }
    if model.is_empty() || model.len() > 256 || !model.chars().all(|c| c.is_ascii_graphic()) {
        return Err("the model's name is not valid; allowed: 1 to 256 visible ASCII characters".into());
    }
    if model.strip_suffix(WILDCARD).unwrap_or(model).contains(WILDCARD) {
        return Err("it has a '*' elsewhere; allowed: one '*', at the end".into());
    }
    Ok(Candidate { provider: provider.into(), model: model.into() })
}

/// Reads `[timeouts]`; `default` holds the values of missing keys.
pub(super) fn read_timeouts(section: &Section<'_>, default: Timeouts) -> Timeouts {
    let timeouts = Timeouts {
        connect: section.duration("connect").unwrap_or(default.connect),
        first_token: section.duration("first_token").unwrap_or(default.first_token),
        thinking: section.duration("thinking").unwrap_or(default.thinking),
        idle: section.duration("idle").unwrap_or(default.idle),
        total: section.duration("total").unwrap_or(default.total),
    };
    section.finish();
    timeouts
}

/// Reads a `[[key]]`.
pub(super) fn key(section: &Section<'_>) -> Option<Key> {
    let name = name_of(section);
    let sha256 = section.required("sha256").and_then(|digest| {
        let parsed = parse_digest(&digest.value);
        if parsed.is_none() {
            // The value is not shown: it may be the key itself.
            section.mistake(
                digest.at,
                "sha256",
                "not a SHA-256 digest; allowed: 64 hexadecimal digits".into(),
            );
        }
        parsed
    });
    let mut scopes = Vec::new();
    let listed = section.strings("scopes");
    if listed.is_empty() {
        let why = "missing; allowed: scopes = [\"inference\", \"admin\"], or one of them".into();
        section.mistake(section.at_of("scopes"), "scopes", why);
    }
    for text in listed {
        match Scope::NAMES.iter().find(|(name, _)| *name == text.value) {
            Some((_, scope)) => scopes.push(*scope),
            None => {
                let allowed = allowed_names(&text.value, Scope::NAMES.iter().map(|(name, _)| *name));
                section.mistake(text.at, "scopes", format!("{:?}; {allowed}", text.value));
            }
        }
    }
    let budget = section.table("budget").and_then(|section| self::budget(&section));
    let limits = section.table("limits").map(|section| limits(&section)).unwrap_or_default();
    let retention = section.lifetime("retention");
    section.finish();
    Some(Key { name: name?, sha256: sha256?, scopes, budget, limits, retention })
}

/// Reads the limits of a key.
fn limits(section: &Section<'_>) -> Limits {
    const MAX_LIMIT: u64 = 1_000_000_000;
    let limits = Limits {
        requests_per_minute: section.whole("requests_per_minute", 1, MAX_LIMIT),
        tokens_per_minute: section.whole("tokens_per_minute", 1, MAX_LIMIT),
        concurrent: section.whole("concurrent", 1, MAX_LIMIT),
    };
    section.finish();
    limits
}

/// Reads a `budget` table.
pub(super) fn budget(section: &Section<'_>) -> Option<Budget> {
    let limit = section.required("limit_usd").and_then(|text| dollars(section, "limit_usd", &text));
    let per = section.one_of("per", &Period::NAMES);
    section.finish();
    Some(Budget { limit: limit?, per: per? })
}

/// Reads an amount of money.
pub(super) fn dollars(section: &Section<'_>, key: &str, text: &Located<String>) -> Option<NanoUsd> {
    let amount = NanoUsd::parse(&text.value);
    if amount.is_none() {
        let why =
            format!("{:?}; allowed: dollars as a decimal number in quotes, such as \"0.25\"", text.value);
        section.mistake(text.at, key, why);
    }
    amount
}

/// Reads a `[[price]]`: dollars per million tokens, and the limits of a candidate's model.
pub(super) fn price(section: &Section<'_>, models: &[Model]) -> Option<(Candidate, Facts)> {
    let candidate = section.required("candidate").and_then(|text| {
        let (provider, model) = text.value.split_once('/').unwrap_or_default();
        let candidate = Candidate { provider: provider.into(), model: model.into() };
        if listed_as(models.iter().flat_map(|model| &model.candidates), &candidate).is_some() {
            return Some(candidate);
        }
        let why =
            format!("{:?} is not a candidate of any model; allowed: a candidate of a [[model]]", text.value);
        section.mistake(text.at, "candidate", why);
        None
    });
    // Nano-dollars per million tokens become nano-dollars per thousand.
    let rate =
        |key, text: Located<String>| dollars(section, key, &text).map(|amount| amount.0.div_ceil(1000));
    let optional = |key| section.string(key).and_then(|text| rate(key, text));
    let input = section.required("input").and_then(|text| rate("input", text));
    let output = section.required("output").and_then(|text| rate("output", text));
    let (cache_read, cache_write) = (optional("cached_input"), optional("cache_write"));
    let cache_write_1h = optional("cache_write_1h");
    let context_tokens = section.whole("context_tokens", 1, u64::from(u32::MAX));
    let output_tokens = section.whole("output_tokens", 1, u64::from(u32::MAX));
    section.finish();
    let (input, output) = (input?, output?);
    let cache_write = cache_write.unwrap_or(input);
    let rates = Rates {
        input,
        cache_read: cache_read.unwrap_or(input),
        cache_write,
        cache_write_1h: cache_write_1h.unwrap_or(cache_write),
        output,
    };
    let price = Some(Price { rates, long: None, off_peak: None });
    Some((candidate?, Facts { price, context_tokens, output_tokens, ..Facts::UNKNOWN }))
}

fn parse_digest(text: &str) -> Option<[u8; 32]> {
    unhex(&text.to_ascii_lowercase())?.try_into().ok()
}

/// Reads the URL of an API; `plain` allows http to other machines. The error says what is wrong and what is allowed.
pub(super) fn base_url(text: &str, plain: bool) -> Result<Uri, String> {
    const ALLOWED: &str = "allowed: https://host[:port]/path";
    let uri: Uri = text.trim_end_matches('/').parse().map_err(|_| format!("not a URL; {ALLOWED}"))?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or(format!("no host; {ALLOWED}"))?;
    if uri.query().is_some() || text.contains('#') || text.contains('@') {
        return Err(format!("it has a query, a fragment or a user; {ALLOWED}"));
    }
    let endpoint = ENDPOINTS.iter().find(|endpoint| uri.path().ends_with(**endpoint));
    if let Some(endpoint) = endpoint {
        return Err(format!("the node adds {endpoint} itself; allowed: the URL without it"));
    }
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if plain || is_loopback(host) => Ok(uri),
        Some("http") => Err("http would send the key unencrypted; allowed: https, http to this machine, or \
                             http with plain_http = true"
            .into()),
        _ => Err(format!("the scheme is neither https nor http; {ALLOWED}")),
    }
}

/// Ends of a vendor's URL that a base URL does not have.
const ENDPOINTS: [&str; 4] = ["/chat/completions", "/responses", "/messages", "/embeddings"];

/// Whether `host`, of a URL or a `Host` header without its port, is this machine's loopback name or address.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The characters of names, which occur in headers, log keys and file names.
pub const NAME_RULE: &str = "1 to 64 of a-z A-Z 0-9 - _";

/// Whether `text` follows [`NAME_RULE`].
pub fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// Reads a required `name` that follows [`NAME_RULE`].
pub(super) fn name_of(section: &Section<'_>) -> Option<String> {
    let name = section.required("name")?;
    section.check_unique(&name);
    if is_name(&name.value) {
        return Some(name.value);
    }
    section.mistake(name.at, "name", format!("{:?} is not a name; allowed: {NAME_RULE}", name.value));
    None
}
