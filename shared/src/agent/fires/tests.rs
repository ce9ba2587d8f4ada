//! Checks when schedules fire, on a node with the demo provider: misses, pauses, limits, crashes, and the
//! configuration.

use std::{
    cell::Cell,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use futures_executor::block_on;
use futures_util::future::join;

use super::*;
use crate::{
    agent::schedules::{
        NewSchedule, ScheduleError, ScheduleView, create, find, find_all, pause, remove, run,
    },
    cron::{Rule, RuleError},
    entry::{Batch, Draft, Kind, VersionVector},
    model::Candidate,
    platform::Store,
    session::{
        schedule::{Directory, FireStatus, MissedPolicy, ScheduleSource, Terms},
        step::StepEnded,
        turn::{TurnClosed, TurnOutcome},
    },
    testing::{CallKind, Fault, Faulty, MemoryStore, TestPlatform},
    usage::Usage,
};

type TestNode = Node<TestPlatform<MemoryStore>>;

fn node(store: &MemoryStore, config: &str) -> TestNode {
    let config = Config::parse(config, "test", |_| None).unwrap();
    Node::new(TestPlatform::new(store.clone()), config)
}

fn every(missed: MissedPolicy) -> Terms {
    Terms { missed, ..Terms::new("test", Rule::Every(60_000), "Well?") }
}

const ID: ScheduleId = ScheduleId { log: LogId([1; 16]), schedule: [2; 16] };
const NEW: NewSchedule<'_> = NewSchedule { owner: "me", source: ScheduleSource::Api, joins: false };

/// Lets `seconds` pass.
async fn sleep(node: &TestNode, seconds: u64) {
    node.platform().sleep(Duration::from_secs(seconds)).await;
}

fn count(store: &MemoryStore, kind: Kind) -> usize {
    store.entries().iter().filter(|entry| entry.header().kind == kind).count()
}

async fn find_view(node: &TestNode) -> ScheduleView {
    find(node, ID).await.unwrap().unwrap()
}

async fn statuses(node: &TestNode) -> Vec<&'static str> {
    find_view(node).await.fires.iter().map(|fire| fire.status.name()).collect()
}

#[test]
fn two_concurrent_wakes_run_a_fire_once() {
    let store = MemoryStore::default();
    let (one, other) = (node(&store, ""), node(&store, ""));
    block_on(async {
        create(&one, ID, &NEW, &every(MissedPolicy::Once)).await.unwrap();
        assert_eq!(store.due(Timestamp(u64::MAX), 9).await.unwrap(), [ID.log]);
        join(sleep(&one, 59), sleep(&other, 59)).await;
        assert!(store.due(one.platform().now(), 9).await.unwrap().is_empty());
        one.wake(ID.log).await.unwrap();
        assert_eq!(count(&store, Kind::FIRE_CLAIMED), 0, "not before it is due");
        join(sleep(&one, 1), sleep(&other, 1)).await;
        assert_eq!(store.due(one.platform().now(), 9).await.unwrap(), [ID.log]);
        let (a, b) = join(one.wake(ID.log), other.wake(ID.log)).await;
        a.and(b).unwrap();
        for kind in [Kind::FIRE_CLAIMED, Kind::TURN_OPENED, Kind::TURN_CLOSED] {
            assert_eq!(count(&store, kind), 1, "{kind:?}");
        }
        assert_eq!(statuses(&one).await, ["completed"]);
        let items = one.read_session(ID.log, |session| session.items().count()).await.unwrap();
        assert_eq!(items, 3, "the note, the prompt and the answer");
        let now = one.platform().now();
        assert!(store.due(now, 9).await.unwrap().is_empty(), "the log is not due until the next fire");
        assert_eq!(store.due(now + Duration::from_secs(60), 9).await.unwrap(), [ID.log]);
    });
}

