//! Implements the node's ports, with a store and a network that fail and a clock that is wrong. Knows no clients.

use std::{cell::Cell, rc::Rc, time::Duration};

use futures_util::future::LocalBoxFuture;
use http::{Request, Response};
use outlive::{
    body::Body,
    entry::{Batch, Bucket, Change, Cursor, Entry, Head, Kind, LogId, Origin, Seq},
    platform::{AppendError, Http, HttpError, NoSigner, Platform, ReadLimit, Store, StoreError},
    record::Record,
    time::Timestamp,
};

use crate::{
    executor::Group,
    provider::{self, AnswerBody},
    remote,
    world::{OUTSIDE, World},
};

/// The platform of one start of the node, until its crash.
pub(crate) struct Machine {
    store: FaultyStore,
    http: Network,
    clock: Rc<Clock>,
    world: Rc<World>,
    group: Group,
}

impl Machine {
    pub(crate) fn new(world: Rc<World>, group: Group) -> Self {
        // Each start may find another clock, also one that went back.
        let skew = if world.client_random.borrow_mut().chance(50) { world.plan.skew } else { 0 };
        let clock =
            Rc::new(Clock { world: Rc::clone(&world), skew, read_at: Cell::new(world.executor.now()) });
        let store = FaultyStore { world: Rc::clone(&world), clock: Rc::clone(&clock) };
        let http = Network { world: Rc::clone(&world), clock: Rc::clone(&clock) };
        Self { store, http, clock, world, group }
    }

    /// A request or a tick has arrived. A frozen clock shows the time of that, too: on Workers each event begins with
    /// the present time.
    pub(crate) fn begin_event(&self) {
        self.clock.refresh();
    }
}

impl Platform for Machine {
    type Store = FaultyStore;
    type Http = Network;
    type Signer = NoSigner;

    fn store(&self) -> &FaultyStore {
        &self.store
    }

    fn http(&self) -> &Network {
        &self.http
    }

    fn signer(&self) -> &NoSigner {
        &NoSigner
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn random(&self, out: &mut [u8]) {
        self.world.node_random.borrow_mut().fill(out);
    }

    fn log(&self, record: &Record) {
        self.world.trace(record.line());
    }

    async fn sleep(&self, duration: Duration) {
        self.world.executor.sleep(duration).await;
        self.clock.refresh();
    }

    fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
        self.world.executor.spawn(self.group, work);
    }

    async fn wake_elsewhere(&self, _: LogId) -> bool {
        false
    }

    fn is_only_instance(&self) -> bool {
        true
    }
}

/// The node's clock.
pub(crate) struct Clock {
    world: Rc<World>,
    skew: u64,
    /// When the node's last I/O ended, or its last event arrived.
    read_at: Cell<u64>,
}

impl Clock {
    fn now(&self) -> Timestamp {
        if !self.world.plan.frozen_clock {
            self.refresh();
        }
        Timestamp(self.read_at.get() + self.skew)
    }

    /// Moves a frozen clock: some I/O has ended.
    pub(crate) fn refresh(&self) {
        self.read_at.set(self.world.executor.now());
    }
}

/// The run's one store, with calls that take time and fail.
pub(crate) struct FaultyStore {
    world: Rc<World>,
    clock: Rc<Clock>,
}

/// How a call of the store fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StoreFault {
    None,
    /// Nothing is written.
    BeforeWrite,
    /// It is written, and the call fails.
    AfterWrite,
    /// The call fails, and it is written later.
    Late,
}

impl FaultyStore {
    async fn fault(&self) -> StoreFault {
        let (pause, fault) = {
            let mut random = self.world.store_random.borrow_mut();
            let pause = random.range(0..20);
            let [before, after, late] =
                if self.world.faults_are_on() { self.world.plan.store } else { [0; 3] };
            let drawn = random.range(0..100);
            let fault = match drawn {
                _ if drawn < before => StoreFault::BeforeWrite,
                _ if drawn < before + after => StoreFault::AfterWrite,
                _ if drawn < before + after + late => StoreFault::Late,
                _ => StoreFault::None,
            };
            (pause, fault)
        };
        self.world.executor.sleep(Duration::from_millis(pause)).await;
        self.clock.refresh();
        fault
    }

    async fn read_fault(&self) -> Result<(), StoreError> {
        match self.fault().await {
            StoreFault::None => Ok(()),
            StoreFault::BeforeWrite | StoreFault::AfterWrite | StoreFault::Late => {
                Err(StoreError::Unavailable("simulated".into()))
            }
        }
    }
}

impl Store for FaultyStore {
    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        let failed = || Err(AppendError::Unavailable("simulated".into()));
        match self.fault().await {
            StoreFault::None => {
                self.world.store.append(batch).await?;
                // The planned crashes would hardly ever fall between the write of a note and the end of its call.
                let notes = batch.entries().any(|entry| entry.header().kind == Kind::NOTED);
                if notes && self.world.faults_are_on() && self.world.store_random.borrow_mut().chance(30) {
                    self.world.count("crashes after a note");
                    let crashing = Rc::clone(&self.world);
                    self.world.executor.spawn(OUTSIDE, async move { crashing.crash() });
                    return std::future::pending().await;
                }
                Ok(())
            }
            StoreFault::BeforeWrite => failed(),
            StoreFault::AfterWrite => {
                self.world.count("appends that failed after they persisted");
                self.world.store.append(batch).await?;
                failed()
            }
            StoreFault::Late => {
                self.world.count("appends that failed and persisted later");
                let (world, batch) = (Rc::clone(&self.world), batch.clone());
                let pause = self.world.store_random.borrow_mut().range(0..2_000);
                self.world.executor.spawn(OUTSIDE, async move {
                    world.executor.sleep(Duration::from_millis(pause)).await;
                    // A conflict is right here: another append may have come first.
                    let _ = world.store.append(&batch).await;
                });
                failed()
            }
        }
    }

    async fn read(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        limit: ReadLimit,
    ) -> Result<Vec<Entry>, StoreError> {
        self.read_fault().await?;
        self.world.store.read(log, origin, from, limit).await
    }

    async fn heads(&self, log: LogId) -> Result<Vec<Head>, StoreError> {
        self.read_fault().await?;
        self.world.store.heads(log).await
    }

    async fn changes(&self, bucket: Bucket, after: Cursor, limit: usize) -> Result<Vec<Change>, StoreError> {
        self.read_fault().await?;
        self.world.store.changes(bucket, after, limit).await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LogId>, StoreError> {
        self.read_fault().await?;
        self.world.store.due(now, limit).await
    }

    async fn erase(&self, log: LogId, origin: &Origin, from: Seq, to: Seq) -> Result<(), StoreError> {
        let fault = self.fault().await;
        if matches!(fault, StoreFault::None | StoreFault::AfterWrite) {
            self.world.store.erase(log, origin, from, to).await?;
        }
        if fault == StoreFault::None { Ok(()) } else { Err(StoreError::Unavailable("simulated".into())) }
    }
}

/// The connections to the providers and to the MCP server.
pub(crate) struct Network {
    world: Rc<World>,
    clock: Rc<Clock>,
}

impl Http for Network {
    type Body = AnswerBody;

    async fn send(
        &self,
        request: Request<Body>,
        connect: Duration,
    ) -> Result<Response<AnswerBody>, HttpError> {
        let answer = match request.uri().host() {
            Some(remote::HOST) => remote::answer(&self.world, &self.clock, request).await,
            _ => provider::answer(&self.world, &self.clock, request, connect).await,
        };
        self.clock.refresh();
        answer
    }
}
