//! Runs one seed: a node, its providers and its clients. The invariants decide what is wrong.

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
    fault_plan::{FAULT_PHASE_MS, FaultPlan},
    invariants::{
        Acknowledged, Approvals, Effects, approvals,
        bounded::{self, Calls},
        breakers_closed,
        budget::{self, Budget},
        completed_note, effects, fires, folded, healed, notes,
        turns::{no_turn_is_open, turns},
    },
    machine::Machine,
    provider::{PRICED, THINKER},
    random::Random,
    remote,
    turns::Turn,
    work,
};

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The faults that the seed drew.
    pub plan: String,
    /// What happened, in order.
    pub trace: Vec<String>,
    /// A digest of the trace.
    pub digest: u64,
    /// The violations of invariants.
    pub violations: Vec<String>,
    /// How often each event was counted: an invariant is only tested by a run in which its events happen.
    pub counts: BTreeMap<&'static str, u64>,
}

/// What the tasks of a run share. Each source of random numbers is a stream of its own.
pub(crate) struct World {
    pub(crate) executor: Executor,
    pub(crate) plan: FaultPlan,
    pub(crate) store: MemoryStore,
    /// Pauses of providers, and how they write.
    pub(crate) network_random: RefCell<Random>,
    /// Pauses and faults of the store.
    pub(crate) store_random: RefCell<Random>,
    /// What the node draws itself.
    pub(crate) node_random: RefCell<Random>,
    /// Decisions of clients, and times of crashes and ticks.
    pub(crate) client_random: RefCell<Random>,
    /// Pauses and faults of the MCP server.
    pub(crate) mcp_random: RefCell<Random>,
    /// Ids and arguments of calls, and crashes during model calls.
    pub(crate) model_random: RefCell<Random>,
    /// What the invariants draw.
    pub(crate) check_random: RefCell<Random>,
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
    counts: RefCell<BTreeMap<&'static str, u64>>,
}

/// The group of the tasks that do not end with the node.
pub(crate) const OUTSIDE: Group = Group(0);

/// The virtual time at the start: no round number, so that a clock of zero is noticed.
const START_MS: u64 = 1_790_000_000_123;

/// Runs one seed.
pub fn run(seed: u64) -> Report {
    let plan = FaultPlan::draw(&mut Random::new(seed, 0));
    let world = Rc::new(World {
        executor: Executor::new(Random::new(seed, 1), START_MS),
        store: MemoryStore::default(),
        network_random: RefCell::new(Random::new(seed, 2)),
        store_random: RefCell::new(Random::new(seed, 3)),
        node_random: RefCell::new(Random::new(seed, 4)),
        client_random: RefCell::new(Random::new(seed, 5)),
        mcp_random: RefCell::new(Random::new(seed, 6)),
        model_random: RefCell::new(Random::new(seed, 7)),
        check_random: RefCell::new(Random::new(seed, 8)),
        acknowledged: RefCell::default(),
        budget: RefCell::default(),
        calls: RefCell::default(),
        turns: RefCell::default(),
        effects: RefCell::default(),
        approvals: RefCell::default(),
        node: RefCell::default(),
        generation: Cell::new(0),
        start: START_MS,
        trace: RefCell::default(),
        violations: RefCell::default(),
        counts: RefCell::default(),
        plan,
    });
    world.restart();
    world.executor.spawn(OUTSIDE, crash_as_planned(Rc::clone(&world)));
    world.executor.spawn(OUTSIDE, check_periodically(Rc::clone(&world)));
    world.executor.spawn(OUTSIDE, run_phases(Rc::clone(&world)));
    if let Err(why) = world.executor.run() {
        world.violation(format!("the run does not end: {why}"));
    }
    world.report(seed)
}

