//! Serves `/v1/sessions` to the operator: lists, shows, deletes, exports and imports every log that holds a
//! conversation or turns, of any owner. Logs that the node keeps for itself are not shown.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use http::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{ApiError, conversations, ok};
use crate::{
    agent,
    body::Body,
    entry::{
        Batch, Bucket, Cursor, Entry, Head, Header, Kind, LogId, MAX_BATCH_ENTRIES, Origin, Seq,
        line::{self, Chains},
    },
    log::{CommitError, Fold},
    node::Node,
    platform::{AppendError, Platform, ReadLimit, Store, StoreError},
    session::{
        Session, TurnProgress,
        deletion::DeletionReason,
        notes::Notes,
        schedule::Directory,
        turn::{ResponseId, Turn},
    },
    wire::raw::{parse, parse_object, parse_text, required},
};

/// Most sessions or entries in one page, and entries in one import: as in the other lists.
const MAX_PAGE: usize = 100;

/// Sessions in one page if the client sets no limit.
const DEFAULT_PAGE: usize = 20;

/// Most logs that are read for one page of sessions. Each costs a Worker four calls, and all buckets cost 256, which
/// together stays below the 1,000 calls of one request.
const MAX_LOGS_READ: usize = 128;

/// Most responses that are shown of a session: the newest.
const MAX_RESPONSES: usize = 50;

/// Most bytes of bodies in one append of an import: with headers they stay below the 4 MB of a DynamoDB transaction.
const MAX_BATCH_BYTES: usize = 2 * 1024 * 1024;

/// How far ahead of this node an imported entry's clock may be. Clocks differ, but a session with a time in the
/// future would not expire, and its turns would not be given up.
const MAX_CLOCK_LEAD: Duration = Duration::from_secs(60 * 60);

/// Largest cursor: stores bind numbers as doubles, which are exact up to here.
const MAX_CURSOR: u64 = (1 << 53) - 1;

const PREFIX: &str = "sess_";

/// Reads a session's id.
pub(super) fn parse_id(id: &str) -> Option<LogId> {
    LogId::parse(id.strip_prefix(PREFIX)?)
}

/// The log of the session that a request names.
fn require_id(id: &str) -> Result<LogId, ApiError> {
    parse_id(id).ok_or_else(|| ApiError::unknown_session(id))
}

/// `GET /v1/sessions`: in the order of buckets, and of changes within each. A page may be short or empty though more
/// follow.
pub(super) async fn list<P: Platform>(node: &Node<P>, query: &str) -> Result<Response<Body>, ApiError> {
    let query = PageQuery::parse(query, DEFAULT_PAGE)?;
    let start = match query.after {
        None => (0, Cursor::default()),
        Some(after) => parse_position(after).ok_or_else(|| PageQuery::unknown(after))?,
    };
    let (mut data, mut logs_read, mut next) = (Vec::new(), BTreeSet::new(), None);
    'buckets: for bucket in start.0..=u8::MAX {
        let mut after = if bucket == start.0 { start.1 } else { Cursor::default() };
        loop {
            let logs_left = MAX_LOGS_READ.saturating_sub(logs_read.len());
            let changes = node.platform().store().changes(Bucket(bucket), after, logs_left).await?;
            if changes.is_empty() {
                break;
            }
            for change in changes {
                after = change.cursor;
                // A log has a change for each of its chains.
                if logs_read.insert(change.log) {
                    match summary(node, change.log).await {
                        Ok(session) => data.extend(session.map(|session| session.object)),
                        // Listed as damaged, since it must not hide the others.
                        Err(StoreError::Corrupt(_)) => data.push(damaged_session(change.log)),
                        Err(error) => return Err(error.into()),
                    }
                }
                // Checked after each change, so that `next` is exactly the last change that was used.
                if data.len() >= query.limit || logs_read.len() >= MAX_LOGS_READ {
                    next = Some(format!("{bucket}.{}", after.0));
                    break 'buckets;
                }
            }
        }
    }
    Ok(ok(&page(data, next)))
}

/// `GET /v1/sessions/{id}`
pub(super) async fn retrieve<P: Platform>(node: &Node<P>, id: &str) -> Result<Response<Body>, ApiError> {
    let unknown = || ApiError::unknown_session(id);
    let log = require_id(id)?;
    let SessionSummary { mut object, heads, responses } = summary(node, log).await?.ok_or_else(unknown)?;
    let heads = heads.iter().map(
        |head| json!({"origin": head.origin.to_string(), "seq": head.seq.0, "hash": head.hash.to_string()}),
    );
    object.insert("heads".into(), heads.collect());
    object.insert("responses".into(), responses.into());
    Ok(ok(&Value::Object(object)))
}

