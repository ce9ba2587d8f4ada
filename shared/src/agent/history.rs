//! What was said before: read from the log, as a model is told it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    node::Node,
    platform::{Platform, ReadLimit, Store, StoreError},
    session::{
        conversation::{self, Conversation, ItemPlace, ItemRef},
        entry::{Entry, LogId, Origin, Seq},
        log,
        snapshot::Mark,
        turn::{Opened, Turn, TurnId},
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
    let mut all = Vec::new();
    for (origin, (first, last)) in &turn.spans {
        all.extend(log::between(node.platform().store(), log, origin, *first, *last).await?);
    }
    all.retain(|entry: &Entry| entry.header().cause == id);
    all.sort_by_key(|entry| (entry.header().hlc, entry.header().origin.clone(), entry.header().seq));
    Ok(all)
}

/// What was said before the turn `id`, as items.
pub(crate) async fn history<P: Platform>(
    node: &Node<P>,
    log: LogId,
    id: Option<TurnId>,
    opened: &Opened,
) -> Result<Vec<Value>, StoreError> {
    if opened.in_conversation {
        let said = said(node, log, id).await?;
        let summary = said.summary.map(|text| summarised(&text));
        return Ok(summary.into_iter().chain(said.items.into_iter().map(|(_, item)| item)).collect());
    }
    let Some(previous) = opened.previous() else { return Ok(Vec::new()) };
    let line = |fold: &Conversation| {
        let line = fold.turns().line(previous).into_iter();
        line.filter_map(|id| Some((id, fold.turns().find(&id)?.clone()))).collect::<Vec<_>>()
    };
    let mut history = Vec::new();
    for (id, turn) in node.look_back(log, |fold| fold.turns().reaches(previous), line).await? {
        for entry in entries(node, log, id, &turn).await? {
            history.extend(Conversation::all_told(&entry)?);
        }
    }
    Ok(history)
}

/// A conversation, as a model is told it.
pub(super) struct Said {
    /// What the beginning comes to, if it is summed up.
    pub(super) summary: Option<String>,
    /// What comes after that, with its places.
    pub(super) items: Vec<(ItemPlace, Value)>,
}

/// What was said in the conversation, before the turn `id` if there is one.
pub(super) async fn said<P: Platform>(
    node: &Node<P>,
    log: LogId,
    id: Option<TurnId>,
) -> Result<Said, StoreError> {
    let look = |fold: &Conversation| {
        // Those of this turn are not its history, and those that came later are not either.
        let before = id.and_then(|id| fold.turns().find(&id)).map(|turn| &turn.place);
        let summary = fold.summary().cloned();
        let told = |place: &ItemPlace| summary.as_ref().is_none_or(|summary| *place > summary.upto);
        let items = fold.items_before(before).filter(|(place, _)| told(place));
        let (places, refs): (Vec<ItemPlace>, Vec<ItemRef>) =
            items.map(|(place, item)| (place.clone(), item.clone())).unzip();
        (summary.map(|summary| summary.mark), places, refs)
    };
    let (summary, places, refs) = node.look_back(log, Conversation::is_told, look).await?;
    let summary = match summary {
        Some(Mark { origin, seq }) => {
            let entries = log::between(node.platform().store(), log, &origin, seq, seq).await?;
            entries.first().and_then(conversation::summary_text)
        }
        None => None,
    };
    let items = items_of(node, log, &refs).await?;
    Ok(Said { summary, items: places.into_iter().zip(items).collect() })
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
                    *slot = Conversation::told_of(entry, item.at)?;
                }
                open.remove(&key);
            }
        }
    }
    Ok(contents)
}
