use std::{collections::VecDeque, time::Duration};

use super::{MissedPolicy, Schedule, ScheduleDefinition};
use crate::time::Timestamp;

/// What is to be done about one time that a schedule was due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planned {
    /// It is run.
    Fire(Timestamp),
    /// It is left out, and why.
    Missed(Timestamp, String),
}

/// How late a fire may begin and still be in time: triggers of hosts come once a minute, and some a little late.
const GRACE: Duration = Duration::from_secs(90);

/// Most fires that are made up for: whoever was away for a month does not want all of it.
const MOST: usize = 24;

/// Most times that are looked at from the last that was dealt with; from there only the last day is.
const MOST_LOOKED_AT: usize = 3_000;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What is to be done now, in order. `refusal` says why nothing may be run, if so.
pub fn plan(schedule: &Schedule, now: Timestamp, refusal: Option<&str>) -> Vec<Planned> {
    let Some(definition) = schedule.definition().filter(|definition| !definition.paused) else {
        return Vec::new();
    };
    let due = due(schedule, definition, now);
    let Some((newest, _)) = due.back().copied() else { return Vec::new() };
    let surplus = due.len().saturating_sub(MOST);
    let decide = |(at, (nominal, late)): (usize, (Timestamp, bool))| {
        let missed = |why: String| Planned::Missed(nominal, why);
        match definition.terms.missed {
            _ if at < surplus => {
                missed(format!("missed with any before it; only the newest {MOST} are looked at"))
            }
            MissedPolicy::Skip if late => {
                missed(format!("missed: it did not begin within {} s", GRACE.as_secs()))
            }
            MissedPolicy::Once if nominal != newest => {
                missed(format!("missed: the run of {} stands for it", newest.to_rfc3339()))
            }
            _ => refusal.map_or(Planned::Fire(nominal), |why| missed(why.to_owned())),
        }
    };
    due.into_iter().enumerate().map(decide).collect()
}

/// The times that have come and were not dealt with, oldest first and whether late: the newest, and one more if there are
/// older ones.
fn due(schedule: &Schedule, definition: &ScheduleDefinition, now: Timestamp) -> VecDeque<(Timestamp, bool)> {
    let mut due = VecDeque::new();
    let Some(times) = definition.times() else { return due };
    let (mut last, mut looked) = (schedule.dealt.max(Timestamp(definition.since)), 0);
    while let Some(nominal) = times.next(last).filter(|nominal| *nominal <= now) {
        let begins = definition.begins(&schedule.id, nominal);
        // Fires begin in the order in which they were due.
        if begins > now {
            break;
        }
        due.push_back((nominal, now.since(begins) > GRACE));
        if due.len() > MOST + 1 {
            due.pop_front();
        }
        looked += 1;
        last = if looked == MOST_LOOKED_AT {
            nominal.max(Timestamp(now.0.saturating_sub(DAY.as_millis() as u64)))
        } else {
            nominal
        };
    }
    due
}
