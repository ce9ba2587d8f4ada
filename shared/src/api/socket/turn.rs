//! One response, from its message to its last event.

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
    message::{CreateEvent, EventFields, Lane, failed, in_lane, read, refused, set, text},
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

/// Answers `create`, and gives back its lane.
pub(super) async fn answer<P: Platform, A: AsyncFn(Request<Body>) -> Response<Body>>(
    line: Rc<Connection<P, A>>,
    create: CreateEvent,
) -> Lane {
    let (lane, generates, previous) = (create.lane.clone(), create.generates, create.previous.clone());
    let prepared = PreparedCreate::new(create, &line.contexts.borrow());
    let (response, keeps, shows) = match prepared {
        Ok(PreparedCreate { fields, keeps, shows }) if generates => {
            let request = Request::from_parts(line.head.clone(), Body::from(text(&fields)));
            drop(fields);
            ((line.ask)(request).await, keeps, shows)
        }
        Ok(PreparedCreate { fields, keeps, shows }) => (warm(&line.node, &line.caller, fields), keeps, shows),
        Err(error) => (error.into_response(Style::OpenAi, &line.node.random_id()), None, None),
    };
    let voice = EventForwarder { lane: &lane, out: line.out.clone(), contexts: &line.contexts, keeps, shows };
    if !voice.pass_on(response).await
        && let Some(previous) = previous
    {
        line.contexts.borrow_mut().evict(&previous);
    }
    lane
}

/// What is made of a message before anybody is asked.
struct PreparedCreate {
    /// The body of the request.
    fields: EventFields,
    /// What is to be known of its response.
    keeps: Option<ContextUpdate>,
    /// The response that it continues, where the request does not say that.
    shows: Option<String>,
}

/// What a connection is to know of a response.
enum ContextUpdate {
    /// That it is in a log.
    Id,
    /// What came before it, which is in no log.
    Context(Context),
}

impl PreparedCreate {
    fn new(create: CreateEvent, contexts: &Contexts) -> Result<Self, ApiError> {
        let CreateEvent { mut fields, generates, previous, .. } = create;
        let is = |name: &str, value: &str| fields.get(name).is_some_and(|field| field.get() == value);
        let in_conversation = fields.contains_key("conversation") && !is("conversation", "null");
        if in_conversation && !generates {
            let why = "false together with 'conversation'; allowed: input that belongs to no conversation";
            return Err(ApiError::value("generate", why));
        }
        let is_logged = generates && !is("store", "false");
        let known = previous.as_deref().and_then(|id| contexts.find(id)).filter(|_| !in_conversation);
        let mut context = match (known, &previous) {
            (Some(context), _) => context.clone(),
            (None, Some(id)) if generates && !is_logged && !in_conversation => {
                return Err(ApiError::unknown_previous(id));
            }
            (None, _) => Context::logged(previous.clone()),
        };
        // Whether there is anything between the response that is continued and one in a log.
        let tells = context.base != previous;
        if tells || !is_logged {
            let input = input(fields.get("input").map(|input| &**input))?;
            context.push(input.iter().map(|item| &**item))?;
        }
        if tells {
            if let Ok(input) = RawValue::from_string(context.input()) {
                fields.insert("input".into(), input);
            }
            match &context.base {
                Some(base) => set(&mut fields, "previous_response_id", base),
                None => drop(fields.remove("previous_response_id")),
            }
        }
        let keeps = if is_logged { ContextUpdate::Id } else { ContextUpdate::Context(context) };
        let keeps = Some(keeps).filter(|_| !in_conversation);
        Ok(Self { fields, keeps, shows: previous.filter(|_| tells) })
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

/// The items of an answer that can be sent as input. Thoughts can if they come sealed, or in words; and those in words are
/// wanted back only by who thought them before a call.
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
    let tells = |at: usize, item: &OutputOutline<'_>| {
        item.kind != "reasoning" || item.encrypted_content.0 || (item.content.0 && last_call > Some(at))
    };
    let items = output.iter().zip(&outlines).enumerate();
    items.filter(|(at, (_, outline))| tells(*at, outline)).map(|(_, (item, _))| *item).collect()
}

/// A response in which nothing is said, so that what was sent can be continued.
fn warm<P: Platform>(node: &Node<P>, caller: &Caller, fields: EventFields) -> Response<Body> {
    let (id, created) = (node.random_id(), node.platform().now().unix_seconds());
    let request = match admitted(node, caller, fields) {
        Ok(request) => request,
        Err(error) => return error.into_response(Style::OpenAi, &id),
    };
    let mut writer = Writer::new(Frame {
        id: Frame::id(Format::Responses, &id),
        created,
        model: request.model.clone(),
        completed: Some(created),
        request: request.to_json(),
        ..Frame::default()
    });
    let mut events = Vec::new();
    writer.begin("in_progress", &mut events);
    writer.progress(&mut events);
    writer.finish(None, &mut events);
    Response::new(Body::Full(events.into()))
}

