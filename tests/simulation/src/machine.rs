//! The simulated machine: a store that fails, a network that fails, a clock that is off.

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
    provider::{self, Answer},
    remote,
    world::{OUTSIDE, World},
};

/// A machine that the node runs on, from its start to its crash.
pub(crate) struct Machine {
    store: Disk,
    http: Network,
    clock: Rc<Clock>,
    world: Rc<World>,
    group: Group,
}

impl Machine {
    pub(crate) fn new(world: Rc<World>, group: Group) -> Self {
        // Each start may find the clock elsewhere, also further back.
        let skew = if world.choices.borrow_mut().chance(50) { world.schedule.skew } else { 0 };
        let clock = Rc::new(Clock { world: Rc::clone(&world), skew, seen: Cell::new(world.executor.now()) });
        let store = Disk { world: Rc::clone(&world), clock: Rc::clone(&clock) };
        let http = Network { world: Rc::clone(&world), clock: Rc::clone(&clock) };
        Self { store, http, clock, world, group }
    }
}

impl Platform for Machine {
    type Store = Disk;
    type Http = Network;
    type Signer = NoSigner;

    fn store(&self) -> &Disk {
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
        self.world.ids.borrow_mut().fill(out);
    }

    fn log(&self, record: &Record) {
        self.world.note(record.line());
    }

    async fn sleep(&self, duration: Duration) {
        self.world.executor.sleep(duration).await;
        self.clock.look();
    }

    fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
        self.world.executor.spawn(self.group, work);
    }

    async fn summon(&self, _: LogId) -> bool {
        false
    }

    fn is_alone(&self) -> bool {
        true
    }
}

/// What the node takes for the time.
pub(crate) struct Clock {
    world: Rc<World>,
    skew: u64,
    seen: Cell<u64>,
}

impl Clock {
    fn now(&self) -> Timestamp {
        if !self.world.schedule.frozen_clock {
            self.look();
        }
        Timestamp(self.seen.get() + self.skew)
    }

    /// I/O has come to its end, so a frozen clock moves.
    pub(crate) fn look(&self) {
        self.seen.set(self.world.executor.now());
    }
}

/// A store whose calls take time and fail.
pub(crate) struct Disk {
    world: Rc<World>,
    clock: Rc<Clock>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Before,
    After,
    /// The call fails, and what it wrote appears later.
    Late,
}

impl Disk {
    async fn fault(&self) -> Fault {
        let (pause, fault) = {
            let mut random = self.world.disk.borrow_mut();
            let pause = random.range(0..20);
            let [before, after, late] =
                if self.world.is_faulty() { self.world.schedule.store } else { [0; 3] };
            let drawn = random.range(0..100);
            let fault = match drawn {
                _ if drawn < before => Fault::Before,
                _ if drawn < before + after => Fault::After,
                _ if drawn < before + after + late => Fault::Late,
                _ => Fault::None,
            };
            (pause, fault)
        };
        self.world.executor.sleep(Duration::from_millis(pause)).await;
        self.clock.look();
        fault
    }

    async fn read_fault(&self) -> Result<(), StoreError> {
        match self.fault().await {
            Fault::None => Ok(()),
            Fault::Before | Fault::After | Fault::Late => Err(StoreError::Unavailable("simulated".into())),
        }
    }
}

impl Store for Disk {
    async fn append(&self, batch: &Batch) -> Result<(), AppendError> {
        let lost = || Err(AppendError::Unavailable("simulated".into()));
        match self.fault().await {
            Fault::None => {
                self.world.store.append(batch).await?;
                // A note is written and told of within moments, so no other crash would come in between.
                let notes = batch.entries().any(|entry| entry.header().kind == Kind::NOTED);
                if notes && self.world.is_faulty() && self.world.disk.borrow_mut().chance(30) {
                    self.world.saw("deaths after a note");
                    let dying = Rc::clone(&self.world);
                    self.world.executor.spawn(OUTSIDE, async move { dying.crash() });
                    return std::future::pending().await;
                }
                Ok(())
            }
            Fault::Before => lost(),
            Fault::After => {
                self.world.saw("appends with a lost answer");
                self.world.store.append(batch).await?;
                lost()
            }
            Fault::Late => {
                self.world.saw("appends that landed late");
                let (world, batch) = (Rc::clone(&self.world), batch.clone());
                let pause = self.world.disk.borrow_mut().range(0..2_000);
                self.world.executor.spawn(OUTSIDE, async move {
                    world.executor.sleep(Duration::from_millis(pause)).await;
                    // It may find that it has been overtaken.
                    let _ = world.store.append(&batch).await;
                });
                lost()
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
        if matches!(fault, Fault::None | Fault::After) {
            self.world.store.erase(log, origin, from, to).await?;
        }
        if fault == Fault::None { Ok(()) } else { Err(StoreError::Unavailable("simulated".into())) }
    }
}

/// The way to the providers, and to the server of tools.
pub(crate) struct Network {
    world: Rc<World>,
    clock: Rc<Clock>,
}

impl Http for Network {
    type Body = Answer;

    async fn send(&self, request: Request<Body>, connect: Duration) -> Result<Response<Answer>, HttpError> {
        let answer = match request.uri().host() {
            Some(remote::HOST) => remote::answer(&self.world, &self.clock, request).await,
            _ => provider::answer(&self.world, &self.clock, request, connect).await,
        };
        self.clock.look();
        answer
    }
}
