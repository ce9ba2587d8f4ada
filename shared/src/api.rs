//! Routes HTTP requests, the same on every node: authorizes the caller and calls the file of the resource. Opens no
//! connection; a shell does that.
//!
//! `route.rs` lists the routes with their methods and scopes; [`place`] says where each must run.

mod betas;
mod caller;
mod console;
mod conversations;
mod error;
mod headers;
mod idempotency;
mod inference;
mod operations;
mod rate_limit;
mod request_body;
mod responses;
mod route;
mod schedules;
mod sessions;
pub mod socket;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE, request};

use crate::{
    body::Body,
    entry::LogId,
    node::Node,
    platform::Platform,
    session::{schedule::Directory, turn::ResponseId},
    trace::Trace,
    wire,
};
use caller::Caller;
use error::ApiError;
use responses::IncomingRequest;
use route::Route;
use socket::Socket;

/// The vendor whose shapes a client expects for errors, lists and headers. A model's answer follows the format of
/// its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    OpenAi,
    Anthropic,
}

impl Style {
    /// `/v1/messages` is Anthropic's alone. Both vendors have `/v1/models`, and Anthropic's clients send a version
    /// with it.
    fn of(head: &request::Parts) -> Self {
        let path = head.uri.path();
        let messages = path == "/v1/messages" || path.starts_with("/v1/messages/");
        let shared = head.headers.contains_key("anthropic-version") && path.starts_with("/v1/models");
        if messages || shared { Self::Anthropic } else { Self::OpenAi }
    }
}

/// How a request reached this node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrival {
    /// Whether it came over the loopback interface. A node without keys serves only such requests.
    pub loopback: bool,
    /// The log that [`Node::place`] chose, if another process called it.
    pub log: Option<LogId>,
}

/// Where a request must run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The request needs no log.
    Anywhere,
    /// In the process that keeps this log.
    Log(LogId),
    /// The body decides: call [`Node::place_by_body`].
    InBody,
}

impl<P: Platform> Node<P> {
    /// Answers one request; a failure is an answer, too. Dropping the future or the body of the answer cancels the
    /// work for it.
    pub async fn handle<B>(&self, request: Request<B>, arrival: Arrival) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        handle(self, request, arrival).await
    }

    /// Opens the WebSocket connection that a request asks for, or returns the answer that refuses it; `None` if the
    /// request asks for none. A host without WebSockets need not call this: [`Node::handle`] refuses such requests.
    pub fn socket(
        &self,
        head: &request::Parts,
        arrival: Arrival,
    ) -> Option<Result<Socket<P>, Response<Body>>> {
        socket::open(self, head, arrival)
    }

    /// Where a request must run, from its method, path and headers alone. The request may still be invalid or refused.
    pub fn place(&self, head: &request::Parts) -> Placement {
        place(self, head)
    }

    /// Reads the body of a request that has [`Placement::InBody`], and returns where the request must run, with the
    /// body. `Err` is the answer to a body that can't be read.
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
    headers::set_request(node, style, &id, &mut response);
    response
}

/// The answer to a request that is refused outside of [`handle`].
fn refuse<P: Platform>(node: &Node<P>, style: Style, error: ApiError) -> Response<Body> {
    let id = node.random_id();
    let mut response = error.into_response(style, &id);
    headers::set_request(node, style, &id, &mut response);
    response
}

/// Answers one request, or returns the error that answers it.
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
    if socket::is_upgrade(head) {
        // A host with WebSockets calls `Node::socket` first and does not send such a request here.
        return Err(ApiError::no_websocket());
    }
    if !route.methods().split(", ").any(|method| method == head.method.as_str()) {
        return Err(ApiError::method_not_allowed(&head.method, route.methods()));
    }
    // Before the body is read, so that a stranger cannot make the node hold one.
    let caller = caller::authorize(node.config(), head, arrival, route.scope())?;
    match route {
        Route::Inference(_) | Route::Responses => {
            let result = async {
                // Before the body is read, for the same reason.
                let permit = rate_limit::admit(node, &caller)?;
                let body = request_body::read(node, head, body).await?;
                let trace = Trace::of(&head.headers);
                if let Route::Inference(format) = route {
                    let request = node.in_pieces(wire::Request::read(format, body)).await?;
                    let request = request.with_betas(betas::read(&head.headers)?);
                    return inference::answer(node, request, id, permit, &caller, trace).await;
                }
                let incoming =
                    IncomingRequest { head, body, id, caller: &caller, trace, placed: arrival.log };
                // Boxed, since its state is large and would be part of every request's.
                Box::pin(responses::create(node, incoming, permit)).await
            };
            let style = Style::of(head);
            // Errors become responses here, so that refusals carry the limits' headers as well.
            let mut response = result.await.unwrap_or_else(|error| error.into_response(style, id));
            rate_limit::set_headers(node, &caller.name, style, response.headers_mut());
            Ok(response)
        }
        // Boxed as well: the states of all routes would be part of every request's.
        _ => Box::pin(answer_other(node, head, body, arrival, (route, &caller))).await,
    }
}

