//! Plans the fires of a schedule: which due times are run now, and which are skipped as missed. Pure; the agent carries
//! it out.

use std::{collections::VecDeque, time::Duration};

use super::{MissedPolicy, Schedule, ScheduleDefinition};
use crate::time::Timestamp;

/// The plan for one time that a schedule was due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planned {
    /// Run it.
    Fire(Timestamp),
    /// Skip it, for this reason.
    Missed(Timestamp, String),
}

/// How late a fire may start and still count as in time: hosts trigger once a minute, sometimes a little late.
const GRACE: Duration = Duration::from_secs(90);

/// Most missed fires that are planned: after a month offline all of them would be too many.
const MAX_PLANNED: usize = 24;

/// Most due times that are visited one by one; after that many the search continues a day before `now`.
const MAX_VISITED: usize = 3_000;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The fires to run or skip at `now`, oldest first. A `refusal` is the reason why no fire may run.
pub fn plan(schedule: &Schedule, now: Timestamp, refusal: Option<&str>) -> Vec<Planned> {
    let Some(definition) = schedule.definition().filter(|definition| !definition.paused) else {
        return Vec::new();
    };
    let due = due(schedule, definition, now);
    let Some((newest, _)) = due.back().copied() else { return Vec::new() };
    let surplus = due.len().saturating_sub(MAX_PLANNED);
    let decide = |(index, (nominal, late)): (usize, (Timestamp, bool))| {
        let missed = |why: String| Planned::Missed(nominal, why);
        match definition.terms.missed {
            // The one surplus time stands for all older ones.
            _ if index < surplus => {
                missed(format!("missed with any before it; only the newest {MAX_PLANNED} are looked at"))
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

/// The due times up to `now` that were neither claimed nor skipped, oldest first, each with whether it is late: the
/// newest [`MAX_PLANNED`], and one more if there are older ones.
fn due(schedule: &Schedule, definition: &ScheduleDefinition, now: Timestamp) -> VecDeque<(Timestamp, bool)> {
    let mut due = VecDeque::new();
    let Some(times) = definition.times() else { return due };
    let (mut last, mut visited) = (schedule.dealt.max(Timestamp(definition.since)), 0);
    while let Some(nominal) = times.next(last).filter(|nominal| *nominal <= now) {
        let begins = definition.begins(&schedule.id, nominal);
        // A fire delayed by jitter holds back the ones after it: fires start in the order in which they are due.
        if begins > now {
            break;
        }
        due.push_back((nominal, now.since(begins) > GRACE));
        if due.len() > MAX_PLANNED + 1 {
            due.pop_front();
        }
        visited += 1;
        last = if visited == MAX_VISITED {
            nominal.max(Timestamp(now.0.saturating_sub(DAY.as_millis() as u64)))
        } else {
            nominal
        };
    }
    due
}
