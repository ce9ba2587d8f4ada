//! One run: a node, its providers and its clients, from a seed to a report.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hasher},
    rc::Rc,
    time::Duration,
};

use futures_util::future::{OptionFuture, join_all, join3};
use outlive::{Config, Node, testing::MemoryStore};

use crate::{
    client,
    executor::{Executor, Group},
    invariants::{
        Acknowledged, Approvals, Effects, approvals,
        bounded::{self, Calls},
        budget::{self, Budget},
        closed, effects, fires, folded, healed, noted, notes,
        turns::{quiet, turns},
    },
    machine::Machine,
    provider::PAID,
    random::Random,
    remote,
    schedule::{FAULTY, Schedule},
    turns::Turn,
    work,
};

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The faults that the seed chose.
    pub schedule: String,
    /// What happened, in order.
    pub trace: Vec<String>,
    /// A digest of the trace.
    pub digest: u64,
    /// The invariants that did not hold.
    pub violations: Vec<String>,
    /// How often things happened that a test must have seen to mean anything.
    pub seen: BTreeMap<&'static str, u64>,
}

/// Everything that the tasks of a run share.
pub(crate) struct World {
    pub(crate) executor: Executor,
    pub(crate) schedule: Schedule,
    pub(crate) store: MemoryStore,
    pub(crate) network: RefCell<Random>,
    pub(crate) disk: RefCell<Random>,
    pub(crate) ids: RefCell<Random>,
    pub(crate) choices: RefCell<Random>,
    pub(crate) remote: RefCell<Random>,
    pub(crate) words: RefCell<Random>,
    pub(crate) order: RefCell<Random>,
    pub(crate) acknowledged: RefCell<Acknowledged>,
    pub(crate) budget: RefCell<Budget>,
    pub(crate) calls: RefCell<Calls>,
    pub(crate) turns: RefCell<Vec<Turn>>,
    pub(crate) effects: RefCell<Effects>,
    pub(crate) approvals: RefCell<Approvals>,
    node: RefCell<Option<(Node<Machine>, Group)>>,
    generation: Cell<u32>,
    start: u64,
    trace: RefCell<Vec<String>>,
    violations: RefCell<Vec<String>>,
    seen: RefCell<BTreeMap<&'static str, u64>>,
}

/// What belongs to nobody's machine.
pub(crate) const OUTSIDE: Group = Group(0);

/// When the simulation begins: no round number, so that a clock of zero is noticed.
const START: u64 = 1_790_000_000_123;

/// Runs one seed.
pub fn run(seed: u64) -> Report {
    let schedule = Schedule::draw(&mut Random::new(seed, 0));
    let world = Rc::new(World {
        executor: Executor::new(Random::new(seed, 1), START),
        store: MemoryStore::default(),
        network: RefCell::new(Random::new(seed, 2)),
        disk: RefCell::new(Random::new(seed, 3)),
        ids: RefCell::new(Random::new(seed, 4)),
        choices: RefCell::new(Random::new(seed, 5)),
        remote: RefCell::new(Random::new(seed, 6)),
        words: RefCell::new(Random::new(seed, 7)),
        order: RefCell::new(Random::new(seed, 8)),
        acknowledged: RefCell::default(),
        budget: RefCell::default(),
        calls: RefCell::default(),
        turns: RefCell::default(),
        effects: RefCell::default(),
        approvals: RefCell::default(),
        node: RefCell::default(),
        generation: Cell::new(0),
        start: START,
        trace: RefCell::default(),
        violations: RefCell::default(),
        seen: RefCell::default(),
        schedule,
    });
    world.restart();
    world.executor.spawn(OUTSIDE, crashes(Rc::clone(&world)));
    world.executor.spawn(OUTSIDE, looks(Rc::clone(&world)));
    world.executor.spawn(OUTSIDE, story(Rc::clone(&world)));
    if let Err(why) = world.executor.run() {
        world.violation(format!("the run does not end: {why}"));
    }
    world.report(seed)
}

