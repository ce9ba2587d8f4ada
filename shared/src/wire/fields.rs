//! Reads JSON objects field by field: every error names its field, the fields that were not read can be listed, and what
//! is not read is not parsed. Knows no field of any format.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::{Number, Value, value::RawValue};

use super::{
    RequestError,
    raw::{RawFields, elements, parse_object, wrong_type},
};

/// The fields of one object. Reading a field removes it; what is not read stays text.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    path: String,
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

type FieldResult<T> = Result<T, RequestError>;

impl<'a> Fields<'a> {
    /// The fields of the object at `path`; the path of the body itself is empty.
    pub(crate) fn of(raw: &'a RawValue, path: impl Into<String>) -> FieldResult<Self> {
        let path = path.into();
        if !raw.get().starts_with('{') {
            return Err(wrong_type(raw, path, "an object"));
        }
        Ok(Self { path, fields: named(parse_object(raw.get())?) })
    }

    /// The fields of a whole body.
    pub(crate) fn of_body(body: &'a [u8]) -> FieldResult<Self> {
        let text = std::str::from_utf8(body).map_err(|_| RequestError::NotJson("it is not UTF-8".into()))?;
        Ok(Self { path: String::new(), fields: named(parse_object(text)?) })
    }

    /// The full path of `key`, for an error message.
    pub(crate) fn path(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// A field as the client wrote it. Null counts as absent. Of fields with one name the last counts, as in serde.
    pub(crate) fn raw(&mut self, key: &str) -> Option<&'a RawValue> {
        let mut found = None;
        self.fields.retain(|(name, value)| {
            let is_found = name == key;
            if is_found {
                found = Some(*value);
            }
            !is_found
        });
        found.filter(|value| value.get() != "null")
    }

    /// A field as a JSON value. Null counts as absent.
    pub(crate) fn value(&mut self, key: &str) -> FieldResult<Option<Value>> {
        self.raw(key).map(parsed).transpose()
    }

    /// A field of a type whose values begin with one of `first`; `expected` names it in errors.
    fn typed<T: DeserializeOwned>(
        &mut self,
        key: &str,
        first: &[char],
        expected: &'static str,
    ) -> FieldResult<Option<T>> {
        match self.raw(key) {
            Some(raw) if !raw.get().starts_with(first) => Err(wrong_type(raw, self.path(key), expected)),
            raw => raw.map(parsed).transpose(),
        }
    }

    pub(crate) fn string(&mut self, key: &str) -> FieldResult<Option<String>> {
        self.typed(key, &['"'], "a string")
    }

    pub(crate) fn needed_string(&mut self, key: &str) -> FieldResult<String> {
        self.string(key)?.ok_or_else(|| RequestError::Missing(self.path(key)))
    }

    pub(crate) fn boolean(&mut self, key: &str) -> FieldResult<Option<bool>> {
        self.typed(key, &['t', 'f'], "a boolean")
    }

    pub(crate) fn number(&mut self, key: &str) -> FieldResult<Option<Number>> {
        self.typed(key, &['-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'], "a number")
    }

    /// A whole number from 1.
    pub(crate) fn count(&mut self, key: &str) -> FieldResult<Option<u64>> {
        let Some(number) = self.number(key)? else { return Ok(None) };
        let value = number.as_u64().filter(|value| *value > 0);
        value.map(Some).ok_or_else(|| self.bad(key, format!("{number} is not a whole number from 1")))
    }

    /// The elements of an array; none if the field is absent.
    pub(crate) fn elements(&mut self, key: &str) -> FieldResult<Vec<&'a RawValue>> {
        elements(self.raw(key), &self.path(key))
    }

    /// The objects of an array; none if the field is absent.
    pub(crate) fn objects(
        &mut self,
        key: &str,
    ) -> FieldResult<impl Iterator<Item = FieldResult<Fields<'a>>>> {
        let elements = self.elements(key)?;
        Ok(self.numbered(key, elements))
    }

    /// A field that is a string or an array of objects, each of which `read` reads. `allowed` describes it in errors.
    pub(crate) fn content<T: From<String>>(
        &mut self,
        key: &str,
        allowed: &str,
        mut read: impl FnMut(Fields<'a>) -> FieldResult<T>,
    ) -> FieldResult<Option<Vec<T>>> {
        let Some(raw) = self.raw(key) else { return Ok(None) };
        match raw.get().chars().next() {
            Some('"') => Ok(Some(vec![parsed::<String>(raw)?.into()])),
            Some('[') => {
                let elements = elements(Some(raw), key)?;
                self.numbered(key, elements).map(|part| read(part?)).collect::<FieldResult<_>>().map(Some)
            }
            _ => Err(self.bad(key, allowed)),
        }
    }

    /// The elements of the array at `key`, each with its index in its path.
    fn numbered(
        &self,
        key: &str,
        elements: Vec<&'a RawValue>,
    ) -> impl Iterator<Item = FieldResult<Fields<'a>>> + use<'a> {
        let path = self.path(key);
        elements.into_iter().enumerate().map(move |(at, raw)| Self::of(raw, format!("{path}[{at}]")))
    }

    pub(crate) fn object(&mut self, key: &str) -> FieldResult<Option<Self>> {
        self.raw(key).map(|raw| Self::of(raw, self.path(key))).transpose()
    }

    pub(crate) fn needed_object(&mut self, key: &str) -> FieldResult<Self> {
        self.object(key)?.ok_or_else(|| RequestError::Missing(self.path(key)))
    }

    /// A string out of a list, as the value that the list gives it.
    pub(crate) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> FieldResult<Option<T>> {
        let Some(text) = self.string(key)? else { return Ok(None) };
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        found.map(Some).ok_or_else(|| {
            let allowed = choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            self.bad(key, format!("{:?}; allowed: {allowed}", shorten(&text)))
        })
    }

    /// The error for a value that is not allowed.
    pub(crate) fn bad(&self, key: &str, why: impl Into<String>) -> RequestError {
        RequestError::Value { param: self.path(key), why: why.into() }
    }

    /// Drops fields that have no effect on the answer.
    pub(crate) fn ignore(&mut self, keys: &[&str]) {
        self.fields.retain(|(name, _)| !keys.contains(&name.as_ref()));
    }

    /// Drops a field if its value is one of `defaults`, which mean the same as leaving it out.
    pub(crate) fn ignore_if(&mut self, key: &str, defaults: &[Value]) {
        let is_default = |raw: &RawValue| {
            raw.get().len() <= MAX_DEFAULT_BYTES && parsed(raw).is_ok_and(|value| defaults.contains(&value))
        };
        self.fields.retain(|(name, value)| name != key || !is_default(value));
    }

    /// The fields that were not read and are not null, with their paths.
    pub(crate) fn rest(self) -> impl Iterator<Item = (String, &'a RawValue)> {
        let Self { path, fields } = self;
        let unread = fields.into_iter().filter(|(_, value)| value.get() != "null");
        unread.map(move |(key, value)| (join(&path, &key), value))
    }
}

/// Longest value that is compared with defaults: they are short, and every text of a message is compared with one.
const MAX_DEFAULT_BYTES: usize = 64;

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
}

fn named(RawFields(fields): RawFields<'_>) -> Vec<(Cow<'_, str>, &RawValue)> {
    fields.into_iter().map(|field| (field.name(), field.value)).collect()
}

/// Reads the whole value.
pub(crate) fn parsed<T: DeserializeOwned>(raw: &RawValue) -> FieldResult<T> {
    serde_json::from_str(raw.get()).map_err(|error| RequestError::NotJson(error.to_string()))
}

/// The beginning of a text, for an error message.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}
