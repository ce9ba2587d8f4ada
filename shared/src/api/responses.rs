//! Serves OpenAI's Responses API: a stored response is a turn of a session. Turns are run by `agent/`, and requests
//! that store nothing are answered by `inference.rs`.
//!
//! Source: <https://developers.openai.com/api/reference>, Responses.

mod create_response;

use std::{pin::pin, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{Response, request};
use serde_json::{Value, json, value::RawValue};

use super::{
    ApiError, Placement,
    caller::Caller,
    conversations::{ListQuery, cause, list_object},
    headers::{self, set_header},
    idempotency, inference, ok,
};
use crate::{
    agent::{self, Follower, during_turn},
    body::{Body, BodyError},
    deadlines::{DeadlineExceeded, Deadlines},
    entry::{Hash, LogId, Wake},
    limits::Permit,
    log::Decision,
    node::Node,
    platform::{Platform, StoreError},
    session::{
        ResponseFold, Session, deletion, history,
        turn::{ResponseId, Turn, TurnOpened, TurnOutcome},
    },
    trace::Trace,
    usage::estimate_tokens,
    wire::{self, Format, Request, writer},
};
use create_response::CreateResponse;
pub(super) use create_response::wrong_input;

/// A request to create a response, with what is already known of it.
pub(super) struct IncomingRequest<'a> {
    pub(super) head: &'a request::Parts,
    pub(super) body: Bytes,
    pub(super) id: &'a str,
    pub(super) caller: &'a Caller,
    pub(super) trace: Option<Trace>,
    /// The log that [`place`] chose for it in another process.
    pub(super) placed: Option<LogId>,
}

/// `POST /v1/responses`
pub(super) async fn create<P: Platform>(
    node: &Node<P>,
    incoming: IncomingRequest<'_>,
    mut permit: Permit,
) -> Result<Response<Body>, ApiError> {
    let IncomingRequest { head, body, id, caller, trace, placed } = incoming;
    if !create_response::is_stateful(&body)? {
        let request = node.in_pieces(Request::read(Format::Responses, body)).await?;
        return inference::answer(node, request, id, permit, caller, trace).await;
    }
    let create = CreateResponse::parse(&body)?;
    let key = idempotency::key(head)?;
    let log = create.log().or(placed).unwrap_or_else(|| new_log(node, caller, key));
    let turn = cause(node, "turn", log, caller, key);
    let opened = create.to_turn(node.config(), caller, turn)?;
    let (stream, id) = (create.stream, ResponseId { log, turn });
    loop {
        // An earlier request of the same key, or the response to continue, may be in a part of the log that is not
        // read yet.
        let enough = |fold: &Session| {
            let has_searched_key =
                key.is_none() || fold.turns().find(&turn).is_some() || fold.has_turns(MIN_TURNS_SEARCHED);
            has_searched_key && create.is_covered_by(fold)
        };
        let check = |fold: &Session| create.check(fold, caller, log, turn).map(|()| SessionVersion::of(fold));
        let before = node.read_session_until(log, enough, check).await?;
        let before = match before {
            Ok(before) => before,
            Err(error) => {
                // The turn that blocks the conversation may belong to a run that died; a wake takes it over.
                agent::wake_soon(node, log).await;
                return Err(error);
            }
        };
        let request = prepare(node, id, &opened).await?;
        permit.take_tokens(request.estimated_tokens(), node.platform().now())?;
        // Before the turn is opened, so that a concurrent wake does not treat it as abandoned.
        let live = node.runs().begin(log, turn);
        let (draft, now) = (opened.draft(turn), node.platform().now());
        // All is checked again, since the session may have changed while its history was read.
        let decide = |fold: &Session| {
            if fold.deletions().has_turn(&turn) {
                return Err(ApiError::deleted());
            }
            if let Some(known) = fold.turns().find(&turn) {
                let same = known.owner == caller.name && known.asked == Hash::of(&draft.body);
                return if same {
                    Ok(Decision::Done(Opening::AlreadyOpen))
                } else {
                    Err(ApiError::key_reused())
                };
            }
            create.check(fold, caller, log, turn)?;
            if SessionVersion::of(fold) != before {
                return Ok(Decision::Done(Opening::SessionChanged));
            }
            Ok(Decision::Append(vec![draft.clone()], during_turn(fold, now), Opening::Now))
        };
        let (opening, entries, ()) = node.commit_session(log, decide, |_| ()).await?;
        match (opening, live) {
            (Opening::SessionChanged, _) => continue,
            (Opening::Now, Some(live)) if !opened.background => {
                live.push(entries);
                agent::start(node, log, turn, live, permit, request);
            }
            // A wake runs a turn in the background, and resumes one whose run was lost. It must not find the turn
            // registered as running here.
            (Opening::Now, live) => {
                drop(live);
                agent::wake_soon(node, log).await;
            }
            (Opening::AlreadyOpen, live) => {
                drop(live);
                agent::wake_soon(node, log).await;
            }
        }
        break;
    }
    let mut follower = Follower::new(node, id, None);
    if stream {
        return Ok(follow(node, follower, Bytes::new()).await);
    }
    if !opened.background {
        wait_for_end(&mut follower).await?;
    } else {
        follower.catch_up().await?;
    }
    answer(&follower.response, id)
}

