//! Folds the turns of a log: owners, order, outcomes, runs, cost. Their contents stay in the store.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ResponseId, TurnClosed, TurnId, TurnOutcome, read};
use crate::{
    entry::{Entry, Hash, Header, Kind, Origin, Place, Seq},
    hex::unhex,
    log::FoldError,
    money::NanoUsd,
    session::{
        ItemId, pairs,
        step::{self, CallEnded, StepEnded, ToolsListed},
        turn::{LEASE, MAX_AGE, MAX_RUNS},
    },
    time::Timestamp,
};

/// The state of a turn without its contents.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Turn {
    /// The caller that it belongs to.
    pub owner: String,
    /// The turn that it continues, outside of a conversation.
    pub previous: Option<TurnId>,
    /// Whether its items belong to the log's conversation.
    pub in_conversation: bool,
    /// Whether it runs in the background, independent of the client's connection.
    pub background: bool,
    /// Whether clients can retrieve it.
    pub visible: bool,
    /// The digest of its request, which tells a retry from another request.
    pub asked: Hash,
    /// How it ended; `None` while it is open.
    pub outcome: Option<TurnOutcome>,
    /// Where its newest run started; `None` before the first run.
    pub run: Option<Place>,
    /// How many runs there have been.
    pub runs: u32,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When its newest entry was written.
    pub moved_at: Timestamp,
    /// What its answers cost; `u64::MAX` if any price is unknown.
    pub cost: NanoUsd,
    /// Its first and last place in each chain.
    #[serde(with = "pairs")]
    pub spans: BTreeMap<Origin, (Seq, Seq)>,
    /// Where it was opened.
    pub place: Place,
    closed: Option<Place>,
}

/// The part of [`TurnOpened`](super::TurnOpened) that a fold needs.
#[derive(Deserialize)]
struct TurnOpenedOutline {
    owner: String,
    #[serde(default)]
    previous: Option<String>,
    in_conversation: bool,
    background: bool,
    store: bool,
    runs: bool,
    input: Vec<ItemId>,
}

/// All turns of a log.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Turns {
    #[serde(with = "pairs")]
    turns: BTreeMap<TurnId, Turn>,
    /// The ids of approval requests, with the turns that approved or denied them.
    approvals: BTreeMap<String, BTreeSet<TurnId>>,
}

impl Turns {
    /// The turn with this id, if it is loaded.
    pub fn find(&self, id: &TurnId) -> Option<&Turn> {
        self.turns.get(id)
    }