/// Clients work while things fail; then nothing fails any more, and all must be well.
async fn story(world: Rc<World>) {
    let clients = (0..world.schedule.clients).map(|number| client::run(Rc::clone(&world), number));
    let burst = world.schedule.burst.map(|(at, count)| client::burst(Rc::clone(&world), at, count));
    let burst = OptionFuture::from(burst);
    let workers = (0..world.schedule.workers).map(|number| work::worker(Rc::clone(&world), number));
    join3(join_all(clients), join_all(workers), burst).await;
    let left = (world.start + FAULTY).saturating_sub(world.executor.now());
    world.executor.sleep(Duration::from_millis(left)).await;
    // Writes that were still under way have landed by then.
    world.executor.sleep(Duration::from_secs(30)).await;
    world.note("all faults are off");
    if world.schedule.restarts {
        world.stop();
        if world.schedule.missed.is_some() {
            // Long enough for two fires to be missed.
            world.executor.sleep(Duration::from_secs(150)).await;
        }
        world.restart();
    } else {
        // Longer than any breaker's pause, and the two probes after it.
        world.executor.sleep(Duration::from_secs(400)).await;
        closed(&world);
    }
    healed(&world).await;
    // A turn that was left waits for its lease and the tick after it.
    world.executor.sleep(Duration::from_secs(200)).await;
    // A schedule may have begun one just now.
    for _ in 0..20 {
        if quiet(&world) {
            break;
        }
        world.executor.sleep(Duration::from_secs(2)).await;
    }
    let items = turns(&world).await;
    items.iter().for_each(|item| world.effects.borrow_mut().tell(item));
    effects(&world);
    notes(&world, &items.iter().filter_map(noted).collect());
    folded(&world);
    approvals(&world);
    fires::fires(&world);
    world.stop();
}

/// Looks now and then at what must hold at any time.
async fn looks(world: Rc<World>) {
    while world.is_faulty() {
        world.executor.sleep(Duration::from_secs(25)).await;
        folded(&world);
    }
}

async fn crashes(world: Rc<World>) {
    for at in world.schedule.crashes.clone() {
        let wait = (world.start + at).saturating_sub(world.executor.now());
        world.executor.sleep(Duration::from_millis(wait)).await;
        world.crash();
    }
}

impl World {
    /// The node, and the group of its tasks; `None` while it is down.
    pub(crate) fn node(&self) -> Option<(Node<Machine>, Group)> {
        self.node.borrow().clone()
    }

