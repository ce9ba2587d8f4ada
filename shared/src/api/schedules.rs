//! Schedules: what the agent is asked again and again.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, request};
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    ApiError,
    caller::Caller,
    conversations::{self, Query, cause, list_object},
    idempotency, ok,
};
use crate::{
    agent::schedules::{self, Error, Maker, Seen, SeenFire},
    body::Body,
    cron::{Rule, RuleError, duration, duration_text},
    entry::{LogId, derive},
    hex::hex,
    money::NanoUsd,
    node::{Node, Place},
    platform::Platform,
    session::{
        schedule::{Missed, ScheduleId, Source, Terms},
        turn::ResponseId,
    },
    time::Timestamp,
    wire::{
        RequestError,
        raw::{parse_object, parse_text},
    },
};

/// What can be done to a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Pause,
    Resume,
    Run,
}

impl Action {
    /// Reads the last part of a path.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "pause" => Self::Pause,
            "resume" => Self::Resume,
            "run" => Self::Run,
            _ => return None,
        })
    }
}

/// `POST /v1/schedules`
pub(super) async fn create<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    head: &request::Parts,
    body: Bytes,
    placed: Option<LogId>,
) -> Result<Response<Body>, ApiError> {
    let Asked { terms, conversation } = Asked::parse(&body)?;
    let key = idempotency::key(head)?;
    let log = conversation.or(placed).unwrap_or_else(|| new_log(node, caller, key));
    let id = ScheduleId { log, schedule: cause(node, "schedule", log, caller, key) };
    let maker = Maker { owner: &caller.name, source: Source::Api, joins: conversation.is_some() };
    let made = schedules::create(node, id, &maker, &terms).await;
    Ok(ok(&object(&made.map_err(|error| refused(error, id))?)))
}

/// `GET /v1/schedules`
pub(super) async fn list<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    query: &str,
) -> Result<Response<Body>, ApiError> {
    let query = Query::parse(query)?;
    let mut listed = schedules::listed(node).await?;
    listed.retain(|(_, owner)| caller.admin || *owner == caller.name);
    if query.newest_first {
        listed.reverse();
    }
    let (page, more) = query.cut(listed, |(id, _)| id.to_string())?;
    let found = schedules::find_all(node, page.into_iter().map(|(id, _)| id)).await?;
    let found: Vec<_> = found.iter().map(object).collect();
    Ok(ok(&list_object(&found.iter().filter_map(raw).collect::<Vec<_>>(), more)))
}

/// `GET /v1/schedules/{id}`
pub(super) async fn retrieve<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    id: &str,
) -> Result<Response<Body>, ApiError> {
    Ok(ok(&object(&find(node, caller, id).await?)))
}

/// `DELETE /v1/schedules/{id}`
pub(super) async fn delete<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    id: &str,
) -> Result<Response<Body>, ApiError> {
    let id = find(node, caller, id).await?.id;
    schedules::remove(node, id).await.map_err(|error| refused(error, id))?;
    Ok(ok(&json!({"id": id.to_string(), "object": "schedule", "deleted": true})))
}

/// `POST /v1/schedules/{id}/pause`, `…/resume` and `…/run`
pub(super) async fn act<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    head: &request::Parts,
    id: &str,
    action: Action,
) -> Result<Response<Body>, ApiError> {
    let key = idempotency::key(head)?;
    let id = find(node, caller, id).await?.id;
    let wrong = |error| refused(error, id);
    if action != Action::Run {
        let seen = schedules::pause(node, id, action == Action::Pause).await.map_err(wrong)?;
        return Ok(ok(&object(&seen)));
    }
    let fire = match key {
        Some(key) => derive("run", &[&id.log.0, &id.schedule, caller.name.as_bytes(), key.as_bytes()]),
        None => node.random_bytes(),
    };
    let fire = schedules::run(node, id, fire).await.map_err(wrong)?;
    Ok(ok(&fire.map(|fire| fire_object(id, &fire)).unwrap_or_default()))
}

