//! Checks the progress of a turn against any sequence of entries.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    entry::{Batch, Draft, LogId, Origin, VersionVector},
    session::{
        ResponseFold, history,
        step::{Effect, ToolRoute},
        turn::ResponseId,
    },
    time::Timestamp,
    wire::{
        Block, Delta,
        prompt::{Reasoning, ToolCall},
    },
};

const ID: ResponseId = ResponseId { log: LogId([1; 16]), turn: [7; 16] };

fn step(at: usize, function: &str) -> StepEnded {
    let route = |name: &str, approval: bool| {
        let (server, function) = ("s".to_owned(), name.to_owned());
        (
            name.to_owned(),
            ToolRoute {
                server,
                function,
                effect: Effect::Keyed,
                approval,
                place: String::new(),
                business: Vec::new(),
            },
        )
    };
    let routes = BTreeMap::from([route("free", false), route("guarded", true)]);
    let proof = Reasoning { text: "hm".into(), signature: Some("proof".into()), ..Reasoning::default() };
    let call = |id: &str| {
        Block::Call(ToolCall { id: id.into(), name: function.into(), arguments: format!("{{\"at\":{at}}}") })
    };
    let blocks = vec![Block::Reasoning(proof), call("a"), call("b")];
    let answer = Transcript::of("id".into(), "model".into(), blocks, None, None);
    StepEnded { candidate: Some("v/m".into()), ..StepEnded::new(ID, at, &answer, &routes) }
}

fn opened(approves: &[&str]) -> TurnOpened {
    let approval = |request: &&str| json!({"type": "mcp_approval_response", "id": "mcpa_1", "approval_request_id": request, "approve": true});
    TurnOpened {
        owner: "me".into(),
        model: "m".into(),
        request: serde_json::Map::new(),
        previous: None,
        in_conversation: true,
        background: false,
        store: true,
        runs: true,
        input: approves.iter().map(approval).collect(),
    }
}

/// Any entry of a turn.
fn draft() -> impl Strategy<Value = Draft> {
    let at = || prop_oneof![Just(0_usize), Just(3)];
    let function = || prop_oneof![Just("free"), Just("guarded"), Just("own")];
    let call = || (at(), 0..2_usize).prop_map(|(at, n)| step(at, "free").calls[n].clone());
    let results =
        [CallResult::Output("1".into()), CallResult::Failed("no".into()), CallResult::Unknown("lost".into())];
    let outcomes = [TurnOutcome::Completed, TurnOutcome::Failed, TurnOutcome::Cancelled];
    let approved = step(0, "guarded").calls[0].clone().approved();
    let request = step(0, "guarded").calls[0].item.clone();
    prop_oneof![
        proptest::bool::ANY.prop_map(move |approves| {
            opened(
                if approves { std::slice::from_ref(&request) } else { &[] }
                    .iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .as_slice(),
            )
            .draft(ID.turn)
        }),
        Just(turn::draft_run(ID.turn)),
        Just(ToolsListed::default().draft(ID.turn)),
        proptest::bool::ANY
            .prop_map(|again| { turn::draft_deltas(ID.turn, again, None, vec![Delta::Text("so".into())]) }),
        (at(), function()).prop_map(|(at, name)| step(at, name).draft(ID.turn)),
        call().prop_map(|call| CallsStarted { items: vec![call.item], approved: Vec::new() }.draft(ID.turn)),
        Just(CallsStarted { items: Vec::new(), approved: vec![approved.clone()] }.draft(ID.turn)),
        (call(), proptest::sample::select(results.to_vec()))
            .prop_map(|(call, result)| CallEnded::new(call, result).draft(ID.turn)),
        Just(CallEnded::new(approved, CallResult::Output("1".into())).draft(ID.turn)),
        (at(), function(), proptest::sample::select(outcomes.to_vec())).prop_map(|(at, name, outcome)| {
            TurnClosed { outcome, last: step(at, name), error: None, snapshot: None }.draft(ID.turn)
        }),
    ]
}

proptest! {
    /// Includes entries and orders that no run would write.
    #[test]
    fn any_entries_of_a_turn_lead_to_a_next_action(drafts in proptest::collection::vec(draft(), 1..14)) {
        let (origin, now) = (Origin { node: "edge".into(), epoch: 0 }, Timestamp(1_700_000_000_000));
        let batch = Batch::build(ID.log, &origin, None, &VersionVector::new(), now, drafts).unwrap();
        let (mut progress, mut reply) = (TurnProgress::default(), ResponseFold::new(ID, None));
        for entry in batch.entries() {
            progress.apply(entry).unwrap();
            reply.apply(entry, &mut Vec::new()).unwrap();
            let over = progress.opened().is_none() || progress.closed().is_some();
            for runs_tools in [false, true] {
                let next = progress.next(runs_tools);
                prop_assert_eq!(next == NextAction::Nothing, over);
                if let NextAction::RunCalls(calls) = next {
                    prop_assert!(!calls.is_empty());
                    prop_assert!(calls.iter().all(|(_, stage)| !matches!(stage, CallStage::Ended(_))));
                }
            }
            let open = progress.calls.iter().filter(|(_, stage)| !matches!(stage, CallStage::Ended(_))).count();
            prop_assert_eq!(progress.close_open_calls(ID.turn).len(), open);
            let prompt = history::prompt(progress.prompt_items().to_vec());
            let count = |kind: &str| prompt.iter().filter(|item| item["type"] == kind).count();
            prop_assert_eq!(count("function_call"), count("function_call_output"));
        }
    }
}
