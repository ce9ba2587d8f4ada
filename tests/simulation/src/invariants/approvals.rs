//! Checks that a call that needs an approval runs at most once over all decisions, and never if it was denied.

use std::collections::BTreeMap;

use crate::world::World;

/// The approval requests that clients got, and the decisions that they sent.
#[derive(Debug, Default)]
pub(crate) struct Approvals(BTreeMap<String, ApprovalRequest>);

#[derive(Debug, Default)]
struct ApprovalRequest {
    /// The target of the call.
    subject: String,
    decisions: Vec<Decision>,
}

#[derive(Debug)]
struct Decision {
    turn: String,
    approves: bool,
    /// Whether the node accepted it; `None`: its client got no answer.
    accepted: Option<bool>,
}

impl Approvals {
    /// A client sends a decision on `request` with the turn `turn`.
    pub(crate) fn decision_sent(&mut self, request: &str, subject: &str, turn: &str, approves: bool) {
        let known = self.0.entry(request.to_owned()).or_default();
        subject.clone_into(&mut known.subject);
        known.decisions.push(Decision { turn: turn.to_owned(), approves, accepted: None });
    }

    /// The node answered the decision that came with `turn`. `Err` if it refused the only one.
    pub(crate) fn decision_answered(
        &mut self,
        request: &str,
        turn: &str,
        accepted: bool,
    ) -> Result<(), String> {
        let Some(known) = self.0.get_mut(request) else { return Ok(()) };
        let alone = known.decisions.len() == 1;
        if let Some(decision) = known.decisions.iter_mut().find(|decision| decision.turn == turn) {
            decision.accepted = Some(accepted);
        }
        if accepted || !alone { Ok(()) } else { Err(format!("the only decision on {request} was refused")) }
    }
}

/// Checks all requests at the end of the run.
pub(crate) fn approvals(world: &World) {
    let effects = world.effects.borrow();
    for (id, request) in &world.approvals.borrow().0 {
        let count = effects.count("guarded", &request.subject);
        let bad = |why: &str| world.violation(format_args!("{id}: {why}, {count} effects, {request:?}"));
        let accepted = |approves: bool| {
            request
                .decisions
                .iter()
                .filter(move |decision| decision.accepted == Some(true) && decision.approves == approves)
        };
        let known = request.decisions.iter().all(|decision| decision.accepted.is_some());
        if accepted(true).count() + accepted(false).count() > 1 {
            bad("more than one decision was accepted");
        }
        if accepted(false).count() > 0 || known && accepted(true).count() == 0 {
            world.count("denied calls");
            if count > 0 {
                bad("it was denied and has run");
            }
        }
        if accepted(true).count() > 0 && count > 0 {
            world.count("approved calls that ran");
        }
        if request.decisions.iter().any(|decision| decision.accepted == Some(false)) {
            world.count("refused second decisions on an approval");
        }
    }
}
