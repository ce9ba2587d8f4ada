//! Holds keys and other secrets in memory. They leave it as header values only.

use std::fmt;

use http::HeaderValue;

/// Stands for a secret that was removed from a text.
pub(crate) const REMOVED: &str = "[removed]";

/// A key of a provider or server. `Debug`, errors and logs never show it.
#[derive(Clone)]
pub struct Secret {
    bare: HeaderValue,
    bearer: HeaderValue,
}

impl Secret {
    /// Takes the value of an environment variable, without surrounding whitespace. `None` if a header can't carry it.
    pub fn new(key: String) -> Option<Self> {
        let key = key.trim();
        Some(Self { bare: Self::header(key)?, bearer: Self::header(&format!("Bearer {key}"))? })
    }

    /// The value of an `authorization` header: `Bearer KEY`. It is marked sensitive, so that HTTP/2 never indexes it.
    pub fn bearer(&self) -> HeaderValue {
        self.bearer.clone()
    }

    /// The value of a header that holds the key alone. It is marked sensitive as well.
    pub fn plain(&self) -> HeaderValue {
        self.bare.clone()
    }

    /// `text` with every occurrence of the secret replaced.
    pub(crate) fn remove_from(&self, text: &str) -> String {
        match self.bare.to_str() {
            Ok(secret) if !secret.is_empty() => text.replace(secret, REMOVED),
            // A header value of this type is ASCII; without its text nothing of `text` may be shown.
            _ => String::new(),
        }
    }

    fn header(text: &str) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
