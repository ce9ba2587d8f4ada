use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One request that the upstream got.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// For example `POST`.
    pub method: String,
    /// With the query.
    pub path: String,
    /// In order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// As it came.
    pub body: Vec<u8>,
    /// Whether the client went away before the answer was complete.
    pub left: bool,
    /// Why the scripted agent refused it, if it did.
    pub refused: Option<String>,
}

impl Record {
    /// The value of the first header with this name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether the body holds `text`.
    pub fn mentions(&self, text: &str) -> bool {
        self.body.windows(text.len().max(1)).any(|window| window == text.as_bytes())
    }
}

/// All requests that the upstream got, in order.
#[derive(Clone, Default)]
pub struct Records(Arc<Mutex<Vec<Record>>>);

impl Records {
    /// The requests whose body holds `marker`.
    pub fn mentioning(&self, marker: &str) -> Vec<Record> {
        self.lock().iter().filter(|record| record.mentions(marker)).cloned().collect()
    }

    /// All requests.
    pub fn all(&self) -> Vec<Record> {
        self.lock().clone()
    }

    /// Keeps a request, and returns its number.
    pub(super) fn add(&self, record: Record) -> usize {
        let mut records = self.lock();
        records.push(record);
        records.len() - 1
    }

    /// The client of request `number` went away.
    pub(super) fn left(&self, number: usize) {
        if let Some(record) = self.lock().get_mut(number) {
            record.left = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        // A list of values is whole even if a thread died over it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
