//! A turn: one request to the agent, from its opening to its one outcome.
//!
//! ```text
//! TURN_OPENED ─► TURN_RUN ─► DELTAS … ─► TURN_CLOSED
//!   the request    who runs it  what was said  all that was said, and how it ended
//! ```
//! All entries of a turn have the turn's id as their cause. A run that died is followed by another `TURN_RUN`; from then on
//! nobody else writes to the turn. What a client sees is a function of these entries, see [`Reply`](super::Reply).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    conversation::Place,
    entry::{Cause, Draft, Entry, Hash, Header, Kind, LogId, Origin, Seq, hex, unhex},
    log::FoldError,
    pairs,
    snapshot::Mark,
    step::{self, Answered, Ended, Listed},
    to_json, unreadable,
};
use crate::{
    platform::Timestamp,
    routing::price::NanoUsd,
    wire::{Delta, Stop, Transcript},
};

/// A turn's name: the digest of what asked for it, or chance.
pub type TurnId = Cause;

/// The name of a turn, as clients know it: it says in which log the turn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResponseId {
    /// The log.
    pub log: LogId,
    /// The turn.
    pub turn: TurnId,
}

impl ResponseId {
    const PREFIX: &str = "resp_";

    /// Reads what `Display` wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (log, turn) = text.strip_prefix(Self::PREFIX)?.split_at_checked(32)?;
        let id = Self { log: LogId::parse(log)?, turn: unhex(turn)?.try_into().ok()? };
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for ResponseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", Self::PREFIX, self.log, hex(&self.turn))
    }
}

/// What is asked: the body of a [`Kind::TURN_OPENED`] entry.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Opened {
    /// The caller whose it is.
    pub owner: String,
    /// The model that is asked.
    pub model: String,
    /// What else the request says about the answer, as it was sent.
    pub request: Map<String, Value>,
    /// The turn before it, where there is no conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Whether its items belong to the log's conversation.
    pub in_conversation: bool,
    /// Whether it goes on without its client.
    pub background: bool,
    /// Whether it can be asked for afterwards.
    pub store: bool,
    /// Whether who opened it also runs it.
    pub runs: bool,
    /// What is added to the conversation: items with their ids.
    pub input: Vec<Value>,
}

impl Opened {
    /// The entry that opens the turn `turn`.
    pub fn draft(&self, turn: TurnId) -> Draft {
        Draft { kind: Kind::TURN_OPENED, cause: turn, body: to_json(self) }
    }

    /// Reads the body of an entry.
    pub fn read(entry: &Entry) -> Result<Self, FoldError> {
        read(entry)
    }

    /// The requests for an approval that it brings a yes to.
    pub fn approved(&self) -> impl Iterator<Item = &str> {
        let yes = |item: &&Value| {
            item.get("type") == Some(&"mcp_approval_response".into())
                && item.get("approve") == Some(&true.into())
        };
        self.input.iter().filter(yes).filter_map(|item| item.get("approval_request_id")?.as_str())
    }

    /// The name of the turn before it.
    pub fn previous(&self) -> Option<TurnId> {
        unhex(self.previous.as_ref()?)?.try_into().ok()
    }
}

/// What was said since the last such entry: the body of a [`Kind::DELTAS`] entry.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Said {
    /// What was said before is taken back: it could not be continued.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) again: bool,
    pub(super) deltas: Vec<Delta<'static>>,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The model has said all.
    Completed,
    /// A limit or a filter cut the answer.
    Incomplete,
    /// Something broke.
    Failed,
    /// The caller did not want it any more.
    Cancelled,
}

impl Outcome {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// How a whole answer ended.
    pub fn of(answer: &Transcript) -> Self {
        match answer.stop {
            Some(Stop::Length | Stop::Filter | Stop::Refusal) => Self::Incomplete,
            _ => Self::Completed,
        }
    }
}

