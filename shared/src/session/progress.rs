//! Folds the entries of one turn into its progress, and decides its next action. Pure: the agent carries the action
//! out.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    step::{CallEnded, CallIntent, CallsStarted, StepEnded, ToolsListed},
    turn::{TurnClosed, TurnId, TurnOpened, TurnOutcome},
};
use crate::{
    entry::{Draft, Entry, Kind},
    log::FoldError,
    session::{
        Session,
        turn::{self, AnsweredBy, Deltas},
    },
    wire::{Transcript, responses::CallResult},
};

/// The progress of a turn: its steps, its calls, and the text of the running step.
#[derive(Clone, Debug, Default)]
pub struct TurnProgress {
    opened: Option<TurnOpened>,
    listed: Option<ToolsListed>,
    steps: Vec<StepEnded>,
    calls: Vec<(CallIntent, CallStage)>,
    /// The answer of the running step so far.
    partial: Transcript,
    answered_by: Option<AnsweredBy>,
    /// The turn's items without its input, as a model gets them.
    prompt_items: Vec<Value>,
    closed: Option<TurnClosed>,
}

/// The stage of a call that the node makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallStage {
    /// The model requested it; it has not been made.
    Intended,
    /// It may have been made, and may have taken effect.
    Started,
    /// It has ended.
    Ended(CallResult),
}

/// What a run must do next for a turn.
#[derive(Clone, Debug, PartialEq)]
pub enum NextAction {
    /// List the functions of the turn's servers.
    ListTools,
    /// Look up and start the calls of these approval requests, which earlier turns made and this one approves.
    StartApproved(Vec<String>),
    /// Make these calls; those that a dead run started before need recovery.
    RunCalls(Vec<(CallIntent, CallStage)>),
    /// Call a model, or let it continue a partial answer.
    CallModel,
    /// Close the turn with this outcome.
    Close(TurnOutcome),
    /// Nothing: the turn is closed, or was never opened.
    Nothing,
}