/// `DELETE /v1/sessions/{id}`: deletes a session of any owner for good.
pub(super) async fn delete<P: Platform>(node: &Node<P>, id: &str) -> Result<Response<Body>, ApiError> {
    let log = require_id(id)?;
    let may = |fold: &Session| match fold.owner() {
        Some(_) => conversations::may_delete(fold),
        None => Err(ApiError::unknown_session(id)),
    };
    agent::delete_log(node, log, DeletionReason::Asked, may).await?;
    Ok(ok(&json!({"id": id, "object": "session.deleted", "deleted": true})))
}

/// `GET /v1/sessions/{id}/entries`: in the order of origins and seqs. A page has at most 4 MiB of bodies, or one
/// larger entry.
pub(super) async fn entries<P: Platform>(
    node: &Node<P>,
    id: &str,
    query: &str,
) -> Result<Response<Body>, ApiError> {
    let query = PageQuery::parse(query, MAX_PAGE)?;
    let log = require_id(id)?;
    let heads = node.platform().store().heads(log).await?;
    if heads.is_empty() {
        return Err(ApiError::unknown_session(id));
    }
    let after = match query.after {
        None => None,
        Some(after) => Some(parse_entry(after).ok_or_else(|| PageQuery::unknown(after))?),
    };
    let (mut data, mut bytes_left, mut last) = (Vec::new(), ReadLimit::PAGE.bytes, after.clone());
    'page: for head in heads.iter().filter(|head| after.as_ref().is_none_or(|(from, _)| head.origin >= *from))
    {
        let mut from = match &after {
            Some((origin, seq)) if *origin == head.origin => seq.next(),
            _ => Seq::FIRST,
        };
        while from <= head.seq && data.len() < query.limit {
            let limit = ReadLimit { entries: query.limit - data.len(), bytes: bytes_left };
            let read = node.platform().store().read(log, &head.origin, from, limit).await?;
            if read.is_empty() {
                return Err(
                    StoreError::Corrupt(format!("entry {} of {} is missing", from.0, head.origin)).into()
                );
            }
            for entry in read {
                let size = entry.body().len();
                // A store returns at least one entry, however large. One above the limit gets a page of its own.
                if size > bytes_left && !data.is_empty() {
                    break 'page;
                }
                bytes_left = bytes_left.saturating_sub(size);
                from = entry.header().seq.next();
                last = Some((head.origin.clone(), entry.header().seq));
                data.push(line::encode(&entry));
            }
        }
    }
    let more = |(origin, seq): &(Origin, Seq)| {
        heads.iter().any(|head| head.origin > *origin || head.origin == *origin && head.seq > *seq)
    };
    let next = last.filter(more).map(|(origin, seq)| format!("{origin}.{}", seq.0));
    Ok(ok(&page(data, next)))
}

/// `POST /v1/sessions/{id}/entries`: appends entries that another store exported. Entries that this store has change
/// nothing.
pub(super) async fn import<P: Platform>(
    node: &Node<P>,
    id: &str,
    body: Bytes,
) -> Result<Response<Body>, ApiError> {
    let log = require_id(id)?;
    let entries = parse_import(log, &body)?;
    let store = node.platform().store();
    let heads = store.heads(log).await?;
    // An import must not bring back a deleted session, nor write to a log of the node itself.
    if is_of_node(node, log, &heads).await? || node.read_session(log, Session::is_deleted).await? {
        return Err(ApiError::unknown_session(id));
    }
    let mut chains = Chains::of(log, &heads);
    let (mut known, mut new) = (0_usize, Vec::new());
    let mut fold = node.read_session(log, Session::clone).await?;
    let latest = node.platform().now() + MAX_CLOCK_LEAD;
    // All entries are checked before any is appended.
    for (at, entry) in entries {
        let header = entry.header();
        if header.seq > chains.end(log, &header.origin) {
            chains.apply(&entry).map_err(|why| ApiError::entry_conflict(&param(at, ""), &why))?;
            if header.hlc.timestamp() > latest {
                let why = format!("its clock is more than {} s ahead", MAX_CLOCK_LEAD.as_secs());
                return Err(ApiError::value(&param(at, "header"), why));
            }
            // One entry that can't be folded would make the whole session unreadable.
            fold.apply(&entry).map_err(|error| ApiError::value(&param(at, "body"), error.why))?;
            new.push(entry);
            continue;
        }
        let stored = store.read(log, &header.origin, header.seq, ReadLimit { entries: 1, bytes: 0 }).await?;
        if stored.first().map(Entry::hash) != Some(entry.hash()) {
            let why = format!("the store has another entry {} of {}", header.seq.0, header.origin);
            return Err(ApiError::entry_conflict(&param(at, ""), &why));
        }
        known += 1;
    }
    let appended = new.len();
    for batch in batches(new) {
        match store.append(&batch).await {
            Ok(()) => {}
            Err(AppendError::Conflict { .. }) => {
                let why = "another writer has appended to this session meanwhile; allowed: to send it again";
                return Err(ApiError::entry_conflict("data", why));
            }
            Err(AppendError::Unavailable(why)) => return Err(StoreError::Unavailable(why).into()),
            Err(AppendError::Corrupt(why)) => return Err(StoreError::Corrupt(why).into()),
            Err(AppendError::TooLarge(why)) => return Err(CommitError::<ApiError>::TooLarge(why).into()),
        }
    }
    Ok(ok(&json!({"object": "session.import", "appended": appended, "known": known})))
}