#[test]
fn a_schedule_in_a_damaged_log_does_not_hide_the_others() {
    let store = MemoryStore::default();
    let node = node(&store, "");
    let broken = ScheduleId { log: LogId([3; 16]), ..ID };
    block_on(async {
        for id in [broken, ID] {
            create(&node, id, &NEW, &every(MissedPolicy::Once)).await.unwrap();
        }
        let head = store.heads(broken.log).await.unwrap().remove(0);
        let draft = Draft { kind: Kind::TURN_OPENED, cause: [7; 16], body: "no turn".into() };
        let (now, seen) = (node.platform().now(), VersionVector::new());
        let batch = Batch::build(broken.log, node.origin(), Some(&head), &seen, now, [draft]).unwrap();
        store.append(&batch).await.unwrap();
        assert!(matches!(find(&node, broken).await, Err(StoreError::Corrupt(_))));
        let found = find_all(&node, [broken, ID, ScheduleId { schedule: [9; 16], ..ID }]).await.unwrap();
        assert_eq!(found.iter().map(|view| view.id).collect::<Vec<_>>(), [ID]);
    });
}

#[test]
fn missed_fires_run_or_are_skipped_by_policy() {
    for (missed, expected) in [
        (MissedPolicy::Skip, "completed skipped skipped"),
        (MissedPolicy::Once, "completed skipped skipped"),
        (MissedPolicy::All, "completed completed completed"),
    ] {
        let store = MemoryStore::default();
        let node = node(&store, "");
        block_on(async {
            create(&node, ID, &NEW, &every(missed)).await.unwrap();
            sleep(&node, 3 * 60 + 40).await;
            node.wake(ID.log).await.unwrap();
            assert_eq!(statuses(&node).await.join(" "), expected, "{missed:?}");
            let reasons = find_view(&node).await.fires.iter().filter(|fire| fire.reason.is_some()).count();
            assert_eq!(reasons, expected.matches("skipped").count());
        });
    }
}

#[test]
fn a_paused_schedule_misses_no_fires() {
    let store = MemoryStore::default();
    let node = node(&store, "");
    block_on(async {
        let made = create(&node, ID, &NEW, &every(MissedPolicy::All)).await.unwrap();
        let paused = pause(&node, ID, true).await.unwrap();
        assert_eq!((made.next_fire_at.is_some(), paused.next_fire_at), (true, None));
        assert!(store.due(Timestamp(u64::MAX), 9).await.unwrap().is_empty());
        sleep(&node, 600).await;
        node.wake(ID.log).await.unwrap();
        let resumed = pause(&node, ID, false).await.unwrap();
        assert_eq!(resumed.next_fire_at, Some(node.platform().now() + Duration::from_secs(60)));
        node.wake(ID.log).await.unwrap();
        assert_eq!(statuses(&node).await, Vec::<&str>::new());
        sleep(&node, 60).await;
        node.wake(ID.log).await.unwrap();
        assert_eq!(statuses(&node).await, ["completed"]);
        remove(&node, ID).await.unwrap();
        remove(&node, ID).await.unwrap();
        assert!(find(&node, ID).await.unwrap().is_none());
        assert!(node.read_directory(|directory| directory.all().is_empty()).await.unwrap());
        assert!(store.due(Timestamp(u64::MAX), 9).await.unwrap().is_empty());
    });
}

#[test]
fn max_runs_per_day_skips_further_fires() {
    let store = MemoryStore::default();
    let node = node(&store, "");
    block_on(async {
        let terms = Terms { max_runs_per_day: 2, ..every(MissedPolicy::All) };
        create(&node, ID, &NEW, &terms).await.unwrap();
        sleep(&node, 4 * 60).await;
        node.wake(ID.log).await.unwrap();
        assert_eq!(statuses(&node).await, ["skipped", "skipped", "completed", "completed"]);
        let reason = find_view(&node).await.fires[0].reason.clone().unwrap();
        assert_eq!(reason, "max_runs_per_day: it has run 2 times in 24 hours; allowed: 2");
        // The limit holds for a fire by hand as well, and ends after a day.
        let fire = run(&node, ID, [9; 16]).await.unwrap().unwrap();
        assert_eq!(fire.status, FireStatus::Skipped);
        pause(&node, ID, true).await.unwrap();
        sleep(&node, 24 * 60 * 60).await;
        run(&node, ID, [9; 16]).await.unwrap();
        assert_eq!(count(&store, Kind::FIRE_CLAIMED), 2, "the same fire runs once");
        run(&node, ID, [10; 16]).await.unwrap();
        assert!(matches!(run(&node, ID, [11; 16]).await, Err(ScheduleError::Busy)), "one at a time");
        node.wake(ID.log).await.unwrap();
        assert_eq!(count(&store, Kind::FIRE_CLAIMED), 3);
    });
}

