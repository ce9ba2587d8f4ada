//! The agent at work: it runs turns, goes on with those that were left, and lets clients follow them.

mod ask;
mod built_in;
mod calls;
mod deletion;
mod due;
mod fires;
mod follow;
mod run;
mod runs;
pub(crate) mod schedules;
mod toolbox;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    node::Node,
    platform::{Platform, ReadLimit, Store, StoreError},
    session::{
        Progress,
        conversation::{Conversation, ItemRef},
        entry::{Entry, LogId, Origin, Seq},
        log::{CommitError, Decision},
        step::Answered,
        turn::{self, Closed, Opened, Outcome, ResponseId, Turn, TurnError, TurnId},
    },
};
use futures_util::future::join_all;

pub(crate) use deletion::{delete, erase, expires_at};
pub(crate) use due::{after, lease, rest};
pub(crate) use follow::Follower;
pub(crate) use run::start;
pub(crate) use runs::{Live, Runs};
pub(crate) use toolbox::Toolbox;

/// Sees that what is due in `log` is done, without waiting for it.
pub(crate) async fn rouse<P: Platform>(node: &Node<P>, log: LogId) {
    if node.platform().summon(log).await {
        return;
    }
    let waking = node.clone();
    let work = async move {
        // What fails stays due.
        let _ = waking.wake(log).await;
    };
    node.platform().spawn(Box::pin(work));
}

/// Erases what was deleted of `log`, deletes it if its time is over, begins what is due, goes on with the turns that nobody
/// runs, and waits for their ends.
pub(crate) async fn wake<P: Platform>(node: &Node<P>, log: LogId) -> Result<(), StoreError> {
    erase(node, log).await?;
    deletion::expire(node, log).await?;
    // Turns go on whatever becomes of it.
    let settled = schedules::settle(node, log).await;
    while {
        let begun = fires::begin(node, log).await?;
        go_on(node, log).await?;
        // What waited for these turns is due now.
        begun
    } {}
    settled
}

async fn go_on<P: Platform>(node: &Node<P>, log: LogId) -> Result<(), StoreError> {
    let now = node.platform().now();
    let left = |turn: &Turn| node.platform().is_alone() || turn.is_abandoned(now);
    let open = node
        .look(log, |fold| {
            let open = fold.turns().open().filter(|(id, turn)| left(turn) && !node.runs().has(log, id));
            open.map(|(id, turn)| (*id, turn.is_exhausted(now))).collect::<Vec<_>>()
        })
        .await?;
    let runs = open.into_iter().map(|(turn, exhausted)| take_up(node, log, turn, exhausted));
    join_all(runs).await.into_iter().collect()
}

/// Begins another run of a turn, or ends it if there have been enough.
async fn take_up<P: Platform>(
    node: &Node<P>,
    log: LogId,
    turn: TurnId,
    exhausted: Option<String>,
) -> Result<(), StoreError> {
    if let Some(message) = exhausted {
        let error = Some(TurnError::exhausted(message));
        return close(node, log, turn, Outcome::Failed, error).await.map(drop);
    }
    let Some(live) = node.runs().begin(log, turn) else { return Ok(()) };
    let now = node.platform().now();
    let claim = |fold: &Conversation| match fold.turns().find(&turn) {
        Some(open) if open.outcome.is_none() && (node.platform().is_alone() || open.is_abandoned(now)) => {
            Ok::<_, std::convert::Infallible>(Decision::Append(
                vec![turn::draft_run(turn)],
                lease(fold, now),
                true,
            ))
        }
        _ => Ok(Decision::Done(false)),
    };
    let (claimed, _, spans) =
        node.commit(log, claim, |fold| fold.turns().find(&turn).cloned()).await.map_err(store_error)?;
    if let (true, Some(found)) = (claimed, spans) {
        live.push(entries(node, log, turn, &found).await?);
        run::run(node, log, turn, &live, None).await;
    }
    Ok(())
}

/// Ends a turn from outside, with what its runs have said so far. Gives the outcome that it has then.
pub(crate) async fn close<P: Platform>(
    node: &Node<P>,
    log: LogId,
    turn: TurnId,
    outcome: Outcome,
    error: Option<TurnError>,
) -> Result<Option<Outcome>, StoreError> {
    loop {
        let Some(found) = node.look(log, |fold| fold.turns().find(&turn).cloned()).await? else {
            return Ok(None);
        };
        if found.outcome.is_some() {
            return Ok(found.outcome);
        }
        let mut progress = Progress::default();
        for entry in entries(node, log, turn, &found).await? {
            progress.apply(&entry)?;
        }
        let id = ResponseId { log, turn };
        let last = Answered::new(id, progress.blocks(), progress.said(), &BTreeMap::new());
        let mut drafts = progress.unsettled(turn);
        drafts.push(Closed { outcome, last, error: error.clone() }.draft(turn));
        // More may have been said since.
        let same = |now: &Turn| now.outcome.is_none() && now.spans == found.spans;
        let decide = |fold: &Conversation| {
            let unmoved = fold.turns().find(&turn).is_some_and(same);
            Ok::<_, std::convert::Infallible>(if unmoved {
                Decision::Append(drafts.clone(), after(node, fold, &turn), true)
            } else {
                Decision::Done(false)
            })
        };
        let (done, entries, ()) = node.commit(log, decide, |_| ()).await.map_err(store_error)?;
        if let Some(live) = node.runs().find(log, &turn).filter(|_| done) {
            live.push(entries);
        }
    }
}

