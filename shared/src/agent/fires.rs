//! Begins the turns of schedules that are due, and says when a log wants to be looked at.

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

/// Begins the turns that are due in `log`, as far as the conversation is free, and says whether it did.
pub(super) async fn begin_due<P: Platform>(node: &Node<P>, log: LogId) -> Result<bool, StoreError> {
    let now = node.platform().now();
    let due = |fold: &Session| {
        let live =
            fold.schedules().live().filter(|(schedule, _)| schedule.due_at().is_some_and(|at| at <= now));
        live.map(|(schedule, _)| *schedule.id()).collect::<Vec<_>>()
    };
    let mut begun = false;
    for schedule in node.read_session(log, due).await? {
        let decide = |fold: &Session| Ok::<_, Infallible>(decide(node.config(), fold, log, &schedule, now));
        let enough = |fold: &Session| is_counted(fold, &schedule, now);
        let (fired, _, ()) = node.commit_session_until(log, enough, decide, |_| ()).await?;
        begun |= fired;
    }
    Ok(begun)
}

/// What is to be written about a schedule that is due: what was missed, and the first fire that is to run.
fn decide(config: &Config, fold: &Session, log: LogId, id: &Cause, now: Timestamp) -> Decision<bool> {
    let Some((schedule, definition)) = fold.schedules().find(id).and_then(|s| Some((s, s.definition()?)))
    else {
        return Decision::Done(false);
    };
    if is_busy(fold) {
        return Decision::Done(false);
    }
    let refusal = refusal(fold, schedule, definition, now);
    let (mut drafts, mut dealt) = (Vec::new(), None);
    for planned in plan(schedule, now, refusal.as_deref()) {
        match planned {
            Planned::Missed(nominal, why) => {
                let fire = ScheduleId::fire(id, nominal);
                drafts.push(schedule::draft_skipped(id, fire, nominal, false, why));
                dealt = Some(nominal);
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
    match dealt {
        Some(nominal) => {
            let due = definition.due_after(id, nominal);
            Decision::Append(drafts, after_reschedule(fold, id, due), false)
        }
        None => Decision::Done(false),
    }
}

/// Whether the turns of the last day's fires are known, where it matters what they cost.
fn is_counted(fold: &Session, id: &Cause, now: Timestamp) -> bool {
    let Some(schedule) = fold.schedules().find(id) else { return true };
    let guarded = schedule.definition().is_some_and(|definition| definition.terms.max_usd_per_day.is_some());
    let mut ran = schedule.fires().filter(|fire| fire.skipped.is_none() && now.since(fire.at) < DAY);
    !guarded || ran.all(|fire| fold.turns().find(&fire.id).is_some())
}

/// What the runs of a schedule count for.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a schedule may not run now, if it may not: it has run too often, or for too much.
pub(super) fn refusal(
    fold: &Session,
    schedule: &Schedule,
    definition: &ScheduleDefinition,
    now: Timestamp,
) -> Option<String> {
    let ran = || schedule.fires().filter(|fire| fire.skipped.is_none() && now.since(fire.at) < DAY);
    let (runs, most) = (ran().count() as u64, definition.terms.max_runs_per_day);
    if runs >= most {
        return Some(format!("max_runs_per_day: it has run {runs} times in 24 hours; allowed: {most}"));
    }
    let most = NanoUsd(definition.terms.max_usd_per_day?);
    let spent = schedule::spent(fold.turns(), ran());
    let known =
        if spent == NanoUsd(u64::MAX) { "nobody knows what".into() } else { format!("{spent} dollars") };
    (spent >= most).then(|| {
        format!("max_usd_per_day: its runs of 24 hours have cost {known}; allowed: less than {most}")
    })
}

/// The turn of a fire.
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

/// A message is always an item.
fn item(value: &Value) -> Option<Item> {
    let raw = RawValue::from_string(value.to_string()).ok()?;
    Item::parse(&raw, "prompt").ok()
}

/// The entries of a fire that somebody asked for now, or of its refusal.
pub(super) fn manual_fire(
    config: &Config,
    fold: &Session,
    id: ScheduleId,
    fire: Cause,
    now: Timestamp,
) -> Option<(Vec<Draft>, Wake)> {
    let schedule = fold.schedules().find(&id.schedule)?;
    let definition = schedule.definition()?;
    Some(match refusal(fold, schedule, definition, now) {
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