    /// How often the node has been started.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.get()
    }

    /// Milliseconds since the start.
    pub(crate) fn elapsed(&self) -> u64 {
        self.executor.now() - self.start
    }

    /// Whether things may still fail.
    pub(crate) fn is_faulty(&self) -> bool {
        // The first fire of a schedule is due only then.
        let more = if self.schedule.missed.is_some() { 25_000 } else { 0 };
        self.elapsed() < FAULTY + more
    }

    pub(crate) fn note(&self, what: impl fmt::Display) {
        self.trace.borrow_mut().push(format!("{:>6} {what}", self.elapsed()));
    }

    pub(crate) fn violation(&self, what: impl fmt::Display) {
        self.note(format_args!("VIOLATION {what}"));
        self.violations.borrow_mut().push(what.to_string());
    }

    pub(crate) fn saw(&self, what: &'static str) {
        *self.seen.borrow_mut().entry(what).or_default() += 1;
    }

    /// The provider that never fails.
    pub(crate) fn steady(&self) -> usize {
        self.schedule.providers.len().saturating_sub(1)
    }

    /// Ends all that runs on the node, at whatever point it is.
    fn stop(&self) {
        if let Some((_, group)) = self.node.borrow_mut().take() {
            self.executor.end(group);
        }
    }

    /// Ends all that runs on the node, and starts it again after a while.
    pub(crate) fn crash(self: &Rc<Self>) {
        self.stop();
        self.note("crash");
        self.saw("crashes");
        let pause = Duration::from_millis(self.choices.borrow_mut().range(0..5_000));
        let world = Rc::clone(self);
        self.executor.spawn(OUTSIDE, async move {
            world.executor.sleep(pause).await;
            world.restart();
        });
    }

    /// Starts the node on what its store has.
    fn restart(self: &Rc<Self>) {
        self.stop();
        let group = Group(self.generation.get() + 1);
        self.generation.set(group.0);
        self.calls.borrow_mut().restart(self.elapsed());
        let config = match Config::parse(&self.config(), "simulation", |_| None) {
            Ok(config) => config,
            Err(mistakes) => return self.violation(mistakes),
        };
        let node = Node::new(Machine::new(Rc::clone(self), group), config);
        let ticking = node.clone();
        let world = Rc::clone(self);
        self.executor.spawn(group, async move {
            loop {
                // A tick that fails is followed by the next.
                let _ = ticking.tick().await;
                // Triggers come late, or twice.
                let pause =
                    if world.is_faulty() { world.choices.borrow_mut().pick(&[0, 5, 20, 40], 20) } else { 20 };
                if pause == 0 {
                    let _ = futures_util::future::join(ticking.tick(), ticking.tick()).await;
                }
                world.executor.sleep(Duration::from_secs(pause.max(5))).await;
            }
        });
        self.note(format_args!("start {}", group.0));
        self.node.replace(Some((node, group)));
    }

    fn config(&self) -> String {
        let mut text =
            String::from("[agent]\nname = \"sim\"\nmodel = \"all\"\ntools = [\"outlive\", \"t\"]\n");
        text += &format!(
            "[timeouts]\nconnect = \"1s\"\nfirst_token = \"2s\"\nidle = \"3s\"\ntotal = \"{}s\"\n",
            bounded::TOTAL.as_secs()
        );
        let names: Vec<String> = (0..self.schedule.providers.len()).map(|n| format!("p{n}")).collect();
        for name in &names {
            text += &format!(
                "[[provider]]\nname = \"{name}\"\nkind = \"compatible\"\nbase_url = \"https://{name}.test/v1\"\n"
            );
        }
        let all: Vec<String> = names.iter().map(|name| format!("\"{name}/m\"")).collect();
        text += &format!("[[model]]\nname = \"all\"\ncandidates = [{}]\nattempts = 16\n", all.join(", "));
        text += "[[model]]\nname = \"alone\"\ncandidates = [\"p0/m\"]\n";
        let faulty = all.get(..self.steady()).unwrap_or_default().join(", ");
        text += &format!("[[model]]\nname = \"faulty\"\ncandidates = [{faulty}]\n");
        text += remote::SECTION;
        text += &self.schedule.missed.map(fires::section).unwrap_or_default();
        let (input, output) = budget::PRICE;
        text += &format!(
            "[[provider]]\nname = \"{PAID}\"\nkind = \"compatible\"\nbase_url = \"https://{PAID}.test/v1\"\n\
             budget = {{ limit_usd = \"{}\", per = \"month\" }}\n\
             [[model]]\nname = \"{PAID}\"\ncandidates = [\"{PAID}/m\"]\n\
             [[price]]\ncandidate = \"{PAID}/m\"\ninput = \"{input}\"\noutput = \"{output}\"\n",
            budget::LIMIT
        );
        text
    }

    fn report(&self, seed: u64) -> Report {
        let mut hasher = DefaultHasher::new();
        let trace = self.trace.take();
        trace.iter().for_each(|line| hasher.write(line.as_bytes()));
        Report {
            seed,
            schedule: self.schedule.to_string(),
            digest: hasher.finish(),
            trace,
            violations: self.violations.take(),
            seen: self.seen.take(),
        }
    }
}