/// Runs the clients under faults, then without faults, and checks the invariants at the end.
async fn run_phases(world: Rc<World>) {
    let clients = (0..world.plan.clients).map(|number| client::run(Rc::clone(&world), number));
    let burst = world.plan.burst.map(|(at, count)| client::burst(Rc::clone(&world), at, count));
    let burst = OptionFuture::from(burst);
    let workers = (0..world.plan.workers).map(|number| work::worker(Rc::clone(&world), number));
    join3(join_all(clients), join_all(workers), burst).await;
    let remaining = (world.start + FAULT_PHASE_MS).saturating_sub(world.executor.now());
    world.executor.sleep(Duration::from_millis(remaining)).await;
    // Late appends have persisted by then.
    world.executor.sleep(Duration::from_secs(30)).await;
    world.trace("all faults are off");
    if world.plan.restarts_when_healthy {
        world.stop();
        if world.plan.missed.is_some() {
            // Long enough for two missed fires.
            world.executor.sleep(Duration::from_secs(150)).await;
        }
        world.restart();
    } else {
        // Longer than the pause of any breaker, and the tick with the probes after it.
        world.executor.sleep(Duration::from_secs(60)).await;
        breakers_closed(&world);
    }
    // `breakers_closed` comes before it: the requests of `healed` would close breakers themselves.
    healed(&world).await;
    // A turn whose process died is resumed by the first tick after its lease.
    world.executor.sleep(Duration::from_secs(200)).await;
    // A fire may have opened a turn just now.
    for _ in 0..20 {
        if no_turn_is_open(&world) {
            break;
        }
        world.executor.sleep(Duration::from_secs(2)).await;
    }
    // The statuses of the calls are in the turns, so the effects are checked after these.
    let items = turns(&world).await;
    items.iter().for_each(|item| world.effects.borrow_mut().report(item));
    effects(&world);
    notes(&world, &items.iter().filter_map(completed_note).collect());
    folded(&world);
    approvals(&world);
    fires::fires(&world);
    world.stop();
}

/// Checks the invariant that holds at any time, every 25 seconds.
async fn check_periodically(world: Rc<World>) {
    while world.faults_are_on() {
        world.executor.sleep(Duration::from_secs(25)).await;
        folded(&world);
    }
}

