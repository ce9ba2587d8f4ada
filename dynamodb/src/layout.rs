//! What items hold, read with suspicion: an attribute that is missing or odd is damage, never a panic.

use aws_sdk_dynamodb::{
    primitives::Blob,
    types::{AttributeValue, builders::PutBuilder},
};
use outlive::{
    platform::{StoreError, Timestamp},
    session::{
        entry::{Hash, Head, Header, Hlc, LogId, Origin, Seq},
        log::Cursor,
    },
};

use crate::store::{Item, corrupt};

/// A key, or text.
pub(crate) fn text(text: String) -> AttributeValue {
    AttributeValue::S(text)
}

/// Digits, as many for each number, so that keys sort as numbers do.
pub(crate) fn number(number: u64) -> String {
    format!("{number:020}")
}

/// Adds a head's attributes, and the cursor of its change.
pub(crate) fn with_head(put: PutBuilder, head: &Head, cursor: Cursor) -> PutBuilder {
    put.item("origin", text(head.origin.to_string()))
        .item("seq", AttributeValue::N(head.seq.0.to_string()))
        .item("hlc", text(format!("{:016x}", head.hlc.0)))
        .item("hash", AttributeValue::B(Blob::new(head.hash.0)))
        .item("cursor", AttributeValue::N(cursor.0.to_string()))
}

/// Adds when the chain wants its log to be woken.
pub(crate) fn with_wake(put: PutBuilder, wake: Option<Timestamp>) -> PutBuilder {
    match wake {
        Some(at) => put.item("wake", AttributeValue::N(at.0.to_string())),
        None => put,
    }
}

/// An entry's item.
pub(crate) struct Row {
    pub(crate) raw: Vec<u8>,
    pub(crate) header: Header,
    /// `None` if it is kept in pieces, or was erased.
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) is_erased: bool,
}

impl Row {
    pub(crate) fn read(mut item: Item) -> Result<Self, StoreError> {
        let raw = item.take_blob("header")?;
        let header = Header::decode(&raw).map_err(corrupt)?;
        let body = if item.contains_key("body") { Some(item.take_blob("body")?) } else { None };
        Ok(Self { raw, header, body, is_erased: item.contains_key("erased") })
    }
}

/// Typed access to attributes.
pub(crate) trait Fields {
    fn cursor(&self) -> Result<Cursor, StoreError>;
    fn head(&self) -> Result<Head, StoreError>;
    fn log(&self) -> Result<LogId, StoreError>;
    fn sort_key(&self) -> Result<String, StoreError>;
    fn wake(&self) -> Result<Option<Timestamp>, StoreError>;
    fn take_blob(&mut self, name: &str) -> Result<Vec<u8>, StoreError>;
}

impl Fields for Item {
    fn cursor(&self) -> Result<Cursor, StoreError> {
        integer(self, "cursor").map(Cursor)
    }

    fn head(&self) -> Result<Head, StoreError> {
        let hash = self.get("hash").and_then(|value| value.as_b().ok()?.as_ref().try_into().ok());
        Ok(Head {
            origin: Origin::parse(string(self, "origin")?).ok_or_else(|| odd("origin"))?,
            seq: Seq(integer(self, "seq")?),
            hlc: Hlc(u64::from_str_radix(string(self, "hlc")?, 16).map_err(|_| odd("hlc"))?),
            hash: Hash(hash.ok_or_else(|| odd("hash"))?),
        })
    }

    fn log(&self) -> Result<LogId, StoreError> {
        LogId::parse(string(self, "log")?).ok_or_else(|| odd("log"))
    }

    fn sort_key(&self) -> Result<String, StoreError> {
        string(self, "sk").map(str::to_owned)
    }

    fn wake(&self) -> Result<Option<Timestamp>, StoreError> {
        let at = self.contains_key("wake").then(|| integer(self, "wake")).transpose()?;
        Ok(at.map(Timestamp))
    }

    fn take_blob(&mut self, name: &str) -> Result<Vec<u8>, StoreError> {
        match self.remove(name) {
            Some(AttributeValue::B(blob)) => Ok(blob.into_inner()),
            _ => Err(odd(name)),
        }
    }
}

fn string<'a>(item: &'a Item, name: &str) -> Result<&'a str, StoreError> {
    item.get(name).and_then(|value| value.as_s().ok()).map(String::as_str).ok_or_else(|| odd(name))
}

fn integer(item: &Item, name: &str) -> Result<u64, StoreError> {
    item.get(name).and_then(|value| value.as_n().ok()?.parse().ok()).ok_or_else(|| odd(name))
}

fn odd(name: &str) -> StoreError {
    StoreError::Corrupt(format!("the attribute {name} is missing or odd"))
}
