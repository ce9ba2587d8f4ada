//! Reads JSON objects field by field: every error names its field, and the fields that were not read can be listed.
//! Knows no field of any format.

use serde_json::{Map, Number, Value};

use super::RequestError;
use crate::json;

/// The fields of one object. Reading a field removes it.
#[derive(Debug)]
pub(crate) struct Fields {
    path: String,
    map: Map<String, Value>,
}

type FieldResult<T> = Result<T, RequestError>;

impl Fields {
    /// The fields of the object at `path`; the path of the body itself is empty.
    pub(crate) fn of(value: Value, path: impl Into<String>) -> FieldResult<Self> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { path, map }),
            other => Err(wrong_type(path, "an object", &other)),
        }
    }

    /// The fields of a whole body.
    pub(crate) fn of_body(body: &[u8]) -> FieldResult<Self> {
        let value = serde_json::from_slice(body).map_err(|e| RequestError::NotJson(e.to_string()))?;
        Self::of(value, "")
    }

    /// The full path of `key`, for an error message.
    pub(crate) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    /// A field as a JSON value. Null counts as absent.
    pub(crate) fn value(&mut self, key: &str) -> Option<Value> {
        self.map.shift_remove(key).filter(|value| !value.is_null())
    }

    pub(crate) fn string(&mut self, key: &str) -> FieldResult<Option<String>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(self.path(key), "a string", &other)),
        }
    }

    pub(crate) fn needed_string(&mut self, key: &str) -> FieldResult<String> {
        self.string(key)?.ok_or_else(|| RequestError::Missing(self.path(key)))
    }

    pub(crate) fn boolean(&mut self, key: &str) -> FieldResult<Option<bool>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(self.path(key), "a boolean", &other)),
        }
    }

    pub(crate) fn number(&mut self, key: &str) -> FieldResult<Option<Number>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(Some(number)),
            Some(other) => Err(wrong_type(self.path(key), "a number", &other)),
        }
    }

    /// A whole number from 1.
    pub(crate) fn count(&mut self, key: &str) -> FieldResult<Option<u64>> {
        let Some(number) = self.number(key)? else { return Ok(None) };
        let value = number.as_u64().filter(|value| *value > 0);
        value.map(Some).ok_or_else(|| self.bad(key, format!("{number} is not a whole number from 1")))
    }

    pub(crate) fn array(&mut self, key: &str) -> FieldResult<Option<Vec<Value>>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(other) => Err(wrong_type(self.path(key), "an array", &other)),
        }
    }

    /// The objects of an array; none if the field is absent.
    pub(crate) fn objects(&mut self, key: &str) -> FieldResult<Vec<Fields>> {
        let values = self.array(key)?.unwrap_or_default();
        self.numbered(key, values).collect()
    }

    /// A field that is a string or an array of objects, each of which `read` reads. `allowed` describes it in errors.
    pub(crate) fn content<T: From<String>>(
        &mut self,
        key: &str,
        allowed: &str,
        mut read: impl FnMut(Fields) -> FieldResult<T>,
    ) -> FieldResult<Option<Vec<T>>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(vec![text.into()])),
            Some(Value::Array(values)) => {
                self.numbered(key, values).map(|part| read(part?)).collect::<FieldResult<_>>().map(Some)
            }
            Some(_) => Err(self.bad(key, allowed)),
        }
    }

    /// The elements of the array at `key`, each with its index in its path.
    fn numbered(&self, key: &str, values: Vec<Value>) -> impl Iterator<Item = FieldResult<Fields>> {
        let path = self.path(key);
        values.into_iter().enumerate().map(move |(at, value)| Self::of(value, format!("{path}[{at}]")))
    }

    pub(crate) fn object(&mut self, key: &str) -> FieldResult<Option<Fields>> {
        self.value(key).map(|value| Self::of(value, self.path(key))).transpose()
    }

    pub(crate) fn needed_object(&mut self, key: &str) -> FieldResult<Fields> {
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
        for key in keys {
            self.map.shift_remove(*key);
        }
    }

    /// Drops a field if its value is one of `defaults`, which mean the same as leaving it out.
    pub(crate) fn ignore_if(&mut self, key: &str, defaults: &[Value]) {
        if self.map.get(key).is_some_and(|value| defaults.contains(value)) {
            self.map.shift_remove(key);
        }
    }

    /// The fields that were not read and are not null, with their paths.
    pub(crate) fn rest(mut self) -> Vec<(String, Value)> {
        let unread = std::mem::take(&mut self.map).into_iter().filter(|(_, value)| !value.is_null());
        unread.map(|(key, value)| (self.path(&key), value)).collect()
    }
}

/// The error for a value of a wrong type.
pub(crate) fn wrong_type(param: String, expected: &'static str, actual: &Value) -> RequestError {
    let param = if param.is_empty() { "body".into() } else { param };
    RequestError::Type { param, expected, actual: json::type_of_value(actual) }
}

/// The beginning of a text, for an error message.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}
