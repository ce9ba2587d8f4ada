//! What will go wrong, decided before the run and printed with it.

use std::fmt;

use crate::random::Random;

/// How a provider misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProviderFault {
    /// 429, with or without `retry-after`.
    Limited(Option<u64>),
    Status(u16),
    HtmlError,
    /// No connection.
    Refused,
    /// Neither answer nor end.
    BlackHole,
    /// Keep-alives, and nothing else.
    KeepAlives,
    EmptyBody,
    HalfJson,
    /// The connection breaks before the first content.
    CutEarly,
    /// The connection breaks after some content.
    CutMiddle,
    /// The stream ends cleanly after some content, without its last event.
    NoEnd,
    /// The stream stops after some content, and the connection stays.
    Stall,
    ErrorFirst,
    ErrorMiddle,
    /// An event that is half of one.
    TornEvent,
}

const FAULTS: [ProviderFault; 18] = [
    ProviderFault::Limited(None),
    ProviderFault::Limited(Some(3)),
    ProviderFault::Status(500),
    ProviderFault::Status(503),
    ProviderFault::Status(529),
    ProviderFault::Status(401),
    ProviderFault::Status(404),
    ProviderFault::HtmlError,
    ProviderFault::Refused,
    ProviderFault::BlackHole,
    ProviderFault::KeepAlives,
    ProviderFault::EmptyBody,
    ProviderFault::HalfJson,
    ProviderFault::CutEarly,
    ProviderFault::CutMiddle,
    ProviderFault::NoEnd,
    ProviderFault::Stall,
    ProviderFault::TornEvent,
];

/// A time in which a provider misbehaves in one way, in milliseconds from the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    from: u64,
    to: u64,
    fault: ProviderFault,
}

/// The faults of one run.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    /// Windows of each provider. The last provider has none: it always works.
    pub(crate) providers: Vec<Vec<Window>>,
    /// Percent of store calls that fail, before and after they persisted, and that persist only later.
    pub(crate) store: [u64; 3],
    /// Percent of requests to the server of tools that fail.
    pub(crate) remote: u64,
    /// What becomes of fires that come too late, if there is a schedule.
    pub(crate) missed: Option<&'static str>,
    /// When the node crashes and starts again.
    pub(crate) crashes: Vec<u64>,
    /// Percent of clients that leave early.
    pub(crate) leavers: u64,
    /// Whether the clock stands still between I/O, as on Workers.
    pub(crate) frozen_clock: bool,
    /// How far the node's clock is off, in milliseconds.
    pub(crate) skew: u64,
    /// Largest piece of a body that arrives at once, in bytes.
    pub(crate) chunk: u64,
    /// When how many requests come at once.
    pub(crate) burst: Option<(u64, u64)>,
    /// Whether the node is started anew when all faults are over.
    pub(crate) restarts: bool,
    /// Clients that have nothing but work done.
    pub(crate) workers: u64,
    pub(crate) clients: u64,
    pub(crate) requests: u64,
}

/// How long faults last, in milliseconds of virtual time.
pub(crate) const FAULTY: u64 = 60_000;

impl Schedule {
    pub(crate) fn draw(random: &mut Random) -> Self {
        let faulty = random.range(1..4);
        let mut providers: Vec<Vec<Window>> = (0..faulty).map(|_| windows(random)).collect();
        providers.push(Vec::new());
        let store = match random.range(0..3) {
            0 => [0, 0, 0],
            1 => [random.range(0..20), random.range(0..20), random.range(0..10)],
            _ => [random.range(0..40), random.range(0..40), random.range(0..20)],
        };
        let crashes = random.range(0..4);
        let mut crashes: Vec<u64> = (0..crashes).map(|_| random.range(0..FAULTY)).collect();
        crashes.sort_unstable();
        Self {
            providers,
            store,
            crashes,
            remote: random.pick(&[0, 20, 50], 0),
            missed: random.chance(30).then(|| random.pick(&["skip", "once", "all"], "once")),
            workers: random.range(0..2),
            leavers: random.pick(&[0, 0, 10, 40], 0),
            frozen_clock: random.chance(50),
            skew: random.pick(&[0, 0, 700, 86_400_000], 0),
            chunk: random.pick(&[1, 7, 64, 64, 512, 512, 4096, 4096], 64),
            burst: random.chance(10).then(|| (random.range(0..FAULTY), random.range(50..200))),
            restarts: random.chance(50),
            clients: random.range(1..5),
            requests: random.range(3..8),
        }
    }

    /// How provider number `provider` misbehaves `at` milliseconds after the start.
    pub(crate) fn fault(&self, provider: usize, at: u64) -> Option<ProviderFault> {
        let windows = self.providers.get(provider)?;
        windows.iter().find(|window| (window.from..window.to).contains(&at)).map(|window| window.fault)
    }

    /// Whether provider number `provider` works all the time between the two moments.
    pub(crate) fn is_well(&self, provider: usize, from: u64, to: u64) -> bool {
        let windows = self.providers.get(provider).map(Vec::as_slice).unwrap_or_default();
        windows.iter().all(|window| window.to <= from || to < window.from)
    }
}

fn windows(random: &mut Random) -> Vec<Window> {
    let count = random.range(1..6);
    let window = |random: &mut Random| {
        let from = random.range(0..FAULTY);
        let to = (from + random.range(1_000..30_000)).min(FAULTY);
        let fault = match random.range(0..20) {
            0 => ProviderFault::ErrorFirst,
            1 => ProviderFault::ErrorMiddle,
            _ => random.pick(&FAULTS, ProviderFault::Refused),
        };
        Window { from, to, fault }
    };
    (0..count).map(|_| window(random)).collect()
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "store faults {:?} %, faults of tools {} %, missed fires {:?}, crashes at {:?}, leavers {} %, frozen clock {}, skew {} ms, chunks of {} bytes, \
             {} workers and {} clients with {} requests, burst {:?}, restarts {}",
            self.store,
            self.remote,
            self.missed,
            self.crashes,
            self.leavers,
            self.frozen_clock,
            self.skew,
            self.chunk,
            self.workers,
            self.clients,
            self.requests,
            self.burst,
            self.restarts
        )?;
        for (number, windows) in self.providers.iter().enumerate() {
            for Window { from, to, fault } in windows {
                writeln!(f, "provider {number}: {fault:?} from {from} to {to} ms")?;
            }
        }
        Ok(())
    }
}
