//! Reads single fields of a JSON body and leaves the others unparsed, so that they can be passed on as they came.
//!
//! Reading a whole body into values is [`fields`](super::fields).

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Serialize,
    de::{Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::RequestError;
use crate::json;

/// One field of an object.
#[derive(Clone, Copy)]
pub(super) struct RawField<'a> {
    /// The name as the text has it: with quotes and escapes.
    pub(super) raw_name: &'a RawValue,
    pub(super) value: &'a RawValue,
}

impl<'a> RawField<'a> {
    /// The name without quotes and escapes.
    pub(super) fn name(&self) -> Cow<'a, str> {
        let raw = self.raw_name.get();
        match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(name) if !name.contains('\\') => Cow::Borrowed(name),
            _ => serde_json::from_str::<String>(raw).unwrap_or_default().into(),
        }
    }
}

/// A JSON value that stays text, as the client wrote it: a schema may be as large as the request.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct RawJson(Box<RawValue>);

impl RawJson {
    /// The value as a tree.
    pub(crate) fn to_value(&self) -> serde_json::Value {
        serde_json::from_str(self.0.get()).unwrap_or_default()
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl From<Box<RawValue>> for RawJson {
    fn from(raw: Box<RawValue>) -> Self {
        Self(raw)
    }
}

impl From<RawJson> for String {
    fn from(json: RawJson) -> Self {
        Box::<str>::from(json.0).into()
    }
}

impl From<&RawValue> for RawJson {
    fn from(raw: &RawValue) -> Self {
        Self(raw.to_owned())
    }
}

impl From<serde_json::Value> for RawJson {
    fn from(value: serde_json::Value) -> Self {
        // A value always has a text.
        Self(serde_json::value::to_raw_value(&value).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }
}

/// The fields of an object in their order, also those whose names occur more than once.
#[derive(Default)]
pub(super) struct RawFields<'a>(pub(super) Vec<RawField<'a>>);

impl<'a> RawFields<'a> {
    /// The value of the first field with this name.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.all(name).next()
    }

    /// The values of all fields with this name.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &'a RawValue> {
        self.0.iter().filter(move |field| field.name() == name).map(|field| field.value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for RawFields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawFieldsVisitor;
        impl<'de> Visitor<'de> for RawFieldsVisitor {
            type Value = Vec<RawField<'de>>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((raw_name, value)) = map.next_entry()? {
                    fields.push(RawField { raw_name, value });
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(RawFieldsVisitor).map(Self)
    }
}

/// A value that is present and not null.
pub(super) fn non_null(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get() != "null")
}

/// A whole number from 1.
pub(super) fn count(raw: &RawValue, param: &'static str) -> Result<u64, RequestError> {
    let value: serde_json::Number = parse(raw, param, "a whole number from 1")?;
    value.as_u64().filter(|value| *value > 0).ok_or_else(|| RequestError::Value {
        param: param.into(),
        why: format!("{value} is not a whole number from 1"),
    })
}

/// The text of a body. Fails if it is not UTF-8 or nests too deep.
pub(crate) fn parse_text(body: &[u8]) -> Result<&str, RequestError> {
    let text = std::str::from_utf8(body).map_err(|_| RequestError::NotJson("it is not UTF-8".into()))?;
    if json::nests_too_deep(body) { Err(RequestError::TooDeep) } else { Ok(text) }
}

/// Reads the fields of a body. Only from an object: serde would also read them from an array.
pub(crate) fn parse_object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, RequestError> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(not_json);
    }
    let other: &RawValue = serde_json::from_str(text).map_err(not_json)?;
    Err(wrong_type(other, "body".into(), "an object"))
}

fn not_json(error: serde_json::Error) -> RequestError {
    RequestError::NotJson(error.to_string())
}

/// A value that must be present.
pub(crate) fn required<'a>(
    raw: Option<&'a RawValue>,
    param: &'static str,
) -> Result<&'a RawValue, RequestError> {
    raw.ok_or_else(|| RequestError::Missing(param.into()))
}

/// Reads a value; `expected` is its type, for the error.
pub(crate) fn parse<'a, T: Deserialize<'a>>(
    raw: &'a RawValue,
    param: &str,
    expected: &'static str,
) -> Result<T, RequestError> {
    serde_json::from_str(raw.get()).map_err(|error| {
        // A string that is not a string has half of a surrogate pair, which serde checks only now.
        let broken = raw.get().starts_with('"') && expected == "a string";
        if broken { not_json(error) } else { wrong_type(raw, param.to_owned(), expected) }
    })
}

/// The elements of an array; none if it is absent.
pub(super) fn elements<'a>(
    raw: Option<&'a RawValue>,
    param: &str,
) -> Result<Vec<&'a RawValue>, RequestError> {
    raw.map_or_else(|| Ok(Vec::new()), |raw| parse(raw, param, "an array"))
}

/// The error for a value of a wrong type.
pub(super) fn wrong_type(raw: &RawValue, param: String, expected: &'static str) -> RequestError {
    let param = if param.is_empty() { "body".into() } else { param };
    RequestError::Type { param, expected, actual: json::type_of(raw.get()) }
}