/// Crashes the node at the planned times.
async fn crash_as_planned(world: Rc<World>) {
    for at in world.plan.crashes.clone() {
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

    /// The number of the node's last start.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.get()
    }

    /// Milliseconds since the start of the run.
    pub(crate) fn elapsed(&self) -> u64 {
        self.executor.now() - self.start
    }

    /// Whether faults still occur.
    pub(crate) fn faults_are_on(&self) -> bool {
        // The first fire of a schedule is due 60 s after the start, so its faults last longer.
        let more = if self.plan.missed.is_some() { 25_000 } else { 0 };
        self.elapsed() < FAULT_PHASE_MS + more
    }

    /// Adds a line to the trace. Two runs of one seed must add the same lines.
    pub(crate) fn trace(&self, what: impl fmt::Display) {
        self.trace.borrow_mut().push(format!("{:>6} {what}", self.elapsed()));
    }

    /// Records that an invariant does not hold.
    pub(crate) fn violation(&self, what: impl fmt::Display) {
        self.trace(format_args!("VIOLATION {what}"));
        self.violations.borrow_mut().push(what.to_string());
    }

    /// Counts an event, for the report.
    pub(crate) fn count(&self, what: &'static str) {
        *self.counts.borrow_mut().entry(what).or_default() += 1;
    }

    /// The number of the provider that never fails.
    pub(crate) fn reliable_provider(&self) -> usize {
        self.plan.providers.len().saturating_sub(1)
    }

    /// Stops the node: drops all its tasks, at whatever await they are.
    fn stop(&self) {
        let running = self.node.borrow_mut().take();
        if let Some((_, group)) = running {
            self.executor.end(group);
            self.budget.borrow_mut().crash(self.executor.now());
        }
    }

    /// Stops the node, and starts it again after a while.
    pub(crate) fn crash(self: &Rc<Self>) {
        self.stop();
        self.trace("crash");
        self.count("crashes");
        let pause = Duration::from_millis(self.client_random.borrow_mut().range(0..5_000));
        let world = Rc::clone(self);
        self.executor.spawn(OUTSIDE, async move {
            world.executor.sleep(pause).await;
            world.restart();
        });
    }

    /// Starts the node over the entries of the store.
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
        let ticked_node = node.clone();
        let world = Rc::clone(self);
        self.executor.spawn(group, async move {
            loop {
                // A failed tick needs no retry: the next one follows.
                ticked_node.platform().begin_event();
                let _ = ticked_node.tick().await;
                // Under faults the trigger comes late, or twice at once.
                let pause = if world.faults_are_on() {
                    world.client_random.borrow_mut().pick(&[0, 5, 20, 40], 20)
                } else {
                    20
                };
                if pause == 0 {
                    let _ = futures_util::future::join(ticked_node.tick(), ticked_node.tick()).await;
                }
                world.executor.sleep(Duration::from_secs(pause.max(5))).await;
            }
        });
        self.trace(format_args!("start {}", group.0));
        self.node.replace(Some((node, group)));
    }

    /// The node's configuration. The model `alone` has one unreliable candidate, `faulty` has all of these, and `all`
    /// has the reliable one besides. Those of `all` may think, so that faults last longer for it.
    fn config(&self) -> String {
        let mut text =
            String::from("[agent]\nname = \"sim\"\nmodel = \"all\"\ntools = [\"outlive\", \"t\"]\n");
        text += &format!(
            "[timeouts]\nconnect = \"1s\"\nfirst_token = \"2s\"\nthinking = \"10s\"\nidle = \"3s\"\ntotal = \"{}s\"\n",
            bounded::TOTAL.as_secs()
        );
        let names: Vec<String> = (0..self.plan.providers.len()).map(|n| format!("p{n}")).collect();
        for name in &names {
            text += &format!(
                "[[provider]]\nname = \"{name}\"\nkind = \"compatible\"\nbase_url = \"https://{name}.test/v1\"\n"
            );
        }
        let all: Vec<String> = names.iter().map(|name| format!("\"{name}/m\"")).collect();
        text += &format!(
            "[[model]]\nname = \"all\"\ncandidates = [{}]\nattempts = 16\nthinks = true\n",
            all.join(", ")
        );
        text += &format!(
            "[[provider]]\nname = \"{THINKER}\"\nkind = \"compatible\"\nbase_url = \"https://{THINKER}.test/v1\"\n\
             [[model]]\nname = \"{THINKER}\"\ncandidates = [\"{THINKER}/m\"]\nthinks = true\n"
        );
        text += "[[model]]\nname = \"alone\"\ncandidates = [\"p0/m\"]\n";
        let faulty = all.get(..self.reliable_provider()).unwrap_or_default().join(", ");
        text += &format!("[[model]]\nname = \"faulty\"\ncandidates = [{faulty}]\n");
        text += remote::CONFIG_SECTION;
        text += &self.plan.missed.map(fires::config_section).unwrap_or_default();
        let (input, output) = budget::PRICE;
        text += &format!(
            "[[provider]]\nname = \"{PRICED}\"\nkind = \"compatible\"\nbase_url = \"https://{PRICED}.test/v1\"\n\
             budget = {{ limit_usd = \"{}\", per = \"month\" }}\n\
             [[model]]\nname = \"{PRICED}\"\ncandidates = [\"{PRICED}/m\"]\n\
             [[price]]\ncandidate = \"{PRICED}/m\"\ninput = \"{input}\"\noutput = \"{output}\"\n",
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
            plan: self.plan.to_string(),
            digest: hasher.finish(),
            trace,
            violations: self.violations.take(),
            counts: self.counts.take(),
        }
    }
}