/// All entries of a turn, in order.
pub(crate) async fn entries<P: Platform>(
    node: &Node<P>,
    log: LogId,
    id: TurnId,
    turn: &Turn,
) -> Result<Vec<Entry>, StoreError> {
    let mut all = Vec::new();
    for (origin, (first, last)) in &turn.spans {
        all.extend(between(node, log, origin, *first, *last).await?);
    }
    all.retain(|entry: &Entry| entry.header().cause == id);
    all.sort_by_key(|entry| (entry.header().hlc, entry.header().origin.clone(), entry.header().seq));
    Ok(all)
}

async fn between<P: Platform>(
    node: &Node<P>,
    log: LogId,
    origin: &Origin,
    first: Seq,
    last: Seq,
) -> Result<Vec<Entry>, StoreError> {
    let (mut found, mut from) = (Vec::new(), first);
    while from <= last {
        let left = usize::try_from(last.0 - from.0 + 1).unwrap_or(usize::MAX);
        let limit = ReadLimit { entries: left.min(ReadLimit::PAGE.entries), ..ReadLimit::PAGE };
        let page = node.platform().store().read(log, origin, from, limit).await?;
        let Some(end) = page.last() else {
            return Err(StoreError::Corrupt(format!("entry {} of {origin} is missing", from.0)));
        };
        from = end.header().seq.next();
        found.extend(page);
    }
    Ok(found)
}

/// What was said before the turn `id`, as items.
pub(crate) async fn history<P: Platform>(
    node: &Node<P>,
    log: LogId,
    id: Option<TurnId>,
    opened: &Opened,
) -> Result<Vec<Value>, StoreError> {
    enum Plan {
        Items(Vec<ItemRef>),
        Turns(Vec<(TurnId, Turn)>),
    }
    // Those of this turn are not its history, and those that came later are not either.
    let own = |fold: &Conversation| match id.and_then(|id| fold.turns().find(&id)) {
        Some(turn) => fold.items_before(&turn.place).cloned().collect::<Vec<_>>(),
        None => fold.items().cloned().collect(),
    };
    let plan = node
        .look(log, |fold| match opened.previous() {
            _ if opened.in_conversation => Plan::Items(own(fold)),
            Some(previous) => {
                let line = fold.turns().line(previous).into_iter();
                Plan::Turns(line.filter_map(|id| Some((id, fold.turns().find(&id)?.clone()))).collect())
            }
            None => Plan::Turns(Vec::new()),
        })
        .await?;
    match plan {
        Plan::Items(items) => items_of(node, log, &items).await,
        Plan::Turns(turns) => {
            let mut history = Vec::new();
            for (id, turn) in turns {
                for entry in entries(node, log, id, &turn).await? {
                    history.extend(Conversation::all_told(&entry)?);
                }
            }
            Ok(history)
        }
    }
}

/// The contents of `items`, in their order.
pub(crate) async fn items_of<P: Platform>(
    node: &Node<P>,
    log: LogId,
    items: &[ItemRef],
) -> Result<Vec<Value>, StoreError> {
    let mut contents = vec![Value::Null; items.len()];
    let mut open: std::collections::BTreeSet<(Origin, Seq, usize)> =
        items.iter().enumerate().map(|(n, item)| (item.origin.clone(), item.seq, n)).collect();
    while let Some((origin, from, _)) = open.first().cloned() {
        let page = node.platform().store().read(log, &origin, from, ReadLimit::PAGE).await?;
        let Some(end) = page.last().map(|entry| entry.header().seq) else {
            return Err(StoreError::Corrupt(format!("entry {} of {origin} is missing", from.0)));
        };
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
        debug_assert!(end >= from);
    }
    Ok(contents)
}

pub(crate) fn store_error(error: CommitError<std::convert::Infallible>) -> StoreError {
    match error {
        CommitError::Refused(never) => match never {},
        CommitError::Unavailable(why) | CommitError::TooLarge(why) => StoreError::Unavailable(why),
        CommitError::Corrupt(why) => StoreError::Corrupt(why),
    }
}

#[cfg(test)]
mod tests;
