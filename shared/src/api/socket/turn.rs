//! One response, from its message to its last event.

use std::{borrow::Cow, cell::RefCell, future::poll_fn, pin::Pin, rc::Rc};

use bytes::Bytes;
use futures_channel::mpsc;
use futures_util::SinkExt;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    super::{ApiError, Style, responses::wrong_input},
    Line, Said,
    context::{Context, Contexts},
    message::{Create, Lane, failed, in_lane},
};
use crate::{
    body::Body,
    config::Config,
    node::Node,
    platform::Platform,
    session::history,
    wire::{
        self, Format, Frame,
        responses::Writer,
        sse::{Decoder, Event},
        writer::INTERRUPTED,
    },
};

/// Answers `create`, and gives back its lane.
pub(super) async fn answer<P: Platform, A: AsyncFn(Request<Body>) -> Response<Body>>(
    line: Rc<Line<P, A>>,
    create: Create,
) -> Lane {
    let (lane, generates) = (create.lane.clone(), create.generates);
    let previous = create.fields.get("previous_response_id").and_then(Value::as_str).map(str::to_owned);
    let prepared = Prepared::new(create, &line.contexts.borrow());
    let (response, keeps, shows) = match prepared {
        Ok(Prepared { body, keeps, shows }) if generates => {
            let request = Request::from_parts(line.head.clone(), Body::from(body));
            ((line.ask)(request).await, keeps, shows)
        }
        Ok(Prepared { body, keeps, shows }) => (warm(&line.node, &body), keeps, shows),
        Err(error) => (error.into_response(Style::OpenAi, &line.node.random_id()), None, None),
    };
    let voice = Voice { lane: &lane, out: line.out.clone(), contexts: &line.contexts, keeps, shows };
    if !voice.pass_on(response).await
        && let Some(previous) = previous
    {
        line.contexts.borrow_mut().evict(&previous);
    }
    lane
}

/// What is made of a message before anybody is asked.
#[derive(Debug, PartialEq)]
struct Prepared {
    /// The body of the request.
    body: Bytes,
    /// What is to be known of its response.
    keeps: Option<Keeps>,
    /// The response that it continues, where the request does not say that.
    shows: Option<String>,
}

/// What a connection is to know of a response.
#[derive(Debug, PartialEq)]
enum Keeps {
    /// That it is in a log.
    Id,
    /// What came before it, which is in no log.
    Context(Context),
}

impl Prepared {
    fn new(create: Create, contexts: &Contexts) -> Result<Self, ApiError> {
        let Create { mut fields, generates, bytes, .. } = create;
        let in_conversation = fields.get("conversation").is_some_and(|value| !value.is_null());
        if in_conversation && !generates {
            let why = "false together with 'conversation'; allowed: input that belongs to no conversation";
            return Err(ApiError::value("generate", why));
        }
        let previous = fields.get("previous_response_id").and_then(Value::as_str).map(str::to_owned);
        let is_logged = generates && fields.get("store") != Some(&Value::Bool(false));
        let known = previous.as_deref().and_then(|id| contexts.find(id)).filter(|_| !in_conversation);
        let mut context = match (known, &previous) {
            (Some(context), _) => context.clone(),
            (None, Some(id)) if generates && !is_logged && !in_conversation => {
                return Err(ApiError::unknown_previous(id));
            }
            (None, _) => Context { base: previous.clone(), ..Context::default() },
        };
        let tells = context.base != previous;
        if tells || !is_logged {
            let input = input(&fields)?;
            if context.base.is_none()
                && let Some(call) = history::orphan(&context.items, &input)
            {
                return Err(ApiError::orphan(call));
            }
            context.items.extend(input);
            context.bytes += bytes;
        }
        if tells {
            fields.insert("input".into(), context.items.clone().into());
            match &context.base {
                Some(base) => fields.insert("previous_response_id".into(), base.as_str().into()),
                None => fields.remove("previous_response_id"),
            };
        }
        let keeps = if is_logged { Keeps::Id } else { Keeps::Context(context) };
        let keeps = Some(keeps).filter(|_| !in_conversation);
        let body = Value::Object(fields).to_string().into();
        Ok(Self { body, keeps, shows: previous.filter(|_| tells) })
    }
}

/// The items of a request's input.
fn input(fields: &Map<String, Value>) -> Result<Vec<Value>, ApiError> {
    match fields.get("input") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => Ok(items.clone()),
        Some(Value::String(text)) => Ok(vec![json!({"type": "message", "role": "user", "content": text})]),
        Some(other) => Err(wrong_input(other)),
    }
}

