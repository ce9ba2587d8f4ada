//! Checks plans of missed fires, jitter, and that schedules fold the same from any order of chains.

use super::*;
use crate::{
    entry::{Batch, Origin, VersionVector},
    log::Fold,
    session::Session,
};

const ID: Cause = [7; 16];
const MINUTE: u64 = 60_000;

fn definition(rule: Rule, missed: MissedPolicy, jitter: u64) -> ScheduleDefinition {
    let terms = Terms { missed, jitter, ..Terms::new("test", rule, "Well?") };
    ScheduleDefinition { owner: "me".into(), source: ScheduleSource::Api, paused: false, since: 0, terms }
}

fn entries(node: &str, now: u64, drafts: Vec<Draft>) -> Vec<Entry> {
    let origin = Origin { node: node.into(), epoch: 0 };
    let batch =
        Batch::build(LogId([0; 16]), &origin, None, &VersionVector::new(), Timestamp(now), drafts).unwrap();
    batch.entries().cloned().collect()
}

fn fold<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Session {
    let mut fold = Session::default();
    entries.into_iter().for_each(|entry| fold.apply(entry).unwrap());
    fold
}

/// The plan at `now` (milliseconds) if the fire of minute `dealt` was claimed: `+3` runs the fire of minute 3, `-3`
/// skips it.
fn planned(definition: &ScheduleDefinition, dealt: u64, now: u64, refusal: Option<&str>) -> String {
    let mut drafts = vec![definition.draft(ID)];
    if dealt > 0 {
        let nominal = Timestamp(dealt * MINUTE);
        drafts.push(draft_claimed(&ID, ScheduleId::fire(&ID, nominal), nominal, false));
    }
    let fold = fold(&entries("a", 1, drafts));
    let plan = plan(fold.schedules().find(&ID).unwrap(), Timestamp(now), refusal);
    let short = |planned: &Planned| match planned {
        Planned::Fire(at) => format!("+{}", at.0 / MINUTE),
        Planned::Missed(at, _) => format!("-{}", at.0 / MINUTE),
    };
    plan.iter().map(short).collect::<Vec<_>>().join(" ")
}

#[test]
fn missed_fires_follow_the_policy() {
    let check = |missed: MissedPolicy, dealt: u64, now: u64, expected: &str| {
        let every = definition(Rule::Every(MINUTE), missed, 0);
        assert_eq!(planned(&every, dealt, now, None), expected, "{missed:?}");
    };
    for policy in [MissedPolicy::Skip, MissedPolicy::Once, MissedPolicy::All] {
        check(policy, 0, MINUTE - 1, "");
        check(policy, 0, MINUTE, "+1");
        check(policy, 1, MINUTE, "");
        check(policy, 1, 2 * MINUTE - 1, "");
    }
    // 90 seconds of grace: the one of minute 4 is late by 90 s at 5:30 and still in time.
    let now = 5 * MINUTE + 30_000;
    check(MissedPolicy::Skip, 1, now, "-2 -3 +4 +5");
    check(MissedPolicy::Skip, 1, now + 1, "-2 -3 -4 +5");
    check(MissedPolicy::Once, 1, now, "-2 -3 -4 +5");
    check(MissedPolicy::All, 1, now, "+2 +3 +4 +5");
    // Offline for long, with and without a fire that is in time.
    let hourly = |missed| definition(Rule::Every(60 * MINUTE), missed, 0);
    let now = 60 * MINUTE * 1_000 + 10 * MINUTE;
    assert_eq!(planned(&hourly(MissedPolicy::Once), 60 * 998, now, None), "-59940 +60000");
    assert_eq!(planned(&hourly(MissedPolicy::Skip), 60 * 998, now, None), "-59940 -60000");
    let all = planned(&hourly(MissedPolicy::All), 0, now, None);
    assert_eq!(all.matches('+').count(), 24, "{all}");
    assert!(all.starts_with("-58560 +58620 ") && all.ends_with("+60000"), "{all}");
    // Offline for years.
    let all = planned(&definition(Rule::Every(MINUTE), MissedPolicy::All, 0), 1, MINUTE * 300_000_000, None);
    assert_eq!((all.matches('+').count(), all.matches('-').count()), (24, 1), "{all}");
    assert!(all.ends_with("+300000000"), "{all}");
}

#[test]
fn a_refusal_or_a_pause_runs_nothing() {
    let every = definition(Rule::Every(MINUTE), MissedPolicy::All, 0);
    assert_eq!(planned(&every, 1, 3 * MINUTE, Some("enough")), "-2 -3");
    let paused = ScheduleDefinition { paused: true, ..every };
    assert_eq!(planned(&paused, 1, 3 * MINUTE, None), "");
    assert_eq!(paused.due_after(&ID, Timestamp(0)), None);
}

#[test]
fn jitter_only_delays() {
    let jittered = definition(Rule::Every(10 * MINUTE), MissedPolicy::Once, 5 * MINUTE);
    let delays: Vec<u64> = (0..50)
        .map(|n| jittered.due_after(&ID, Timestamp(n * 10 * MINUTE)).unwrap().0 - (n + 1) * 10 * MINUTE)
        .collect();
    assert!(delays.iter().all(|delay| *delay <= 5 * MINUTE), "{delays:?}");
    assert!(delays.iter().min() < Some(&MINUTE) && delays.iter().max() > Some(&(4 * MINUTE)), "{delays:?}");
    let begins = 10 * MINUTE + delays[0];
    assert_eq!(planned(&jittered, 0, begins - 1, None), "");
    assert_eq!(planned(&jittered, 0, begins, None), "+10");
}

#[test]
fn chains_fold_in_any_order() {
    let rule = |n: u64| definition(Rule::Every(n * MINUTE), MissedPolicy::Once, 0);
    let fire = |n: u64| (ScheduleId::fire(&ID, Timestamp(n)), Timestamp(n));
    let ((one, at_one), (two, at_two)) = (fire(1), fire(2));
    let a = entries(
        "a",
        10,
        vec![
            rule(1).draft(ID),
            draft_claimed(&ID, one, at_one, false),
            draft_skipped(&ID, two, at_two, false, "busy".into()),
            draft_removed(ID),
        ],
    );
    let b = entries(
        "b",
        20,
        vec![
            rule(2).draft(ID),
            draft_skipped(&ID, one, at_one, false, "late".into()),
            draft_claimed(&ID, two, at_two, false),
        ],
    );
    let check = |fold: Session| {
        let schedule = fold.schedules().find(&ID).unwrap().clone();
        let fires: Vec<_> = schedule.fires().map(|fire| (fire.nominal.0, fire.skipped.clone())).collect();
        assert_eq!(fires, [(2, None), (1, None)], "a fire that ran on any node has run");
        assert_eq!(schedule.definition(), Some(&rule(2)), "set again after it was removed");
        assert_eq!(schedule.created_at(), Timestamp(10));
        assert_eq!(schedule.due_at(), Some(Timestamp(2 * MINUTE)));
    };
    check(fold(a.iter().chain(&b)));
    check(fold(b.iter().chain(&a)));
}

#[test]
fn ids_have_one_spelling() {
    let id = ScheduleId { log: LogId([1; 16]), schedule: ID };
    assert_eq!(ScheduleId::parse(&id.to_string()), Some(id));
    for bad in ["sched_", "sched_é", "resp_0", &id.to_string().to_uppercase(), &format!("{id}0")] {
        assert_eq!(ScheduleId::parse(bad), None, "{bad}");
    }
}
