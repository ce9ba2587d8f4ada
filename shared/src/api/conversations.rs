//! Serves OpenAI's Conversations API from the folds of sessions' logs. Responses are made in `responses.rs`.
//!
//! Source: <https://developers.openai.com/api/reference>, Conversations.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Response, StatusCode, request};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{ApiError, caller::Caller, idempotency, ok, responses::MIN_TURNS_SEARCHED};
use crate::{
    agent,
    body::Body,
    entry::{Cause, Draft, Entry, LogId, Origin, Seq, Wake, derive},
    log::Decision,
    node::Node,
    platform::{Platform, ReadLimit, Store, StoreError},
    session::{
        self, Creation, Item, ItemRef, Session,
        deletion::{self, DeletionReason},
        schedule::Schedule,
    },
    wire::{
        RequestError,
        raw::{parse, parse_object, parse_text, required},
    },
};

/// Most items in one request: OpenAI's bound.
const MAX_ITEMS: usize = 20;

/// Most items in one page: OpenAI's bound.
const MAX_PAGE: usize = 100;

/// Items in one page if the client sets no limit: OpenAI's default.
const DEFAULT_PAGE: usize = 20;

/// `POST /v1/conversations`
pub(super) async fn create<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    head: &request::Parts,
    body: Bytes,
    placed: Option<LogId>,
) -> Result<Response<Body>, ApiError> {
    let key = idempotency::key(head)?;
    // All fields have defaults, so OpenAI's clients may send no body at all.
    let fields: ConversationFields<'_> =
        if body.is_empty() { ConversationFields::default() } else { parse_fields(&body)? };
    let metadata = metadata(fields.metadata)?;
    let items = items(fields.items)?;
    let log = placed.unwrap_or_else(|| new_log(node, caller, key));
    let cause = cause(node, "create", log, caller, key);
    let mut drafts = vec![session::draft_created(cause, &caller.name, metadata)];
    drafts.extend(session::draft_items(cause, &items)?);
    Ok(ok(&commit(node, caller, log, (true, key.is_some()), &drafts).await?))
}

/// `GET /v1/conversations/{id}`
pub(super) async fn retrieve<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    id: &str,
) -> Result<Response<Body>, ApiError> {
    let log = require_id(id)?;
    let object = read(node, caller, log, |fold| conversation_object(log, fold)).await?;
    Ok(ok(&object))
}

/// `POST /v1/conversations/{id}`
pub(super) async fn update<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    head: &request::Parts,
    id: &str,
    body: Bytes,
) -> Result<Response<Body>, ApiError> {
    let log = require_id(id)?;
    let key = idempotency::key(head)?;
    let fields = parse_fields(&body)?;
    let metadata = metadata(Some(required(fields.metadata, "metadata")?))?;
    let cause = cause(node, "update", log, caller, key);
    let drafts = [session::draft_updated(cause, metadata)];
    Ok(ok(&commit(node, caller, log, (false, key.is_some()), &drafts).await?))
}

/// `DELETE /v1/conversations/{id}`: erases its contents. The conversation is unknown afterwards, but the
/// `Idempotency-Key` that created it creates no other.
pub(super) async fn delete<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    id: &str,
) -> Result<Response<Body>, ApiError> {
    let log = require_id(id)?;
    let may = |fold: &Session| require_visible(fold, caller, log).and_then(|_| may_delete(fold));
    agent::delete_log(node, log, DeletionReason::Asked, may).await?;
    Ok(ok(&json!({"id": id, "object": "conversation.deleted", "deleted": true})))
}

/// `DELETE /v1/conversations/{id}/items/{item}`: removes the item from all lists and prompts. An item with an entry
/// of its own is erased; an item of a response is hidden, and erased with its conversation.
pub(super) async fn remove_item<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    id: &str,
    item: &str,
) -> Result<Response<Body>, ApiError> {
    let log = require_id(id)?;
    let decide = |fold: &Session| {
        require_visible(fold, caller, log)?;
        let found = fold.item(item).ok_or_else(|| ApiError::unknown_item(item))?;
        // The item may be in the prompt of the open turn.
        if fold.turns().open().any(|(_, turn)| turn.in_conversation) {
            return Err(ApiError::conversation_locked());
        }
        let summarised = fold.summary().is_some();
        let wake = if found.alone || summarised {
            Wake::At(node.platform().now())
        } else {
            next_wake(node, fold, caller)
        };
        Ok(Decision::Append(vec![deletion::draft_item(&found, summarised)], wake, ()))
    };
    let known = |fold: &Session| fold.item(item).is_some();
    let object = |fold: &Session| conversation_object(log, fold);
    let ((), _, object) = node.commit_session_until(log, known, decide, object).await?;
    // An erasure that fails stays due and is repeated by a tick.
    let _ = agent::erase_deleted(node, log).await;
    Ok(ok(&object))
}