/// `GET /v1/schedules/{id}/fires`
pub(super) async fn fires<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    id: &str,
    query: &str,
) -> Result<Response<Body>, ApiError> {
    let query = Query::parse(query)?;
    let Seen { id, mut fires, .. } = find(node, caller, id).await?;
    if !query.newest_first {
        fires.reverse();
    }
    let (page, more) = query.cut(fires, |fire| fire_id(&fire.id))?;
    let page = page.iter().map(|fire| fire_object(id, fire));
    Ok(ok(&list_object(&page.filter_map(|fire| raw(&fire)).collect::<Vec<_>>(), more)))
}

/// Reads a schedule's id.
pub(super) fn parse_id(id: &str) -> Option<LogId> {
    ScheduleId::parse(id).map(|id| id.log)
}

/// Where a request for a new schedule must run.
pub(super) fn place<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    head: &request::Parts,
    body: &[u8],
) -> Place {
    // What is wrong is refused anywhere.
    let Ok(Asked { conversation, .. }) = Asked::parse(body) else { return Place::Anywhere };
    let new = || new_log(node, caller, idempotency::key(head).ok().flatten());
    Place::Log(conversation.unwrap_or_else(new))
}

/// The log of a schedule that gets a conversation of its own.
fn new_log<P: Platform>(node: &Node<P>, caller: &Caller, key: Option<&str>) -> LogId {
    match key {
        Some(key) => LogId::derive("schedule", &[caller.name.as_bytes(), key.as_bytes()]),
        None => LogId(node.random_bytes()),
    }
}

/// A schedule of somebody else does not exist.
async fn find<P: Platform>(node: &Node<P>, caller: &Caller, id: &str) -> Result<Seen, ApiError> {
    let unknown = || ApiError::unknown_schedule(id);
    let found = schedules::find(node, ScheduleId::parse(id).ok_or_else(unknown)?).await?;
    let own = |seen: &Seen| caller.admin || seen.definition.owner == caller.name;
    found.filter(own).ok_or_else(unknown)
}

fn refused(error: Error, id: ScheduleId) -> ApiError {
    match error {
        Error::Terms(RuleError { field, why }) => ApiError::value(field, why),
        Error::Unknown => ApiError::unknown_schedule(&id.to_string()),
        Error::UnknownConversation => ApiError::unknown_conversation(&format!("conv_{}", id.log)),
        Error::Busy => ApiError::conversation_locked(),
        Error::Configured => ApiError::value(
            "schedule_id",
            "it stands in agent.toml; allowed: to pause it, or to remove it there",
        ),
        Error::Other => ApiError::key_reused(),
        Error::Deleted => ApiError::deleted(),
        Error::TooMany(_) => {
            ApiError::value("conversation", format!("{error}; allowed: to remove one first"))
        }
        Error::Store(error) => error.into(),
    }
}

