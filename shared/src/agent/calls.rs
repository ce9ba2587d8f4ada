//! Makes the tool calls of a step, as `session/call_plan.rs` decides. How one call reaches its server is in `toolbox`.

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
        CallPlan, CallStage, MAX_CALLS, TurnProgress,
        step::{CallEnded, CallIntent, CallsStarted, approval_turn},
        turn::{self, TurnId},
    },
};

/// Calls of one turn that run at the same time, so that one answer does not flood a server.
const MAX_CONCURRENT: usize = 8;

impl<P: Platform> Runner<'_, P> {
    /// Ends every open call, except duplicates. A call is recorded as started before it is made, and its result as soon
    /// as it is there.
    pub(super) async fn run_calls(
        &self,
        toolbox: &Toolbox<'_, P>,
        calls: Vec<(CallIntent, CallStage)>,
    ) -> Result<(), RunError> {
        let started_here = |call: &CallIntent| self.started.borrow().contains(&call.item);
        let CallPlan { ended, fresh, again } = CallPlan::new(&self.progress.borrow(), calls, started_here);
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
        let found = self.node.read_turn(self.log, turn).await?;
        let Some(found) = found else { return Ok(Vec::new()) };
        let mut earlier = TurnProgress::default();
        for entry in turn_entries(self.node, self.log, *turn, &found).await? {
            earlier.apply(&entry).map_err(|_| RunError::Store)?;
        }
        Ok(earlier.requested_calls().cloned().collect())
    }
}
