//! Clock, chance and sleep of an isolate.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use outlive::{
    platform::{NoSigner, Platform, Timestamp},
    record::Record,
    session::entry::LogId,
};
use wasm_bindgen::{JsValue, prelude::wasm_bindgen};
use worker::{
    console_log,
    js_sys::{
        Date, Function, Promise,
        futures::{JsFuture, spawn_local},
    },
};

use crate::{
    http::HttpClient,
    node_store::{LogStore, NodeStore},
};

/// An isolate, with the store of its node.
pub(crate) struct Machine {
    store: NodeStore,
}

impl Machine {
    /// An isolate whose node stores its logs in `store`.
    pub(crate) fn new(store: NodeStore) -> Self {
        Self { store }
    }
}

impl Platform for Machine {
    type Store = NodeStore;
    type Http = HttpClient;
    type Signer = NoSigner;

    fn store(&self) -> &NodeStore {
        &self.store
    }

    fn http(&self) -> &HttpClient {
        &HttpClient
    }

    fn signer(&self) -> &NoSigner {
        &NoSigner
    }

    fn now(&self) -> Timestamp {
        Timestamp(Date::now() as u64)
    }

    fn random(&self, out: &mut [u8]) {
        out.chunks_mut(MOST_RANDOM).for_each(random_values);
    }

    fn log(&self, record: &Record) {
        console_log!("{}", record.line());
    }

    async fn sleep(&self, duration: Duration) {
        sleep(duration).await;
    }

    /// An object stays while anything is pending in it; its alarm is the net.
    fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
        spawn_local(work);
    }

    /// An object works on its own log by itself.
    async fn summon(&self, log: LogId) -> bool {
        match self.store.store_of(log) {
            LogStore::Own(_) => false,
            LogStore::Remote(remote) => remote.wake(log).await,
        }
    }

    /// There is one object for each log, and it is asked nothing twice at once.
    fn is_alone(&self) -> bool {
        true
    }
}

/// Resolves after `duration`. Dropping it clears the timer.
///
/// Not `worker::Delay`: that wakes only the task that polled it first, while a body's timer outlives the pull it was
/// set in.
pub(crate) async fn sleep(duration: Duration) {
    let mut left = duration.as_nanos().div_ceil(1_000_000);
    loop {
        let millis = left.min(LONGEST_TIMER);
        let mut timer = Timer(JsValue::UNDEFINED);
        let rings = Promise::new(&mut |resolve, _| timer.0 = set_timeout(&resolve, millis as f64));
        // A promise that only a timer resolves is never rejected.
        let _ = JsFuture::from(rings).await;
        left -= millis;
        if left == 0 {
            return;
        }
    }
}

/// JavaScript fires a longer timer at once: 2^31 - 1 ms.
const LONGEST_TIMER: u128 = 0x7FFF_FFFF;

/// Web Cryptography gives at most this much at once, in bytes.
const MOST_RANDOM: usize = 65_536;

struct Timer(JsValue);

impl Drop for Timer {
    fn drop(&mut self) {
        clear_timeout(&self.0);
    }
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(callback: &Function, millis: f64) -> JsValue;

    #[wasm_bindgen(js_name = clearTimeout)]
    fn clear_timeout(timer: &JsValue);

    #[wasm_bindgen(js_namespace = crypto, js_name = getRandomValues)]
    fn random_values(out: &mut [u8]);
}
