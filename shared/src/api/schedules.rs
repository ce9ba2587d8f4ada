//! Serves `/v1/schedules`: creates, lists, pauses, runs and removes schedules. Their fires are started by
//! `agent/fires.rs`.

use bytes::Bytes;
use http::{Response, request};
use serde_json::{Value, json, value::RawValue};

use super::{
    ApiError, Placement,
    caller::Caller,
    conversations::{self, ListQuery, cause, list_object},
    idempotency, ok,
};
use crate::{
    agent::schedules::{
        self, NewSchedule, ScheduleError, ScheduleView, fire_id, fire_object, schedule_object,
    },
    body::Body,
    cron::RuleError,
    entry::{LogId, derive},
    node::Node,
    platform::Platform,
    session::schedule::{ScheduleId, ScheduleRequest, ScheduleSource, Terms},
};

/// What a caller can do to a schedule by `POST /v1/schedules/{id}/{action}`.
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
    let CreateSchedule { terms, conversation } = CreateSchedule::parse(&body)?;
    let key = idempotency::key(head)?;
    let log = conversation.or(placed).unwrap_or_else(|| new_log(node, caller, key));
    let id = ScheduleId { log, schedule: cause(node, "schedule", log, caller, key) };
    let new_schedule =
        NewSchedule { owner: &caller.name, source: ScheduleSource::Api, joins: conversation.is_some() };
    let created = schedules::create(node, id, &new_schedule, &terms).await;
    Ok(ok(&schedule_object(&created.map_err(|error| to_api_error(error, id))?)))
}

/// `GET /v1/schedules`
pub(super) async fn list<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    query: &str,
) -> Result<Response<Body>, ApiError> {
    let query = ListQuery::parse(query)?;
    // The list names ids and owners; only the schedules of the page are read.
    let mut listed = schedules::list_all(node).await?;
    listed.retain(|(_, owner)| caller.admin || *owner == caller.name);
    if query.newest_first {
        listed.reverse();
    }
    let (page, more) = query.cut(listed, |(id, _)| id.to_string())?;
    let found = schedules::find_all(node, page.into_iter().map(|(id, _)| id)).await?;
    let found: Vec<_> = found.iter().map(schedule_object).collect();
    Ok(ok(&list_object(&found.iter().filter_map(raw).collect::<Vec<_>>(), more)))
}

/// `GET /v1/schedules/{id}`
pub(super) async fn retrieve<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    id: &str,
) -> Result<Response<Body>, ApiError> {
    Ok(ok(&schedule_object(&find(node, caller, id).await?)))
}

/// `DELETE /v1/schedules/{id}`
pub(super) async fn delete<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    id: &str,
) -> Result<Response<Body>, ApiError> {
    let id = find(node, caller, id).await?.id;
    schedules::remove(node, id).await.map_err(|error| to_api_error(error, id))?;
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
    let to_api_error = |error| to_api_error(error, id);
    if action != Action::Run {
        let changed = schedules::pause(node, id, action == Action::Pause).await.map_err(to_api_error)?;
        return Ok(ok(&schedule_object(&changed)));
    }
    let fire = match key {
        Some(key) => derive("run", &[&id.log.0, &id.schedule, caller.name.as_bytes(), key.as_bytes()]),
        None => node.random_bytes(),
    };
    let fire = schedules::run(node, id, fire).await.map_err(to_api_error)?;
    Ok(ok(&fire.map(|fire| fire_object(id, &fire)).unwrap_or_default()))
}

/// `GET /v1/schedules/{id}/fires`
pub(super) async fn fires<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    id: &str,
    query: &str,
) -> Result<Response<Body>, ApiError> {
    let query = ListQuery::parse(query)?;
    let ScheduleView { id, mut fires, .. } = find(node, caller, id).await?;
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

/// Where a request for a new schedule must run: where its conversation is, or its new log.
pub(super) fn place<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    head: &request::Parts,
    body: &[u8],
) -> Placement {
    // An invalid request is refused anywhere.
    let Ok(CreateSchedule { conversation, .. }) = CreateSchedule::parse(body) else {
        return Placement::Anywhere;
    };
    let new = || new_log(node, caller, idempotency::key(head).ok().flatten());
    Placement::Log(conversation.unwrap_or_else(new))
}

/// The log of a schedule that runs in a conversation of its own.
fn new_log<P: Platform>(node: &Node<P>, caller: &Caller, key: Option<&str>) -> LogId {
    match key {
        Some(key) => LogId::derive("schedule", &[caller.name.as_bytes(), key.as_bytes()]),
        None => LogId(node.random_bytes()),
    }
}

/// The schedule `id`, if the caller may see it. All others are unknown to the caller.
async fn find<P: Platform>(node: &Node<P>, caller: &Caller, id: &str) -> Result<ScheduleView, ApiError> {
    let unknown = || ApiError::unknown_schedule(id);
    let found = schedules::find(node, ScheduleId::parse(id).ok_or_else(unknown)?).await?;
    let own = |schedule: &ScheduleView| caller.admin || schedule.definition.owner == caller.name;
    found.filter(own).ok_or_else(unknown)
}

fn to_api_error(error: ScheduleError, id: ScheduleId) -> ApiError {
    match error {
        ScheduleError::Terms(RuleError { field, why }) => ApiError::value(field, why),
        ScheduleError::Unknown => ApiError::unknown_schedule(&id.to_string()),
        ScheduleError::UnknownConversation => ApiError::unknown_conversation(&format!("conv_{}", id.log)),
        ScheduleError::Busy => ApiError::conversation_locked(),
        ScheduleError::Configured => ApiError::value(
            "schedule_id",
            "it is defined in agent.toml; allowed: to pause it here, or to remove it there",
        ),
        ScheduleError::Conflict => ApiError::key_reused(),
        ScheduleError::Deleted => ApiError::deleted(),
        ScheduleError::TooMany(_) => {
            ApiError::value("conversation", format!("{error}; allowed: to remove one first"))
        }
        ScheduleError::Store(error) => error.into(),
    }
}

/// A request to create a schedule.
struct CreateSchedule {
    terms: Terms,
    conversation: Option<LogId>,
}

impl CreateSchedule {
    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let request = ScheduleRequest::parse(body)?;
        let conversation = request.conversation.as_deref().map(conversations::require_id).transpose()?;
        Ok(Self { terms: request.terms, conversation })
    }
}

fn raw(value: &Value) -> Option<Box<RawValue>> {
    RawValue::from_string(value.to_string()).ok()
}
