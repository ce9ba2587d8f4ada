//! What was said before: read from the log, as a model is told it.

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

/// All entries of a turn, in order.
pub(crate) async fn entries<P: Platform>(
    node: &Node<P>,
    log: LogId,
    id: TurnId,
    turn: &Turn,
) -> Result<Vec<Entry>, StoreError> {
    let turn = (id, turn.clone());
    Ok(entries_of(node, log, std::slice::from_ref(&turn)).await?.remove(&id).unwrap_or_default())
}

/// All entries of some turns, in order.
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
    // Turns that follow each other are read together.
    let mut together: Vec<(&Origin, Seq, Seq)> = Vec::new();
    for (origin, first, last) in spans {
        match together.last_mut() {
            Some((of, _, end)) if *of == origin && first.0 <= end.0.saturating_add(GAP) => {
                *end = last.max(*end)
            }
            _ => together.push((origin, first, last)),
        }
    }
    let mut all: BTreeMap<TurnId, Vec<Entry>> = turns.iter().map(|(id, _)| (*id, Vec::new())).collect();
    for (origin, first, last) in together {
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

/// Entries of others that are read rather than asked around: another call costs more.
const GAP: u64 = 16;

/// Turns of a line that are read together: about a page of entries.
const TOGETHER: usize = 64;

/// What was said before the turn `id`, as items.
pub(crate) async fn history<P: Platform>(
    node: &Node<P>,
    log: LogId,
    id: Option<TurnId>,
    opened: &TurnOpened,
) -> Result<Vec<Value>, StoreError> {
    if opened.in_conversation {
        let said = conversation_history(node, log, id).await?;
        let summary = said.summary.map(|text| summarised(&text));
        return Ok(summary.into_iter().chain(said.items.into_iter().map(|(_, item)| item)).collect());
    }
    match opened.previous() {
        Some(previous) => line(node, log, previous, history_budget(node.config(), opened)).await,
        None => Ok(Vec::new()),
    }
}

/// What was said in the line of responses that ends with `last`. Of its beginning, which may be long, nothing that is left out
/// for want of `room` is read.
async fn line<P: Platform>(
    node: &Node<P>,
    log: LogId,
    last: TurnId,
    room: Option<usize>,
) -> Result<Vec<Value>, StoreError> {
    let (mut said, mut size, mut seen) = (Vec::new(), 0, BTreeSet::new());
    let mut next = Some(last);
    'line: while let Some(id) = next.filter(|id| !seen.contains(id)) {
        // As much of it as is known as soon as this turn is.
        let known = |fold: &Session| fold.turns().find(&id).is_some();
        let look = |fold: &Session| {
            let line = fold.turns().chain_to(id).into_iter();
            line.filter_map(|id| Some((id, fold.turns().find(&id)?.clone()))).collect::<Vec<_>>()
        };
        let turns = node.read_session_until(log, known, look).await?;
        seen.extend(turns.iter().map(|(id, _)| *id));
        next = turns.first().and_then(|(_, turn)| turn.previous);
        for turns in turns.rchunks(TOGETHER) {
            let mut entries = entries_of(node, log, turns).await?;
            for (id, _) in turns.iter().rev() {
                let mut told = Vec::new();
                for entry in entries.remove(id).unwrap_or_default() {
                    told.extend(Session::prompt_items(&entry)?);
                }
                size += told.iter().map(history::size).sum::<usize>();
                said.push(told);
            }
            if room.is_some_and(|room| size > room) {
                break 'line;
            }
        }
    }
    Ok(said.into_iter().rev().flatten().collect())
}

/// A conversation, as a model is told it.
pub(super) struct History {
    /// What the beginning comes to, if it is summed up.
    pub(super) summary: Option<String>,
    /// What comes after that, with its places.
    pub(super) items: Vec<(ItemPlace, Value)>,
}

/// What was said in the conversation, before the turn `id` if there is one.
pub(super) async fn conversation_history<P: Platform>(
    node: &Node<P>,
    log: LogId,
    id: Option<TurnId>,
) -> Result<History, StoreError> {
    let look = |fold: &Session| {
        // Those of this turn are not its history, and those that came later are not either.
        let before = id.and_then(|id| fold.turns().find(&id)).map(|turn| &turn.place);
        let summary = fold.summary().cloned();
        let told = |place: &ItemPlace| summary.as_ref().is_none_or(|summary| *place > summary.upto);
        let items = fold.items_before(before).filter(|(place, _)| told(place));
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

/// The item that tells a model what the beginning came to.
fn summarised(text: &str) -> Value {
    let text = responses::introduce(text);
    json!({"type": "message", "role": "developer", "content": [{"type": "input_text", "text": text}]})
}

/// The contents of `items`, in their order.
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