/// The result of opening a turn.
enum Opening {
    Now,
    /// An earlier request of the same key opened it.
    AlreadyOpen,
    /// Not opened: the session has changed since its history was read.
    SessionChanged,
}

/// Changes whenever a session gets an item, a turn or a deletion.
#[derive(Clone, Copy, PartialEq, Eq)]
struct SessionVersion(usize, usize, usize);

impl SessionVersion {
    fn of(fold: &Session) -> Self {
        let (items, turns) = fold.counts();
        Self(items, turns, fold.deletions().len())
    }
}

/// Makes the request of the turn's first step, so that its errors are reported before anything is appended.
async fn prepare<P: Platform>(
    node: &Node<P>,
    id: ResponseId,
    opened: &TurnOpened,
) -> Result<Request, ApiError> {
    let log = id.log;
    agent::Toolbox::for_turn(node, id, opened)?;
    let mut history = agent::history(node, log, None, opened).await?;
    if let Some(call) = history::unmatched_output(&history, &opened.input) {
        return Err(ApiError::unmatched_output(call));
    }
    if node.config().model(&opened.model).is_none() {
        return Err(ApiError::unknown_model(node.config(), &opened.model));
    }
    history.extend(opened.input.iter().cloned());
    let history = agent::compaction::truncate_history(node.config(), opened, history);
    let request = history::request(opened, history, Vec::new(), false)?;
    node.in_pieces(request.translate()).await.map_err(Clone::clone)?;
    Ok(request)
}

/// Least number of a session's newest turns that are searched for an `Idempotency-Key`: a client repeats its last
/// requests, not one that a thousand others followed.
pub(super) const MIN_TURNS_SEARCHED: usize = 1_024;

/// `POST /v1/responses/input_tokens`
pub(super) async fn count<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    body: Bytes,
) -> Result<Response<Body>, ApiError> {
    let create = CreateResponse::parse(&body)?;
    let (turn, log) = (node.random_bytes(), create.log());
    let opened = create.to_turn(node.config(), caller, turn)?;
    if let Some(log) = log {
        let enough = |fold: &Session| create.is_covered_by(fold);
        node.read_session_until(log, enough, |fold| create.check(fold, caller, log, turn)).await??;
    }
    let request = prepare(node, ResponseId { log: log.unwrap_or(LogId(turn)), turn }, &opened).await?;
    let tokens = estimate_tokens(request.bytes());
    let mut response = ok(&json!({"object": "response.input_tokens", "input_tokens": tokens}));
    set_header(response.headers_mut(), "x-outlive-estimate", "true");
    Ok(response)
}

/// `POST /v1/responses/compact`: summarises the input. Returns its user messages and an item with the summary, to be
/// sent instead of the input. Stores nothing.
pub(super) async fn compact<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    body: Bytes,
    mut permit: Permit,
) -> Result<Response<Body>, ApiError> {
    let create = CreateResponse::parse(&body)?;
    create.require_model()?;
    let (turn, log) = (node.random_bytes(), create.log());
    let opened = create.to_turn(node.config(), caller, turn)?;
    permit.take_tokens(estimate_tokens(body.len()), node.platform().now())?;
    if let Some(log) = log {
        let enough = |fold: &Session| create.is_covered_by(fold);
        node.read_session_until(log, enough, |fold| create.check(fold, caller, log, turn)).await??;
    }
    let model = node.config().model(&opened.model);
    let model = model.ok_or_else(|| ApiError::unknown_model(node.config(), &opened.model))?;
    let mut items = agent::history(node, log.unwrap_or(LogId(turn)), None, &opened).await?;
    items.extend(opened.input.iter().cloned());
    let summary = agent::compaction::compact(node, &model, &caller.name, &items).await;
    let (text, usage) = summary.map_err(|failure| ApiError::all_failed(&failure, caller.admin))?;
    // The user's messages are kept word for word.
    let is_user_message = |item: &Value| item.get("role") == Some(&"user".into());
    let id = node.random_id();
    let mut output: Vec<Value> = items.into_iter().filter(is_user_message).collect();
    output.push(wire::responses::compaction_item(&format!("cmp_{id}"), &text));
    Ok(ok(&json!({
        "id": format!("resp_{id}"), "object": "response.compaction", "output": output,
        "created_at": node.platform().now().unix_seconds(), "usage": wire::responses::usage_object(&usage),
    })))
}

