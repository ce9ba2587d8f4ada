//! The `Platform` port on Workers: clock, random bytes, timers and background tasks of an isolate. Stores and calls
//! are in files of their own.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use outlive::{
    entry::LogId,
    platform::{NoSigner, Platform},
    record::Record,
    time::Timestamp,
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
pub(crate) struct WorkersPlatform {
    store: NodeStore,
}

impl WorkersPlatform {
    /// The platform of a node with this store.
    pub(crate) fn new(store: NodeStore) -> Self {
        Self { store }
    }
}

impl Platform for WorkersPlatform {
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
        out.chunks_mut(MAX_RANDOM_BYTES).for_each(random_values);
    }

    fn log(&self, record: &Record) {
        console_log!("{}", record.line());
    }

    async fn sleep(&self, duration: Duration) {
        sleep(duration).await;
    }

    /// An object lives while a task is pending. If it is evicted anyway, its alarm resumes the work.
    fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
        spawn_local(work);
    }

    /// Calls the object of another log. `false` for the own log, where spawned work outlives the response.
    async fn wake_elsewhere(&self, log: LogId) -> bool {
        match self.store.store_of(log) {
            LogStore::Own(_) => false,
            LogStore::Remote(remote) => remote.wake(log).await,
        }
    }

    /// The platform runs one object for each log.
    fn is_only_instance(&self) -> bool {
        true
    }
}

/// Resolves after `duration`. Dropping it clears the timer.
///
/// Not `worker::Delay`, which wakes only the task that polled it first: the timer of a streamed body outlives the pull
/// that set it.
pub(crate) async fn sleep(duration: Duration) {
    let mut millis_left = duration.as_nanos().div_ceil(1_000_000);
    loop {
        let millis = millis_left.min(MAX_TIMER_MS);
        let mut timer = Timer(JsValue::UNDEFINED);
        let fired = Promise::new(&mut |resolve, _| timer.0 = set_timeout(&resolve, millis as f64));
        // A promise that only a timer resolves is never rejected.
        let _ = JsFuture::from(fired).await;
        millis_left -= millis;
        if millis_left == 0 {
            return;
        }
    }
}

/// Longest timer of JavaScript, 2^31 - 1 ms: a longer one fires at once.
const MAX_TIMER_MS: u128 = 0x7FFF_FFFF;

/// Most bytes of one call of `crypto.getRandomValues`.
const MAX_RANDOM_BYTES: usize = 65_536;

/// The id of a timer, which is cleared on drop.
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
