//! Clock, chance and sleep of an operating system.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outlive::platform::Timestamp;

/// The wall clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Unpredictable bytes.
pub fn random(out: &mut [u8]) {
    if getrandom::fill(out).is_err() {
        // Ids that can be guessed would be worse than no service; no supported system gets here.
        std::process::abort();
    }
}

/// Resolves after `duration`.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[cfg(feature = "node")]
pub use native::Native;

#[cfg(feature = "node")]
mod native {
    use std::time::Duration;

    use outlive::platform::{NoSigner, Platform, Timestamp};

    use crate::{http::HttpClient, store::SqliteStore};

    /// This machine.
    pub struct Native {
        store: SqliteStore,
        http: HttpClient,
    }

    impl Native {
        /// A machine that keeps its logs in `store`.
        pub fn new(store: SqliteStore) -> Self {
            Self { store, http: HttpClient::default() }
        }
    }

    impl Platform for Native {
        type Store = SqliteStore;
        type Http = HttpClient;
        type Signer = NoSigner;

        fn store(&self) -> &SqliteStore {
            &self.store
        }

        fn http(&self) -> &HttpClient {
            &self.http
        }

        fn signer(&self) -> &NoSigner {
            &NoSigner
        }

        fn now(&self) -> Timestamp {
            super::now()
        }

        fn random(&self, out: &mut [u8]) {
            super::random(out);
        }

        async fn sleep(&self, duration: Duration) {
            super::sleep(duration).await;
        }
    }
}
