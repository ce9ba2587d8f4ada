//! Answers one `response.create`: makes the request for the node, forwards the events of its answer, and updates what
//! the connection remembers. `queue.rs` decides when it runs.

use std::{borrow::Cow, cell::RefCell, future::poll_fn, pin::Pin, rc::Rc};

use bytes::Bytes;
use futures_channel::mpsc;
use futures_util::SinkExt;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body as _;
use serde::Deserialize;
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use super::{
    super::{ApiError, Style, caller::Caller, responses::wrong_input},
    Connection, ServerMessage,
    context::{Context, Contexts},
    message::{CreateEvent, EventFields, Lane, failure_event, in_lane, read, refusal_event, set, to_json},
};
use crate::{
    api::rate_limit,
    body::Body,
    json,
    node::Node,
    platform::Platform,
    wire::{
        self, Format, Frame,
        responses::Writer,
        sse::{SseDecoder, SseEvent},
        writer::INTERRUPTED,
    },
};

/// Answers `create`, and returns its lane when the last event is sent.
pub(super) async fn answer<P: Platform, A: AsyncFn(Request<Body>) -> Response<Body>>(
    connection: Rc<Connection<P, A>>,
    create: CreateEvent,
) -> Lane {
    let (lane, generates, previous) = (create.lane.clone(), create.generates, create.previous.clone());
    let prepared = PreparedCreate::new(create, &connection.contexts.borrow());
    let (response, context_update, shown_previous) = match prepared {
        Ok(PreparedCreate { fields, context_update, shown_previous }) => {
            let response = if generates {
                let request = Request::from_parts(connection.head.clone(), Body::from(to_json(&fields)));
                // The request has a copy, and the answer may take minutes.
                drop(fields);
                (connection.handle)(request).await
            } else {
                empty_response(&connection.node, &connection.caller, fields)
            };
            (response, context_update, shown_previous)
        }
        Err(error) => (error.into_response(Style::OpenAi, &connection.node.random_id()), None, None),
    };
    let forwarder = EventForwarder {
        lane: &lane,
        messages: connection.messages.clone(),
        contexts: &connection.contexts,
        context_update,
        shown_previous,
    };
    // As at OpenAI, a response whose continuation failed can't be continued again.
    if !forwarder.forward(response).await
        && let Some(previous) = previous
    {
        connection.contexts.borrow_mut().evict(&previous);
    }
    lane
}

/// A `response.create`, checked against what the connection remembers.
struct PreparedCreate {
    /// The body of the request.
    fields: EventFields,
    /// What the connection remembers of the response once it is complete.
    context_update: Option<ContextUpdate>,
    /// The response that the client continues, if the request does not name it.
    shown_previous: Option<String>,
}

/// What a connection remembers of a response.
enum ContextUpdate {
    /// The response is stored, so its id.
    Stored,
    /// The response is not stored, so its items after this history.
    Unstored(Context),
}

impl PreparedCreate {
    /// Replaces a `previous_response_id` that only the connection knows by the items that it stands for.
    fn new(create: CreateEvent, contexts: &Contexts) -> Result<Self, ApiError> {
        let CreateEvent { mut fields, generates, previous, .. } = create;
        let is = |name: &str, value: &str| fields.get(name).is_some_and(|field| field.get() == value);
        let in_conversation = fields.contains_key("conversation") && !is("conversation", "null");
        if in_conversation && !generates {
            let why = "false together with 'conversation'; allowed: input that belongs to no conversation";
            return Err(ApiError::value("generate", why));
        }
        let is_stored = generates && !is("store", "false");
        let known = previous.as_deref().and_then(|id| contexts.find(id)).filter(|_| !in_conversation);
        let mut context = match (known, &previous) {
            (Some(context), _) => context.clone(),
            // As at OpenAI, a request with `store` false continues only what its connection remembers.
            (None, Some(id)) if generates && !is_stored && !in_conversation => {
                return Err(ApiError::unknown_previous(id));
            }
            // The node looks for it in the logs.
            (None, _) => Context::stored(previous.clone()),
        };
        // Whether unstored items lie between the stored response and the one that is continued.
        let has_unstored = context.base != previous;
        if has_unstored || !is_stored {
            let input = input(fields.get("input").map(|input| &**input))?;
            context.push(input.iter().map(|item| &**item))?;
        }
        if has_unstored {
            if let Ok(input) = RawValue::from_string(context.input()) {
                fields.insert("input".into(), input);
            }
            match &context.base {
                Some(base) => set(&mut fields, "previous_response_id", base),
                None => drop(fields.remove("previous_response_id")),
            }
        }
        let update = if is_stored { ContextUpdate::Stored } else { ContextUpdate::Unstored(context) };
        // A conversation is continued by its own id.
        let context_update = Some(update).filter(|_| !in_conversation);
        Ok(Self { fields, context_update, shown_previous: previous.filter(|_| has_unstored) })
    }
}

