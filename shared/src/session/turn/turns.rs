//! All turns of a log, without their contents.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

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
    },
    time::Timestamp,
};

/// What is known of a turn without its contents.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Turn {
    /// Its caller.
    pub owner: String,
    /// The turn before it.
    pub previous: Option<TurnId>,
    /// Whether its items belong to the log's conversation.
    pub in_conversation: bool,
    /// Whether it goes on without its client.
    pub background: bool,
    /// Whether it can be asked for.
    pub visible: bool,
    /// The digest of what was asked, by which the same request is known.
    pub asked: Hash,
    /// How it ended; `None` while it goes on.
    pub outcome: Option<TurnOutcome>,
    /// The newest run; `None` while it waits for the first.
    pub run: Option<Place>,
    /// How many runs there have been.
    pub runs: u32,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When something was last written to it.
    pub moved_at: Timestamp,
    /// What its answers cost. What nobody knows the price of cost all there is.
    pub cost: NanoUsd,
    /// Its first and last place in each chain.
    #[serde(with = "pairs")]
    pub spans: BTreeMap<Origin, (Seq, Seq)>,
    /// Where it was opened.
    pub place: Place,
    closed: Option<Place>,
}

/// The part of [`Opened`](super::Opened) that a fold needs.
#[derive(Deserialize)]
struct OpenedOutline {
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
    /// Requests for an approval, and the turns that brought the word on them.
    approvals: BTreeMap<String, BTreeSet<TurnId>>,
}

impl Turns {
    /// The turn of this name.
    pub fn find(&self, id: &TurnId) -> Option<&Turn> {
        self.turns.get(id)
    }