/// A session as a list shows it, and what a single view adds.
struct SessionSummary {
    object: Map<String, Value>,
    heads: Vec<Head>,
    /// The newest [`MAX_RESPONSES`], newest first.
    responses: Vec<Value>,
}

/// Reads the summary of the session in `log`; `None` if it holds no session.
async fn summary<P: Platform>(node: &Node<P>, log: LogId) -> Result<Option<SessionSummary>, StoreError> {
    let heads = node.platform().store().heads(log).await?;
    if is_of_node(node, log, &heads).await? {
        return Ok(None);
    }
    let enough = |fold: &Session| fold.has_turns(MAX_RESPONSES);
    node.read_session_until(log, enough, |fold| SessionSummary::of(log, fold, heads)).await
}

/// A session that can't be read, as a list shows it.
fn damaged_session(log: LogId) -> Map<String, Value> {
    let fields: [(&str, Value); 3] =
        [("id", format!("{PREFIX}{log}").into()), ("object", "session".into()), ("damaged", true.into())];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl SessionSummary {
    /// `None` if the log holds no session.
    fn of(log: LogId, fold: &Session, heads: Vec<Head>) -> Option<Self> {
        let (created, turns) = (fold.created(), fold.turns());
        // A log without an owner holds no session, or one whose contents were erased.
        fold.owner()?;
        let first = turns.all().next().map(|(_, turn)| turn.opened_at);
        let last = heads.iter().map(|head| head.hlc.timestamp()).max();
        let visible = turns.all().rev().filter(|(_, turn)| turn.visible);
        let responses: Vec<Value> = visible
            .take(MAX_RESPONSES)
            .map(|(turn, known)| {
                json!({
                    "id": ResponseId { log, turn: *turn }.to_string(),
                    "status": status(known),
                    "created_at": known.opened_at.unix_seconds(),
                    "background": known.background,
                })
            })
            .collect();
        let fields: [(&str, Value); 12] = [
            ("id", format!("{PREFIX}{log}").into()),
            ("object", "session".into()),
            ("conversation", created.map(|_| format!("conv_{log}")).into()),
            ("owner", fold.owner().into()),
            ("created_at", created.map(|created| created.at).or(first).map(|at| at.unix_seconds()).into()),
            ("last_active_at", last.map(|at| at.unix_seconds()).into()),
            ("items", fold.counts().0.into()),
            ("turns", fold.counts().1.into()),
            ("open_turns", turns.open().count().into()),
            ("entries", heads.iter().map(|head| head.seq.0).sum::<u64>().into()),
            ("metadata", json!(fold.metadata().cloned().unwrap_or_default())),
            ("last_response", responses.first().and_then(|response| response.get("id")).cloned().into()),
        ];
        let object = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Some(Self { object, heads, responses })
    }
}

fn status(turn: &Turn) -> &'static str {
    match turn.outcome {
        Some(outcome) => outcome.name(),
        None if turn.run.is_none() && turn.background => "queued",
        None => "in_progress",
    }
}

/// Whether the node keeps this log for itself: its ticks, its budgets or the directory of schedules. Reads the first
/// entry only, since such a log is long and holds nothing else.
async fn is_of_node<P: Platform>(node: &Node<P>, log: LogId, heads: &[Head]) -> Result<bool, StoreError> {
    if [node.log(), Directory::log()].contains(&log) {
        return Ok(true);
    }
    let Some(head) = heads.first() else { return Ok(false) };
    let limit = ReadLimit { entries: 1, bytes: 0 };
    let first = node.platform().store().read(log, &head.origin, Seq::FIRST, limit).await?;
    Ok(first.first().is_some_and(|entry| is_of_own_log(entry.header())))
}

/// Whether an entry belongs to a log that the node keeps for itself.
fn is_of_own_log(header: &Header) -> bool {
    match header.kind {
        Kind::GRANTED | Kind::RETURNED | Kind::SCHEDULE_LISTED | Kind::SCHEDULE_DELISTED => true,
        // A session has such entries, too, but never as its first.
        Kind::TICKED => header.seq == Seq::FIRST,
        _ => false,
    }
}

