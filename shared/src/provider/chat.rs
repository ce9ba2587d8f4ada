//! A chat completions request, as a client sent it.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::{self, MAX_DEPTH};

/// A request that was looked at as far as routing needs, and is otherwise kept byte for byte: a field that is new
/// tomorrow reaches the provider today.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    body: Bytes,
    /// Where the value of `model` lies in `body`.
    model_at: std::ops::Range<usize>,
    /// The model that the client asks for.
    pub model: String,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Whether the client wants the usage at the end of a stream.
    pub wants_usage: bool,
}

/// What is wrong with a request, and with which field of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The body is not JSON.
    #[error("the body is not valid JSON: {0}")]
    NotJson(String),
    /// The body nests too deep.
    #[error("the body nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// A field is missing that has no default.
    #[error("missing required parameter: '{0}'")]
    Missing(String),
    /// A field has a wrong type.
    #[error("invalid type for '{param}': expected {expected}, but got {seen}")]
    Type {
        /// The field.
        param: String,
        /// What is allowed.
        expected: &'static str,
        /// What it is.
        seen: &'static str,
    },
    /// A field has the right type and an impossible value.
    #[error("invalid value for '{param}': {why}")]
    Value {
        /// The field.
        param: String,
        /// What it is and what is allowed.
        why: String,
    },
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    messages: Option<&'a RawValue>,
    #[serde(borrow, default)]
    stream: Option<&'a RawValue>,
    #[serde(borrow, default)]
    stream_options: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Option<&'a RawValue>,
}

impl ChatRequest {
    /// Reads a request's body.
    pub fn parse(body: Bytes) -> Result<Self, RequestError> {
        let text = parse_text(&body)?;
        let fields: Fields<'_> = parse_object(text)?;
        let model = required(fields.model, "model")?;
        let name: Cow<'_, str> = parse(model, "model", "a string")?;
        let messages = required(fields.messages, "messages")?;
        let messages: Vec<&RawValue> = parse(messages, "messages", "an array of objects")?;
        if messages.is_empty() {
            return Err(RequestError::Value { param: "messages".into(), why: "it is empty".into() });
        }
        for (i, message) in messages.iter().enumerate() {
            check_message(message, i)?;
        }
        let stream = match fields.stream.filter(|raw| raw.get() != "null") {
            Some(raw) => parse(raw, "stream", "a boolean")?,
            None => false,
        };
        // A wrong `stream_options` is the provider's to refuse.
        let options =
            fields.stream_options.and_then(|raw| serde_json::from_str::<StreamOptions>(raw.get()).ok());
        let start = model.get().as_ptr().addr() - text.as_ptr().addr();
        let model_at = start..start + model.get().len();
        let model = name.into_owned();
        Ok(Self { model, stream, wants_usage: options.unwrap_or_default().include_usage, model_at, body })
    }

    /// The body for a provider that calls the model `model`.
    pub fn encode(&self, model: &str) -> Bytes {
        // A model's name is visible ASCII, but it may hold quotes.
        let name = serde_json::Value::from(model).to_string();
        let part = |range| self.body.get::<std::ops::Range<usize>>(range).unwrap_or_default();
        let tail = self.body.len();
        [part(0..self.model_at.start), name.as_bytes(), part(self.model_at.end..tail)].concat().into()
    }
}

/// The text of a JSON body that does not nest too deep.
pub(crate) fn parse_text(body: &[u8]) -> Result<&str, RequestError> {
    let text = std::str::from_utf8(body).map_err(|_| RequestError::NotJson("it is not UTF-8".into()))?;
    if json::too_deep(body) { Err(RequestError::TooDeep) } else { Ok(text) }
}

/// The fields of a body. Serde would also read them from an array.
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

pub(crate) fn required<'a>(
    raw: Option<&'a RawValue>,
    param: &'static str,
) -> Result<&'a RawValue, RequestError> {
    raw.ok_or_else(|| RequestError::Missing(param.into()))
}

pub(crate) fn parse<'a, T: Deserialize<'a>>(
    raw: &'a RawValue,
    param: &str,
    expected: &'static str,
) -> Result<T, RequestError> {
    serde_json::from_str(raw.get()).map_err(|error| {
        // A string that is none holds half of a surrogate pair, which serde looks at only here.
        let broken = raw.get().starts_with('"') && expected == "a string";
        if broken { not_json(error) } else { wrong_type(raw, param.to_owned(), expected) }
    })
}

fn wrong_type(raw: &RawValue, param: String, expected: &'static str) -> RequestError {
    RequestError::Type { param, expected, seen: json::type_of(raw.get()) }
}

fn check_message(raw: &RawValue, at: usize) -> Result<(), RequestError> {
    // Serde would also read a struct from an array.
    let message: Option<Message<'_>> =
        raw.get().starts_with('{').then(|| serde_json::from_str(raw.get()).ok()).flatten();
    let Some(message) = message else {
        return Err(wrong_type(raw, format!("messages[{at}]"), "an object"));
    };
    match message.role {
        Some(role) if role.get().starts_with('"') => Ok(()),
        Some(role) => Err(wrong_type(role, format!("messages[{at}].role"), "a string")),
        None => Err(RequestError::Missing(format!("messages[{at}].role"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ChatRequest, RequestError> {
        ChatRequest::parse(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn all_but_the_model_stays_byte_for_byte() {
        let text = r#" { "future" : {"model":"x","n":1e400},"model" : "fa\u0073t", "messages":[{"role":"user","content":"é"}] , "stream":true }"#;
        let request = parse(text).unwrap();
        assert_eq!((request.model.as_str(), request.stream), ("fast", true));
        let sent = request.encode("a\"b");
        assert_eq!(std::str::from_utf8(&sent).unwrap(), text.replace(r#""fa\u0073t""#, r#""a\"b""#));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let messages = r#""messages":[{"role":"user"}]"#;
        for (text, expected) in [
            ("{".to_owned(), "the body is not valid JSON: EOF while parsing an object at line 1 column 1"),
            ("[]".into(), "invalid type for 'body': expected an object, but got an array"),
            (format!("{{{messages}}}"), "missing required parameter: 'model'"),
            (
                format!(r#"{{"model":7,{messages}}}"#),
                "invalid type for 'model': expected a string, but got a number",
            ),
            (r#"{"model":"m"}"#.into(), "missing required parameter: 'messages'"),
            (
                r#"{"model":"m","messages":"x"}"#.into(),
                "invalid type for 'messages': expected an array of objects, but got a string",
            ),
            (r#"{"model":"m","messages":[]}"#.into(), "invalid value for 'messages': it is empty"),
            (
                r#"{"model":"m","messages":[[]]}"#.into(),
                "invalid type for 'messages[0]': expected an object, but got an array",
            ),
            (r#"{"model":"m","messages":[{}]}"#.into(), "missing required parameter: 'messages[0].role'"),
            (
                format!(r#"{{"model":"m",{messages},"stream":"yes"}}"#),
                "invalid type for 'stream': expected a boolean, but got a string",
            ),
            (
                format!(r#"{{"model":"m","model":"n",{messages}}}"#),
                "the body is not valid JSON: duplicate field `model` at line 1 column 20",
            ),
            (
                format!("{}{}", "[".repeat(20_000), "]".repeat(20_000)),
                "the body nests deeper than 128 levels",
            ),
        ] {
            assert_eq!(parse(&text).unwrap_err().to_string(), expected, "{}", &text[..text.len().min(80)]);
        }
    }
}