/// The items of an answer that can be sent as input. Thoughts can if they come sealed, or in words; and those in words are
/// wanted back only by who thought them before a call.
fn replayable(output: &[Value]) -> impl Iterator<Item = &Value> {
    let is = |item: &Value, kind: &str| item.get("type").and_then(Value::as_str) == Some(kind);
    let last_call = output.iter().rposition(|item| is(item, "function_call"));
    let tells = move |(at, item): &(usize, &Value)| {
        let sealed = item.get("encrypted_content").is_some_and(Value::is_string);
        let in_words = item.get("content").and_then(Value::as_array).is_some_and(|words| !words.is_empty());
        !is(item, "reasoning") || sealed || (in_words && last_call > Some(*at))
    };
    output.iter().enumerate().filter(tells).map(|(_, item)| item)
}

/// A response in which nothing is said, so that what was sent can be continued.
fn warm<P: Platform>(node: &Node<P>, body: &[u8]) -> Response<Body> {
    let (id, created) = (node.random_id(), node.platform().now().unix_seconds());
    let request = match read(node.config(), body) {
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

/// Reads a request for a response that no log keeps.
fn read(config: &Config, body: &[u8]) -> Result<wire::Request, ApiError> {
    let mut fields: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    fields.insert("store".into(), false.into());
    fields.remove("previous_response_id");
    let request = wire::Request::parse(Format::Responses, Value::Object(fields).to_string().into())?;
    request.prompt().map_err(Clone::clone)?;
    if config.model(&request.model).is_none() {
        return Err(ApiError::unknown_model(config, &request.model));
    }
    Ok(request)
}

/// Tells the client what comes of one message.
struct Voice<'a> {
    lane: &'a Lane,
    out: mpsc::Sender<Said>,
    contexts: &'a RefCell<Contexts>,
    /// What is to be known of the answer, once it is whole.
    keeps: Option<Keeps>,
    /// What the client is told it continues, where the answer does not say that.
    shows: Option<String>,
}

/// How an answer ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Failed,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

impl Voice<'_> {
    async fn say(&mut self, event: Bytes) {
        // Who has left is not told.
        let _ = self.out.send(Said::Text(in_lane(self.lane, event))).await;
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
            self.say(failed(&None, head.status, &head.headers, &whole)).await;
            return false;
        }
        let (mut events, mut end) = (Decoder::default(), None);
        while let Some(chunk) = next().await {
            events.push(chunk);
            while let Ok(Some(event)) = events.event() {
                // What comes after the end is read, so that the answer is settled, but not told.
                if let (Event::Data { name, data, .. }, None) = (event, end) {
                    let event;
                    (event, end) = self.take(name, data);
                    self.say(event).await;
                }
            }
        }
        if end.is_none() {
            let why = "the stream ended before the response did";
            let error = json!({"error": {"code": INTERRUPTED, "message": why}}).to_string();
            self.say(failed(&None, StatusCode::BAD_GATEWAY, &HeaderMap::new(), error.as_bytes())).await;
        }
        end == Some(End::Whole)
    }

    /// An event as the client is to see it, and whether it is the last.
    fn take(&mut self, name: Option<Bytes>, data: Bytes) -> (Bytes, Option<End>) {
        let kind = match &name {
            Some(name) => String::from_utf8_lossy(name),
            None => serde_json::from_slice(&data).map_or("".into(), |Kind { kind }| kind),
        };
        let end = match &*kind {
            "response.created" | "response.queued" | "response.in_progress" => None,
            "response.completed" | "response.incomplete" => Some(End::Whole),
            "response.failed" => Some(End::Failed),
            "error" => return (error_event(&data), Some(End::Failed)),
            _ => return (data, None),
        };
        let keeps = self.keeps.take_if(|_| end == Some(End::Whole));
        if self.shows.is_none() && keeps.is_none() {
            return (data, end);
        }
        let Ok(mut event) = serde_json::from_slice::<Value>(&data) else { return (data, end) };
        let Some(response) = event.get_mut("response").and_then(Value::as_object_mut) else {
            return (data, end);
        };
        if let (Some(keeps), Some(Value::String(id))) = (keeps, response.get("id")) {
            let context = match keeps {
                Keeps::Id => Context { base: Some(id.clone()), ..Context::default() },
                Keeps::Context(mut context) => {
                    let output = response.get("output").and_then(Value::as_array);
                    context.items.extend(replayable(output.map_or(&[][..], Vec::as_slice)).cloned());
                    context.bytes += data.len();
                    context
                }
            };
            self.contexts.borrow_mut().keep(self.lane, id.clone(), context);
        }
        let Some(previous) = &self.shows else { return (data, end) };
        response.insert("previous_response_id".into(), previous.as_str().into());
        (event.to_string().into(), end)
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
    let error = json!({"error": error}).to_string();
    let event = failed(&None, StatusCode::BAD_GATEWAY, &HeaderMap::new(), error.as_bytes());
    let fields = serde_json::from_slice::<Map<String, Value>>(&event);
    let (Some(sequence), Ok(mut fields)) = (sequence, fields) else { return event };
    fields.insert("sequence_number".into(), sequence);
    Value::Object(fields).to_string().into()
}
