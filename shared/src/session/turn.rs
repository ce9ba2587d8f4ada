//! A turn: one request to the agent, from its opening to its one outcome.
//!
//! ```text
//! TURN_OPENED ─► TURN_RUN ─► DELTAS … ─► TURN_CLOSED
//!   the request    who runs it  what was said  all that was said, and how it ended
//! ```
//! All entries of a turn have the turn's id as their cause. A run that died is followed by another `TURN_RUN`; from then on
//! nobody else writes to the turn. What a client sees is a function of these entries, see [`Reply`](super::Reply).

mod turns;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{step::StepEnded, to_json, unreadable};
use crate::{
    entry::{Cause, Draft, Entry, EntryId, Kind, LogId},
    hex::{hex, unhex},
    log::FoldError,
    wire::{Delta, RequestError, Stop, Transcript},
};

pub use turns::{LEASE, MAX_STEPS, Turn, Turns};

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
pub struct TurnOpened {
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

impl TurnOpened {
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
pub(super) struct Deltas {
    /// What was said before is taken back: it could not be continued.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) again: bool,
    pub(super) deltas: Vec<Delta<'static>>,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnOutcome {
    /// The model has said all.
    Completed,
    /// A limit or a filter cut the answer.
    Incomplete,
    /// Something broke.
    Failed,
    /// The caller did not want it any more.
    Cancelled,
}

impl TurnOutcome {
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

    /// There is no such model, as `message` says.
    pub fn unknown_model(message: String) -> Self {
        Self {
            status: 404,
            code: "model_not_found".into(),
            message,
            param: Some("model".into()),
            retry_after: None,
        }
    }

    /// The caller's own mistake.
    pub fn invalid(param: &str, why: impl fmt::Display) -> Self {
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

impl From<RequestError> for TurnError {
    fn from(error: RequestError) -> Self {
        let (code, param) = error.code_and_param();
        Self { status: 400, code: code.into(), message: error.to_string(), param, retry_after: None }
    }
}

/// How it ended, and what was said last: the body of a [`Kind::TURN_CLOSED`] entry.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TurnClosed {
    /// Where the newest snapshot of the log is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<EntryId>,
    /// How it ended.
    pub outcome: TurnOutcome,
    /// What the last step said.
    #[serde(flatten)]
    pub last: StepEnded,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TurnError>,
}

impl TurnClosed {
    /// The entry that ends the turn `turn`.
    pub fn draft(&self, turn: TurnId) -> Draft {
        Draft { kind: Kind::TURN_CLOSED, cause: turn, body: to_json(self) }
    }

    /// Reads the body of an entry.
    pub fn read(entry: &Entry) -> Result<Self, FoldError> {
        read(entry)
    }

    /// Whether the answer broke off.
    pub fn is_interrupted(&self) -> bool {
        matches!(self.outcome, TurnOutcome::Failed | TurnOutcome::Cancelled)
    }
}

/// The entry by which a run of the turn begins.
pub fn draft_run(turn: TurnId) -> Draft {
    Draft { kind: Kind::TURN_RUN, cause: turn, body: bytes::Bytes::new() }
}

/// The entry that says what was said since the last one. `again` takes back what was said before.
pub fn draft_deltas(turn: TurnId, again: bool, deltas: Vec<Delta<'static>>) -> Draft {
    Draft { kind: Kind::DELTAS, cause: turn, body: to_json(&Deltas { again, deltas: merge(deltas) }) }
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

pub(super) fn read<'a, T: Deserialize<'a>>(entry: &'a Entry) -> Result<T, FoldError> {
    serde_json::from_slice(entry.body()).map_err(|error| unreadable(entry, &error))
}

pub(super) fn read_deltas(entry: &Entry) -> Result<(bool, Vec<Delta<'static>>), FoldError> {
    read::<Deltas>(entry).map(|said| (said.again, said.deltas))
}
