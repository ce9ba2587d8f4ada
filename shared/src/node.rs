//! Defines a running node: its platform, its configuration, and its state in memory as one value. What it does is
//! decided by the floors above.

mod directory;
mod sessions;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    rc::Rc,
    time::Duration,
};

use futures_util::FutureExt;

use crate::{
    config::Config,
    deadlines::Host,
    entry::{LogId, Origin},
    hex::hex,
    ledger::Ledger,
    limits::Limiter,
    log::View,
    metrics::Metrics,
    model::Candidate,
    platform::Platform,
    provider::Quirks,
    routing::{
        health::{CandidateHealth, Health},
        hedge::HedgeBudget,
        retry::RetryBudget,
        warm::WarmCaches,
    },
    runs::Runs,
    session::{Cache, schedule::Directory},
};

/// A handle to a node; clones share the node.
///
/// It is `!Send`: one thread runs it, and shells reach it from others by channels.
pub struct Node<P>(Rc<Inner<P>>);

impl<P> Clone for Node<P> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

struct Inner<P> {
    platform: P,
    config: Config,
    origin: Origin,
    log: LogId,
    health: RefCell<Health>,
    retries: RefCell<RetryBudget>,
    warm_caches: RefCell<WarmCaches>,
    ledger: Rc<RefCell<Ledger>>,
    limiter: Rc<RefCell<Limiter>>,
    metrics: RefCell<Metrics>,
    hedges: RefCell<HedgeBudget>,
    quirks: RefCell<BTreeMap<Candidate, Rc<Quirks>>>,
    sessions: RefCell<Cache>,
    directory: RefCell<View<Directory>>,
    runs: Runs,
    draining: Cell<bool>,
    has_taken_over: Cell<bool>,
    failed_wakes: RefCell<BTreeSet<LogId>>,
    /// How many pieces of long work were done.
    pieces_of_work: Cell<u64>,
}

/// Most candidates whose quirks are remembered: more than a configuration has, but callers may name any number with a
/// wildcard.
const MAX_QUIRKY_CANDIDATES: usize = 1_024;

impl<P: Platform> Host for Node<P> {
    type Platform = P;

    fn platform(&self) -> &P {
        &self.0.platform
    }
}

impl<P: Platform> Node<P> {
    /// A new node with empty state.
    pub fn new(platform: P, config: Config) -> Self {
        let origin = Origin { node: config.node.clone(), epoch: 0 };
        let log = LogId::derive("node", &[config.node.as_bytes()]);
        let listed = config.models.iter().flat_map(|model| model.candidates.iter().cloned());
        let health = Health::new(listed);
        Self(Rc::new(Inner {
            platform,
            config,
            origin,
            log,
            health: RefCell::new(health),
            retries: RefCell::default(),
            warm_caches: RefCell::default(),
            ledger: Rc::default(),
            limiter: Rc::default(),
            metrics: RefCell::default(),
            hedges: RefCell::default(),
            quirks: RefCell::default(),
            sessions: RefCell::default(),
            directory: RefCell::default(),
            runs: Runs::default(),
            draining: Cell::new(false),
            has_taken_over: Cell::new(false),
            failed_wakes: RefCell::default(),
            pieces_of_work: Cell::new(0),
        }))
    }

    /// Makes the node report that it is not ready, so that load balancers send it no new work.
    pub fn drain(&self) {
        self.0.draining.set(true);
    }

    /// Whether this process knows which logs the one before it left.
    pub(crate) fn has_taken_over(&self) -> &Cell<bool> {
        &self.0.has_taken_over
    }

    /// Logs to wake once more, because the store did not answer while they were woken.
    pub(crate) fn failed_wakes(&self) -> &RefCell<BTreeSet<LogId>> {
        &self.0.failed_wakes
    }

    /// Whether [`Node::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.0.draining.get()
    }

    /// The health of a candidate as this instance observed it.
    pub fn candidate_health(&self, candidate: &Candidate) -> CandidateHealth {
        self.health().borrow().candidate(candidate)
    }

    /// The platform.
    pub fn platform(&self) -> &P {
        &self.0.platform
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The node's own log, for ticks.
    pub fn log(&self) -> LogId {
        self.0.log
    }

    /// The origin of the entries that it writes.
    pub fn origin(&self) -> &Origin {
        &self.0.origin
    }

    pub(crate) fn health(&self) -> &RefCell<Health> {
        &self.0.health
    }

    pub(crate) fn retries(&self) -> &RefCell<RetryBudget> {
        &self.0.retries
    }

    pub(crate) fn warm_caches(&self) -> &RefCell<WarmCaches> {
        &self.0.warm_caches
    }

    pub(crate) fn ledger(&self) -> &Rc<RefCell<Ledger>> {
        &self.0.ledger
    }

    pub(crate) fn limiter(&self) -> &Rc<RefCell<Limiter>> {
        &self.0.limiter
    }

    pub(crate) fn metrics(&self) -> &RefCell<Metrics> {
        &self.0.metrics
    }

    pub(crate) fn hedges(&self) -> &RefCell<HedgeBudget> {
        &self.0.hedges
    }

    /// What the server of a candidate is known to refuse.
    pub(crate) fn quirks(&self, candidate: &Candidate) -> Rc<Quirks> {
        self.0.quirks.borrow().get(candidate).map(Rc::clone).unwrap_or_default()
    }

    /// Remembers what the server of a candidate refuses.
    pub(crate) fn remember_quirks(&self, candidate: &Candidate, quirks: Quirks) {
        let mut known = self.0.quirks.borrow_mut();
        if known.len() < MAX_QUIRKY_CANDIDATES || known.contains_key(candidate) {
            known.insert(candidate.clone(), Rc::new(quirks));
        }
    }

    /// The turns that this instance runs.
    pub(crate) fn runs(&self) -> &Runs {
        &self.0.runs
    }

    /// Does long work in pieces, and lets other requests run between them. `work` waits for nothing: it is pending only
    /// to pause.
    pub(crate) async fn in_pieces<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let pieces = &self.0.pieces_of_work;
        if let Some(done) = work.as_mut().now_or_never() {
            return done;
        }
        loop {
            let pieces_before = pieces.get();
            self.platform().sleep(Duration::ZERO).await;
            // Of several long works, the others wait: else a request would wait for one piece of each.
            if pieces.get() == pieces_before {
                pieces.set(pieces_before.wrapping_add(1));
                if let Some(done) = work.as_mut().now_or_never() {
                    return done;
                }
            }
        }
    }

    /// A random number from the platform.
    pub(crate) fn random_u32(&self) -> u32 {
        let mut bytes = [0; 4];
        self.platform().random(&mut bytes);
        u32::from_be_bytes(bytes)
    }

    /// A random span id of a trace: 16 hexadecimal digits, not all zero.
    pub(crate) fn random_span_id(&self) -> String {
        let [first, rest @ ..] = self.random_bytes();
        // An id of zeros is invalid in a trace.
        let span = [&[first | 1], rest.get(..7).unwrap_or_default()].concat();
        hex(&span)
    }

    /// An unguessable id: 32 hexadecimal digits.
    pub(crate) fn random_id(&self) -> String {
        hex(&self.random_bytes())
    }

    pub(crate) fn random_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.platform().random(&mut bytes);
        bytes
    }
}