/// The items of a request's input.
fn input(input: Option<&RawValue>) -> Result<Vec<Cow<'_, RawValue>>, ApiError> {
    let Some(input) = input.filter(|input| input.get() != "null") else { return Ok(Vec::new()) };
    match json::type_of(input.get()) {
        "an array" => {
            Ok(read::<Vec<&RawValue>>(input).unwrap_or_default().into_iter().map(Cow::Borrowed).collect())
        }
        "a string" => {
            let message =
                to_raw_value(&json!({"type": "message", "role": "user", "content": read::<Value>(input)}));
            Ok(message.into_iter().map(Cow::Owned).collect())
        }
        _ => Err(wrong_input(&read(input).unwrap_or_default())),
    }
}

/// The items of an answer that can be sent as input. Reasoning can if it is encrypted, or if it is plain text before
/// a call: models with plain reasoning need it back only there.
fn replayable<'a>(output: &[&'a RawValue]) -> Vec<&'a RawValue> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct OutputOutline<'a> {
        #[serde(borrow, rename = "type")]
        kind: Cow<'a, str>,
        encrypted_content: json::IsPresent,
        content: json::IsPresent,
    }
    let outlines: Vec<OutputOutline<'_>> = output.iter().map(|item| read(item).unwrap_or_default()).collect();
    let last_call = outlines.iter().rposition(|item| item.kind == "function_call");
    let is_replayable = |at: usize, item: &OutputOutline<'_>| {
        item.kind != "reasoning" || item.encrypted_content.0 || (item.content.0 && last_call > Some(at))
    };
    let items = output.iter().zip(&outlines).enumerate();
    items.filter(|(at, (_, outline))| is_replayable(*at, outline)).map(|(_, (item, _))| *item).collect()
}

/// The answer to `generate: false`: the events of a complete response without output, so that its input can be
/// continued.
fn empty_response<P: Platform>(node: &Node<P>, caller: &Caller, fields: EventFields) -> Response<Body> {
    let (id, created) = (node.random_id(), node.platform().now().unix_seconds());
    let request = match parse_unstored(node, caller, fields) {
        Ok(request) => request,
        Err(error) => return error.into_response(Style::OpenAi, &id),
    };
    let mut writer = Writer::new(Frame {
        id: Frame::id(Format::Responses, &id),
        created,
        model: request.model.clone(),
        completed: Some(created),
        request: Some(request.settings()),
        ..Frame::default()
    });
    let mut events = Vec::new();
    writer.begin("in_progress", &mut events);
    writer.write_in_progress(&mut events);
    writer.finish(None, &mut events);
    Response::new(Body::Full(events.into()))
}

/// Parses a request for a response that no log stores, if the limits of its caller admit it.
fn parse_unstored<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    mut fields: EventFields,
) -> Result<wire::Request, ApiError> {
    // The request ends with this function, and so does its permit.
    let _permit = rate_limit::admit(node, caller)?;
    set(&mut fields, "store", &false);
    fields.remove("previous_response_id");
    let request = wire::Request::parse(Format::Responses, to_json(&fields))?;
    request.prompt().map_err(Clone::clone)?;
    if node.config().model(&request.model).is_none() {
        return Err(ApiError::unknown_model(node.config(), &request.model));
    }
    Ok(request)
}

/// Forwards the events of one response to the client.
struct EventForwarder<'a> {
    lane: &'a Lane,
    messages: mpsc::Sender<ServerMessage>,
    contexts: &'a RefCell<Contexts>,
    /// What the connection remembers of the response once it is complete.
    context_update: Option<ContextUpdate>,
    /// Replaces `previous_response_id` in the events.
    shown_previous: Option<String>,
}

/// How a response ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamEnd {
    Complete,
    Failed,
}

#[derive(Deserialize)]
struct EventType<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

