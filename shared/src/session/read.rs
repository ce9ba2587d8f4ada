//! Reads the items that an entry holds, as clients see them and as models get them. Which entry holds which item is the
//! fold's business.

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
    /// The item in the body of a [`Kind::ITEM_ADDED`] entry, as JSON with its id and status.
    pub fn item_json(body: &[u8]) -> Result<Box<RawValue>, serde_json::Error> {
        serde_json::from_slice::<ItemAdded<'_>>(body).map(|body| body.item.to_owned())
    }

    /// The item with index `at` of an entry, as clients see it; `None` once the entry is erased.
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

    /// The item with index `at` of an entry, as a model gets it; `null` once the entry is erased.
    pub fn prompt_item(entry: &Entry, at: usize) -> Result<Value, FoldError> {
        if entry.is_erased() {
            return Ok(Value::Null);
        }
        if entry.header().kind == Kind::ITEM_ADDED {
            let item = Self::item_json(entry.body()).map_err(|error| unreadable(entry, &error))?;
            return serde_json::from_str(item.get()).map_err(|error| unreadable(entry, &error));
        }
        if entry.header().kind == Kind::CALL_ENDED {
            return Ok(turn::read::<CallEnded>(entry)?.prompt_item());
        }
        Self::read_item(entry, at, StepEnded::prompt_item)
    }

    /// All items of an entry of a turn, as a model gets them.
    pub fn prompt_items(entry: &Entry) -> Result<Vec<Value>, FoldError> {
        let id = ResponseId { log: entry.header().log, turn: entry.header().cause }.to_string();
        let items_of = |step: &StepEnded, interrupted: bool| {
            let blocks = step.item_blocks(interrupted);
            blocks.map(|(n, block)| step.prompt_item(&id, n, block)).collect::<Vec<_>>()
        };
        Ok(match entry.header().kind {
            _ if entry.is_erased() => Vec::new(),
            Kind::TURN_OPENED => TurnOpened::read(entry)?.input,
            Kind::TURN_CLOSED => {
                let closed = TurnClosed::read(entry)?;
                items_of(&closed.last, closed.is_interrupted())
            }
            Kind::STEP_ENDED => items_of(&turn::read(entry)?, false),
            Kind::CALL_ENDED => vec![turn::read::<CallEnded>(entry)?.prompt_item()],
            Kind::TOOLS_LISTED => turn::read::<ToolsListed>(entry)?.lists,
            _ => Vec::new(),
        })
    }

    /// The item with index `at` of an entry of a turn; `item` makes it from a block of a step.
    fn read_item(
        entry: &Entry,
        at: usize,
        item: impl Fn(&StepEnded, &str, usize, &Block) -> Value,
    ) -> Result<Value, FoldError> {
        let header = entry.header();
        let missing = || FoldError {
            origin: header.origin.clone(),
            seq: header.seq.0,
            why: format!("it has no item with index {at}"),
        };
        let id = ResponseId { log: header.log, turn: header.cause }.to_string();
        let of_step = |step: &StepEnded| Some(item(step, &id, at, step.blocks.get(at)?));
        let found = match header.kind {
            Kind::TURN_OPENED => TurnOpened::read(entry)?.input.into_iter().nth(at),
            Kind::TURN_CLOSED => {
                let closed = TurnClosed::read(entry)?;
                let whole = closed.outcome == TurnOutcome::Completed;
                let status = responses::item_status(at, closed.last.blocks.len(), whole);
                of_step(&closed.last).map(|mut item| {
                    // The last block of an answer that broke off is incomplete.
                    if let Some(field) = item.get_mut("status") {
                        *field = status.into();
                    }
                    item
                })
            }
            Kind::STEP_ENDED => of_step(&turn::read(entry)?),
            Kind::CALL_ENDED => Some(turn::read::<CallEnded>(entry)?.item()),
            Kind::TOOLS_LISTED => turn::read::<ToolsListed>(entry)?.lists.into_iter().nth(at),
            _ => None,
        };
        found.ok_or_else(missing)
    }
}