/// Reads a request for a response that no log keeps, if its caller may ask now.
fn admitted<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    mut fields: EventFields,
) -> Result<wire::Request, ApiError> {
    let _permit = rate_limit::admit(node, caller)?;
    set(&mut fields, "store", &false);
    fields.remove("previous_response_id");
    let request = wire::Request::parse(Format::Responses, text(&fields))?;
    request.prompt().map_err(Clone::clone)?;
    if node.config().model(&request.model).is_none() {
        return Err(ApiError::unknown_model(node.config(), &request.model));
    }
    Ok(request)
}

/// Tells the client what comes of one message.
struct EventForwarder<'a> {
    lane: &'a Lane,
    out: mpsc::Sender<ServerMessage>,
    contexts: &'a RefCell<Contexts>,
    /// What is to be known of the answer, once it is whole.
    keeps: Option<ContextUpdate>,
    /// What the client is told it continues, where the answer does not say that.
    shows: Option<String>,
}

/// How an answer ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamEnd {
    Whole,
    Failed,
}

#[derive(Deserialize)]
struct EventType<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

/// The part of a whole response that is looked at.
#[derive(Deserialize)]
struct CompletedResponse<'a> {
    id: String,
    #[serde(borrow, default)]
    output: Vec<&'a RawValue>,
}

impl EventForwarder<'_> {
    async fn say(&mut self, event: Bytes) {
        // Who has left is not told.
        let _ = self.out.send(ServerMessage::Text(in_lane(self.lane, event))).await;
    }

    /// Hands on the events of `response`, or the error that it is. Whether the answer is whole.
    async fn pass_on(mut self, response: Response<Body>) -> bool {
        let (head, mut body) = response.into_parts();
        let mut next =
            async || poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await?.ok()?.into_data().ok();
        if !head.status.is_success() {
            let mut whole = Vec::new();
            while let Some(chunk) = next().await {
                whole.extend_from_slice(&chunk);
            }
            self.say(refused(head.status, &head.headers, &whole)).await;
            return false;
        }
        let (mut events, mut end) = (SseDecoder::default(), None);
        while let Some(chunk) = next().await {
            events.push(chunk);
            while let Ok(Some(event)) = events.event() {
                // What comes after the end is read, so that the answer is settled, but not told.
                if let (SseEvent::Data { name, data, .. }, None) = (event, end)
                    && data.starts_with(b"{")
                {
                    let event;
                    (event, end) = self.take(name, data);
                    self.say(event).await;
                }
            }
        }
        if end.is_none() {
            let why = "the stream ended before the response did";
            let error = json!({"code": INTERRUPTED, "message": why});
            self.say(failed(StatusCode::BAD_GATEWAY, &HeaderMap::new(), error).to_string().into()).await;
        }
        end == Some(StreamEnd::Whole)
    }

    /// An event as the client is to see it, and whether it is the last.
    fn take(&mut self, name: Option<Bytes>, data: Bytes) -> (Bytes, Option<StreamEnd>) {
        let kind = match &name {
            Some(name) => String::from_utf8_lossy(name),
            None => serde_json::from_slice(&data).map_or("".into(), |EventType { kind }| kind),
        };
        let end = match &*kind {
            "response.created" | "response.queued" | "response.in_progress" => None,
            "response.completed" | "response.incomplete" => Some(StreamEnd::Whole),
            "response.failed" => Some(StreamEnd::Failed),
            "error" => return (error_event(&data), Some(StreamEnd::Failed)),
            _ => return (data, None),
        };
        let keeps = self.keeps.take_if(|_| end == Some(StreamEnd::Whole));
        if self.shows.is_none() && keeps.is_none() {
            return (data, end);
        }
        let Ok(mut event) = serde_json::from_slice::<EventFields>(&data) else { return (data, end) };
        let Some(response) = event.get("response") else { return (data, end) };
        if let (Some(keeps), Some(whole)) = (keeps, read::<CompletedResponse<'_>>(response)) {
            let context = match keeps {
                ContextUpdate::Id => Context::logged(Some(whole.id.clone())),
                ContextUpdate::Context(mut context) => {
                    // An answer has calls, and no results of the client's.
                    let _ = context.push(replayable(&whole.output));
                    context
                }
            };
            self.contexts.borrow_mut().keep(self.lane, whole.id, context);
        }
        let (Some(previous), Some(mut response)) = (&self.shows, read::<EventFields>(response)) else {
            return (data, end);
        };
        set(&mut response, "previous_response_id", previous);
        set(&mut event, "response", &response);
        (text(&event), end)
    }
}

/// The error that ends a stream of server-sent events, as it is told over a WebSocket.
fn error_event(data: &[u8]) -> Bytes {
    let mut told: Map<String, Value> = serde_json::from_slice(data).unwrap_or_default();
    let sequence = told.remove("sequence_number");
    let error = told.remove("error").filter(Value::is_object).unwrap_or_else(|| {
        told.remove("type");
        told.into()
    });
    let mut event = failed(StatusCode::BAD_GATEWAY, &HeaderMap::new(), error);
    if let (Some(sequence), Some(fields)) = (sequence, event.as_object_mut()) {
        fields.insert("sequence_number".into(), sequence);
    }
    event.to_string().into()
}