impl TurnProgress {
    /// Applies one more entry of the turn.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), FoldError> {
        let kind = entry.header().kind;
        // Nothing counts after the first end, not even another end.
        if self.closed.is_some() || entry.is_erased() {
            return Ok(());
        }
        match kind {
            Kind::TURN_OPENED if self.opened.is_none() => self.opened = Some(TurnOpened::read(entry)?),
            Kind::TOOLS_LISTED if self.listed.is_none() => self.listed = Some(turn::read(entry)?),
            Kind::DELTAS => {
                let Deltas { again, answered_by, deltas } = turn::read(entry)?;
                self.answered_by = answered_by.or(self.answered_by.take());
                if again {
                    self.partial = Transcript::default();
                }
                deltas.iter().for_each(|delta| self.partial.apply(delta));
            }
            Kind::STEP_ENDED => {
                let step: StepEnded = turn::read(entry)?;
                let calls = step.calls.iter().filter(|call| !call.awaits_approval());
                self.calls.extend(calls.map(|call| (call.clone(), CallStage::Intended)));
                self.partial = Transcript::default();
                self.answered_by = step.answered_by().or(self.answered_by.take());
                self.steps.push(step);
            }
            Kind::CALLS_STARTED => {
                let CallsStarted { items, approved } = turn::read(entry)?;
                for (call, stage) in &mut self.calls {
                    if *stage == CallStage::Intended && items.contains(&call.item) {
                        *stage = CallStage::Started;
                    }
                }
                // Two runs may have started the same approved call.
                for call in approved {
                    if self.stage(&call.item).is_none() {
                        self.calls.push((call, CallStage::Started));
                    }
                }
            }
            Kind::CALL_ENDED => {
                let ended: CallEnded = turn::read(entry)?;
                let call = self.calls.iter_mut().find(|(call, _)| call.item == ended.call.item);
                // Two runs may have ended the same call: the first result counts.
                if let Some((_, stage)) = call
                    && !matches!(stage, CallStage::Ended(_))
                {
                    *stage = CallStage::Ended(ended.result());
                }
            }
            Kind::TURN_CLOSED => {
                let closed = TurnClosed::read(entry)?;
                self.answered_by = closed.last.answered_by().or(self.answered_by.take());
                self.closed = Some(closed);
            }
            _ => {}
        }
        // The input comes from the conversation, with all items before it.
        if kind != Kind::TURN_OPENED {
            self.prompt_items.extend(Session::prompt_items(entry)?);
        }
        Ok(())
    }

    /// The next action. `runs_tools` says whether the turn has functions that the node runs.
    pub fn next(&self, runs_tools: bool) -> NextAction {
        let (Some(opened), None) = (&self.opened, &self.closed) else { return NextAction::Nothing };
        let started: BTreeSet<&str> =
            self.calls.iter().filter_map(|(call, _)| call.request.as_deref()).collect();
        // The input may approve one request twice; its call is made once.
        let mut distinct = BTreeSet::new();
        let new = opened.approved().filter(|request| !started.contains(request) && distinct.insert(*request));
        let approved: Vec<String> = new.map(str::to_owned).collect();
        let open: Vec<_> =
            self.calls.iter().filter(|(_, stage)| !matches!(stage, CallStage::Ended(_))).cloned().collect();
        let needs_client =
            |step: &StepEnded| step.has_client_calls() || step.calls.iter().any(CallIntent::awaits_approval);
        // Open calls come first: a model must not be called with a call unanswered, and an approved call that was
        // started is open as well.
        match self.steps.last() {
            _ if !open.is_empty() => NextAction::RunCalls(open),
            _ if !approved.is_empty() => NextAction::StartApproved(approved),
            _ if runs_tools && self.listed.is_none() => NextAction::ListTools,
            Some(last) if needs_client(last) => NextAction::Close(TurnOutcome::Completed),
            _ => NextAction::CallModel,
        }
    }

    /// The turn's request, once it is opened.
    pub fn opened(&self) -> Option<&TurnOpened> {
        self.opened.as_ref()
    }

    /// The candidate that answers the newest step, once its first content is in the log.
    pub fn answered_by(&self) -> Option<&AnsweredBy> {
        self.answered_by.as_ref()
    }

    /// How it ended, once it is closed.
    pub fn closed(&self) -> Option<&TurnClosed> {
        self.closed.as_ref()
    }

    /// The functions that the node runs for it, once they are listed.
    pub fn tools(&self) -> Option<&ToolsListed> {
        self.listed.as_ref()
    }

    /// The steps that have ended.
    pub fn steps(&self) -> &[StepEnded] {
        &self.steps
    }

    /// The answer of the running step so far.
    pub fn partial_answer(&self) -> &Transcript {
        &self.partial
    }

    /// The number of blocks in the steps that have ended.
    pub fn block_count(&self) -> usize {
        self.steps.last().map_or(0, |last| last.at + last.blocks.len())
    }

    /// The turn's items so far without its input, as a model gets them.
    pub fn prompt_items(&self) -> &[Value] {
        &self.prompt_items
    }

    /// The calls that the turn shows as items, so that a client can approve them. A call of an answer that broke off may
    /// lack arguments, and is none of them.
    pub fn requested_calls(&self) -> impl Iterator<Item = &CallIntent> {
        let last = self.closed.iter().map(|closed| (&closed.last, closed.is_interrupted()));
        let steps = self.steps.iter().map(|step| (step, false)).chain(last);
        steps
            .flat_map(|(step, interrupted)| step.item_blocks(interrupted).filter_map(|(n, _)| step.intent(n)))
    }

    /// How many calls the node has made or is going to make.
    pub fn call_count(&self) -> usize {
        self.calls.len()
    }

    /// The result of an earlier call of this turn with the same key, unless that call failed.
    pub fn earlier_result(&self, call: &CallIntent) -> Option<CallResult> {
        let same_key =
            |(other, _): &&(CallIntent, CallStage)| other.key == call.key && other.item != call.item;
        let ended = |(_, stage): &(CallIntent, CallStage)| match stage {
            CallStage::Ended(result @ (CallResult::Output(_) | CallResult::Unknown(_))) => {
                Some(result.clone())
            }
            _ => None,
        };
        self.calls.iter().filter(same_key).find_map(ended)
    }

    /// The entries that end all open calls if the turn ends now. A call that was started may have taken effect, so its
    /// outcome is unknown.
    pub fn close_open_calls(&self, turn: TurnId) -> Vec<Draft> {
        let open = self.calls.iter().filter_map(|(call, stage)| match stage {
            CallStage::Ended(_) => None,
            CallStage::Intended => {
                let why = "The turn ended before the call was made.".to_owned();
                Some(CallEnded::new(call.clone(), CallResult::Failed(why)))
            }
            CallStage::Started => {
                Some(CallEnded::new(call.clone(), CallResult::Unknown(super::step::UNKNOWN_OUTCOME.into())))
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