/// Reads the entries of an import. Returns them in the order of origins and seqs, each with its index in the request.
fn parse_import(log: LogId, body: &Bytes) -> Result<Vec<(usize, Entry)>, ApiError> {
    #[derive(Deserialize)]
    struct ImportFields<'a> {
        #[serde(borrow, default)]
        data: Option<&'a RawValue>,
    }
    let fields: ImportFields<'_> = parse_object(parse_text(body)?)?;
    let list: Vec<&RawValue> = parse(required(fields.data, "data")?, "data", "an array of objects")?;
    if list.is_empty() || list.len() > MAX_PAGE {
        let why = format!("{} entries; allowed: 1 to {MAX_PAGE}", list.len());
        return Err(ApiError::value("data", why));
    }
    let mut all = Vec::new();
    for (at, raw) in list.into_iter().enumerate() {
        let entry =
            line::decode(raw.get()).map_err(|error| ApiError::value(&param(at, error.field), error.why))?;
        let header = entry.header();
        if header.log != log {
            let why = format!("it belongs to {PREFIX}{}; allowed: entries of {PREFIX}{log}", header.log);
            return Err(ApiError::value(&param(at, "header"), why));
        }
        if is_of_own_log(header) {
            let why = format!("its kind is {}; allowed: entries of sessions", header.kind.name());
            return Err(ApiError::value(&param(at, "header"), why));
        }
        // These parts of a session are folded by readers of their own, so `import` would not notice a wrong body.
        let folded = TurnProgress::default().apply(&entry).and_then(|()| Notes::default().apply(&entry));
        folded.map_err(|error| ApiError::value(&param(at, "body"), error.why))?;
        all.push((at, entry));
    }
    all.sort_by_key(|(_, entry)| (entry.header().origin.clone(), entry.header().seq));
    Ok(all)
}

/// The name of a field of the imported entry `at`, for an error.
fn param(at: usize, field: &str) -> String {
    let dot = if field.is_empty() { "" } else { "." };
    format!("data[{at}]{dot}{field}")
}

/// Splits entries, which follow each other within each chain, into batches that a store accepts.
fn batches(entries: Vec<Entry>) -> Vec<Batch> {
    let (mut batches, mut batch, mut bytes) = (Vec::new(), Vec::<Entry>::new(), 0_usize);
    for entry in entries {
        let is_other_chain = batch.last().is_some_and(|last| last.header().origin != entry.header().origin);
        bytes = bytes.saturating_add(entry.body().len());
        if !batch.is_empty()
            && (is_other_chain || batch.len() >= MAX_BATCH_ENTRIES || bytes > MAX_BATCH_BYTES)
        {
            bytes = entry.body().len();
            batches.push(std::mem::take(&mut batch));
        }
        batch.push(entry);
    }
    batches.push(batch);
    // Only an empty batch fails, and only if there are no entries at all: each is a piece of one chain.
    batches.into_iter().filter_map(|entries| Batch::from_entries(entries).ok()).collect()
}

/// Reads the position after a page of sessions: a bucket, and a cursor in it.
fn parse_position(text: &str) -> Option<(u8, Cursor)> {
    let (bucket, cursor) = text.split_once('.')?;
    let cursor = cursor.parse().ok().filter(|cursor| *cursor <= MAX_CURSOR)?;
    Some((bucket.parse().ok()?, Cursor(cursor)))
}

/// Reads the position after a page of entries: a chain, and an entry of it.
fn parse_entry(text: &str) -> Option<(Origin, Seq)> {
    let (origin, seq) = text.rsplit_once('.')?;
    Some((Origin::parse(origin)?, Seq(seq.parse().ok()?)))
}

fn page(data: impl IntoIterator<Item = impl Into<Value>>, next: Option<String>) -> Value {
    let data: Value = data.into_iter().collect();
    json!({"object": "list", "data": data, "has_more": next.is_some(), "next": next})
}

/// The query parameters of both lists.
struct PageQuery<'a> {
    after: Option<&'a str>,
    limit: usize,
}

impl<'a> PageQuery<'a> {
    fn parse(query: &'a str, default: usize) -> Result<Self, ApiError> {
        let mut parsed = Self { after: None, limit: default };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "after" => parsed.after = Some(value),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit));
                    let why = format!("{value:?}; allowed: 1 to {MAX_PAGE}");
                    parsed.limit = limit.ok_or_else(|| ApiError::value("limit", why))?;
                }
                _ => {}
            }
        }
        Ok(parsed)
    }

    fn unknown(after: &str) -> ApiError {
        let after: String = after.chars().take(200).collect();
        ApiError::value("after", format!("{after:?}; allowed: 'next' of the page before"))
    }
}

#[cfg(test)]
mod tests;