/// A request for a schedule.
struct Asked {
    terms: Terms,
    conversation: Option<LogId>,
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

/// Reads terms as the API has them, which an agent writes as well.
pub(crate) fn terms(body: &[u8]) -> Result<Terms, ApiError> {
    Asked::parse(body).map(|asked| asked.terms)
}

/// A schedule as the API shows it.
pub(crate) fn shown(seen: &Seen) -> Value {
    object(seen)
}

impl Asked {
    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let fields: Map<String, Value> = parse_object(parse_text(body)?)?;
        // A misspelt field would run at a time that nobody meant.
        if let Some(name) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
            let name: String = name.chars().take(100).collect();
            return Err(ApiError::value(&name, format!("unknown field; allowed: {}", FIELDS.join(", "))));
        }
        let get = |name: &str| fields.get(name).filter(|value| !value.is_null());
        let text = |name: &str| match get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(other) => Err(ApiError::value(name, format!("{}; allowed: a string", short(other)))),
        };
        let missing = |name: &str| ApiError::from(RequestError::Missing(name.into()));
        let required = |name: &str| text(name)?.ok_or_else(|| missing(name));
        let zone = text("time_zone")?.unwrap_or("UTC");
        let rule = rule(text("cron")?, get("at"), text("every")?, zone)?;
        let mut terms = Terms::new(required("name")?, rule, required("prompt")?);
        zone.clone_into(&mut terms.zone);
        terms.model = text("model")?.map(str::to_owned);
        if let Some(word) = text("missed")? {
            let found = Missed::NAMES.iter().find(|(name, _)| *name == word);
            let why = || format!("{}; allowed: skip, once, all", short(&word.into()));
            terms.missed =
                found.map(|(_, missed)| *missed).ok_or_else(|| ApiError::value("missed", why()))?;
        }
        if let Some(word) = text("jitter")? {
            let why = || format!("{}; allowed: a time such as \"90s\" or \"15m\"", short(&word.into()));
            let jitter = duration(word).ok_or_else(|| ApiError::value("jitter", why()))?;
            terms.jitter = u64::try_from(jitter.as_millis()).unwrap_or(u64::MAX);
        }
        if let Some(value) = get("max_runs_per_day") {
            let why = || format!("{}; allowed: a whole number", short(value));
            terms.max_runs_per_day =
                value.as_u64().ok_or_else(|| ApiError::value("max_runs_per_day", why()))?;
        }
        if let Some(value) = get("max_usd_per_day") {
            // A number of JSON is written as it was sent.
            let number = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let why = || format!("{}; allowed: dollars as a decimal number such as \"0.25\"", short(value));
            let amount = NanoUsd::parse(&number).ok_or_else(|| ApiError::value("max_usd_per_day", why()))?;
            terms.max_usd_per_day = Some(amount.0);
        }
        let conversation = match text("conversation")? {
            Some(id) => Some(conversations::named(id)?),
            None => None,
        };
        Ok(Self { terms, conversation })
    }
}

fn rule(cron: Option<&str>, at: Option<&Value>, every: Option<&str>, zone: &str) -> Result<Rule, ApiError> {
    let read = match (cron, at, every) {
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
    read.map_err(|RuleError { field, why }| ApiError::value(field, why))
}

fn object(seen: &Seen) -> Value {
    let Seen { id, definition, created_at, next_fire_at, fires } = seen;
    let terms = &definition.terms;
    let millis = |millis: u64| duration_text(Duration::from_millis(millis));
    let (cron, at, every) = match &terms.rule {
        Rule::Cron(text) => (Some(text), None, None),
        Rule::At(at) => (None, Some(Timestamp(*at).to_rfc3339()), None),
        Rule::Every(every) => (None, None, Some(millis(*every))),
    };
    json!({
        "id": id.to_string(),
        "object": "schedule",
        "name": terms.name,
        "cron": cron,
        "at": at,
        "every": every,
        "time_zone": terms.zone,
        "prompt": terms.prompt,
        "model": terms.model,
        "missed": terms.missed.name(),
        "jitter": millis(terms.jitter),
        "max_runs_per_day": terms.max_runs_per_day,
        "max_usd_per_day": terms.max_usd_per_day.map(|most| NanoUsd(most).to_string()),
        "paused": definition.paused,
        "source": definition.source.name(),
        "owner": definition.owner,
        "conversation": format!("conv_{}", id.log),
        "session": format!("sess_{}", id.log),
        "next_fire_at": next_fire_at.map(Timestamp::unix_seconds),
        "last_fire": fires.first().map(|fire| fire_object(*id, fire)),
        "created_at": created_at.unix_seconds(),
    })
}

fn fire_object(id: ScheduleId, fire: &SeenFire) -> Value {
    let response = fire.reason.is_none().then(|| ResponseId { log: id.log, turn: fire.id }.to_string());
    json!({
        "id": fire_id(&fire.id),
        "object": "schedule.fire",
        "schedule": id.to_string(),
        "nominal_at": fire.nominal.unix_seconds(),
        "claimed_at": fire.at.unix_seconds(),
        "status": fire.status.name(),
        "reason": fire.reason,
        "response": response,
        "ended_at": fire.ended_at.map(Timestamp::unix_seconds),
    })
}

fn fire_id(id: &[u8]) -> String {
    format!("fire_{}", hex(id))
}

fn raw(value: &Value) -> Option<Box<RawValue>> {
    RawValue::from_string(value.to_string()).ok()
}

/// The beginning of a value, for a message.
fn short(value: &Value) -> String {
    value.to_string().chars().take(100).collect()
}
