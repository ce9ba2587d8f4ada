//! Reads clients' messages, and writes the events that refuse one or report a failure. Sends nothing.

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

/// The fields of an object, each as the client wrote it: only those that are needed are parsed.
pub(super) type EventFields = BTreeMap<String, Box<RawValue>>;

/// The client's name (`stream_id`) for a series of responses that run one after the other. Those without a name are a
/// series, too.
pub(super) type Lane = Option<String>;

/// Longest name of a lane in bytes, as at OpenAI.
const MAX_NAME: usize = 256;

/// A message of the client.
pub(super) enum ClientEvent {
    /// Requests a response.
    Create(CreateEvent),
    /// Sends more input to a response that is in progress.
    Steer(SteerEvent),
}

/// `response.create`
pub(super) struct CreateEvent {
    pub(super) lane: Lane,
    /// Whether a model is called. If not, the input is only remembered, so that later requests can continue it.
    pub(super) generates: bool,
    /// The response that it continues.
    pub(super) previous: Option<String>,
    /// The body of the request.
    pub(super) fields: EventFields,
    /// Size of the message.
    pub(super) bytes: usize,
}

/// `response.steer`
pub(super) struct SteerEvent(EventFields);

/// An error in place of a response.
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
    /// Parses a text message. An error before `stream_id` is read belongs to no lane.
    pub(super) fn parse(text: &[u8]) -> Result<Self, LaneError> {
        if json::has_too_many_parts(text) {
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
                let kind = kind.map_or_else(
                    || "it is missing".to_owned(),
                    |kind| kind.get().chars().take(100).collect(),
                );
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
            let why = "responses over a WebSocket do not run in the background; allowed: false";
            return refuse("background", why.into());
        }
        let previous = fields.get("previous_response_id").map(|previous| read::<Option<String>>(previous));
        let Some(previous) = previous.unwrap_or(Some(None)) else {
            return refuse(
                "previous_response_id",
                "it is not a string; allowed: the id of a response".into(),
            );
        };
        // Over a WebSocket each response is streamed, whatever the message says.
        set(&mut fields, "stream", &true);
        Ok(Self::Create(CreateEvent { lane, generates, previous, fields, bytes: text.len() }))
    }
}

/// Parses a value; `None` if it has another type.
pub(super) fn read<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// Sets a field. All values that are passed here can be JSON; one that can't be would be left out.
pub(super) fn set(fields: &mut EventFields, name: &str, value: &impl Serialize) {
    if let Ok(raw) = to_raw_value(value) {
        fields.insert(name.to_owned(), raw);
    }
}

/// Writes an object with these fields.
pub(super) fn to_json(fields: &EventFields) -> Bytes {
    // Never fails: each value was parsed before.
    serde_json::to_vec(fields).unwrap_or_default().into()
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(allowed)
}

impl SteerEvent {
    /// The event that refuses it: once a response has started, its input is in the log and does not change.
    pub(super) fn refusal(mut self) -> Bytes {
        self.0.retain(|name, _| matches!(name.as_str(), "input" | "previous_response_id"));
        let why = "this node does not steer responses; allowed: another response.create after this one";
        let error =
            json!({"type": "invalid_request_error", "code": "steering_not_supported", "message": why});
        let mut event = EventFields::new();
        set(&mut event, "type", &"response.steer.failed");
        set(&mut event, "sequence_number", &0);
        set(&mut event, "error", &error);
        set(&mut event, "steer", &self.0);
        to_json(&event)
    }
}

impl LaneError {
    /// The `error` event, as the answer to the request `id`.
    pub(super) fn event(self, id: &str) -> Bytes {
        let (head, body) = self.error.into_response(Style::OpenAi, id).into_parts();
        let body = if let Body::Full(body) = body { body } else { Bytes::new() };
        in_lane(&self.lane, refusal_event(head.status, &head.headers, &body))
    }
}

/// The `error` event for a request that was refused with this status, these headers and this body.
pub(super) fn refusal_event(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Bytes {
    let mut body: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    failure_event(status, headers, body.remove("error").unwrap_or_default()).to_string().into()
}

/// The `error` event with these fields of `error`, and the headers that clients need.
pub(super) fn failure_event(status: StatusCode, headers: &HeaderMap, error: Value) -> Value {
    let mut error = if let Value::Object(error) = error { error } else { Map::new() };
    // OpenAI's clients expect each of these fields, and a `code` that is not null.
    error.entry("param").or_insert(Value::Null);
    for (name, default) in
        [("type", "server_error"), ("code", "server_error"), ("message", "the request failed")]
    {
        let field = error.entry(name).or_insert(Value::Null);
        if field.is_null() {
            *field = default.into();
        }
    }
    let is_forwarded =
        |name: &str| matches!(name, "retry-after" | "x-request-id") || name.starts_with("x-ratelimit-");
    let headers = headers.iter().filter(|(name, _)| is_forwarded(name.as_str()));
    let headers: Map<String, Value> =
        headers.filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.into()))).collect();
    if !headers.is_empty() {
        error.insert("headers".into(), headers.into());
    }
    json!({"type": "error", "status": status.as_u16(), "error": error})
}

/// Puts the name of its lane into an event, which is a JSON object with at least one field.
pub(super) fn in_lane(lane: &Lane, event: Bytes) -> Bytes {
    const FIELD: &[u8] = b"\"stream_id\"";
    let mut event = event;
    // A provider knows no lanes, so its `stream_id` would mislead the client.
    if memchr::memmem::find(&event, FIELD).is_some()
        && let Ok(mut fields) = serde_json::from_slice::<EventFields>(&event)
        && fields.remove("stream_id").is_some()
    {
        event = to_json(&fields);
    }
    let (Some(name), Some(fields)) = (lane, event.strip_prefix(b"{")) else { return event };
    // `is_name` allows no characters that JSON escapes.
    [b"{\"stream_id\":\"", name.as_bytes(), b"\",", fields].concat().into()
}
