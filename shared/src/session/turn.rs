//! Defines the entries of a turn: one request to the agent, from its opening to its one outcome. Running turns is the
//! agent's business.
//!
//! ```text
//! TURN_OPENED ─► TURN_RUN ─► DELTAS … ─► TURN_CLOSED
//!   the request    a run starts  text so far   the last answer, and the outcome
//! ```
//! All entries of a turn have the turn's id as their cause. If a run dies, another `TURN_RUN` follows; from then on
//! only the new run writes to the turn. What a client sees is a function of these entries:
//! [`ResponseFold`](super::ResponseFold).

mod turns;

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{step::StepEnded, to_json, unreadable};
use crate::{
    entry::{Cause, Draft, Entry, EntryId, Kind, LogId},
    hex::{hex, unhex},
    log::FoldError,
    wire::{Delta, RequestError, Stop, Transcript},
};

pub use turns::{Turn, Turns};

/// How long a run may write nothing before other nodes take over its turn. A run without new text still writes in time.
pub const LEASE: Duration = Duration::from_secs(45);

/// Most runs of one turn: a turn that kills its process must not do so for ever.
pub(super) const MAX_RUNS: u32 = 10;

/// Most model calls of one turn: a turn that needs more goes in circles.
pub const MAX_STEPS: usize = 32;

/// Longest time from a turn's opening to its last run.
pub(super) const MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// A turn's id: the digest of the caller and the idempotency key, or of a fire; else random.
pub type TurnId = Cause;

/// The id of a turn as clients see it. It includes the log, so that the turn is found without an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResponseId {
    /// The log.
    pub log: LogId,
    /// The turn.
    pub turn: TurnId,
}

impl ResponseId {
    const PREFIX: &str = "resp_";

    /// Parses the output of `Display`; no other spelling is accepted.
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

/// The request of a turn: the body of a [`Kind::TURN_OPENED`] entry.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TurnOpened {
    /// The caller that it belongs to.
    pub owner: String,
    /// The requested model, as the client named it.
    pub model: String,
    /// The other fields of the request, as the client sent them.
    pub request: Map<String, Value>,
    /// The id of the turn that this one continues, in hexadecimal digits; `None` in a conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Whether its items belong to the log's conversation.
    pub in_conversation: bool,
    /// Whether it runs in the background, independent of the client's connection.
    pub background: bool,
    /// Whether clients can retrieve it after its end.
    pub store: bool,
    /// Whether opening it also starts its first run; if not, a `TURN_RUN` follows.
    pub runs: bool,
    /// The request's input: items with their ids.
    pub input: Vec<Value>,
}

impl TurnOpened {
    /// The entry that opens the turn `turn`.
    pub fn draft(&self, turn: TurnId) -> Draft {
        Draft { kind: Kind::TURN_OPENED, cause: turn, body: to_json(self) }
    }

    /// Parses the body of an entry.
    pub fn read(entry: &Entry) -> Result<Self, FoldError> {
        read(entry)
    }

    /// The ids of the approval requests that its input approves.
    pub fn approved(&self) -> impl Iterator<Item = &str> {
        let yes = |item: &&Value| {
            item.get("type") == Some(&"mcp_approval_response".into())
                && item.get("approve") == Some(&true.into())
        };
        self.input.iter().filter(yes).filter_map(|item| item.get("approval_request_id")?.as_str())
    }

    /// The id of the turn that this one continues.
    pub fn previous(&self) -> Option<TurnId> {
        unhex(self.previous.as_ref()?)?.try_into().ok()
    }
}

/// A piece of the answer of the step that is running: the body of a [`Kind::DELTAS`] entry.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Deltas {
    /// Whether the step starts again: its earlier deltas are void, since the answer could not be continued.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) again: bool,
    /// The candidate that answers; in the first piece of each answer only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) answered_by: Option<AnsweredBy>,
    pub(super) deltas: Vec<Delta<'static>>,
}

/// The candidate that answers a step, and the number of attempts it took: the response's headers name both.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct AnsweredBy {
    /// The candidate, as `provider/model`.
    pub candidate: String,
    /// The calls of providers that the step took, this one included; `None` in logs of before it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnOutcome {
    /// The model finished its answer.
    Completed,
    /// A limit or a filter cut the answer.
    Incomplete,
    /// An error ended it.
    Failed,
    /// The caller cancelled it.
    Cancelled,
}

impl TurnOutcome {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The outcome of a turn whose last answer arrived whole.
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
    /// The HTTP status of a response that is not streamed.
    pub status: u16,
    /// A stable code.
    pub code: String,
    /// The message for people.
    pub message: String,
    /// The invalid field of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
    /// How long to wait before a retry, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl TurnError {
    /// The turn hit a limit.
    pub fn exhausted(message: String) -> Self {
        Self { status: 500, code: "turn_exhausted".into(), message, param: None, retry_after: None }
    }

    /// The requested model does not exist.
    pub fn unknown_model(message: String) -> Self {
        Self {
            status: 404,
            code: "model_not_found".into(),
            message,
            param: Some("model".into()),
            retry_after: None,
        }
    }

    /// The field `param` of the request is invalid.
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

/// The outcome of a turn and its last answer: the body of a [`Kind::TURN_CLOSED`] entry.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TurnClosed {
    /// The newest snapshot of the log, for nodes that load the log from its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<EntryId>,
    /// How it ended.
    pub outcome: TurnOutcome,
    /// Its last step.
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

    /// Parses the body of an entry.
    pub fn read(entry: &Entry) -> Result<Self, FoldError> {
        read(entry)
    }

    /// Whether the last answer was interrupted.
    pub fn is_interrupted(&self) -> bool {
        matches!(self.outcome, TurnOutcome::Failed | TurnOutcome::Cancelled)
    }
}

/// The entry that starts a run of the turn.
pub fn draft_run(turn: TurnId) -> Draft {
    Draft { kind: Kind::TURN_RUN, cause: turn, body: bytes::Bytes::new() }
}

/// The entry that adds `deltas` to the answer of the running step; `again` voids its earlier deltas.
pub fn draft_deltas(
    turn: TurnId,
    again: bool,
    answered_by: Option<AnsweredBy>,
    deltas: Vec<Delta<'static>>,
) -> Draft {
    let body = Deltas { again, answered_by, deltas: merge(deltas) };
    Draft { kind: Kind::DELTAS, cause: turn, body: to_json(&body) }
}

/// The entry that says that the run is alive, while there is nothing to add.
pub fn draft_heartbeat(turn: TurnId) -> Draft {
    draft_deltas(turn, false, None, Vec::new())
}

/// Joins neighbours of the same kind: clients get all deltas of an entry at once anyway.
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