/// The fields of a complete response that the connection remembers.
#[derive(Deserialize)]
struct CompletedResponse<'a> {
    id: String,
    #[serde(borrow, default)]
    output: Vec<&'a RawValue>,
}

impl EventForwarder<'_> {
    async fn send(&mut self, event: Bytes) {
        // Send errors are ignored: the client has disconnected.
        let _ = self.messages.send(ServerMessage::Text(in_lane(self.lane, event))).await;
    }

    /// Sends the events of `response`, or the error that it is. Returns whether the response is complete.
    async fn forward(mut self, response: Response<Body>) -> bool {
        let (head, mut body) = response.into_parts();
        let mut next_chunk =
            async || poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await?.ok()?.into_data().ok();
        if !head.status.is_success() {
            let mut error = Vec::new();
            while let Some(chunk) = next_chunk().await {
                error.extend_from_slice(&chunk);
            }
            self.send(refusal_event(head.status, &head.headers, &error)).await;
            return false;
        }
        let (mut events, mut end) = (SseDecoder::default(), None);
        while let Some(chunk) = next_chunk().await {
            events.push(chunk);
            while let Ok(Some(event)) = events.event() {
                // Events after the last one are read but not sent: the call is settled when its body ends.
                if let (SseEvent::Data { name, data, .. }, None) = (event, end)
                    && data.starts_with(b"{")
                {
                    let event;
                    (event, end) = self.process(name, data);
                    self.send(event).await;
                }
            }
        }
        if end.is_none() {
            let why = "the stream ended before the response did";
            let error = json!({"code": INTERRUPTED, "message": why});
            let event = failure_event(StatusCode::BAD_GATEWAY, &HeaderMap::new(), error);
            self.send(event.to_string().into()).await;
        }
        end == Some(StreamEnd::Complete)
    }

    /// Updates the contexts if the event completes the response. Returns the event as the client sees it, and how the
    /// response ended if this is its last event.
    fn process(&mut self, name: Option<Bytes>, data: Bytes) -> (Bytes, Option<StreamEnd>) {
        let kind = match &name {
            Some(name) => String::from_utf8_lossy(name),
            None => serde_json::from_slice(&data).map_or("".into(), |EventType { kind }| kind),
        };
        let end = match &*kind {
            "response.created" | "response.queued" | "response.in_progress" => None,
            "response.completed" | "response.incomplete" => Some(StreamEnd::Complete),
            "response.failed" => Some(StreamEnd::Failed),
            "error" => return (error_event(&data), Some(StreamEnd::Failed)),
            _ => return (data, None),
        };
        let update = self.context_update.take_if(|_| end == Some(StreamEnd::Complete));
        // Most events are forwarded unparsed.
        if self.shown_previous.is_none() && update.is_none() {
            return (data, end);
        }
        let Ok(mut event) = serde_json::from_slice::<EventFields>(&data) else { return (data, end) };
        let Some(response) = event.get("response") else { return (data, end) };
        if let (Some(update), Some(completed)) = (update, read::<CompletedResponse<'_>>(response)) {
            let context = match update {
                ContextUpdate::Stored => Context::stored(Some(completed.id.clone())),
                ContextUpdate::Unstored(mut context) => {
                    // Never fails: an answer has calls, but no outputs of the client.
                    let _ = context.push(replayable(&completed.output));
                    context
                }
            };
            self.contexts.borrow_mut().insert(self.lane, completed.id, context);
        }
        let (Some(previous), Some(mut response)) = (&self.shown_previous, read::<EventFields>(response))
        else {
            return (data, end);
        };
        set(&mut response, "previous_response_id", previous);
        set(&mut event, "response", &response);
        (to_json(&event), end)
    }
}

/// The `error` event of a stream of server-sent events, in the shape that it has over a WebSocket.
fn error_event(data: &[u8]) -> Bytes {
    let mut fields: Map<String, Value> = serde_json::from_slice(data).unwrap_or_default();
    let sequence = fields.remove("sequence_number");
    // In a stream, the fields of the error are those of the event.
    let error = fields.remove("error").filter(Value::is_object).unwrap_or_else(|| {
        fields.remove("type");
        fields.into()
    });
    let mut event = failure_event(StatusCode::BAD_GATEWAY, &HeaderMap::new(), error);
    if let (Some(sequence), Some(event)) = (sequence, event.as_object_mut()) {
        event.insert("sequence_number".into(), sequence);
    }
    event.to_string().into()
}
