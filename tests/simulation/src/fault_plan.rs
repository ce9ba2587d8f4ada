//! Draws the faults of a run before it starts, so that the report can print them. Applies none of them.

use std::fmt;

use crate::random::Random;

/// How a provider fails. The names of the variants are part of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProviderFault {
    /// 429, with or without `retry-after`.
    Limited(Option<u64>),
    Status(u16),
    HtmlError,
    /// No connection.
    Refused,
    /// A connection without an answer and without an end.
    BlackHole,
    /// Keep-alives without content.
    KeepAlives,
    /// The same, longer than any request may take.
    KeepAlivesForever,
    /// No fault but a pause: keep-alives for seconds, then the whole answer.
    Thinks,
    EmptyBody,
    HalfJson,
    /// The connection breaks before the first content.
    CutEarly,
    /// The connection breaks after some content.
    CutMiddle,
    /// The stream ends cleanly after some content, without its last event.
    NoEnd,
    /// No more bytes after some content; the connection stays open.
    Stall,
    ErrorFirst,
    ErrorMiddle,
    /// Half an event, with the next event appended to it.
    TornEvent,
}

/// All faults but the errors within an answer, which `fault_windows` draws on its own, and the pause to think, which only
/// one provider makes.
const FAULTS: [ProviderFault; 19] = [
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
    ProviderFault::KeepAlivesForever,
    ProviderFault::EmptyBody,
    ProviderFault::HalfJson,
    ProviderFault::CutEarly,
    ProviderFault::CutMiddle,
    ProviderFault::NoEnd,
    ProviderFault::Stall,
    ProviderFault::TornEvent,
];

/// A time in which a provider fails in one way, in milliseconds from the start of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FaultWindow {
    from: u64,
    to: u64,
    fault: ProviderFault,
}

/// The faults of one run.
#[derive(Clone, Debug)]
pub(crate) struct FaultPlan {
    /// The windows of each provider, by its number. The last provider has none: it always works.
    pub(crate) providers: Vec<Vec<FaultWindow>>,
    /// Percent of store calls that fail before they persist, that fail after it, and that fail and persist later.
    pub(crate) store: [u64; 3],
    /// Percent of requests to the MCP server that fail.
    pub(crate) remote: u64,
    /// The policy for missed fires, if the configuration has a schedule.
    pub(crate) missed: Option<&'static str>,
    /// When the node crashes, in milliseconds from the start.
    pub(crate) crashes: Vec<u64>,
    /// Percent of requests whose client disconnects early.
    pub(crate) disconnect_percent: u64,
    /// Whether the node's clock stands still between I/O, as on Workers.
    pub(crate) frozen_clock: bool,
    /// How far the node's clock is off, in milliseconds.
    pub(crate) skew: u64,
    /// Largest piece of a provider's body that arrives at once, in bytes.
    pub(crate) chunk: u64,
    /// When a burst of requests is sent, in milliseconds from the start, and how many.
    pub(crate) burst: Option<(u64, u64)>,
    /// Whether the node is restarted after the faults, instead of being left time to recover.
    pub(crate) restarts_when_healthy: bool,
    /// Clients that only open turns with tools.
    pub(crate) workers: u64,
    pub(crate) clients: u64,
    pub(crate) requests: u64,
}

/// How long faults occur, in milliseconds of virtual time.
pub(crate) const FAULT_PHASE_MS: u64 = 60_000;

impl FaultPlan {
    pub(crate) fn draw(random: &mut Random) -> Self {
        // The order of the draws decides what a seed means: a change of it changes every seed.
        let faulty = random.range(1..4);
        let mut providers: Vec<Vec<FaultWindow>> = (0..faulty).map(|_| fault_windows(random)).collect();
        providers.push(Vec::new());
        let store = match random.range(0..3) {
            0 => [0, 0, 0],
            1 => [random.range(0..20), random.range(0..20), random.range(0..10)],
            _ => [random.range(0..40), random.range(0..40), random.range(0..20)],
        };
        let crashes = random.range(0..4);
        let mut crashes: Vec<u64> = (0..crashes).map(|_| random.range(0..FAULT_PHASE_MS)).collect();
        crashes.sort_unstable();
        Self {
            providers,
            store,
            crashes,
            remote: random.pick(&[0, 20, 50], 0),
            missed: random.chance(30).then(|| random.pick(&["skip", "once", "all"], "once")),
            workers: random.range(0..2),
            disconnect_percent: random.pick(&[0, 0, 10, 40], 0),
            frozen_clock: random.chance(50),
            skew: random.pick(&[0, 0, 700, 86_400_000], 0),
            chunk: random.pick(&[1, 7, 64, 64, 512, 512, 4096, 4096], 64),
            burst: random.chance(10).then(|| (random.range(0..FAULT_PHASE_MS), random.range(50..200))),
            restarts_when_healthy: random.chance(50),
            clients: random.range(1..5),
            requests: random.range(3..8),
        }
    }

    /// The fault of provider number `provider`, `at` milliseconds after the start.
    pub(crate) fn fault(&self, provider: usize, at: u64) -> Option<ProviderFault> {
        let windows = self.providers.get(provider)?;
        windows.iter().find(|window| (window.from..window.to).contains(&at)).map(|window| window.fault)
    }

    /// Whether provider number `provider` has no fault from `from` to `to`, in milliseconds after the start.
    pub(crate) fn works_throughout(&self, provider: usize, from: u64, to: u64) -> bool {
        let windows = self.providers.get(provider).map(Vec::as_slice).unwrap_or_default();
        windows.iter().all(|window| window.to <= from || to < window.from)
    }
}

fn fault_windows(random: &mut Random) -> Vec<FaultWindow> {
    let count = random.range(1..6);
    let window = |random: &mut Random| {
        let from = random.range(0..FAULT_PHASE_MS);
        let to = (from + random.range(1_000..30_000)).min(FAULT_PHASE_MS);
        let fault = match random.range(0..20) {
            0 => ProviderFault::ErrorFirst,
            1 => ProviderFault::ErrorMiddle,
            _ => random.pick(&FAULTS, ProviderFault::Refused),
        };
        FaultWindow { from, to, fault }
    };
    (0..count).map(|_| window(random)).collect()
}

impl fmt::Display for FaultPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "store faults {:?} %, MCP faults {} %, missed fires {:?}, crashes at {:?}, disconnects {} %, \
             frozen clock {}, skew {} ms, chunks of {} bytes, {} workers and {} clients with {} requests, \
             burst {:?}, restarts {}",
            self.store,
            self.remote,
            self.missed,
            self.crashes,
            self.disconnect_percent,
            self.frozen_clock,
            self.skew,
            self.chunk,
            self.workers,
            self.clients,
            self.requests,
            self.burst,
            self.restarts_when_healthy
        )?;
        for (number, windows) in self.providers.iter().enumerate() {
            for FaultWindow { from, to, fault } in windows {
                writeln!(f, "provider {number}: {fault:?} from {from} to {to} ms")?;
            }
        }
        Ok(())
    }
}
