//! Records the requests that the upstream got, for the tests to read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One request that the upstream got.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// For example `POST`.
    pub method: String,
    /// With the query.
    pub path: String,
    /// In the order of arrival, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The bytes as received.
    pub body: Vec<u8>,
    /// Whether the client disconnected before the answer was complete.
    pub disconnected: bool,
    /// The error, if the scripted agent refused the request.
    pub refusal: Option<String>,
}

impl Record {
    /// The value of the first header with this name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether the body contains `text`.
    pub fn mentions(&self, text: &str) -> bool {
        self.body.windows(text.len().max(1)).any(|window| window == text.as_bytes())
    }
}

/// All requests that the upstream got, in order.
#[derive(Clone, Default)]
pub struct Records(Arc<Mutex<Vec<Record>>>);

impl Records {
    /// The requests whose body contains `marker`.
    pub fn mentioning(&self, marker: &str) -> Vec<Record> {
        self.lock().iter().filter(|record| record.mentions(marker)).cloned().collect()
    }

    /// All requests.
    pub fn all(&self) -> Vec<Record> {
        self.lock().clone()
    }

    /// Adds a request and returns its number.
    pub(super) fn add(&self, record: Record) -> usize {
        let mut records = self.lock();
        records.push(record);
        records.len() - 1
    }

    /// Marks that the client of the request `number` disconnected.
    pub(super) fn set_disconnected(&self, number: usize) {
        if let Some(record) = self.lock().get_mut(number) {
            record.disconnected = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        // No panic can leave the list half changed, so a poisoned lock is used.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