/// Why another fire is refused `hours` after one that took `usage`, with a limit of one dollar a day.
fn refused_after(candidate: &str, usage: Option<Usage>, hours: u64) -> Option<String> {
    let store = MemoryStore::default();
    let priced = "[[provider]]\nname = \"p\"\nkind = \"compatible\"\nbase_url = \"https://p.test\"\n\
                  [[model]]\nname = \"default\"\ncandidates = [\"p/m\"]\n\
                  [[price]]\ncandidate = \"p/m\"\ninput = \"1000\"\noutput = \"1000\"\n";
    let node = node(&store, priced);
    block_on(async {
        let terms = Terms { max_usd_per_day: Some(1_000_000_000), ..every(MissedPolicy::All) };
        create(&node, ID, &NEW, &terms).await.unwrap();
        run(&node, ID, [9; 16]).await.unwrap();
        let (provider, model) = candidate.split_once('/').unwrap();
        let known = Candidate { provider: provider.into(), model: model.into() };
        let price = node.config().facts(&known).price;
        let cost = price.zip(usage).map(|(price, usage)| price.cost(&usage, node.platform().now()).0);
        let last =
            StepEnded { candidate: Some(candidate.into()), usage, nano_usd: cost, ..StepEnded::default() };
        let closed =
            TurnClosed { outcome: TurnOutcome::Completed, last, error: None, snapshot: None }.draft([9; 16]);
        let decide =
            |_: &Session| Ok::<_, Infallible>(Decision::Append(vec![closed.clone()], Wake::Keep, ()));
        node.commit_session(ID.log, decide, |_| ()).await.unwrap();
        let now = node.platform().now() + Duration::from_secs(60 * 60 * hours);
        let look = |session: &Session| {
            let schedule = session.schedules().find(&ID.schedule).unwrap();
            refusal(session, schedule, schedule.definition().unwrap(), now)
        };
        node.read_session(ID.log, look).await.unwrap()
    })
}

#[test]
fn max_usd_per_day_skips_further_fires() {
    let tokens = |input| Some(Usage { input, ..Usage::default() });
    assert_eq!(refused_after("p/m", tokens(999), 0), None);
    let why = |cost| {
        Some(format!("max_usd_per_day: its runs of 24 hours have cost {cost}; allowed: less than 1.00"))
    };
    assert_eq!(refused_after("p/m", tokens(1_500), 23), why("1.50 dollars"));
    assert_eq!(refused_after("p/m", tokens(1_500), 24), None);
    // An unknown cost exceeds every limit.
    assert_eq!(refused_after("p/m", None, 0), why("an unknown amount"));
    assert_eq!(refused_after("gone/m", tokens(1), 0), why("an unknown amount"));
}

