//! The HTTP surface, the same on every node: a request goes in, an answer comes out.
//!
//! Every route stands in [`Route::find`], what it may be asked with in [`Route::methods`], and who may ask in
//! [`Route::scope`].

mod caller;
mod console;
mod conversations;
mod error;
mod idempotency;
mod inference;
mod operations;
mod rate_limit;
mod request_body;
mod responses;
mod schedules;
mod sessions;
pub mod socket;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE, request,
};

use crate::{
    body::Body,
    config::Scope,
    entry::LogId,
    node::Node,
    platform::Platform,
    session::{schedule::Directory, turn::ResponseId},
    trace::Trace,
    wire::Format,
};
use error::ApiError;
use responses::IncomingRequest;
use schedules::Action;
use socket::Socket;

/// The resources of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'a> {
    Inference(Format),
    Responses,
    InputTokens,
    Compact,
    Response(&'a str),
    Cancel(&'a str),
    InputItems(&'a str),
    Models,
    Model(&'a str),
    Conversations,
    Conversation(&'a str),
    Items(&'a str),
    Item(&'a str, &'a str),
    Sessions,
    Session(&'a str),
    Entries(&'a str),
    Schedules,
    Schedule(&'a str),
    ScheduleAction(&'a str, Action),
    Fires(&'a str),
    Health,
    Ready,
    Status,
    Metrics,
    Console(console::File),
}

impl<'a> Route<'a> {
    fn find(path: &'a str) -> Option<Self> {
        Some(match path {
            "/v1/chat/completions" => Self::Inference(Format::Chat),
            "/v1/responses" => Self::Responses,
            "/v1/responses/input_tokens" => Self::InputTokens,
            "/v1/responses/compact" => Self::Compact,
            "/v1/messages" => Self::Inference(Format::Messages),
            "/v1/messages/count_tokens" => Self::Inference(Format::TokenCount),
            "/v1/embeddings" => Self::Inference(Format::Embeddings),
            "/v1/models" => Self::Models,
            "/v1/conversations" => Self::Conversations,
            "/v1/sessions" => Self::Sessions,
            "/v1/schedules" => Self::Schedules,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/v1/status" => Self::Status,
            "/metrics" => Self::Metrics,
            _ => {
                if let Some(file) = console::find(path) {
                    return Some(Self::Console(file));
                }
                if let Some(name) = path.strip_prefix("/v1/models/") {
                    return Some(Self::Model(name)).filter(|_| !name.is_empty());
                }
                if let Some(rest) = path.strip_prefix("/v1/responses/") {
                    return Some(match rest.split_once('/') {
                        None if !rest.is_empty() => Self::Response(rest),
                        Some((id, "cancel")) => Self::Cancel(id),
                        Some((id, "input_items")) => Self::InputItems(id),
                        _ => return None,
                    });
                }
                if let Some(rest) = path.strip_prefix("/v1/sessions/") {
                    return Some(match rest.split_once('/') {
                        None if !rest.is_empty() => Self::Session(rest),
                        Some((id, "entries")) => Self::Entries(id),
                        _ => return None,
                    });
                }
                if let Some(rest) = path.strip_prefix("/v1/schedules/") {
                    return Some(match rest.split_once('/') {
                        None if !rest.is_empty() => Self::Schedule(rest),
                        Some((id, "fires")) => Self::Fires(id),
                        Some((id, action)) => Self::ScheduleAction(id, Action::parse(action)?),
                        None => return None,
                    });
                }
                let rest = path.strip_prefix("/v1/conversations/")?;
                match rest.split_once('/') {
                    None if !rest.is_empty() => Self::Conversation(rest),
                    Some((id, "items")) => Self::Items(id),
                    Some((id, rest)) => {
                        Self::Item(id, rest.strip_prefix("items/").filter(|item| !item.is_empty())?)
                    }
                    None => return None,
                }
            }
        })
    }

    /// The methods, as the `allow` header lists them. HEAD is GET without the body.
    fn methods(self) -> &'static str {
        match self {
            Self::Inference(_)
            | Self::Responses
            | Self::InputTokens
            | Self::Compact
            | Self::Cancel(_)
            | Self::ScheduleAction(..)
            | Self::Conversations => "POST",
            Self::Response(_) | Self::Schedule(_) => "GET, HEAD, DELETE",
            Self::Conversation(_) => "GET, HEAD, POST, DELETE",
            Self::Items(_) | Self::Entries(_) | Self::Schedules => "GET, HEAD, POST",
            Self::Item(..) | Self::Session(_) => "GET, HEAD, DELETE",
            Self::Models
            | Self::Model(_)
            | Self::InputItems(_)
            | Self::Sessions
            | Self::Fires(_)
            | Self::Health
            | Self::Ready
            | Self::Status
            | Self::Metrics
            | Self::Console(_) => "GET, HEAD",
        }
    }

    /// The scope that a caller needs; `None` for everybody, without a key.
    fn scope(self) -> Option<Scope> {
        match self {
            Self::Inference(_)
            | Self::Responses
            | Self::InputTokens
            | Self::Compact
            | Self::Response(_)
            | Self::Cancel(_)
            | Self::InputItems(_)
            | Self::Models
            | Self::Model(_)
            | Self::Conversations
            | Self::Conversation(_)
            | Self::Items(_)
            | Self::Item(..)
            | Self::Schedules
            | Self::Schedule(_)
            | Self::ScheduleAction(..)
            | Self::Fires(_) => Some(Scope::Inference),
            Self::Sessions | Self::Session(_) | Self::Entries(_) | Self::Status | Self::Metrics => {
                Some(Scope::Admin)
            }
            // The page holds no secret: what it asks for needs its user's key.
            Self::Health | Self::Ready | Self::Console(_) => None,
        }
    }
}

/// In whose shape a client is answered, apart from what a model says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    OpenAi,
    Anthropic,
}

impl Style {
    /// Anthropic's routes are its own; of those that both have, its clients send a version along.
    fn of(head: &request::Parts) -> Self {
        let path = head.uri.path();
        let messages = path == "/v1/messages" || path.starts_with("/v1/messages/");
        let shared = head.headers.contains_key("anthropic-version") && path.starts_with("/v1/models");
        if messages || shared { Self::Anthropic } else { Self::OpenAi }
    }
}

/// How a request came to this node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrival {
    /// It came over the loopback interface of this very machine. A node without keys serves nobody else.
    pub loopback: bool,
    /// Where [`Node::place`] put it, if that was asked in another process.
    pub log: Option<LogId>,
}

/// Where a request must run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// It needs no log.
    Anywhere,
    /// Where this log is kept.
    Log(LogId),
    /// Its body says so: see [`Node::place_by_body`].
    InBody,
}

impl<P: Platform> Node<P> {
    /// Answers one request. It never fails, since every failure is an answer too. Dropping the future, or the body of
    /// the answer, cancels what is done for it.
    pub async fn handle<B>(&self, request: Request<B>, arrival: Arrival) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        handle(self, request, arrival).await
    }

    /// The WebSocket connection that a request asks for, or the answer that refuses it; `None` if it asks for none. A host
    /// that speaks no WebSockets need not ask: [`Node::handle`] says so to the client.
    pub fn socket(
        &self,
        head: &request::Parts,
        arrival: Arrival,
    ) -> Option<Result<Socket<P>, Response<Body>>> {
        socket::open(self, head, arrival)
    }

    /// Where a request must run. It looks at method, path and headers only, and promises nothing about the request
    /// being right or allowed.
    pub fn place(&self, head: &request::Parts) -> Placement {
        place(self, head)
    }

    /// Reads the body of a request of which [`Node::place`] says that it is needed, and says where the request must run; or
    /// answers it.
    pub async fn place_by_body<B>(
        &self,
        head: &request::Parts,
        body: B,
    ) -> Result<(Placement, Bytes), Response<Body>>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        place_by_body(self, head, body).await
    }
}

async fn handle<P, B>(node: &Node<P>, request: Request<B>, arrival: Arrival) -> Response<Body>
where
    P: Platform,
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let id = node.random_id();
    let (mut head, body) = request.into_parts();
    let is_head = head.method == Method::HEAD;
    if is_head {
        head.method = Method::GET;
    }
    let style = Style::of(&head);
    let mut response = match respond(node, &head, body, arrival, &id).await {
        Ok(response) => response,
        Err(error) => error.into_response(style, &id),
    };
    if is_head {
        *response.body_mut() = Body::Empty;
    }
    sign(node, &id, &mut response);
    response
}

/// What every answer says: to which request it is, and whose.
fn sign<P: Platform>(node: &Node<P>, id: &str, response: &mut Response<Body>) {
    put(response.headers_mut(), "x-request-id", id);
    put(response.headers_mut(), "x-outlive-node", &node.config().node);
}

/// The answer to a request that is refused before it is handled.
fn refuse<P: Platform>(node: &Node<P>, style: Style, error: ApiError) -> Response<Body> {
    let id = node.random_id();
    let mut response = error.into_response(style, &id);
    sign(node, &id, &mut response);
    response
}

async fn respond<P, B>(
    node: &Node<P>,
    head: &request::Parts,
    body: B,
    arrival: Arrival,
    id: &str,
) -> Result<Response<Body>, ApiError>
where
    P: Platform,
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let path = head.uri.path();
    let route = Route::find(path).ok_or_else(|| ApiError::unknown_route(path))?;
    if socket::is_asked(head) {
        // Where they are spoken, such a request does not come here.
        return Err(ApiError::no_websocket());
    }
    if !route.methods().split(", ").any(|method| method == head.method.as_str()) {
        return Err(ApiError::method_not_allowed(&head.method, route.methods()));
    }
    // Who asks is known before a byte of the body is read.
    let caller = caller::authorize(node.config(), head, arrival, route.scope())?;
    let query = head.uri.query().unwrap_or_default();
    match (route, head.method == Method::POST) {
        (Route::Inference(_) | Route::Responses, _) => {
            let answered = async {
                // Who may not ask now is told so before the body is read.
                let permit = rate_limit::admit(node, &caller)?;
                let body = request_body::read(node, head, body).await?;
                let trace = Trace::of(&head.headers);
                if let Route::Inference(format) = route {
                    return inference::answer(node, format, body, id, permit, &caller, trace).await;
                }
                let arrived = IncomingRequest { head, body, id, caller: &caller, trace, placed: arrival.log };
                responses::create(node, arrived, permit).await
            };
            let style = Style::of(head);
            let mut response = answered.await.unwrap_or_else(|error| error.into_response(style, id));
            rate_limit::set_headers(node, &caller.name, style, response.headers_mut());
            Ok(response)
        }
        (Route::InputTokens, _) => {
            let body = request_body::read(node, head, body).await?;
            responses::count(node, &caller, body).await
        }
        (Route::Compact, _) => {
            let permit = rate_limit::admit(node, &caller)?;
            let body = request_body::read(node, head, body).await?;
            responses::compact(node, &caller, body, permit).await
        }
        (Route::Response(id), _) if head.method == Method::DELETE => {
            responses::delete(node, &caller, id).await
        }
        (Route::Response(id), _) => responses::retrieve(node, &caller, id, query).await,
        (Route::Cancel(id), _) => responses::cancel(node, &caller, id).await,
        (Route::InputItems(id), _) => responses::input_items(node, &caller, id, query).await,
        (Route::Models, _) => Ok(operations::models(node, Style::of(head))),
        (Route::Model(name), _) => operations::model(node, name, Style::of(head)),
        (Route::Conversations, _) => {
            let body = request_body::read(node, head, body).await?;
            conversations::create(node, &caller, head, body, arrival.log).await
        }
        (Route::Conversation(id), true) => {
            let body = request_body::read(node, head, body).await?;
            conversations::update(node, &caller, head, id, body).await
        }
        (Route::Conversation(id), false) if head.method == Method::DELETE => {
            conversations::delete(node, &caller, id).await
        }
        (Route::Item(id, item), _) if head.method == Method::DELETE => {
            conversations::remove_item(node, &caller, id, item).await
        }
        (Route::Conversation(id), false) => conversations::retrieve(node, &caller, id).await,
        (Route::Item(id, item), _) => conversations::retrieve_item(node, &caller, id, item).await,
        (Route::Items(id), true) => {
            let body = request_body::read(node, head, body).await?;
            conversations::add_items(node, &caller, head, id, body).await
        }
        (Route::Items(id), false) => conversations::list_items(node, &caller, id, query).await,
        (Route::Sessions, _) => sessions::list(node, query).await,
        (Route::Session(id), _) if head.method == Method::DELETE => sessions::delete(node, id).await,
        (Route::Session(id), _) => sessions::retrieve(node, id).await,
        (Route::Entries(id), true) => {
            let body = request_body::read(node, head, body).await?;
            sessions::import(node, id, body).await
        }
        (Route::Entries(id), false) => sessions::entries(node, id, query).await,
        (Route::Schedules, true) => {
            let body = request_body::read(node, head, body).await?;
            schedules::create(node, &caller, head, body, arrival.log).await
        }
        (Route::Schedules, false) => schedules::list(node, &caller, query).await,
        (Route::Schedule(id), _) if head.method == Method::DELETE => {
            schedules::delete(node, &caller, id).await
        }
        (Route::Schedule(id), _) => schedules::retrieve(node, &caller, id).await,
        (Route::ScheduleAction(id, action), _) => schedules::act(node, &caller, head, id, action).await,
        (Route::Fires(id), _) => schedules::fires(node, &caller, id, query).await,
        (Route::Health, _) => Ok(operations::health()),
        (Route::Ready, _) => Ok(operations::ready(node).await),
        (Route::Status, _) => operations::status(node).await,
        (Route::Metrics, _) => Ok(operations::metrics(node)),
        (Route::Console(file), _) => Ok(console::serve(file, &head.headers)),
    }
}

/// Where a request must run. What is going to be refused anyway is refused anywhere, so that a stranger wakes no log.
fn place<P: Platform>(node: &Node<P>, head: &request::Parts) -> Placement {
    let Some(route) = Route::find(head.uri.path()) else { return Placement::Anywhere };
    let Ok(caller) = caller::authorize(node.config(), head, Arrival::default(), route.scope()) else {
        return Placement::Anywhere;
    };
    match route {
        Route::Conversations => {
            let key = idempotency::key(head).ok().flatten();
            Placement::Log(conversations::new_log(node, &caller, key))
        }
        Route::Conversation(id) | Route::Items(id) | Route::Item(id, _) => {
            conversations::parse_id(id).map_or(Placement::Anywhere, Placement::Log)
        }
        Route::Session(id) | Route::Entries(id) => {
            sessions::parse_id(id).map_or(Placement::Anywhere, Placement::Log)
        }
        Route::Schedules if head.method != Method::POST => Placement::Log(Directory::log()),
        Route::Schedule(id) | Route::ScheduleAction(id, _) | Route::Fires(id) => {
            schedules::parse_id(id).map_or(Placement::Anywhere, Placement::Log)
        }
        Route::Responses | Route::InputTokens | Route::Compact | Route::Schedules => Placement::InBody,
        Route::Response(id) | Route::Cancel(id) | Route::InputItems(id) => {
            ResponseId::parse(id).map_or(Placement::Anywhere, |id| Placement::Log(id.log))
        }
        Route::Ready | Route::Status => Placement::Log(node.log()),
        Route::Inference(_)
        | Route::Models
        | Route::Model(_)
        | Route::Sessions
        | Route::Health
        | Route::Metrics
        | Route::Console(_) => Placement::Anywhere,
    }
}

/// Reads the body of a request that says in there where it must run.
async fn place_by_body<P, B>(
    node: &Node<P>,
    head: &request::Parts,
    body: B,
) -> Result<(Placement, Bytes), Response<Body>>
where
    P: Platform,
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let body = request_body::read(node, head, body).await;
    let body = body.map_err(|error| refuse(node, Style::of(head), error))?;
    let route = Route::find(head.uri.path());
    let scope = route.and_then(Route::scope);
    let place = match caller::authorize(node.config(), head, Arrival::default(), scope) {
        Ok(caller) if route == Some(Route::Schedules) => schedules::place(node, &caller, head, &body),
        Ok(caller) => responses::place(node, &caller, head, &body),
        Err(_) => Placement::Anywhere,
    };
    Ok((place, body))
}

/// An answer in JSON.
fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn ok(value: &serde_json::Value) -> Response<Body> {
    json(StatusCode::OK, value.to_string())
}

/// Sets a header, unless the value can't be one; names and ids always can.
fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

#[cfg(test)]
mod tests;