/// `POST /v1/conversations/{id}/items`
pub(super) async fn add_items<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    head: &request::Parts,
    id: &str,
    body: Bytes,
) -> Result<Response<Body>, ApiError> {
    let log = require_id(id)?;
    let key = idempotency::key(head)?;
    let fields = parse_fields(&body)?;
    let items = items(Some(required(fields.items, "items")?))?;
    if items.is_empty() {
        return Err(ApiError::value("items", format!("it is empty; allowed: 1 to {MAX_ITEMS} items")));
    }
    let cause = cause(node, "items", log, caller, key);
    let drafts = session::draft_items(cause, &items)?;
    commit(node, caller, log, (false, key.is_some()), &drafts).await?;
    let items = drafts.iter().map(|draft| Session::item_json(&draft.body)).collect::<Result<Vec<_>, _>>();
    Ok(ok(&list_object(&items.map_err(|_| StoreError::Corrupt("an item".into()))?, false)))
}

/// `GET /v1/conversations/{id}/items`
pub(super) async fn list_items<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    id: &str,
    query: &str,
) -> Result<Response<Body>, ApiError> {
    let query = ListQuery::parse(query)?;
    let page_of = |fold: &Session| fold.page(query.after.as_deref(), query.limit, query.newest_first);
    let log = require_id(id)?;
    // Newest first, the fold needs the page and one item more. Oldest first, it needs the whole log.
    let enough = |fold: &Session| {
        fold.older_snapshot().is_none() || query.newest_first && page_of(fold).is_some_and(|(_, more)| more)
    };
    let page = read_until(node, caller, log, enough, page_of).await?;
    let (page, more) = page.ok_or_else(|| ListQuery::unknown(&query.after.unwrap_or_default()))?;
    let items = read_items(node, log, &page).await?;
    Ok(ok(&list_object(&items, more)))
}

/// `GET /v1/conversations/{id}/items/{item}`
pub(super) async fn retrieve_item<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    id: &str,
    item: &str,
) -> Result<Response<Body>, ApiError> {
    let log = require_id(id)?;
    let known = |fold: &Session| fold.item(item).is_some();
    let found = read_until(node, caller, log, known, |fold| fold.item(item)).await?;
    let found = found.ok_or_else(|| ApiError::unknown_item(item))?;
    let items = read_items(node, log, &[found]).await?;
    let json = items.into_iter().next().ok_or_else(|| ApiError::unknown_item(item))?;
    Ok(super::json(StatusCode::OK, json.get().to_owned()))
}

/// The log of a new conversation: derived from the idempotency key, so that a retry finds it again, or else random.
pub(super) fn new_log<P: Platform>(node: &Node<P>, caller: &Caller, key: Option<&str>) -> LogId {
    match key {
        Some(key) => LogId::derive("conversation", &[caller.name.as_bytes(), key.as_bytes()]),
        None => LogId(node.random_bytes()),
    }
}

/// Reads a conversation's id.
pub(super) fn parse_id(id: &str) -> Option<LogId> {
    LogId::parse(id.strip_prefix(PREFIX)?)
}

/// The log of the conversation that a request names.
pub(super) fn require_id(id: &str) -> Result<LogId, ApiError> {
    parse_id(id).ok_or_else(|| ApiError::unknown_conversation(id))
}

const PREFIX: &str = "conv_";

#[derive(Default, Deserialize)]
struct ConversationFields<'a> {
    #[serde(borrow, default)]
    items: Option<&'a RawValue>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

fn parse_fields(body: &Bytes) -> Result<ConversationFields<'_>, RequestError> {
    parse_object(parse_text(body)?)
}

/// Reads `metadata`; empty if it is absent.
pub(super) fn metadata(raw: Option<&RawValue>) -> Result<BTreeMap<String, String>, ApiError> {
    // OpenAI's bounds.
    const ALLOWED: &str =
        "allowed: at most 16 pairs of strings, names up to 64 and values up to 512 characters";
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(BTreeMap::new()) };
    let metadata: BTreeMap<String, String> = parse(raw, "metadata", "an object of strings")?;
    let fits = |(name, value): (&String, &String)| name.chars().count() <= 64 && value.chars().count() <= 512;
    if metadata.len() > 16 || !metadata.iter().all(fits) {
        return Err(ApiError::value("metadata", ALLOWED));
    }
    Ok(metadata)
}

