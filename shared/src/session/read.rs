//! The items that entries hold.

use serde_json::{Value, value::RawValue};

use super::{ItemAdded, Session};
use crate::{
    entry::{Entry, Kind},
    log::FoldError,
    session::{
        step::{CallEnded, StepEnded, ToolsListed},
        turn::{self, ResponseId, TurnClosed, TurnOpened, TurnOutcome},
        unreadable,
    },
    wire::{Block, responses},
};

impl Session {
    /// The item inside the body of a [`Kind::ITEM_ADDED`] entry, as JSON with its id and status.
    pub fn item_json(body: &[u8]) -> Result<Box<RawValue>, serde_json::Error> {
        serde_json::from_slice::<ItemAdded<'_>>(body).map(|body| body.item.to_owned())
    }

    /// The item at `at` of an entry that holds items; `None` once it is erased.
    pub fn item_of(entry: &Entry, at: usize) -> Result<Option<Box<RawValue>>, FoldError> {
        if entry.is_erased() {
            return Ok(None);
        }
        if entry.header().kind == Kind::ITEM_ADDED {
            return Self::item_json(entry.body()).map(Some).map_err(|error| unreadable(entry, &error));
        }
        let item = Self::read_item(entry, at, StepEnded::item)?;
        RawValue::from_string(item.to_string()).map(Some).map_err(|error| unreadable(entry, &error))
    }

    /// The item at `at` of an entry that holds items, as a model is told it; nothing once it is erased.
    pub fn prompt_item(entry: &Entry, at: usize) -> Result<Value, FoldError> {
        if entry.is_erased() {
            return Ok(Value::Null);
        }
        if entry.header().kind == Kind::ITEM_ADDED {
            let item = Self::item_json(entry.body()).map_err(|error| unreadable(entry, &error))?;
            return serde_json::from_str(item.get()).map_err(|error| unreadable(entry, &error));
        }
        if entry.header().kind == Kind::CALL_ENDED {
            return Ok(turn::read::<CallEnded>(entry)?.told());
        }
        Self::read_item(entry, at, StepEnded::prompt_item)
    }

    /// All items of an entry of a turn, as a model is told them.
    pub fn prompt_items(entry: &Entry) -> Result<Vec<Value>, FoldError> {
        let id = ResponseId { log: entry.header().log, turn: entry.header().cause }.to_string();
        let told = |said: &StepEnded, broke: bool| {
            said.item_blocks(broke).map(|(n, block)| said.prompt_item(&id, n, block)).collect::<Vec<_>>()
        };
        Ok(match entry.header().kind {
            _ if entry.is_erased() => Vec::new(),
            Kind::TURN_OPENED => TurnOpened::read(entry)?.input,
            Kind::TURN_CLOSED => {
                let closed = TurnClosed::read(entry)?;
                told(&closed.last, closed.is_interrupted())
            }
            Kind::STEP_ENDED => told(&turn::read(entry)?, false),
            Kind::CALL_ENDED => vec![turn::read::<CallEnded>(entry)?.told()],
            Kind::TOOLS_LISTED => turn::read::<ToolsListed>(entry)?.lists,
            _ => Vec::new(),
        })
    }

    fn read_item(
        entry: &Entry,
        at: usize,
        item: impl Fn(&StepEnded, &str, usize, &Block) -> Value,
    ) -> Result<Value, FoldError> {
        let header = entry.header();
        let missing = || FoldError {
            origin: header.origin.clone(),
            seq: header.seq.0,
            why: format!("it has no item {at}"),
        };
        let id = ResponseId { log: header.log, turn: header.cause }.to_string();
        let said = |said: &StepEnded| Some(item(said, &id, at, said.blocks.get(at)?));
        let found = match header.kind {
            Kind::TURN_OPENED => TurnOpened::read(entry)?.input.into_iter().nth(at),
            Kind::TURN_CLOSED => {
                let closed = TurnClosed::read(entry)?;
                let whole = closed.outcome == TurnOutcome::Completed;
                let status = responses::item_status(at, closed.last.blocks.len(), whole);
                said(&closed.last).map(|mut item| {
                    if let Some(known) = item.get_mut("status") {
                        *known = status.into();
                    }
                    item
                })
            }
            Kind::STEP_ENDED => said(&turn::read(entry)?),
            Kind::CALL_ENDED => Some(turn::read::<CallEnded>(entry)?.item()),
            Kind::TOOLS_LISTED => turn::read::<ToolsListed>(entry)?.lists.into_iter().nth(at),
            _ => None,
        };
        found.ok_or_else(missing)
    }
}