#[test]
fn a_conversation_has_one_turn_at_a_time() {
    let store = MemoryStore::default();
    let node = node(&store, "");
    block_on(async {
        create(&node, ID, &NEW, &every(MissedPolicy::Once)).await.unwrap();
        let other = ScheduleId { schedule: [3; 16], ..ID };
        create(&node, other, &NewSchedule { joins: true, ..NEW }, &every(MissedPolicy::Once)).await.unwrap();
        sleep(&node, 60).await;
        node.wake(ID.log).await.unwrap();
        assert_eq!(count(&store, Kind::TURN_CLOSED), 2, "the second waits for the first");
        let both_open = store.entries().windows(2).any(|pair| {
            let [a, b] = pair else { return false };
            a.header().kind == Kind::TURN_OPENED && b.header().kind == Kind::FIRE_CLAIMED
        });
        assert!(!both_open);
        // Another caller's conversation is not found.
        let stranger = NewSchedule { owner: "other", joins: true, ..NEW };
        let refused =
            create(&node, ScheduleId { schedule: [4; 16], ..ID }, &stranger, &every(MissedPolicy::Once))
                .await;
        assert!(matches!(refused, Err(ScheduleError::UnknownConversation)));
    });
}

#[test]
fn a_repeated_create_changes_nothing_and_invalid_terms_are_refused() {
    let store = MemoryStore::default();
    let node = node(&store, "");
    block_on(async {
        create(&node, ID, &NEW, &every(MissedPolicy::Once)).await.unwrap();
        sleep(&node, 10).await;
        create(&node, ID, &NEW, &every(MissedPolicy::Once)).await.unwrap();
        assert_eq!(count(&store, Kind::SCHEDULE_SET), 1);
        assert!(matches!(
            create(&node, ID, &NEW, &every(MissedPolicy::All)).await,
            Err(ScheduleError::Conflict)
        ));
        let over = Terms::new("over", Rule::At(1), "x");
        let id = ScheduleId { schedule: [3; 16], ..ID };
        let refused = create(&node, id, &NEW, &over).await;
        assert!(matches!(refused, Err(ScheduleError::Terms(RuleError { field: "at", .. }))), "{refused:?}");
        let unpriced = Terms { model: Some("nope".into()), ..every(MissedPolicy::Once) };
        let refused = create(&node, id, &NEW, &unpriced).await;
        assert!(
            matches!(refused, Err(ScheduleError::Terms(RuleError { field: "model", .. }))),
            "{refused:?}"
        );
    });
}

#[test]
fn schedules_of_the_configuration_are_set_changed_and_removed() {
    let store = MemoryStore::default();
    let config =
        |prompt: &str| format!("[[schedule]]\nname = \"digest\"\nevery = \"60s\"\nprompt = {prompt:?}\n");
    let id = ScheduleId::of_config("digest");
    let tick = async |config: &str| {
        let node = node(&store, config);
        node.tick().await.unwrap();
        // Spawned tasks run during the sleep.
        sleep(&node, 1).await;
        (find(&node, id).await.unwrap(), node)
    };
    block_on(async {
        let (view, _) = tick(&config("one")).await;
        assert_eq!(view.unwrap().definition.terms.prompt, "one");
        tick(&config("one")).await;
        assert_eq!(count(&store, Kind::SCHEDULE_SET), 1);
        let (view, node) = tick(&config("two")).await;
        let view = view.unwrap();
        assert_eq!(
            (view.definition.terms.prompt.as_str(), view.definition.owner.as_str()),
            ("two", "@agent")
        );
        assert!(matches!(remove(&node, id).await, Err(ScheduleError::Configured)));
        sleep(&node, 60).await;
        node.wake_due().await.unwrap();
        sleep(&node, 5).await;
        assert_eq!(count(&store, Kind::TURN_CLOSED), 1);
        let (view, node) = tick("").await;
        assert!(view.is_none());
        assert!(node.read_directory(|directory: &Directory| directory.all().is_empty()).await.unwrap());
        let (view, _) = tick(&config("one")).await;
        assert_eq!(view.unwrap().definition.terms.prompt, "one", "it comes back");
    });
}

