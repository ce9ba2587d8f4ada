use std::collections::{BTreeMap, btree_map::Entry};

use futures_util::{
    StreamExt,
    future::{Either, select},
    stream,
};

use super::{
    Toolbox, entries,
    run::{RunError, Runner, SIGN_OF_LIFE},
};
use crate::{
    entry::Draft,
    platform::Platform,
    session::{
        CallStage, Session, TurnProgress,
        step::{CallEnded, CallIntent, CallsStarted, Effect, UNKNOWN, approval_turn},
        turn::{self, TurnId},
    },
    wire::responses::CallResult,
};

/// Calls of one turn that run at once: a server is a guest's house.
const AT_ONCE: usize = 8;

/// Calls that one answer may ask for; what is more is answered with that.
const MOST: usize = 32;

/// What becomes of the calls that are open.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    /// Their ends are known without making them.
    ended: Vec<CallEnded>,
    /// To be written down as started, and then made.
    fresh: Vec<CallIntent>,
    /// To be made again: a dead run may have made them, and a second time does no harm.
    again: Vec<CallIntent>,
}

/// Decides about `calls`. `mine` says which of them this run has started.
fn plan(
    progress: &TurnProgress,
    calls: Vec<(CallIntent, CallStage)>,
    mine: impl Fn(&CallIntent) -> bool,
) -> Plan {
    let mut plan = Plan::default();
    let most = progress.opened().and_then(|opened| opened.request.get("max_tool_calls")?.as_u64());
    let most = most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    let before = progress.call_count().saturating_sub(calls.len());
    for (at, (call, stage)) in calls.into_iter().enumerate() {
        let effect = call.route.effect;
        if effect != Effect::Pure
            && let Some(result) = progress.earlier_result(&call)
        {
            plan.ended.push(CallEnded::new(call, result));
            continue;
        }
        // One of two that are the same business is made; the other learns what came of it.
        let twin = |other: &CallIntent| other.key == call.key && effect != Effect::Pure;
        if plan.fresh.iter().chain(&plan.again).any(twin) {
            continue;
        }
        match stage {
            CallStage::Ended(_) => {}
            CallStage::Started if mine(&call) => plan.again.push(call),
            CallStage::Started if effect == Effect::Exclusive => {
                plan.ended.push(CallEnded::new(call, CallResult::Unknown(UNKNOWN.into())));
            }
            CallStage::Started => plan.again.push(call),
            CallStage::Intended if at >= MOST || before + at >= most => {
                let why = "The call was not made: there are too many in this turn.";
                plan.ended.push(CallEnded::new(call, CallResult::Failed(why.into())));
            }
            CallStage::Intended => plan.fresh.push(call),
        }
    }
    plan
}

impl<P: Platform> Runner<'_, P> {
    /// Sees that the open calls end, each written down before and after.
    pub(super) async fn run_calls(
        &self,
        toolbox: &Toolbox<'_, P>,
        calls: Vec<(CallIntent, CallStage)>,
    ) -> Result<(), RunError> {
        let mine = |call: &CallIntent| self.started.borrow().contains(&call.item);
        let Plan { ended, fresh, again } = plan(&self.progress.borrow(), calls, mine);
        let ends: Vec<Draft> = ended.iter().map(|ended| ended.draft(self.turn)).collect();
        for drafts in ends.chunks(MOST) {
            self.append(drafts.to_vec(), false).await?;
        }
        if !fresh.is_empty() {
            let items: Vec<String> = fresh.iter().map(|call| call.item.clone()).collect();
            self.started.borrow_mut().extend(items.clone());
            self.append(vec![CallsStarted { items, approved: Vec::new() }.draft(self.turn)], false).await?;
        }
        // What a dead run has started may have taken effect, whatever a server says to it now.
        let again = again.into_iter().map(|call| (!mine(&call), call));
        let calls = fresh.into_iter().map(|call| (false, call)).chain(again);
        let calls = calls.map(|(again, call)| async move {
            let result = toolbox.call(&call, again).await;
            CallEnded::new(call, result)
        });
        let mut running = Box::pin(stream::iter(calls).buffer_unordered(AT_ONCE));
        loop {
            let next = running.next();
            match select(next, Box::pin(self.wait(SIGN_OF_LIFE))).await {
                Either::Left((Some(ended), _)) => {
                    self.append(vec![ended.draft(self.turn)], false).await?;
                }
                Either::Left((None, _)) => return Ok(()),
                Either::Right(_) if self.live.is_closed() => return Err(RunError::Fenced),
                Either::Right(_) => {
                    self.append(vec![turn::draft_deltas(self.turn, false, Vec::new())], false).await?;
                }
            }
        }
    }

    /// Starts the calls that earlier turns asked for: what is made is what was written down then.
    pub(super) async fn start_approved(&self, requests: &[String]) -> Result<(), RunError> {
        let (mut approved, mut turns) = (Vec::new(), BTreeMap::new());
        for request in requests {
            let Some(id) = approval_turn(request) else { continue };
            if let Entry::Vacant(place) = turns.entry(id.turn) {
                place.insert(self.asked_in(&id.turn).await?);
            }
            let asked = turns.get(&id.turn).into_iter().flatten();
            approved.extend(
                asked.into_iter().find(|call| call.item == *request).cloned().map(CallIntent::approved),
            );
        }
        if approved.len() < requests.len() {
            let why = "an approval answers no request of this session";
            return self.fail(turn::TurnError::invalid("input", why)).await;
        }
        self.started.borrow_mut().extend(approved.iter().map(|call| call.item.clone()));
        self.append(vec![CallsStarted { items: Vec::new(), approved }.draft(self.turn)], false).await
    }

    /// The calls that the models of an earlier turn asked for.
    async fn asked_in(&self, turn: &TurnId) -> Result<Vec<CallIntent>, RunError> {
        let known = |fold: &Session| fold.turns().find(turn).is_some();
        let look = |fold: &Session| fold.turns().find(turn).cloned();
        let found = self.node.read_session_until(self.log, known, look).await?;
        let Some(found) = found else { return Ok(Vec::new()) };
        let mut then = TurnProgress::default();
        for entry in entries(self.node, self.log, *turn, &found).await? {
            then.apply(&entry).map_err(|_| RunError::Store)?;
        }
        Ok(then.requested_calls().cloned().collect())
    }
}