/// Reads `items`; empty if it is absent.
fn items(raw: Option<&RawValue>) -> Result<Vec<Item>, ApiError> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(Vec::new()) };
    let list: Vec<&RawValue> = parse(raw, "items", "an array of objects")?;
    if list.len() > MAX_ITEMS {
        return Err(ApiError::value("items", format!("{} items; allowed: at most {MAX_ITEMS}", list.len())));
    }
    let numbered = list.iter().enumerate();
    numbered.map(|(at, raw)| Ok(Item::parse(raw, &format!("items[{at}]"))?)).collect()
}

/// The cause of what a request writes: derived from the idempotency key, so that a retry is recognised, or else random.
pub(super) fn cause<P: Platform>(
    node: &Node<P>,
    operation: &str,
    log: LogId,
    caller: &Caller,
    key: Option<&str>,
) -> Cause {
    match key {
        Some(key) => derive(operation, &[&log.0, caller.name.as_bytes(), key.as_bytes()]),
        None => node.random_bytes(),
    }
}

/// Appends `drafts`, unless an earlier request has appended them, and returns the conversation afterwards. With
/// `may_create` the conversation need not exist yet; with `has_key` the request may be a retry.
async fn commit<P: Platform>(
    node: &Node<P>,
    caller: &Caller,
    log: LogId,
    (may_create, has_key): (bool, bool),
    drafts: &[Draft],
) -> Result<serde_json::Value, ApiError> {
    let decide = |fold: &Session| {
        if may_create && fold.is_deleted() {
            return Err(ApiError::deleted());
        }
        if !may_create || fold.created().is_some() {
            require_visible(fold, caller, log)?;
        }
        match fold.has_written(drafts) {
            Ok(true) => Ok(Decision::Done(())),
            Ok(false) => Ok(Decision::Append(drafts.to_vec(), next_wake(node, fold, caller), ())),
            Err(session::IdempotencyConflict) => Err(ApiError::key_reused()),
        }
    };
    let object = |fold: &Session| require_visible(fold, caller, log).map(|_| conversation_object(log, fold));
    // An earlier request of the same key may be in a part of the log that is not read yet.
    let enough = |fold: &Session| {
        !has_key || fold.has_turns(MIN_TURNS_SEARCHED) || !matches!(fold.has_written(drafts), Ok(false))
    };
    let look = |fold: &Session| (object(fold), fold.is_snapshot_due());
    let ((), _, (object, due)) = node.commit_session_until(log, enough, decide, look).await?;
    if due {
        // If it fails, it stays due, and a later commit tries again.
        agent::compaction::snapshot(node, log).await;
    }
    object
}

/// Next wake of the log after an entry that changes none of its turns.
fn next_wake<P: Platform>(node: &Node<P>, fold: &Session, caller: &Caller) -> Wake {
    match fold.turns().open().next() {
        Some(_) => Wake::Keep,
        None => agent::at_rest(node, fold, fold.owner().or(Some(&caller.name))),
    }
}

/// Reads the newest state of a conversation with `look`, if the caller may see it.
async fn read<P: Platform, T>(
    node: &Node<P>,
    caller: &Caller,
    log: LogId,
    look: impl FnOnce(&Session) -> T,
) -> Result<T, ApiError> {
    read_until(node, caller, log, |_| true, look).await
}

/// Reads the newest state of a conversation with `look`, after reading older parts of its log until `enough` holds.
async fn read_until<P: Platform, T>(
    node: &Node<P>,
    caller: &Caller,
    log: LogId,
    enough: impl Fn(&Session) -> bool,
    look: impl FnOnce(&Session) -> T,
) -> Result<T, ApiError> {
    node.read_session_until(log, enough, |fold| require_visible(fold, caller, log).map(|_| look(fold)))
        .await?
}

/// The creation of a conversation that the caller may see. All others are unknown to the caller.
pub(super) fn require_visible<'a>(
    fold: &'a Session,
    caller: &Caller,
    log: LogId,
) -> Result<&'a Creation, ApiError> {
    let own = fold.created().filter(|created| caller.may_see(&created.owner));
    own.ok_or_else(|| ApiError::unknown_conversation(&format!("{PREFIX}{log}")))
}

/// Whether a session may be deleted; the error says why not. A session that `agent.toml` has a schedule for may not:
/// its id follows from the schedule's name, so it could never be created again.
pub(super) fn may_delete(fold: &Session) -> Result<bool, ApiError> {
    match fold.schedules().configured().and_then(Schedule::definition) {
        Some(_) => {
            let why =
                "a [[schedule]] of agent.toml runs in it; allowed: to delete it after removing the schedule";
            Err(ApiError::value("id", why))
        }
        None => Ok(true),
    }
}

