//! A schedule's fire runs once, and none is lost that the schedule's policy does not leave out.

use std::collections::{BTreeMap, BTreeSet};

use outlive::entry::{Entry, Kind, LogId};
use serde_json::Value;

use crate::world::World;

/// The section of the configuration.
pub(crate) fn section(missed: &str) -> String {
    format!(
        "[[schedule]]\nname = \"fires\"\nevery = \"{}s\"\nprompt = \"{PROMPT}\"\nmissed = \"{missed}\"\n",
        EVERY / 1000
    )
}

/// What it asks.
pub(crate) const PROMPT: &str = "turn fire";

/// How often it fires, in milliseconds: as often as is allowed.
const EVERY: u64 = 60_000;

/// How late a fire may begin while nothing fails: a tick, and the turn before it.
const SLACK: u64 = 60_000;

/// How late one may begin that is left out if it is late: what the policy says, and what a store takes to write it down.
const GRACE: u64 = 90_000 + 30_000;

/// What became of one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Became {
    /// It was claimed at this time.
    Ran(u64),
    Missed,
}

/// Looks at all fires, once everything works again.
pub(crate) fn fires(world: &World) {
    let Some(missed) = world.schedule.missed else { return };
    let entries = world.store.entries();
    let of = |kind: Kind| entries.iter().filter(move |entry| entry.header().kind == kind);
    let body = |entry: &Entry| serde_json::from_slice::<Value>(entry.body()).unwrap_or_default();
    let Some(set) = of(Kind::SCHEDULE_SET).next() else {
        return world.violation("the schedule of the configuration was never set");
    };
    let since = body(set).get("since").and_then(Value::as_u64).unwrap_or_default();
    let mut became: BTreeMap<u64, Vec<Became>> = BTreeMap::new();
    for (kind, ran) in [(Kind::FIRE_CLAIMED, true), (Kind::FIRE_ENDED, false)] {
        for entry in of(kind) {
            let nominal = body(entry).get("nominal").and_then(Value::as_u64).unwrap_or_default();
            let at = entry.header().hlc.timestamp().0;
            became.entry(nominal).or_default().push(if ran { Became::Ran(at) } else { Became::Missed });
        }
    }
    let claimed: BTreeSet<[u8; 16]> = of(Kind::FIRE_CLAIMED).map(|entry| entry.header().cause).collect();
    let here: Vec<&Entry> =
        of(Kind::TURN_OPENED).filter(|entry| entry.header().log == set.header().log).collect();
    let opened: BTreeSet<[u8; 16]> = here.iter().map(|entry| entry.header().cause).collect();
    if claimed != opened || opened.len() != here.len() {
        world.violation(format_args!("fires {claimed:02x?} were claimed, turns {opened:02x?} were opened"));
    }
    for (nominal, became) in &became {
        let [once] = became.as_slice() else {
            world.violation(format_args!("the fire of {nominal} became {became:?}"));
            continue;
        };
        world.saw(if *once == Became::Missed { "fires that were left out" } else { "fires that ran" });
        if (nominal - since) % EVERY != 0 {
            world.violation(format_args!("nothing was due at {nominal}"));
        }
    }
    reruns(world, set.header().log, &entries);
    // Whoever sets the clock changes what is due.
    if world.schedule.skew == 0 {
        kept(world, missed, since, &became);
    }
}

/// Whether every time was dealt with as the policy says.
fn kept(world: &World, missed: &str, since: u64, became: &BTreeMap<u64, Vec<Became>>) {
    let until = world.executor.now().saturating_sub(SLACK);
    let due = (1..).map(|n| since + n * EVERY).take_while(|nominal| *nominal <= until);
    for nominal in due {
        let bad = |why: &str| world.violation(format_args!("the fire of {nominal} {why}"));
        match (became.get(&nominal).and_then(|became| became.first()), missed) {
            (None, _) => bad("was lost"),
            (Some(Became::Missed), "all") => bad("was left out although all are to run"),
            (Some(Became::Ran(at)), "skip") if at.saturating_sub(nominal) > GRACE => {
                bad("ran although it was late");
            }
            _ => {}
        }
    }
}

/// A fire whose process died goes on; it is not claimed again.
fn reruns(world: &World, log: LogId, entries: &[Entry]) {
    let mut runs: BTreeMap<[u8; 16], u64> = BTreeMap::new();
    let own = |entry: &&Entry| entry.header().log == log && entry.header().kind == Kind::TURN_RUN;
    entries.iter().filter(own).for_each(|entry| *runs.entry(entry.header().cause).or_default() += 1);
    runs.values()
        .filter(|count| **count > 1)
        .for_each(|_| world.saw("fires that were run again after a death"));
}
