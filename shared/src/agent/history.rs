//! Reads from the log what came before a turn, as the items that a model is sent. Truncation and summaries are made in
//! `compaction`; here they are only applied.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::compaction::history_budget;
use crate::{
    entry::{Entry, EntryId, LogId, Origin, Seq},
    log,
    node::Node,
    platform::{Platform, ReadLimit, Store, StoreError},
    session::{
        self, ItemPlace, ItemRef, Session, history,
        turn::{Turn, TurnId, TurnOpened},
    },
    wire::responses,
};

/// All entries of one turn, in order.
pub(crate) async fn turn_entries<P: Platform>(
    node: &Node<P>,
    log: LogId,
    id: TurnId,
    turn: &Turn,
) -> Result<Vec<Entry>, StoreError> {
    let turn = (id, turn.clone());
    Ok(entries_of(node, log, std::slice::from_ref(&turn)).await?.remove(&id).unwrap_or_default())
}

/// All entries of several turns, by turn and in order.
async fn entries_of<P: Platform>(
    node: &Node<P>,
    log: LogId,
    turns: &[(TurnId, Turn)],
) -> Result<BTreeMap<TurnId, Vec<Entry>>, StoreError> {
    let mut spans: Vec<(&Origin, Seq, Seq)> = Vec::new();
    for (_, turn) in turns {
        spans.extend(turn.spans.iter().map(|(origin, (first, last))| (origin, *first, *last)));
    }
    spans.sort();
    // Spans that are close to each other are read in one call.
    let mut ranges: Vec<(&Origin, Seq, Seq)> = Vec::new();
    for (origin, first, last) in spans {
        match ranges.last_mut() {
            Some((of, _, end)) if *of == origin && first.0 <= end.0.saturating_add(GAP) => {
                *end = last.max(*end)
            }
            _ => ranges.push((origin, first, last)),
        }
    }
    let mut all: BTreeMap<TurnId, Vec<Entry>> = turns.iter().map(|(id, _)| (*id, Vec::new())).collect();
    for (origin, first, last) in ranges {
        for entry in log::read_range(node.platform().store(), log, origin, first, last).await? {
            if let Some(entries) = all.get_mut(&entry.header().cause) {
                entries.push(entry);
            }
        }
    }
    for entries in all.values_mut() {
        entries.sort_by_key(Entry::place);
    }
    Ok(all)
}

/// Unrelated entries between two spans that are read along with them: another call of the store costs more.
const GAP: u64 = 16;

/// Turns of a chain that are read at once: about a page of entries.
const CHUNK: usize = 64;

/// The items before the turn `id`, or, if it is `None`, before a turn that would be opened now: those of the
/// conversation, or of the responses that `opened` continues.
pub(crate) async fn history<P: Platform>(
    node: &Node<P>,
    log: LogId,
    id: Option<TurnId>,
    opened: &TurnOpened,
) -> Result<Vec<Value>, StoreError> {
    if opened.in_conversation {
        let history = conversation_history(node, log, id).await?;
        let summary = history.summary.map(|text| summary_item(&text));
        return Ok(summary.into_iter().chain(history.items.into_iter().map(|(_, item)| item)).collect());
    }
    match opened.previous() {
        Some(previous) => chain(node, log, previous, history_budget(node.config(), opened)).await,
        None => Ok(Vec::new()),
    }
}