/// Answers a request of any route but those that call a model for a client.
async fn answer_other<P, B>(
    node: &Node<P>,
    head: &request::Parts,
    body: B,
    arrival: Arrival,
    (route, caller): (Route<'_>, &Caller),
) -> Result<Response<Body>, ApiError>
where
    P: Platform,
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let query = head.uri.query().unwrap_or_default();
    // Each arm reads the body itself, since most requests have none, and some must pass their limits before.
    match (route, head.method == Method::POST) {
        (Route::InputTokens, _) => {
            let body = request_body::read(node, head, body).await?;
            responses::count(node, caller, body).await
        }
        (Route::Compact, _) => {
            let permit = rate_limit::admit(node, caller)?;
            let body = request_body::read(node, head, body).await?;
            responses::compact(node, caller, body, permit).await
        }
        (Route::Response(id), _) if head.method == Method::DELETE => {
            responses::delete(node, caller, id).await
        }
        (Route::Response(id), _) => responses::retrieve(node, caller, id, query).await,
        (Route::Cancel(id), _) => responses::cancel(node, caller, id).await,
        (Route::InputItems(id), _) => responses::input_items(node, caller, id, query).await,
        (Route::Models, _) => Ok(operations::models(node, Style::of(head))),
        (Route::Model(name), _) => operations::model(node, name, Style::of(head)),
        (Route::Conversations, _) => {
            let body = request_body::read(node, head, body).await?;
            conversations::create(node, caller, head, body, arrival.log).await
        }
        (Route::Conversation(id), true) => {
            let body = request_body::read(node, head, body).await?;
            conversations::update(node, caller, head, id, body).await
        }
        (Route::Conversation(id), false) if head.method == Method::DELETE => {
            conversations::delete(node, caller, id).await
        }
        (Route::Item(id, item), _) if head.method == Method::DELETE => {
            conversations::remove_item(node, caller, id, item).await
        }
        (Route::Conversation(id), false) => conversations::retrieve(node, caller, id).await,
        (Route::Item(id, item), _) => conversations::retrieve_item(node, caller, id, item).await,
        (Route::Items(id), true) => {
            let body = request_body::read(node, head, body).await?;
            conversations::add_items(node, caller, head, id, body).await
        }
        (Route::Items(id), false) => conversations::list_items(node, caller, id, query).await,
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
            schedules::create(node, caller, head, body, arrival.log).await
        }
        (Route::Schedules, false) => schedules::list(node, caller, query).await,
        (Route::Schedule(id), _) if head.method == Method::DELETE => {
            schedules::delete(node, caller, id).await
        }
        (Route::Schedule(id), _) => schedules::retrieve(node, caller, id).await,
        (Route::ScheduleAction(id, action), _) => schedules::act(node, caller, head, id, action).await,
        (Route::Fires(id), _) => schedules::fires(node, caller, id, query).await,
        (Route::Inference(_) | Route::Responses, _) => Err(ApiError::unknown_route(head.uri.path())),
        (Route::Index, _) => Ok(operations::index(&head.headers)),
        (Route::Health, _) => Ok(operations::health()),
        (Route::Ready, _) => Ok(operations::ready(node).await),
        (Route::Status, _) => operations::status(node).await,
        (Route::Metrics, _) => Ok(operations::metrics(node)),
        (Route::Console(file), _) => Ok(console::serve(file, &head.headers)),
    }
}

/// Where a request must run. One that will be refused may run anywhere, so that a stranger wakes no log.
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
        | Route::Index
        | Route::Health
        | Route::Metrics
        | Route::Console(_) => Placement::Anywhere,
    }
}

/// Where a request must run whose log is named in its body.
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

/// An answer with a body of JSON.
fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn ok(value: &serde_json::Value) -> Response<Body> {
    json(StatusCode::OK, value.to_string())
}

#[cfg(test)]
mod tests;