    /// All loaded turns, oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = (&TurnId, &Turn)> {
        let mut all: Vec<(&TurnId, &Turn)> = self.turns.iter().collect();
        all.sort_by(|(_, a), (_, b)| a.place.cmp(&b.place));
        all.into_iter()
    }

    /// The open turns, oldest first.
    pub fn open(&self) -> impl Iterator<Item = (&TurnId, &Turn)> {
        let mut open: Vec<(&TurnId, &Turn)> =
            self.turns.iter().filter(|(_, turn)| turn.outcome.is_none()).collect();
        open.sort_by(|(_, a), (_, b)| a.place.cmp(&b.place));
        open.into_iter()
    }

    /// The owner of the first turn that is not erased.
    pub fn owner(&self) -> Option<&str> {
        let known = self.turns.values().filter(|turn| !turn.is_erased());
        known.min_by(|a, b| a.place.cmp(&b.place)).map(|turn| turn.owner.as_str())
    }

    /// The turns whose contents are still needed: by their conversation, or by a turn that continues them and is not
    /// `deleted`.
    pub(in crate::session) fn referenced(&self, deleted: impl Fn(&TurnId) -> bool) -> BTreeSet<TurnId> {
        let mut needed: BTreeSet<TurnId> = BTreeSet::new();
        for (id, turn) in &self.turns {
            if turn.in_conversation {
                needed.insert(*id);
            }
            let mut next = Some(*id).filter(|id| !deleted(id));
            while let Some(id) = next.filter(|id| needed.insert(*id)) {
                next = self.turns.get(&id).and_then(|turn| turn.previous);
            }
        }
        needed
    }

    /// The turns that `id` continues and `id` itself, oldest first.
    pub fn chain_to(&self, id: TurnId) -> Vec<TurnId> {
        let (mut line, mut visited, mut next) = (Vec::new(), BTreeSet::new(), Some(id));
        while let Some(id) = next.filter(|id| visited.insert(*id)) {
            next = self.turns.get(&id).and_then(|turn| turn.previous);
            line.push(id);
        }
        line.reverse();
        line
    }

    /// Whether the turn `turn` may approve or deny the approval request `request`: only one turn may. `None` if there
    /// is no such request.
    pub fn may_approve(&self, request: &str, turn: &TurnId) -> Option<bool> {
        let requested_by = step::approval_turn(request)?;
        self.turns.get(&requested_by.turn)?;
        let answered_by = self.approvals.get(request);
        Some(answered_by.is_none_or(|turns| turns.iter().all(|answering| answering == turn)))
    }

    /// How many loaded turns match.
    pub(in crate::session) fn count(&self, matches: impl Fn(&Turn) -> bool) -> usize {
        self.turns.values().filter(|turn| matches(turn)).count()
    }

    /// A copy with only the turns that match, and all approvals.
    pub(in crate::session) fn part(&self, matches: impl Fn(&Turn) -> bool) -> Self {
        let turns = self.turns.iter().filter(|(_, turn)| matches(turn));
        let turns = turns.map(|(id, turn)| (*id, turn.clone())).collect();
        Self { turns, approvals: self.approvals.clone() }
    }

    /// Adds the turns of an older part. A turn that is loaded already stays, since it is newer.
    pub(in crate::session) fn prepend(&mut self, older: Self) {
        for (id, turn) in older.turns {
            self.turns.entry(id).or_insert(turn);
        }
    }

    /// Hides a deleted turn from clients.
    pub(in crate::session) fn hide(&mut self, id: &TurnId) {
        if let Some(turn) = self.turns.get_mut(id) {
            turn.visible = false;
        }
    }

    /// How many turns are loaded.
    pub fn len(&self) -> usize {
        self.turns.len()
    }

    /// Whether no turn is loaded.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Applies an entry of a turn. Returns the items that it adds to the conversation: their indexes in the entry and
    /// their ids.
    pub(in crate::session) fn apply(
        &mut self,
        entry: &Entry,
        place: &Place,
    ) -> Result<Vec<(usize, String)>, FoldError> {
        let header = entry.header();
        if entry.is_erased() {
            self.apply_erased(entry, place);
            return Ok(Vec::new());
        }
        let mut added =
            if header.kind == Kind::TURN_OPENED { self.apply_opening(entry, place)? } else { Vec::new() };
        // An entry of a turn that was never opened has no effect.
        let Some(turn) = self.turns.get_mut(&header.cause) else { return Ok(added) };
        if header.kind == Kind::TURN_DELETED {
            // The span stays: a deletion may stand far behind the turn, and readers read all entries of a span.
            turn.visible = false;
            return Ok(added);
        }
        let span = turn.spans.entry(header.origin.clone()).or_insert((header.seq, header.seq));
        span.1 = span.1.max(header.seq);
        turn.moved_at = turn.moved_at.max(header.hlc.timestamp());
        match header.kind {
            Kind::TURN_RUN => {
                turn.runs = turn.runs.saturating_add(1);
                turn.run = turn.run.take().max(Some(place.clone()));
            }
            // Two nodes may close the same turn: the earlier end decides, in whatever order they are folded.
            Kind::TURN_CLOSED if turn.closed.as_ref().is_none_or(|first| place < first) => {
                let body = TurnClosed::read(entry)?;
                turn.outcome = Some(body.outcome);
                turn.closed = Some(place.clone());
                turn.cost = turn.cost.saturating_add(body.last.cost_or_max());
                if turn.in_conversation {
                    added.extend(added_items(header, &body.last, body.is_interrupted()));
                }
            }
            Kind::STEP_ENDED => {
                let body: StepEnded = read(entry)?;
                turn.cost = turn.cost.saturating_add(body.cost_or_max());
                if turn.in_conversation {
                    added.extend(added_items(header, &body, false));
                }
            }
            Kind::CALL_ENDED if turn.in_conversation => added.push((0, read::<CallEnded>(entry)?.call.item)),
            Kind::TOOLS_LISTED if turn.in_conversation => {
                let lists = read::<ToolsListed>(entry)?.lists;
                let id = |list: &Value| list.get("id").and_then(Value::as_str).map(str::to_owned);
                added.extend(lists.iter().enumerate().filter_map(|(at, list)| Some((at, id(list)?))));
            }
            _ => {}
        }
        Ok(added)
    }

    /// Applies the entry that opens a turn.
    fn apply_opening(&mut self, entry: &Entry, place: &Place) -> Result<Vec<(usize, String)>, FoldError> {
        let (header, body) = (entry.header(), read::<TurnOpenedOutline>(entry)?);
        let id = header.cause;
        // Two nodes may open the same turn: the earlier opening decides, in whatever order they are folded.
        let has_earlier = self.turns.get(&id).is_some_and(|turn| turn.is_erased() || turn.place <= *place);
        if !has_earlier {
            let turn = Turn {
                previous: body.previous.and_then(|text| unhex(&text)?.try_into().ok()),
                owner: body.owner,
                in_conversation: body.in_conversation,
                background: body.background,
                visible: body.store,
                asked: header.body_hash,
                run: body.runs.then(|| place.clone()),
                runs: body.runs.into(),
                ..Turn::unread(entry, place)
            };
            self.turns.insert(id, turn);
        }
        for request in body.input.iter().filter_map(ItemId::approval_answered) {
            self.approvals.entry(request.to_owned()).or_default().insert(id);
        }
        let items = if body.in_conversation { body.input } else { Vec::new() };
        Ok(items.into_iter().map(|item| item.id).enumerate().collect())
    }

    /// Applies an entry whose body is erased. Only deleted turns are erased, after their end.
    fn apply_erased(&mut self, entry: &Entry, place: &Place) {
        let header = entry.header();
        let turn = self.turns.entry(header.cause).or_insert_with(|| Turn::unread(entry, place));
        let span = turn.spans.entry(header.origin.clone()).or_insert((header.seq, header.seq));
        span.1 = span.1.max(header.seq);
        turn.visible = false;
        turn.outcome.get_or_insert(TurnOutcome::Cancelled);
    }
}

