//! Messages of clients, and those that answer none of them with a response.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};

use super::super::{ApiError, Style};
use crate::{
    body::Body,
    wire::raw::{parse_object, parse_text},
};

/// The name that a client gave to a line of responses which come one after the other. Those without a name are one, too.
pub(super) type Lane = Option<String>;

/// Longest name of a lane, as at OpenAI.
const MAX_NAME: usize = 256;

/// What a message asks for.
pub(super) enum Asked {
    /// A response.
    Create(Create),
    /// That a response which is being made heeds more input.
    Steer(Steer),
}

/// `response.create`
pub(super) struct Create {
    pub(super) lane: Lane,
    /// Whether a model is asked. Else its input is only kept, to be continued.
    pub(super) generates: bool,
    /// The body of the request.
    pub(super) fields: Map<String, Value>,
    /// How long the message was.
    pub(super) bytes: usize,
}

/// `response.steer`
pub(super) struct Steer(Value);

/// What is told instead of a response.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) lane: Lane,
    pub(super) error: ApiError,
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self { lane: None, error }
    }
}

impl Asked {
    pub(super) fn read(text: &[u8]) -> Result<Self, Refused> {
        let fields = parse_text(text).and_then(parse_object);
        let mut fields: Map<String, Value> = fields.map_err(ApiError::from)?;
        let lane = match fields.remove("stream_id") {
            None => None,
            Some(Value::String(name)) if is_name(&name) => Some(name),
            Some(_) => return Err(ApiError::invalid_stream_id(MAX_NAME).into()),
        };
        let refuse =
            |lane: Lane, param: &str, why: String| Err(Refused { lane, error: ApiError::value(param, why) });
        let kind = fields.remove("type").unwrap_or_default();
        match kind.as_str() {
            Some("response.create") => (),
            Some("response.steer") => return Ok(Self::Steer(Steer(fields.into()))),
            _ => {
                let kind: String = kind.to_string().chars().take(100).collect();
                return refuse(lane, "type", format!("{kind}; allowed: response.create"));
            }
        }
        let generates = match fields.remove("generate") {
            None | Some(Value::Null | Value::Bool(true)) => true,
            Some(Value::Bool(false)) => false,
            Some(_) => return refuse(lane, "generate", "allowed: true, false".into()),
        };
        if !matches!(fields.remove("background"), None | Some(Value::Null | Value::Bool(false))) {
            let why = "a response over a WebSocket is not made in the background; allowed: false";
            return refuse(lane, "background", why.into());
        }
        // Here all are streamed, whatever a message says of it.
        fields.insert("stream".into(), true.into());
        Ok(Self::Create(Create { lane, generates, fields, bytes: text.len() }))
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(allowed)
}

impl Steer {
    /// A response goes to its end as it was asked for: its input is in the log by then.
    pub(super) fn refusal(mut self) -> Bytes {
        let steer: Map<String, Value> = ["input", "previous_response_id"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), self.0.get_mut(name)?.take())))
            .collect();
        let why = "responses are not steered here; allowed: another response.create after this one";
        let error =
            json!({"type": "invalid_request_error", "code": "steering_not_supported", "message": why});
        let event =
            json!({"type": "response.steer.failed", "sequence_number": 0, "error": error, "steer": steer});
        event.to_string().into()
    }
}

impl Refused {
    /// The event that says so.
    pub(super) fn event(self, id: &str) -> Bytes {
        let (head, body) = self.error.into_response(Style::OpenAi, id).into_parts();
        let body = if let Body::Full(body) = body { body } else { Bytes::new() };
        failed(&self.lane, head.status, &head.headers, &body)
    }
}

/// The event for a request that was refused with these headers and this body.
pub(super) fn failed(lane: &Lane, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Bytes {
    let body: Option<Map<String, Value>> = serde_json::from_slice(body).ok();
    let error = body.and_then(|mut body| body.remove("error"));
    let mut error = match error {
        Some(Value::Object(error)) => error,
        _ => Map::new(),
    };
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
    let event = json!({"type": "error", "status": status.as_u16(), "error": error});
    in_lane(lane, event.to_string().into())
}

/// An event, which is a JSON object with fields, with the name of its lane.
pub(super) fn in_lane(lane: &Lane, event: Bytes) -> Bytes {
    let (Some(name), Some(fields)) = (lane, event.strip_prefix(b"{")) else { return event };
    // A name needs no escapes.
    [b"{\"stream_id\":\"", name.as_bytes(), b"\",", fields].concat().into()
}