/// Why a turn failed.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct TurnError {
    /// The status that a client gets who waits for the whole answer.
    pub status: u16,
    /// A stable word.
    pub code: String,
    /// For people.
    pub message: String,
    /// The field of the request that is to blame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
    /// How long to wait before asking again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl TurnError {
    /// There was enough of it.
    pub fn exhausted(message: String) -> Self {
        Self { status: 500, code: "turn_exhausted".into(), message, param: None, retry_after: None }
    }

    /// The caller's own mistake.
    pub fn invalid(param: &str, why: &str) -> Self {
        let message = format!("invalid value for '{param}': {why}");
        Self {
            status: 400,
            code: "invalid_value".into(),
            message,
            param: Some(param.into()),
            retry_after: None,
        }
    }
}

/// How it ended, and what was said last: the body of a [`Kind::TURN_CLOSED`] entry.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Closed {
    /// Where the newest snapshot of the log is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Mark>,
    /// How it ended.
    pub outcome: Outcome,
    /// What the last step said.
    #[serde(flatten)]
    pub last: Answered,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TurnError>,
}

impl Closed {
    /// The entry that ends the turn `turn`.
    pub fn draft(&self, turn: TurnId) -> Draft {
        Draft { kind: Kind::TURN_CLOSED, cause: turn, body: to_json(self) }
    }

    /// Reads the body of an entry.
    pub fn read(entry: &Entry) -> Result<Self, FoldError> {
        read(entry)
    }

    /// Whether the answer broke off.
    pub fn broke(&self) -> bool {
        matches!(self.outcome, Outcome::Failed | Outcome::Cancelled)
    }
}

/// The entry by which a run of the turn begins.
pub fn draft_run(turn: TurnId) -> Draft {
    Draft { kind: Kind::TURN_RUN, cause: turn, body: bytes::Bytes::new() }
}

/// The entry that says what was said since the last one. `again` takes back what was said before.
pub fn draft_deltas(turn: TurnId, again: bool, deltas: Vec<Delta<'static>>) -> Draft {
    Draft { kind: Kind::DELTAS, cause: turn, body: to_json(&Said { again, deltas: merge(deltas) }) }
}