impl Turn {
    /// A turn of which only the header of one entry is known, as if its body were erased.
    fn unread(entry: &Entry, place: &Place) -> Self {
        let at = entry.header().hlc.timestamp();
        Self {
            owner: String::new(),
            previous: None,
            in_conversation: false,
            background: false,
            visible: false,
            asked: Hash::default(),
            outcome: None,
            run: None,
            runs: 0,
            opened_at: at,
            moved_at: at,
            cost: NanoUsd(0),
            spans: BTreeMap::new(),
            place: place.clone(),
            closed: None,
        }
    }

    /// Whether the entry that opened it is erased: every other turn has the digest of its request.
    fn is_erased(&self) -> bool {
        self.asked == Hash::default()
    }

    /// Whether no run holds it: none has started, or the newest has written nothing for [`LEASE`].
    pub fn is_abandoned(&self, now: Timestamp) -> bool {
        self.run.is_none() || now.since(self.moved_at) >= LEASE
    }

    /// Why it must not be run again, if it has used up its runs or its time.
    pub fn exhaustion(&self, now: Timestamp) -> Option<String> {
        if self.runs >= MAX_RUNS {
            return Some(format!("the turn was begun {} times and never ended", self.runs));
        }
        (now.since(self.opened_at) >= MAX_AGE)
            .then(|| format!("the turn did not end within {} minutes", MAX_AGE.as_secs() / 60))
    }
}

/// The items that a step adds: their indexes in the entry and their ids.
fn added_items(header: &Header, step: &StepEnded, interrupted: bool) -> Vec<(usize, String)> {
    let id = ResponseId { log: header.log, turn: header.cause }.to_string();
    step.item_blocks(interrupted).map(|(n, block)| (n, step.item_id(&id, n, block))).collect()
}
