//! Keys and other secrets: held in memory, sent in headers, and never shown.

use std::fmt;

use http::HeaderValue;

/// A key that is sent to a provider. Nothing shows it: not `Debug`, not an error, not a log.
#[derive(Clone)]
pub struct Secret {
    bare: HeaderValue,
    bearer: HeaderValue,
}

impl Secret {
    /// Takes a key as it stands in the environment; `None` if no header could carry it.
    pub fn new(key: String) -> Option<Self> {
        let key = key.trim();
        Some(Self { bare: Self::header(key)?, bearer: Self::header(&format!("Bearer {key}"))? })
    }

    /// The value of an `authorization` header. It is marked sensitive, so that HTTP/2 never indexes it.
    pub fn bearer(&self) -> HeaderValue {
        self.bearer.clone()
    }

    /// The value of a header that holds nothing but the key.
    pub fn plain(&self) -> HeaderValue {
        self.bare.clone()
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
