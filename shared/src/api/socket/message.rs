//! Messages of clients, and those that answer none of them with a response.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use super::super::{ApiError, Style};
use crate::{
    body::Body,
    json,
    wire::raw::{parse_object, parse_text},
};

/// The fields of an object, as they came: what is not looked at is not taken apart.
pub(super) type EventFields = BTreeMap<String, Box<RawValue>>;

/// The name that a client gave to a line of responses which come one after the other. Those without a name are one, too.
pub(super) type Lane = Option<String>;

/// Longest name of a lane, as at OpenAI.
const MAX_NAME: usize = 256;

/// What a message asks for.
pub(super) enum ClientEvent {
    /// A response.
    Create(CreateEvent),
    /// That a response which is being made heeds more input.
    Steer(SteerEvent),
}

/// `response.create`
pub(super) struct CreateEvent {
    pub(super) lane: Lane,
    /// Whether a model is asked. Else its input is only kept, to be continued.
    pub(super) generates: bool,
    /// The response that it continues.
    pub(super) previous: Option<String>,
    /// The body of the request.
    pub(super) fields: EventFields,
    /// How long the message was.
    pub(super) bytes: usize,
}

/// `response.steer`
pub(super) struct SteerEvent(EventFields);

/// What is told instead of a response.
#[derive(Debug)]
pub(super) struct LaneError {
    pub(super) lane: Lane,
    pub(super) error: ApiError,
}

impl From<ApiError> for LaneError {
    fn from(error: ApiError) -> Self {
        Self { lane: None, error }
    }
}

impl ClientEvent {
    pub(super) fn read(text: &[u8]) -> Result<Self, LaneError> {
        if json::too_many(text) {
            return Err(ApiError::too_many_parts().into());
        }
        let fields = parse_text(text).and_then(parse_object);
        let mut fields: EventFields = fields.map_err(ApiError::from)?;
        let lane = match fields.remove("stream_id") {
            None => None,
            Some(name) => match read::<String>(&name) {
                Some(name) if is_name(&name) => Some(name),
                _ => return Err(ApiError::invalid_stream_id(MAX_NAME).into()),
            },
        };
        let refuse = |param: &str, why: String| {
            Err(LaneError { lane: lane.clone(), error: ApiError::value(param, why) })
        };
        let kind = fields.remove("type");
        match kind.as_deref().and_then(read::<String>).as_deref() {
            Some("response.create") => (),
            Some("response.steer") => return Ok(Self::Steer(SteerEvent(fields))),
            _ => {
                let kind =
                    kind.map_or_else(|| "nothing".to_owned(), |kind| kind.get().chars().take(100).collect());
                return refuse("type", format!("{kind}; allowed: response.create"));
            }
        }
        let generates = match fields.remove("generate").as_deref().map(RawValue::get) {
            None | Some("null" | "true") => true,
            Some("false") => false,
            Some(_) => return refuse("generate", "allowed: true, false".into()),
        };
        if !matches!(fields.remove("background").as_deref().map(RawValue::get), None | Some("null" | "false"))
        {
            let why = "a response over a WebSocket is not made in the background; allowed: false";
            return refuse("background", why.into());
        }
        let previous = fields.get("previous_response_id").map(|previous| read::<Option<String>>(previous));
        let Some(previous) = previous.unwrap_or(Some(None)) else {
            return refuse("previous_response_id", "it is no string; allowed: the id of a response".into());
        };
        // Here all are streamed, whatever a message says of it.
        set(&mut fields, "stream", &true);
        Ok(Self::Create(CreateEvent { lane, generates, previous, fields, bytes: text.len() }))
    }
}

/// A value as what it should be.
pub(super) fn read<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// Sets a field to what can be JSON, as all can that is set here.
pub(super) fn set(fields: &mut EventFields, name: &str, value: &impl Serialize) {
    if let Ok(raw) = to_raw_value(value) {
        fields.insert(name.to_owned(), raw);
    }
}

/// An object with these fields.
pub(super) fn text(fields: &EventFields) -> Bytes {
    // Texts and values that were read before can be written.
    serde_json::to_vec(fields).unwrap_or_default().into()
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(allowed)
}

impl SteerEvent {
    /// A response goes to its end as it was asked for: its input is in the log by then.
    pub(super) fn refusal(mut self) -> Bytes {
        self.0.retain(|name, _| matches!(name.as_str(), "input" | "previous_response_id"));
        let why = "responses are not steered here; allowed: another response.create after this one";
        let error =
            json!({"type": "invalid_request_error", "code": "steering_not_supported", "message": why});
        let mut event = EventFields::new();
        set(&mut event, "type", &"response.steer.failed");
        set(&mut event, "sequence_number", &0);
        set(&mut event, "error", &error);
        set(&mut event, "steer", &self.0);
        text(&event)
    }
}

impl LaneError {
    /// The event that says so.
    pub(super) fn event(self, id: &str) -> Bytes {
        let (head, body) = self.error.into_response(Style::OpenAi, id).into_parts();
        let body = if let Body::Full(body) = body { body } else { Bytes::new() };
        in_lane(&self.lane, refused(head.status, &head.headers, &body))
    }
}

/// The event for a request that was refused with these headers and this body.
pub(super) fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Bytes {
    let mut body: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    failed(status, headers, body.remove("error").unwrap_or_default()).to_string().into()
}

/// The event for a failure of which `error` is told.
pub(super) fn failed(status: StatusCode, headers: &HeaderMap, error: Value) -> Value {
    let mut error = if let Value::Object(error) = error { error } else { Map::new() };
    // Each of them is expected, and a code always.
    error.entry("param").or_insert(Value::Null);
    for (name, default) in
        [("type", "server_error"), ("code", "server_error"), ("message", "the request failed")]
    {
        let field = error.entry(name).or_insert(Value::Null);
        if field.is_null() {
            *field = default.into();
        }
    }
    let told =
        |name: &str| matches!(name, "retry-after" | "x-request-id") || name.starts_with("x-ratelimit-");
    let told = headers.iter().filter(|(name, _)| told(name.as_str()));
    let told: Map<String, Value> =
        told.filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.into()))).collect();
    if !told.is_empty() {
        error.insert("headers".into(), told.into());
    }
    json!({"type": "error", "status": status.as_u16(), "error": error})
}

/// An event, which is a JSON object with fields, with the name of its lane and no other.
pub(super) fn in_lane(lane: &Lane, event: Bytes) -> Bytes {
    const FIELD: &[u8] = b"\"stream_id\"";
    let mut event = event;
    // A provider has no lanes; what it says of them is nothing to the client.
    if memchr::memmem::find(&event, FIELD).is_some()
        && let Ok(mut fields) = serde_json::from_slice::<EventFields>(&event)
        && fields.remove("stream_id").is_some()
    {
        event = text(&fields);
    }
    let (Some(name), Some(fields)) = (lane, event.strip_prefix(b"{")) else { return event };
    // A name needs no escapes.
    [b"{\"stream_id\":\"", name.as_bytes(), b"\",", fields].concat().into()
}