/// Joins pieces of the same kind: they become visible together anyway.
fn merge(deltas: Vec<Delta<'static>>) -> Vec<Delta<'static>> {
    let mut merged: Vec<Delta<'static>> = Vec::new();
    for delta in deltas {
        match (merged.last_mut(), &delta) {
            (Some(Delta::Text(last)), Delta::Text(more))
            | (Some(Delta::Refusal(last)), Delta::Refusal(more))
            | (Some(Delta::Reasoning(last)), Delta::Reasoning(more)) => last.to_mut().push_str(more),
            (Some(Delta::Arguments { index, json }), Delta::Arguments { index: at, json: more })
                if index == at =>
            {
                json.to_mut().push_str(more);
            }
            _ => merged.push(delta),
        }
    }
    merged
}

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
    pub outcome: Option<Outcome>,
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

/// The part of [`Opened`] that a fold needs.
#[derive(Deserialize)]
struct OpenedOutline {
    owner: String,
    #[serde(default)]
    previous: Option<String>,
    in_conversation: bool,
    background: bool,
    store: bool,
    runs: bool,
    input: Vec<super::conversation::ItemId>,
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
    pub(super) fn needed(&self, deleted: impl Fn(&TurnId) -> bool) -> BTreeSet<TurnId> {
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
    pub fn line(&self, id: TurnId) -> Vec<TurnId> {
        let (mut line, mut next) = (Vec::new(), Some(id));
        while let Some(id) = next.filter(|id| !line.contains(id)) {
            next = self.turns.get(&id).and_then(|turn| turn.previous);
            line.push(id);
        }
        line.reverse();
        line
    }

    /// Whether the word on the request for an approval `request` can still be given by the turn `turn`; `None` if there is no
    /// such request.
    pub fn may_approve(&self, request: &str, turn: &TurnId) -> Option<bool> {
        let asked = step::asked_by(request)?;
        self.turns.get(&asked.turn)?;
        let words = self.approvals.get(request);
        Some(words.is_none_or(|words| words.iter().all(|word| word == turn)))
    }

    /// How many turns fit.
    pub(super) fn count(&self, fits: impl Fn(&Turn) -> bool) -> usize {
        self.turns.values().filter(|turn| fits(turn)).count()
    }

    /// The same, without the turns that do not fit.
    pub(super) fn part(&self, fits: impl Fn(&Turn) -> bool) -> Self {
        let turns = self.turns.iter().filter(|(_, turn)| fits(turn));
        let turns = turns.map(|(id, turn)| (*id, turn.clone())).collect();
        Self { turns, approvals: self.approvals.clone() }
    }

    /// Takes turns in that were before those that are known.
    pub(super) fn prepend(&mut self, older: Self) {
        for (id, turn) in older.turns {
            self.turns.entry(id).or_insert(turn);
        }
    }

    /// A turn is not to be seen any more.
    pub(super) fn hide(&mut self, id: &TurnId) {
        if let Some(turn) = self.turns.get_mut(id) {
            turn.visible = false;
        }
    }

    /// Whether the turn `id` and all before it are known.
    pub fn reaches(&self, id: TurnId) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = Some(id);
        while let Some(id) = next.filter(|id| seen.insert(*id)) {
            match self.turns.get(&id) {
                Some(turn) => next = turn.previous,
                None => return false,
            }
        }
        true
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
    pub(super) fn apply(&mut self, entry: &Entry, place: &Place) -> Result<Vec<(usize, String)>, FoldError> {
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
            for request in body.input.iter().filter_map(|item| item.approval_request_id.as_ref()) {
                self.approvals.entry(request.clone()).or_default().insert(cause);
            }
            if body.in_conversation {
                added.extend(body.input.into_iter().map(|item| item.id).enumerate());
            }
        }
        // An entry of a turn that nobody opened says nothing.
        let Some(turn) = self.turns.get_mut(&cause) else { return Ok(added) };
        let span = turn.spans.entry(header.origin.clone()).or_insert((header.seq, header.seq));
        span.1 = span.1.max(header.seq);
        turn.moved_at = turn.moved_at.max(at);
        match header.kind {
            Kind::TURN_RUN => {
                turn.runs = turn.runs.saturating_add(1);
                turn.run = turn.run.take().max(Some(place.clone()));
            }
            Kind::TURN_DELETED => turn.visible = false,
            Kind::TURN_CLOSED if turn.closed.as_ref().is_none_or(|first| place < first) => {
                let body = Closed::read(entry)?;
                turn.outcome = Some(body.outcome);
                turn.closed = Some(place.clone());
                turn.cost = turn.cost.saturating_add(body.last.cost_at_most());
                if turn.in_conversation {
                    added.extend(names(header, &body.last, body.broke()));
                }
            }
            Kind::STEP_ENDED => {
                let body: Answered = read(entry)?;
                turn.cost = turn.cost.saturating_add(body.cost_at_most());
                if turn.in_conversation {
                    added.extend(names(header, &body, false));
                }
            }
            Kind::CALL_ENDED if turn.in_conversation => added.push((0, read::<Ended>(entry)?.call.item)),
            Kind::TOOLS_LISTED if turn.in_conversation => {
                let lists = read::<Listed>(entry)?.lists;
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
        turn.outcome.get_or_insert(Outcome::Cancelled);
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
fn names(header: &Header, said: &Answered, broke: bool) -> Vec<(usize, String)> {
    let id = ResponseId { log: header.log, turn: header.cause }.to_string();
    said.kept(broke).map(|(n, block)| (n, said.item_id(&id, n, block))).collect()
}

pub(super) fn read<'a, T: Deserialize<'a>>(entry: &'a Entry) -> Result<T, FoldError> {
    serde_json::from_slice(entry.body()).map_err(|error| unreadable(entry, &error))
}

pub(super) fn said(entry: &Entry) -> Result<(bool, Vec<Delta<'static>>), FoldError> {
    read::<Said>(entry).map(|said| (said.again, said.deltas))
}
