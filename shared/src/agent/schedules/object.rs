//! Writes schedules and fires as the JSON objects that the API and the built-in functions answer with. Reads no
//! request.

use std::time::Duration;

use serde_json::{Value, json};

use super::{FireView, ScheduleView};
use crate::{
    cron::{Rule, duration_text},
    hex::hex,
    money::NanoUsd,
    session::{schedule::ScheduleId, turn::ResponseId},
    time::Timestamp,
};

/// A schedule as the API shows it.
pub(crate) fn schedule_object(view: &ScheduleView) -> Value {
    let ScheduleView { id, definition, created_at, next_fire_at, fires } = view;
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

/// A fire as the API shows it.
pub(crate) fn fire_object(id: ScheduleId, fire: &FireView) -> Value {
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

/// The id of a fire, as clients know it.
pub(crate) fn fire_id(id: &[u8]) -> String {
    format!("fire_{}", hex(id))
}
