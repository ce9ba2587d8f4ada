//! Fires schedules: claims each fire and opens its turn in one commit, and records fires that are skipped. Runs no
//! turn; the wake that calls it does.

use std::{convert::Infallible, time::Duration};

use serde_json::{Map, Value, json, value::RawValue};

use super::next_wake::{after_reschedule, is_busy};
use crate::{
    config::Config,
    entry::{Cause, Draft, LogId, Wake},
    log::Decision,
    money::NanoUsd,
    node::Node,
    platform::{Platform, StoreError},
    session::{
        Item, Session, items_with_ids,
        schedule::{self, Planned, Schedule, ScheduleDefinition, ScheduleId, plan},
        turn::{LEASE, TurnOpened},
    },
    time::Timestamp,
};

/// Opens the turns of schedules that are due in `log`, unless the conversation is busy. Returns whether it opened one.
pub(super) async fn begin_due<P: Platform>(node: &Node<P>, log: LogId) -> Result<bool, StoreError> {
    let now = node.platform().now();
    let due = |session: &Session| {
        let live =
            session.schedules().live().filter(|(schedule, _)| schedule.due_at().is_some_and(|at| at <= now));
        live.map(|(schedule, _)| *schedule.id()).collect::<Vec<_>>()
    };
    let mut any_fired = false;
    for schedule in node.read_session(log, due).await? {
        let decide =
            |session: &Session| Ok::<_, Infallible>(decide(node.config(), session, log, &schedule, now));
        let enough = |session: &Session| is_counted(session, &schedule, now);
        let (fired, _, ()) = node.commit_session_until(log, enough, decide, |_| ()).await?;
        any_fired |= fired;
    }
    Ok(any_fired)
}

/// The entries for a schedule that is due: its missed fires, and the first fire that is to run. `true` if there is such
/// a fire. Further ones wait for the end of its turn.
fn decide(config: &Config, session: &Session, log: LogId, id: &Cause, now: Timestamp) -> Decision<bool> {
    let Some((schedule, definition)) = session.schedules().find(id).and_then(|s| Some((s, s.definition()?)))
    else {
        return Decision::Done(false);
    };
    if is_busy(session) {
        return Decision::Done(false);
    }
    let refusal = refusal(session, schedule, definition, now);
    let (mut drafts, mut last_missed) = (Vec::new(), None);
    for planned in plan(schedule, now, refusal.as_deref()) {
        match planned {
            Planned::Missed(nominal, why) => {
                let fire = ScheduleId::fire(id, nominal);
                drafts.push(schedule::draft_skipped(id, fire, nominal, false, why));
                last_missed = Some(nominal);
            }
            Planned::Fire(nominal) => {
                let fire = ScheduleId::fire(id, nominal);
                drafts.push(schedule::draft_claimed(id, fire, nominal, false));
                let schedule = ScheduleId { log, schedule: *id };
                drafts.push(turn_of_fire(config, schedule, definition, fire, nominal).draft(fire));
                return Decision::Append(drafts, Wake::At(now + LEASE), true);
            }
        }
    }
    // Nothing is to run: the schedule is next due after the last fire that it missed.
    match last_missed {
        Some(nominal) => {
            let due = definition.due_after(id, nominal);
            Decision::Append(drafts, after_reschedule(session, id, due), false)
        }
        None => Decision::Done(false),
    }
}

/// Whether the session is restored far enough for the daily spending limit: without a limit always, else once the turns
/// of the last day's fires are known.
fn is_counted(session: &Session, id: &Cause, now: Timestamp) -> bool {
    let Some(schedule) = session.schedules().find(id) else { return true };
    let is_limited =
        schedule.definition().is_some_and(|definition| definition.terms.max_usd_per_day.is_some());
    let mut ran = schedule.fires().filter(|fire| fire.skipped.is_none() && now.since(fire.at) < DAY);
    !is_limited || ran.all(|fire| session.turns().find(&fire.id).is_some())
}

/// The period of a schedule's limits.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The daily limit that forbids another fire now, as a text; `None` if there is none. A run of unknown price counts as
/// infinitely expensive.
pub(super) fn refusal(
    session: &Session,
    schedule: &Schedule,
    definition: &ScheduleDefinition,
    now: Timestamp,
) -> Option<String> {
    let ran = || schedule.fires().filter(|fire| fire.skipped.is_none() && now.since(fire.at) < DAY);
    let (runs, max_runs) = (ran().count() as u64, definition.terms.max_runs_per_day);
    if runs >= max_runs {
        return Some(format!("max_runs_per_day: it has run {runs} times in 24 hours; allowed: {max_runs}"));
    }
    let max_spent = NanoUsd(definition.terms.max_usd_per_day?);
    let spent = schedule::spent(session.turns(), ran());
    let cost =
        if spent == NanoUsd(u64::MAX) { "an unknown amount".into() } else { format!("{spent} dollars") };
    (spent >= max_spent).then(|| {
        format!("max_usd_per_day: its runs of 24 hours have cost {cost}; allowed: less than {max_spent}")
    })
}

/// The turn of a fire: the schedule's prompt, after a note that tells the model that it runs unattended.
pub(super) fn turn_of_fire(
    config: &Config,
    id: ScheduleId,
    definition: &ScheduleDefinition,
    fire: Cause,
    nominal: Timestamp,
) -> TurnOpened {
    let terms = &definition.terms;
    let mut request = Map::new();
    if !config.agent.instructions.is_empty() {
        request.insert("instructions".into(), config.agent.instructions.as_str().into());
    }
    request.insert("metadata".into(), json!({"schedule": id.to_string()}));
    let mark = format!(
        "What follows was scheduled as {:?} for {}. Nobody is waiting for the answer.",
        terms.name,
        nominal.to_rfc3339()
    );
    let input = [("developer", mark.as_str()), ("user", terms.prompt.as_str())];
    let items = input.map(|(role, text)| item(&json!({"type": "message", "role": role, "content": text})));
    let items: Vec<Item> = items.into_iter().flatten().collect();
    TurnOpened {
        owner: definition.owner.clone(),
        model: terms.model.clone().unwrap_or_else(|| config.agent.model.clone()),
        request,
        previous: None,
        in_conversation: true,
        background: true,
        store: true,
        runs: false,
        input: items_with_ids(fire, &items).unwrap_or_default(),
    }
}

/// `None` can't happen: a message is always an item.
fn item(value: &Value) -> Option<Item> {
    let raw = RawValue::from_string(value.to_string()).ok()?;
    Item::parse(&raw, "prompt").ok()
}

/// The entries of a fire that was requested by hand, or of its refusal by a daily limit; `None` if there is no such
/// schedule.
pub(super) fn manual_fire(
    config: &Config,
    session: &Session,
    id: ScheduleId,
    fire: Cause,
    now: Timestamp,
) -> Option<(Vec<Draft>, Wake)> {
    let schedule = session.schedules().find(&id.schedule)?;
    let definition = schedule.definition()?;
    Some(match refusal(session, schedule, definition, now) {
        Some(why) => (vec![schedule::draft_skipped(&id.schedule, fire, now, true, why)], Wake::Keep),
        None => {
            let claimed = schedule::draft_claimed(&id.schedule, fire, now, true);
            let opened = turn_of_fire(config, id, definition, fire, now).draft(fire);
            (vec![claimed, opened], Wake::At(now + LEASE))
        }
    })
}

#[cfg(test)]
mod tests;