/// Reads the contents of the items of `page`, in its order. Items that were erased meanwhile are left out.
async fn read_items<P: Platform>(
    node: &Node<P>,
    log: LogId,
    page: &[ItemRef],
) -> Result<Vec<Box<RawValue>>, StoreError> {
    type Found = BTreeMap<(Origin, Seq, usize), Option<Box<RawValue>>>;
    let key = |item: &ItemRef| (item.origin.clone(), item.seq, item.at);
    let mut found = Found::new();
    // The chain of the first item that is missing, and the lowest entry that is missing in this chain.
    let next_read = |found: &Found| {
        let is_missing = |item: &&ItemRef| !found.contains_key(&key(item));
        let first = page.iter().find(is_missing)?;
        let in_chain = page.iter().filter(|item| item.origin == first.origin).filter(is_missing);
        Some((first.origin.clone(), in_chain.map(|item| item.seq).min().unwrap_or(first.seq)))
    };
    // The items of a page are mostly neighbours in one chain, so one read brings many of them.
    while let Some((origin, from)) = next_read(&found) {
        let limit = ReadLimit { entries: page.len(), ..ReadLimit::PAGE };
        let entries: Vec<Entry> = node.platform().store().read(log, &origin, from, limit).await?;
        if entries.is_empty() {
            return Err(StoreError::Corrupt(format!("entry {} of {origin} is missing", from.0)));
        }
        for entry in &entries {
            let is_in_entry = |item: &&ItemRef| item.origin == origin && item.seq == entry.header().seq;
            for item in page.iter().filter(is_in_entry) {
                found.insert(key(item), Session::item_of(entry, item.at)?);
            }
        }
    }
    Ok(page.iter().filter_map(|item| found.remove(&key(item)).flatten()).collect())
}

fn conversation_object(log: LogId, fold: &Session) -> serde_json::Value {
    json!({
        "id": format!("{PREFIX}{log}"),
        "object": "conversation",
        "created_at": fold.created().map(|created| created.at.unix_seconds()),
        "metadata": fold.metadata(),
    })
}

/// A page of a list in OpenAI's shape; `more` says whether items follow it.
pub(super) fn list_object(items: &[Box<RawValue>], more: bool) -> serde_json::Value {
    #[derive(Deserialize)]
    struct Id {
        id: String,
    }
    let id = |item: Option<&Box<RawValue>>| serde_json::from_str::<Id>(item?.get()).ok().map(|item| item.id);
    json!({
        "object": "list",
        "data": items,
        "first_id": id(items.first()),
        "last_id": id(items.last()),
        "has_more": more,
    })
}

/// The query parameters of OpenAI's lists.
pub(super) struct ListQuery {
    after: Option<String>,
    limit: usize,
    pub(super) newest_first: bool,
}

impl ListQuery {
    /// Cuts `items`, which are in the requested order, to one page; also returns whether more follow.
    pub(super) fn cut<T>(
        &self,
        items: Vec<T>,
        id: impl Fn(&T) -> String,
    ) -> Result<(Vec<T>, bool), ApiError> {
        let start = match &self.after {
            None => 0,
            Some(after) => {
                let position = items.iter().position(|item| id(item) == *after);
                position.map(|position| position + 1).ok_or_else(|| Self::unknown(after))?
            }
        };
        let mut page: Vec<T> = items.into_iter().skip(start).take(self.limit + 1).collect();
        let more = page.len() > self.limit;
        page.truncate(self.limit);
        Ok((page, more))
    }

    fn unknown(after: &str) -> ApiError {
        ApiError::value("after", format!("{after:?}; allowed: the id of an item in this list"))
    }

    pub(super) fn parse(query: &str) -> Result<Self, ApiError> {
        let mut parsed = Self { after: None, limit: DEFAULT_PAGE, newest_first: true };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "after" => parsed.after = Some(value.to_owned()),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit));
                    let why = format!("{value:?}; allowed: 1 to {MAX_PAGE}");
                    parsed.limit = limit.ok_or_else(|| ApiError::value("limit", why))?;
                }
                "order" => {
                    parsed.newest_first = match value {
                        "asc" => false,
                        "desc" => true,
                        other => {
                            return Err(ApiError::value("order", format!("{other:?}; allowed: asc, desc")));
                        }
                    }
                }
                // `include[]` requests parts that are always sent.
                _ => {}
            }
        }
        Ok(parsed)
    }
}
