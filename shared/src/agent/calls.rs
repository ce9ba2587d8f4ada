//! Decides which of a step's tool calls are made, made again or ended without being made, and makes them. How one call
//! reaches its server is in `toolbox`.

use std::collections::{BTreeMap, btree_map::Entry};

use futures_util::{
    StreamExt,
    future::{Either, select},
    stream,
};

use super::{
    Toolbox,
    run::{HEARTBEAT, RunError, Runner},
    turn_entries,
};
use crate::{
    entry::Draft,
    platform::Platform,
    session::{
        CallStage, Session, TurnProgress,
        step::{CallEnded, CallIntent, CallsStarted, Effect, UNKNOWN_OUTCOME, approval_turn},
        turn::{self, TurnId},
    },
    wire::responses::CallResult,
};

/// Calls of one turn that run at the same time, so that one answer does not flood a server.
const MAX_CONCURRENT: usize = 8;

/// Calls of one answer that are made; the result of each further one is that there are too many.
const MAX_CALLS: usize = 32;

/// What is done about each open call.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    /// Calls that end without being made.
    ended: Vec<CallEnded>,
    /// Calls to be recorded as started, and then made.
    fresh: Vec<CallIntent>,
    /// Calls that were started before and are made again: their effect allows it, or this run started them.
    again: Vec<CallIntent>,
}

/// Decides about `calls`. `started_here` says whether this run has started a call.
fn plan(
    progress: &TurnProgress,
    calls: Vec<(CallIntent, CallStage)>,
    started_here: impl Fn(&CallIntent) -> bool,
) -> Plan {
    let mut plan = Plan::default();
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

impl<P: Platform> Runner<'_, P> {
    /// Ends every open call, except duplicates. A call is recorded as started before it is made, and its result as soon
    /// as it is there.
    pub(super) async fn run_calls(
        &self,
        toolbox: &Toolbox<'_, P>,
        calls: Vec<(CallIntent, CallStage)>,
    ) -> Result<(), RunError> {
        let started_here = |call: &CallIntent| self.started.borrow().contains(&call.item);
        let Plan { ended, fresh, again } = plan(&self.progress.borrow(), calls, started_here);
        let ends: Vec<Draft> = ended.iter().map(|ended| ended.draft(self.turn)).collect();
        for drafts in ends.chunks(MAX_CALLS) {
            self.append(drafts.to_vec(), false).await?;
        }
        if !fresh.is_empty() {
            let items: Vec<String> = fresh.iter().map(|call| call.item.clone()).collect();
            self.started.borrow_mut().extend(items.clone());
            self.append(vec![CallsStarted { items, approved: Vec::new() }.draft(self.turn)], false).await?;
        }
        // A call that a dead run started may have taken effect, even if the server now answers with an error.
        let again = again.into_iter().map(|call| (!started_here(&call), call));
        let calls = fresh.into_iter().map(|call| (false, call)).chain(again);
        let calls = calls.map(|(maybe_made, call)| async move {
            let result = toolbox.call(&call, maybe_made).await;
            CallEnded::new(call, result)
        });
        let mut running = Box::pin(stream::iter(calls).buffer_unordered(MAX_CONCURRENT));
        loop {
            let next = running.next();
            match select(next, Box::pin(self.wait(HEARTBEAT))).await {
                Either::Left((Some(ended), _)) => {
                    self.append(vec![ended.draft(self.turn)], false).await?;
                }
                Either::Left((None, _)) => return Ok(()),
                Either::Right(_) if self.live.is_closed() => return Err(RunError::Fenced),
                Either::Right(_) => {
                    self.append(vec![turn::draft_heartbeat(self.turn)], false).await?;
                }
            }
        }
    }

    /// Records the approved calls as started. Their arguments are those in the log of the turn that requested them, so
    /// that the calls are made as they were approved.
    pub(super) async fn start_approved(&self, requests: &[String]) -> Result<(), RunError> {
        let (mut approved, mut turns) = (Vec::new(), BTreeMap::new());
        for request in requests {
            let Some(id) = approval_turn(request) else { continue };
            if let Entry::Vacant(place) = turns.entry(id.turn) {
                place.insert(self.calls_requested_in(&id.turn).await?);
            }
            let requested = turns.get(&id.turn).into_iter().flatten();
            approved.extend(
                requested.into_iter().find(|call| call.item == *request).cloned().map(CallIntent::approved),
            );
        }
        if approved.len() < requests.len() {
            let why = "an approval_request_id names no call of this session; \
                       allowed: the id of an mcp_approval_request";
            return self.fail(turn::TurnError::invalid("input", why)).await;
        }
        self.started.borrow_mut().extend(approved.iter().map(|call| call.item.clone()));
        self.append(vec![CallsStarted { items: Vec::new(), approved }.draft(self.turn)], false).await
    }

    /// The calls that the model requested in an earlier turn.
    async fn calls_requested_in(&self, turn: &TurnId) -> Result<Vec<CallIntent>, RunError> {
        let is_known = |session: &Session| session.turns().find(turn).is_some();
        let look = |session: &Session| session.turns().find(turn).cloned();
        let found = self.node.read_session_until(self.log, is_known, look).await?;
        let Some(found) = found else { return Ok(Vec::new()) };
        let mut earlier = TurnProgress::default();
        for entry in turn_entries(self.node, self.log, *turn, &found).await? {
            earlier.apply(&entry).map_err(|_| RunError::Store)?;
        }
        Ok(earlier.requested_calls().cloned().collect())
    }
}