/// The items of the chain of responses that ends with `last`. Reads from the end and stops at `budget` bytes, since the
/// beginning may be long and would be truncated anyway.
async fn chain<P: Platform>(
    node: &Node<P>,
    log: LogId,
    last: TurnId,
    budget: Option<usize>,
) -> Result<Vec<Value>, StoreError> {
    let (mut items_by_turn, mut size, mut visited) = (Vec::new(), 0, BTreeSet::new());
    let mut next = Some(last);
    // `visited` ends the loop at a chain that a damaged log closes to a circle.
    'chain: while let Some(id) = next.filter(|id| !visited.contains(id)) {
        // Only as much of the session is restored as knows this turn; an older snapshot has the rest of the chain.
        let is_known = |session: &Session| session.turns().find(&id).is_some();
        let look = |session: &Session| {
            let chain = session.turns().chain_to(id).into_iter();
            chain.filter_map(|id| Some((id, session.turns().find(&id)?.clone()))).collect::<Vec<_>>()
        };
        let turns = node.read_session_until(log, is_known, look).await?;
        visited.extend(turns.iter().map(|(id, _)| *id));
        next = turns.first().and_then(|(_, turn)| turn.previous);
        for turns in turns.rchunks(CHUNK) {
            let mut entries = entries_of(node, log, turns).await?;
            for (id, _) in turns.iter().rev() {
                let mut items = Vec::new();
                for entry in entries.remove(id).unwrap_or_default() {
                    items.extend(Session::prompt_items(&entry)?);
                }
                size += items.iter().map(history::prompt_bytes).sum::<usize>();
                items_by_turn.push(items);
            }
            if budget.is_some_and(|budget| size > budget) {
                break 'chain;
            }
        }
    }
    Ok(items_by_turn.into_iter().rev().flatten().collect())
}

/// A conversation, as a model is sent it.
pub(super) struct History {
    /// The summary of the beginning, if the conversation has one.
    pub(super) summary: Option<String>,
    /// The items after the summarised ones, with their places.
    pub(super) items: Vec<(ItemPlace, Value)>,
}

/// The history of a conversation, before the turn `id` if one is given.
pub(super) async fn conversation_history<P: Platform>(
    node: &Node<P>,
    log: LogId,
    id: Option<TurnId>,
) -> Result<History, StoreError> {
    let look = |session: &Session| {
        // The turn's own items and later ones are not its history.
        let before = id.and_then(|id| session.turns().find(&id)).map(|turn| &turn.place);
        let summary = session.summary().cloned();
        let is_after_summary =
            |place: &ItemPlace| summary.as_ref().is_none_or(|summary| *place > summary.upto);
        let items = session.items_before(before).filter(|(place, _)| is_after_summary(place));
        let (places, refs): (Vec<ItemPlace>, Vec<ItemRef>) =
            items.map(|(place, item)| (place.clone(), item.clone())).unzip();
        (summary.map(|summary| summary.mark), places, refs)
    };
    let (summary, places, refs) = node.read_session_until(log, Session::has_prompt_items, look).await?;
    let summary = match summary {
        Some(EntryId { origin, seq }) => {
            let entries = log::read_range(node.platform().store(), log, &origin, seq, seq).await?;
            entries.first().and_then(session::summary_text)
        }
        None => None,
    };
    let items = items_of(node, log, &refs).await?;
    Ok(History { summary, items: places.into_iter().zip(items).collect() })
}

/// The item that gives a model the summary.
fn summary_item(text: &str) -> Value {
    let text = responses::summary_message(text);
    json!({"type": "message", "role": "developer", "content": [{"type": "input_text", "text": text}]})
}

/// The contents of `items`, in their order. Fails with [`StoreError::Corrupt`] if an entry is missing.
async fn items_of<P: Platform>(
    node: &Node<P>,
    log: LogId,
    items: &[ItemRef],
) -> Result<Vec<Value>, StoreError> {
    let mut contents = vec![Value::Null; items.len()];
    let mut open: BTreeSet<(Origin, Seq, usize)> =
        items.iter().enumerate().map(|(n, item)| (item.origin.clone(), item.seq, n)).collect();
    while let Some((origin, from, _)) = open.first().cloned() {
        let page = node.platform().store().read(log, &origin, from, ReadLimit::PAGE).await?;
        if page.is_empty() {
            return Err(StoreError::Corrupt(format!("entry {} of {origin} is missing", from.0)));
        }
        for entry in &page {
            let seq = entry.header().seq;
            let here: Vec<_> =
                open.range((origin.clone(), seq, 0)..=(origin.clone(), seq, usize::MAX)).cloned().collect();
            for key in here {
                if let (Some(item), Some(slot)) = (items.get(key.2), contents.get_mut(key.2)) {
                    *slot = Session::prompt_item(entry, item.at)?;
                }
                open.remove(&key);
            }
        }
    }
    Ok(contents)
}