    /// All of them, oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = (&TurnId, &Turn)> {
        let mut all: Vec<(&TurnId, &Turn)> = self.turns.iter().collect();
        all.sort_by(|(_, a), (_, b)| a.place.cmp(&b.place));
        all.into_iter()
    }

    /// The turns that go on, oldest first.
    pub fn open(&self) -> impl Iterator<Item = (&TurnId, &Turn)> {
        let mut open: Vec<(&TurnId, &Turn)> =
            self.turns.iter().filter(|(_, turn)| turn.outcome.is_none()).collect();
        open.sort_by(|(_, a), (_, b)| a.place.cmp(&b.place));
        open.into_iter()
    }

    /// The caller of the first turn.
    pub fn owner(&self) -> Option<&str> {
        let known = self.turns.values().filter(|turn| !turn.is_erased());
        known.min_by(|a, b| a.place.cmp(&b.place)).map(|turn| turn.owner.as_str())
    }

    /// The turns whose contents are needed: by their conversation, or by a turn after them that is not `deleted`.
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

    /// The turns before `id` and itself, oldest first.
    pub fn chain_to(&self, id: TurnId) -> Vec<TurnId> {
        let (mut line, mut seen, mut next) = (Vec::new(), BTreeSet::new(), Some(id));
        while let Some(id) = next.filter(|id| seen.insert(*id)) {
            next = self.turns.get(&id).and_then(|turn| turn.previous);
            line.push(id);
        }
        line.reverse();
        line
    }

    /// Whether the word on the request for an approval `request` can still be given by the turn `turn`; `None` if there is no
    /// such request.
    pub fn may_approve(&self, request: &str, turn: &TurnId) -> Option<bool> {
        let asked = step::approval_turn(request)?;
        self.turns.get(&asked.turn)?;
        let words = self.approvals.get(request);
        Some(words.is_none_or(|words| words.iter().all(|word| word == turn)))
    }

    /// How many turns fit.
    pub(in crate::session) fn count(&self, fits: impl Fn(&Turn) -> bool) -> usize {
        self.turns.values().filter(|turn| fits(turn)).count()
    }

    /// The same, without the turns that do not fit.
    pub(in crate::session) fn part(&self, fits: impl Fn(&Turn) -> bool) -> Self {
        let turns = self.turns.iter().filter(|(_, turn)| fits(turn));
        let turns = turns.map(|(id, turn)| (*id, turn.clone())).collect();
        Self { turns, approvals: self.approvals.clone() }
    }

    /// Takes turns in that were before those that are known.
    pub(in crate::session) fn prepend(&mut self, older: Self) {
        for (id, turn) in older.turns {
            self.turns.entry(id).or_insert(turn);
        }
    }

    /// A turn is not to be seen any more.
    pub(in crate::session) fn hide(&mut self, id: &TurnId) {
        if let Some(turn) = self.turns.get_mut(id) {
            turn.visible = false;
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.turns.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Takes one more entry in. Gives the ids of the items that it adds to the conversation, with their places in its body.
    pub(in crate::session) fn apply(
        &mut self,
        entry: &Entry,
        place: &Place,
    ) -> Result<Vec<(usize, String)>, FoldError> {
        let header = entry.header();
        let (cause, at, mut added) = (header.cause, header.hlc.timestamp(), Vec::new());
        if entry.is_erased() {
            self.apply_erased(entry, place);
            return Ok(added);
        }
        if header.kind == Kind::TURN_OPENED {
            let body: OpenedOutline = read(entry)?;
            let known = self.turns.get(&cause).is_some_and(|turn| turn.is_erased() || turn.place <= *place);
            if !known {
                let turn = Turn {
                    previous: body.previous.and_then(|text| unhex(&text)?.try_into().ok()),
                    owner: body.owner,
                    in_conversation: body.in_conversation,
                    background: body.background,
                    visible: body.store,
                    asked: header.body_hash,
                    outcome: None,
                    run: body.runs.then(|| place.clone()),
                    runs: body.runs.into(),
                    opened_at: at,
                    moved_at: at,
                    cost: NanoUsd(0),
                    spans: BTreeMap::new(),
                    place: place.clone(),
                    closed: None,
                };
                self.turns.insert(cause, turn);
            }
            for request in body.input.iter().filter_map(ItemId::approval_answered) {
                self.approvals.entry(request.to_owned()).or_default().insert(cause);
            }
            if body.in_conversation {
                added.extend(body.input.into_iter().map(|item| item.id).enumerate());
            }
        }
        // An entry of a turn that nobody opened says nothing.
        let Some(turn) = self.turns.get_mut(&cause) else { return Ok(added) };
        if header.kind == Kind::TURN_DELETED {
            // It may come long after the others, and whoever reads the turn reads all that is in between.
            turn.visible = false;
            return Ok(added);
        }
        let span = turn.spans.entry(header.origin.clone()).or_insert((header.seq, header.seq));
        span.1 = span.1.max(header.seq);
        turn.moved_at = turn.moved_at.max(at);
        match header.kind {
            Kind::TURN_RUN => {
                turn.runs = turn.runs.saturating_add(1);
                turn.run = turn.run.take().max(Some(place.clone()));
            }
            Kind::TURN_CLOSED if turn.closed.as_ref().is_none_or(|first| place < first) => {
                let body = TurnClosed::read(entry)?;
                turn.outcome = Some(body.outcome);
                turn.closed = Some(place.clone());
                turn.cost = turn.cost.saturating_add(body.last.cost_or_max());
                if turn.in_conversation {
                    added.extend(names(header, &body.last, body.is_interrupted()));
                }
            }
            Kind::STEP_ENDED => {
                let body: StepEnded = read(entry)?;
                turn.cost = turn.cost.saturating_add(body.cost_or_max());
                if turn.in_conversation {
                    added.extend(names(header, &body, false));
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

    /// Only turns that were deleted when they had ended are erased.
    fn apply_erased(&mut self, entry: &Entry, place: &Place) {
        let header = entry.header();
        let turn = self.turns.entry(header.cause).or_insert_with(|| Turn::erased(entry, place));
        let span = turn.spans.entry(header.origin.clone()).or_insert((header.seq, header.seq));
        span.1 = span.1.max(header.seq);
        turn.visible = false;
        turn.outcome.get_or_insert(TurnOutcome::Cancelled);
    }
}

impl Turn {
    /// A turn of which an erased entry is all that is known.
    fn erased(entry: &Entry, place: &Place) -> Self {
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

    /// Whether its beginning is erased: of every other turn it is known what was asked.
    fn is_erased(&self) -> bool {
        self.asked == Hash::default()
    }

    /// Whether its run has been silent for so long that it must be dead.
    pub fn is_abandoned(&self, now: Timestamp) -> bool {
        self.run.is_none() || now.since(self.moved_at) >= LEASE
    }

    /// Why it is not run once more, if it is not.
    pub fn is_exhausted(&self, now: Timestamp) -> Option<String> {
        if self.runs >= MAX_RUNS {
            return Some(format!("the turn was begun {} times and never ended", self.runs));
        }
        (now.since(self.opened_at) >= MAX_AGE)
            .then(|| format!("the turn did not end within {} minutes", MAX_AGE.as_secs() / 60))
    }
}

/// How long a run may write nothing before others take it for dead. A run that has nothing to say writes more often.
pub const LEASE: Duration = Duration::from_secs(45);

/// How often a turn is begun: a turn that kills its process must not do so for ever.
const MAX_RUNS: u32 = 10;

/// Models that one turn asks at most: whoever is not done by then goes in circles.
pub const MAX_STEPS: usize = 32;

/// How long a turn may take with all its runs.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// The ids of the items that an answer adds.
fn names(header: &Header, said: &StepEnded, broke: bool) -> Vec<(usize, String)> {
    let id = ResponseId { log: header.log, turn: header.cause }.to_string();
    said.item_blocks(broke).map(|(n, block)| (n, said.item_id(&id, n, block))).collect()
}