/// `GET /v1/responses/{id}`
pub(super) async fn retrieve<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    id: &str,
    query: &str,
) -> Result<Response<Body>, ApiError> {
    let query = RetrieveQuery::parse(query)?;
    let (id, _) = find(node, caller, id).await?;
    let mut follower = Follower::new(node, id, query.after);
    let events = follower.catch_up().await?;
    if let Some(after) = query.after.filter(|after| *after >= follower.response.events()) {
        let last = follower.response.events().saturating_sub(1);
        return Err(ApiError::value("starting_after", format!("{after}; the last event so far is {last}")));
    }
    if query.stream {
        return Ok(follow(node, follower, events).await);
    }
    object(&follower.response, id)
}

/// `POST /v1/responses/{id}/cancel`
pub(super) async fn cancel<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    id: &str,
) -> Result<Response<Body>, ApiError> {
    let (id, turn) = find(node, caller, id).await?;
    if !turn.background {
        let why =
            "it was not made with background; allowed: responses that were, others end with their connection";
        return Err(ApiError::value("response_id", why));
    }
    agent::close_turn(node, id.log, id.turn, TurnOutcome::Cancelled, None).await?;
    let mut follower = Follower::new(node, id, None);
    follower.catch_up().await?;
    object(&follower.response, id)
}

/// `DELETE /v1/responses/{id}`: hides the response, and erases its contents as soon as nothing needs them. A
/// conversation keeps the items of its responses; a response that others continue is erased with the last of them.
pub(super) async fn delete<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    id: &str,
) -> Result<Response<Body>, ApiError> {
    let (id, turn) = find(node, caller, id).await?;
    if turn.outcome.is_none() {
        agent::close_turn(node, id.log, id.turn, TurnOutcome::Cancelled, None).await?;
    }
    let decide = |fold: &Session| {
        let turn = fold.turns().find(&id.turn).filter(|turn| turn.visible);
        Ok::<_, ApiError>(turn.map_or(Decision::Done(()), |turn| {
            let draft = deletion::draft_turn(id.turn, turn.in_conversation);
            // Wakes the log at once, even if nothing can be erased yet.
            let wake = if turn.in_conversation { Wake::Keep } else { Wake::At(node.platform().now()) };
            Decision::Append(vec![draft], wake, ())
        }))
    };
    node.commit_session(id.log, decide, |_| ()).await?;
    // An erasure that fails stays due and is repeated by a tick.
    let _ = agent::erase_deleted(node, id.log).await;
    Ok(ok(&json!({"id": id.to_string(), "object": "response", "deleted": true})))
}

/// `GET /v1/responses/{id}/input_items`
pub(super) async fn input_items<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    id: &str,
    query: &str,
) -> Result<Response<Body>, ApiError> {
    let query = ListQuery::parse(query)?;
    let (id, turn) = find(node, caller, id).await?;
    let mut reply = ResponseFold::new(id, None);
    for entry in agent::turn_entries(node, id.log, id.turn, &turn).await? {
        reply.apply(&entry, &mut Vec::new()).map_err(StoreError::from)?;
    }
    let mut items = reply.opened().map(|opened| opened.input.clone()).unwrap_or_default();
    if query.newest_first {
        items.reverse();
    }
    let items =
        query.cut(items, |item| item.get("id").and_then(Value::as_str).unwrap_or_default().to_owned())?;
    let (items, more) = items;
    let raw = |item: &Value| RawValue::from_string(item.to_string()).ok();
    Ok(ok(&list_object(&items.iter().filter_map(raw).collect::<Vec<_>>(), more)))
}

/// Where a request must run, by its body: where the log that it continues is, or its new log.
pub(super) fn place<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    head: &request::Parts,
    body: &[u8],
) -> Placement {
    let asked = create_response::is_stateful(body)
        .and_then(|kept| kept.then(|| CreateResponse::parse(body)).transpose());
    // An invalid request is refused anywhere, and one that stores nothing is answered anywhere.
    let Ok(Some(create)) = asked else { return Placement::Anywhere };
    let new = || new_log(node, caller, idempotency::key(head).ok().flatten());
    Placement::Log(create.log().unwrap_or_else(new))
}

/// The log of a response that continues nothing: derived from the idempotency key, so that a retry finds it again, or
/// else random.
fn new_log<P: Platform>(node: &Node<P>, caller: &Caller, key: Option<&str>) -> LogId {
    match key {
        Some(key) => LogId::derive("response", &[caller.name.as_bytes(), key.as_bytes()]),
        None => LogId(node.random_bytes()),
    }
}