/// Runs a process with a schedule of the configuration from its first tick to the end of the schedule's first fire. Its
/// calls of the store never return from the append `crash` on, which is lost if the second value is true. Returns the
/// appends.
fn run_until(store: &MemoryStore, crash: Option<(u32, bool)>) -> u32 {
    let (appends, crashed) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let (count, has_crashed) = (Rc::clone(&appends), Rc::clone(&crashed));
    let plan = async move |call: CallKind| {
        if has_crashed.get() {
            std::future::pending::<()>().await;
        }
        if call == CallKind::Append {
            count.set(count.get() + 1);
            if let Some((_, before)) = crash.filter(|(at, _)| *at == count.get()) {
                has_crashed.set(true);
                if before {
                    std::future::pending::<()>().await;
                }
            }
        }
        Fault::None
    };
    let config = "[[schedule]]\nname = \"digest\"\nevery = \"60s\"\nprompt = \"Well?\"\n";
    let config = Config::parse(config, "test", |_| None).unwrap();
    let node = Node::new(TestPlatform::new(Faulty::new(store.clone(), plan)), config);
    let mut process = std::pin::pin!(async {
        node.tick().await.unwrap();
        node.platform().sleep(Duration::from_secs(60)).await;
        node.tick().await.unwrap();
        node.platform().sleep(Duration::from_secs(20)).await;
    });
    let mut cx = Context::from_waker(Waker::noop());
    let mut left = 100;
    while let Poll::Pending = process.as_mut().poll(&mut cx)
        && left > 0
    {
        left -= u32::from(crashed.get());
    }
    appends.get()
}

#[test]
fn a_fire_runs_once_after_a_crash_at_any_append() {
    let whole = run_until(&MemoryStore::default(), None);
    assert!(whole >= 7, "{whole} appends are too few to mean anything");
    for crash in (1..=whole).flat_map(|at| [(at, true), (at, false)]) {
        let store = MemoryStore::default();
        run_until(&store, Some(crash));
        run_until(&store, None);
        for kind in [Kind::SCHEDULE_SET, Kind::FIRE_CLAIMED, Kind::TURN_OPENED, Kind::TURN_CLOSED] {
            assert_eq!(count(&store, kind), 1, "{crash:?}: {kind:?}");
        }
        let node = node(&store, "");
        let listed = block_on(node.read_directory(|directory| directory.all().len())).unwrap();
        assert_eq!(listed, 1, "{crash:?}");
    }
}

/// Opens the turn of a fire in a process whose clock is a day ahead, and ends the process.
fn turn_left_by_a_clock_ahead(store: &MemoryStore) {
    let node = node(store, "");
    block_on(async {
        sleep(&node, 24 * 60 * 60).await;
        create(&node, ID, &NEW, &every(MissedPolicy::Once)).await.unwrap();
        // The turn is opened, and the process ends before its run begins.
        run(&node, ID, [3; 16]).await.unwrap();
    });
    assert_eq!((count(store, Kind::TURN_OPENED), count(store, Kind::TURN_RUN)), (1, 0));
}

#[test]
fn a_turn_left_by_a_clock_ahead_is_resumed_whichever_read_fails() {
    // Returns the number of reads.
    let take_over = |failing: Option<u32>| {
        let (store, reads) = (MemoryStore::default(), Rc::new(Cell::new(0)));
        turn_left_by_a_clock_ahead(&store);
        let counted = Rc::clone(&reads);
        let plan = async move |call: CallKind| {
            counted.set(counted.get() + u32::from(call == CallKind::Read));
            if call == CallKind::Read && failing == Some(counted.get()) { Fault::Before } else { Fault::None }
        };
        let config = Config::parse("", "test", |_| None).unwrap();
        let node = Node::new(TestPlatform::new(Faulty::new(store.clone(), plan)), config);
        block_on(async {
            for _ in 0..2 {
                // A tick that fails is followed by another one.
                let _ = node.tick().await;
                node.platform().sleep(Duration::from_secs(60)).await;
            }
        });
        assert_eq!(count(&store, Kind::TURN_CLOSED), 1, "{failing:?}");
        reads.get()
    };
    let reads = take_over(None);
    assert!(reads >= 7, "{reads} reads are too few to mean anything");
    for failing in 1..=reads {
        take_over(Some(failing));
    }
}
