//! Decides which of a step's tool calls are made, made again after a crash, or ended without being made.

use super::{
    CallStage, TurnProgress,
    step::{CallEnded, CallIntent, Effect, UNKNOWN_OUTCOME},
};
use crate::wire::responses::CallResult;

/// Calls of one answer that are made; the result of each further one is that there are too many.
pub(crate) const MAX_CALLS: usize = 32;

/// What is done about each open call.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct CallPlan {
    /// Calls that end without being made.
    pub(crate) ended: Vec<CallEnded>,
    /// Calls to be recorded as started, and then made.
    pub(crate) fresh: Vec<CallIntent>,
    /// Calls that were started before and are made again: their effect allows it, or this run started them.
    pub(crate) again: Vec<CallIntent>,
}

impl CallPlan {
    /// Decides about `calls`. `started_here` says whether this run has started a call.
    pub(crate) fn new(
        progress: &TurnProgress,
        calls: Vec<(CallIntent, CallStage)>,
        started_here: impl Fn(&CallIntent) -> bool,
    ) -> Self {
        let mut plan = Self::default();
        let max_of_turn = progress.opened().and_then(|opened| opened.request.get("max_tool_calls")?.as_u64());
        let max_of_turn = max_of_turn.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        let before = progress.call_count().saturating_sub(calls.len());
        for (at, (call, stage)) in calls.into_iter().enumerate() {
            let effect = call.route.effect;
            // A call with an effect reuses the result of an earlier one with the same key.
            if effect != Effect::Pure
                && let Some(result) = progress.earlier_result(&call)
            {
                plan.ended.push(CallEnded::new(call, result));
                continue;
            }
            // Of calls with equal keys only the first is made now; a duplicate stays open and reuses its result in the next
            // round.
            let is_duplicate = |other: &CallIntent| other.key == call.key && effect != Effect::Pure;
            if plan.fresh.iter().chain(&plan.again).any(is_duplicate) {
                continue;
            }
            match stage {
                CallStage::Ended(_) => {}
                CallStage::Started if started_here(&call) => plan.again.push(call),
                // A run that died may have made it, and a second call could have a second effect.
                CallStage::Started if effect == Effect::Exclusive => {
                    plan.ended.push(CallEnded::new(call, CallResult::Unknown(UNKNOWN_OUTCOME.into())));
                }
                CallStage::Started => plan.again.push(call),
                CallStage::Intended if at >= MAX_CALLS || before + at >= max_of_turn => {
                    let why = "The call was not made: there are too many in this turn.";
                    plan.ended.push(CallEnded::new(call, CallResult::Failed(why.into())));
                }
                CallStage::Intended => plan.fresh.push(call),
            }
        }
        plan
    }
}
