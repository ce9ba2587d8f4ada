//! Checks that a fire of a schedule runs once, and that none is lost unless the schedule's policy skips it.

use std::collections::{BTreeMap, BTreeSet};

use outlive::entry::{Entry, Kind, LogId};
use serde_json::Value;

use crate::world::World;

/// The schedule's section of the configuration.
pub(crate) fn config_section(missed: &str) -> String {
    format!(
        "[[schedule]]\nname = \"fires\"\nevery = \"{}s\"\nprompt = \"{PROMPT}\"\nmissed = \"{missed}\"\n",
        INTERVAL_MS / 1000
    )
}

/// The schedule's prompt.
pub(crate) const PROMPT: &str = "turn fire";

/// The schedule's interval, in milliseconds: the shortest that is allowed.
const INTERVAL_MS: u64 = 60_000;

/// How late a fire may start without faults, in milliseconds: a tick, and the turn before it.
const TOLERANCE_MS: u64 = 60_000;

/// How late a fire may start under the policy `skip`, in milliseconds: what the policy says, and the time of the store.
const MAX_LATENESS_MS: u64 = 90_000 + 30_000;

/// What happened at one nominal time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FireOutcome {
    /// It was claimed at this time, in milliseconds since the Unix epoch.
    Claimed(u64),
    Missed,
}

/// Checks all fires, once everything works again.
pub(crate) fn fires(world: &World) {
    let Some(missed) = world.plan.missed else { return };
    let entries = world.store.entries();
    let of = |kind: Kind| entries.iter().filter(move |entry| entry.header().kind == kind);
    let body = |entry: &Entry| serde_json::from_slice::<Value>(entry.body()).unwrap_or_default();
    let Some(set) = of(Kind::SCHEDULE_SET).next() else {
        return world.violation("the schedule of the configuration was never set");
    };
    let since = body(set).get("since").and_then(Value::as_u64).unwrap_or_default();
    let mut outcomes: BTreeMap<u64, Vec<FireOutcome>> = BTreeMap::new();
    // Each nominal time has one entry: a claim, or the end of a fire that was missed.
    for (kind, ran) in [(Kind::FIRE_CLAIMED, true), (Kind::FIRE_ENDED, false)] {
        for entry in of(kind) {
            let nominal = body(entry).get("nominal").and_then(Value::as_u64).unwrap_or_default();
            let at = entry.header().hlc.timestamp().0;
            outcomes.entry(nominal).or_default().push(if ran {
                FireOutcome::Claimed(at)
            } else {
                FireOutcome::Missed
            });
        }
    }
    let claimed: BTreeSet<[u8; 16]> = of(Kind::FIRE_CLAIMED).map(|entry| entry.header().cause).collect();
    let here: Vec<&Entry> =
        of(Kind::TURN_OPENED).filter(|entry| entry.header().log == set.header().log).collect();
    let opened: BTreeSet<[u8; 16]> = here.iter().map(|entry| entry.header().cause).collect();
    if claimed != opened || opened.len() != here.len() {
        world.violation(format_args!(
            "the fires {claimed:02x?} were claimed and the turns {opened:02x?} were opened"
        ));
    }
    for (nominal, outcomes) in &outcomes {
        let [once] = outcomes.as_slice() else {
            world.violation(format_args!("the fire of {nominal} has the outcomes {outcomes:?}"));
            continue;
        };
        world.count(if *once == FireOutcome::Missed { "fires that were skipped" } else { "fires that ran" });
        if (nominal - since) % INTERVAL_MS != 0 {
            world.violation(format_args!("nothing was due at {nominal}"));
        }
    }
    count_resumed(world, set.header().log, &entries);
    // With a clock that is wrong, other times are due than this check expects.
    if world.plan.skew == 0 {
        policy_followed(world, missed, since, &outcomes);
    }
}

/// Whether each nominal time was handled as the policy says.
fn policy_followed(world: &World, missed: &str, since: u64, outcomes: &BTreeMap<u64, Vec<FireOutcome>>) {
    let until = world.executor.now().saturating_sub(TOLERANCE_MS);
    let due = (1..).map(|n| since + n * INTERVAL_MS).take_while(|nominal| *nominal <= until);
    for nominal in due {
        let bad = |why: &str| world.violation(format_args!("the fire of {nominal} {why}"));
        match (outcomes.get(&nominal).and_then(|outcomes| outcomes.first()), missed) {
            (None, _) => bad("was lost"),
            (Some(FireOutcome::Missed), "all") => bad("was skipped although its policy is to run all"),
            (Some(FireOutcome::Claimed(at)), "skip") if at.saturating_sub(nominal) > MAX_LATENESS_MS => {
                bad("ran although it was late");
            }
            _ => {}
        }
    }
}

/// Counts the fires whose turn has more than one run: their process died, and they were resumed.
fn count_resumed(world: &World, log: LogId, entries: &[Entry]) {
    let mut runs: BTreeMap<[u8; 16], u64> = BTreeMap::new();
    let own = |entry: &&Entry| entry.header().log == log && entry.header().kind == Kind::TURN_RUN;
    entries.iter().filter(own).for_each(|entry| *runs.entry(entry.header().cause).or_default() += 1);
    runs.values().filter(|count| **count > 1).for_each(|_| world.count("fires resumed after a crash"));
}
