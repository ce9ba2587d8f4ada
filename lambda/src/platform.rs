//! An instance of the function, as the core sees it.

use std::time::Duration;

use outlive::platform::{NoSigner, Platform, Timestamp};
use outlive_server::platform;

use crate::{http::HttpClient, store::DynamoStore};

/// This instance.
pub(crate) struct Lambda {
    store: DynamoStore,
    http: HttpClient,
}

impl Lambda {
    /// An instance that keeps its logs in `store`.
    pub(crate) fn new(store: DynamoStore) -> Self {
        Self { store, http: HttpClient::default() }
    }
}

impl Platform for Lambda {
    type Store = DynamoStore;
    type Http = HttpClient;
    type Signer = NoSigner;

    fn store(&self) -> &DynamoStore {
        &self.store
    }

    fn http(&self) -> &HttpClient {
        &self.http
    }

    fn signer(&self) -> &NoSigner {
        &NoSigner
    }

    fn now(&self) -> Timestamp {
        platform::now()
    }

    fn random(&self, out: &mut [u8]) {
        platform::random(out);
    }

    async fn sleep(&self, duration: Duration) {
        platform::sleep(duration).await;
    }
}
