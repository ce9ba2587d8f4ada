use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    step::{CallEnded, CallIntent, CallsStarted, StepEnded, ToolsListed},
    turn::{TurnClosed, TurnId, TurnOpened, TurnOutcome},
};
use crate::{
    entry::{Draft, Entry, Kind},
    log::FoldError,
    session::{Session, turn},
    wire::{Transcript, responses::CallResult},
};

/// How far a turn has come: the fold of its entries, and what is to be done next.
#[derive(Clone, Debug, Default)]
pub struct TurnProgress {
    opened: Option<TurnOpened>,
    listed: Option<ToolsListed>,
    steps: Vec<StepEnded>,
    calls: Vec<(CallIntent, CallStage)>,
    said: Transcript,
    /// Entries of the turn, its items as a model is told them.
    told: Vec<Value>,
    closed: Option<TurnClosed>,
}

/// How far a call has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallStage {
    /// The model asked for it.
    Intended,
    /// It may have been made.
    Started,
    /// It has ended.
    Ended(CallResult),
}

/// What a turn needs next.
#[derive(Clone, Debug, PartialEq)]
pub enum NextAction {
    /// Its servers are to be asked for their functions.
    List,
    /// These calls, which earlier turns asked for and this one approves of, are to be looked up and started.
    Approve(Vec<String>),
    /// These calls are to be made, or, if they were started before, to be looked after.
    Call(Vec<(CallIntent, CallStage)>),
    /// A model is to be asked, or asked to go on.
    Ask,
    /// It is over.
    Close(TurnOutcome),
    /// It has been closed.
    Nothing,
}

impl TurnProgress {
    /// Takes one more entry of the turn in.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), FoldError> {
        let kind = entry.header().kind;
        if self.closed.is_some() || entry.is_erased() {
            return Ok(());
        }
        match kind {
            Kind::TURN_OPENED if self.opened.is_none() => self.opened = Some(TurnOpened::read(entry)?),
            Kind::TOOLS_LISTED if self.listed.is_none() => self.listed = Some(turn::read(entry)?),
            Kind::DELTAS => {
                let (again, deltas) = turn::read_deltas(entry)?;
                if again {
                    self.said = Transcript::default();
                }
                deltas.iter().for_each(|delta| self.said.apply(delta));
            }
            Kind::STEP_ENDED => {
                let step: StepEnded = turn::read(entry)?;
                let calls = step.calls.iter().filter(|call| !call.awaits_approval());
                self.calls.extend(calls.map(|call| (call.clone(), CallStage::Intended)));
                self.said = Transcript::default();
                self.steps.push(step);
            }
            Kind::CALLS_STARTED => {
                let CallsStarted { items, approved } = turn::read(entry)?;
                for (call, stage) in &mut self.calls {
                    if *stage == CallStage::Intended && items.contains(&call.item) {
                        *stage = CallStage::Started;
                    }
                }
                for call in approved {
                    if self.stage(&call.item).is_none() {
                        self.calls.push((call, CallStage::Started));
                    }
                }
            }
            Kind::CALL_ENDED => {
                let ended: CallEnded = turn::read(entry)?;
                let known = self.calls.iter_mut().find(|(call, _)| call.item == ended.call.item);
                if let Some((_, stage)) = known
                    && !matches!(stage, CallStage::Ended(_))
                {
                    *stage = CallStage::Ended(ended.result());
                }
            }
            Kind::TURN_CLOSED => self.closed = Some(TurnClosed::read(entry)?),
            _ => {}
        }
        if kind != Kind::TURN_OPENED {
            self.told.extend(Session::prompt_items(entry)?);
        }
        Ok(())
    }

    /// What is to be done next. `serves` says whether the turn has functions that the node runs.
    pub fn next(&self, serves: bool) -> NextAction {
        let (Some(opened), None) = (&self.opened, &self.closed) else { return NextAction::Nothing };
        let made: BTreeSet<&str> =
            self.calls.iter().filter_map(|(call, _)| call.request.as_deref()).collect();
        let mut asked = BTreeSet::new();
        let new = opened.approved().filter(|request| !made.contains(request) && asked.insert(*request));
        let approved: Vec<String> = new.map(str::to_owned).collect();
        let open: Vec<_> =
            self.calls.iter().filter(|(_, stage)| !matches!(stage, CallStage::Ended(_))).cloned().collect();
        let waits =
            |step: &StepEnded| step.has_client_calls() || step.calls.iter().any(CallIntent::awaits_approval);
        match self.steps.last() {
            _ if !open.is_empty() => NextAction::Call(open),
            _ if !approved.is_empty() => NextAction::Approve(approved),
            _ if serves && self.listed.is_none() => NextAction::List,
            Some(last) if waits(last) => NextAction::Close(TurnOutcome::Completed),
            _ => NextAction::Ask,
        }
    }

    /// What was asked.
    pub fn opened(&self) -> Option<&TurnOpened> {
        self.opened.as_ref()
    }

    /// How it ended.
    pub fn closed(&self) -> Option<&TurnClosed> {
        self.closed.as_ref()
    }

    /// How the functions of its servers are called.
    pub fn tools(&self) -> Option<&ToolsListed> {
        self.listed.as_ref()
    }

    /// The steps that have ended.
    pub fn steps(&self) -> &[StepEnded] {
        &self.steps
    }

    /// What the step that goes on has said.
    pub fn partial_answer(&self) -> &Transcript {
        &self.said
    }

    /// The blocks of the steps that have ended.
    pub fn block_count(&self) -> usize {
        self.steps.last().map_or(0, |last| last.at + last.blocks.len())
    }

    /// The turn's items so far but its input, as a model is told them.
    pub fn prompt_items(&self) -> &[Value] {
        &self.told
    }

    /// The calls that the turn's models asked the node for.
    pub fn requested_calls(&self) -> impl Iterator<Item = &CallIntent> {
        let last = self.closed.iter().flat_map(|closed| &closed.last.calls);
        self.steps.iter().flat_map(|step| &step.calls).chain(last)
    }

    /// How many calls the node has made.
    pub fn call_count(&self) -> usize {
        self.calls.len()
    }

    /// How the same business ended, if it was done before in this turn.
    pub fn earlier_result(&self, call: &CallIntent) -> Option<CallResult> {
        let same = |(other, _): &&(CallIntent, CallStage)| other.key == call.key && other.item != call.item;
        let ended = |(_, stage): &(CallIntent, CallStage)| match stage {
            CallStage::Ended(result @ (CallResult::Output(_) | CallResult::Unknown(_))) => {
                Some(result.clone())
            }
            _ => None,
        };
        self.calls.iter().filter(same).find_map(ended)
    }

    /// The entries that close what is open, should the turn end now: what was started may have had an effect.
    pub fn close_open_calls(&self, turn: TurnId) -> Vec<Draft> {
        let open = self.calls.iter().filter_map(|(call, stage)| match stage {
            CallStage::Ended(_) => None,
            CallStage::Intended => {
                let why = "The turn ended before the call was made.".to_owned();
                Some(CallEnded::new(call.clone(), CallResult::Failed(why)))
            }
            CallStage::Started => {
                Some(CallEnded::new(call.clone(), CallResult::Unknown(super::step::UNKNOWN.into())))
            }
        });
        open.map(|ended| ended.draft(turn)).collect()
    }

    fn stage(&self, item: &str) -> Option<&CallStage> {
        self.calls.iter().find(|(call, _)| call.item == item).map(|(_, stage)| stage)
    }
}

#[cfg(test)]
mod tests;