/// The response `id` and its turn, if the caller may see it. All others are unknown to the caller.
async fn find<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    id: &str,
) -> Result<(ResponseId, Turn), ApiError> {
    let unknown = || ApiError::unknown_response(id);
    let id = ResponseId::parse(id).ok_or_else(unknown)?;
    let turn = node.read_turn(id.log, &id.turn).await?;
    let turn = turn.filter(|turn| turn.visible && caller.may_see(&turn.owner)).ok_or_else(unknown)?;
    Ok((id, turn))
}

/// Waits for the end of a turn.
async fn wait_for_end<P: Platform>(follower: &mut Follower<P>) -> Result<(), ApiError> {
    follower.catch_up().await?;
    while let Some(more) = follower.next().await {
        more?;
    }
    Ok(())
}

/// The response object of the turn `id`, or the error that it failed with.
fn answer(response: &ResponseFold, id: ResponseId) -> Result<Response<Body>, ApiError> {
    match response.closed().and_then(|closed| closed.error.as_ref()) {
        Some(error) => Err(error.clone().into()),
        None => object(response, id),
    }
}

/// The response object of the turn `id`, as it is now.
fn object(response: &ResponseFold, id: ResponseId) -> Result<Response<Body>, ApiError> {
    let object = response.response().ok_or_else(|| ApiError::unknown_response(&id.to_string()))?;
    let mut answer = ok(&object);
    if let Some(answered_by) = response.answered_by() {
        headers::set_answered_by(answer.headers_mut(), answered_by);
    }
    Ok(answer)
}

/// Longest wait for the candidate's name before a stream begins without it. The stream's first event holds the
/// response's id, which a client needs to cancel the response or to resume the stream.
const MAX_HEAD_WAIT: Duration = Duration::from_secs(2);

/// Streams the events of a turn, `events` first, as they become durable.
///
/// The head is held until the log names the candidate that answers, so that the headers can name it, too.
async fn follow<P: Platform>(node: &Node<P>, mut follower: Follower<P>, events: Bytes) -> Response<Body> {
    follower.watch();
    let mut deadlines = Deadlines::new(node.clone(), MAX_HEAD_WAIT);
    let mut held = BytesMut::from(&*events);
    let mut failure = None;
    while follower.response.answered_by().is_none() && follower.response.closed().is_none() {
        match deadlines.within(pin!(follower.next())).await {
            Ok(Some(Ok(events))) => held.extend_from_slice(&events),
            Ok(Some(Err(error))) => {
                failure = Some(error);
                break;
            }
            Ok(None) | Err(DeadlineExceeded(_)) => break,
        }
    }
    let answered_by = follower.response.answered_by().cloned();
    let start = Some(held.freeze()).filter(|events| !events.is_empty());
    let rest = failure.map_or_else(|| Ok(Box::new(follower)), Err);
    let body = stream::unfold((start, Some(rest)), |(start, rest)| async move {
        if let Some(events) = start {
            return Some((Ok(events), (None, rest)));
        }
        let mut follower = match rest? {
            Ok(follower) => follower,
            // A stream that goes on after an error would repeat it without end.
            Err(error) => return Some((Err(BodyError(error.to_string())), (None, None))),
        };
        match follower.next().await? {
            Ok(events) => {
                let is_silent = events.is_empty();
                let events = if is_silent {
                    Bytes::from_static(writer::keep_alive(Format::Responses))
                } else {
                    events
                };
                Some((Ok(events), (None, Some(Ok(follower)))))
            }
            Err(error) => Some((Err(BodyError(error.to_string())), (None, None))),
        }
    });
    let mut response = Response::new(Body::stream(body));
    let headers = response.headers_mut();
    headers::set_event_stream(headers);
    if let Some(answered_by) = answered_by {
        headers::set_answered_by(headers, &answered_by);
    }
    response
}

/// The query parameters of `GET /v1/responses/{id}`.
struct RetrieveQuery {
    stream: bool,
    after: Option<u64>,
}

impl RetrieveQuery {
    fn parse(query: &str) -> Result<Self, ApiError> {
        let mut parsed = Self { stream: false, after: None };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "stream" => {
                    parsed.stream = match value {
                        "true" => true,
                        "false" => false,
                        other => {
                            return Err(ApiError::value(
                                "stream",
                                format!("{other:?}; allowed: true, false"),
                            ));
                        }
                    }
                }
                "starting_after" => {
                    let why =
                        || ApiError::value("starting_after", format!("{value:?}; allowed: a whole number"));
                    parsed.after = Some(value.parse().map_err(|_| why())?);
                }
                // `include[]` requests parts that are always sent; obfuscation is not needed behind TLS with padding.
                _ => {}
            }
        }
        if parsed.after.is_some() && !parsed.stream {
            return Err(ApiError::value("starting_after", "allowed: together with stream=true"));
        }
        Ok(parsed)
    }
}
