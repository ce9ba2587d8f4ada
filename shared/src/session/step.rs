//! Defines the entries of a step of a turn: a model's answer, and the calls that the node makes for it. Making the
//! calls is the agent's business.
//!
//! A call goes from *intended* over *started* to *ended*, each durable before the next, so that the run after a crash
//! knows whether a call can have taken effect.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    to_json,
    turn::{AnsweredBy, ResponseId, TurnId},
};
use crate::{
    entry::{Draft, Kind, LogId, derive},
    hex::hex,
    money::NanoUsd,
    usage::Usage,
    wire::{
        Block, Stop, Transcript,
        responses::{self, CallResult, NodeCall, REASONING_FIELD},
    },
};

/// What a second run of the same call does.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing: the function only reads.
    Pure,
    /// Nothing more: the server deduplicates by the call's key.
    Keyed,
    /// It takes effect again.
    #[default]
    Exclusive,
}

impl Effect {
    /// The names in the configuration.
    pub const NAMES: [(&'static str, Self); 3] =
        [("pure", Self::Pure), ("keyed", Self::Keyed), ("exclusive", Self::Exclusive)];
}

/// Where and how the node calls a function for a model.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct ToolRoute {
    /// The server that offers the function.
    pub server: String,
    /// The function's name on that server.
    pub function: String,
    /// What a second run of the same call does.
    pub effect: Effect,
    /// Whether the client must approve each call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approval: bool,
    /// The digest of the server's address; empty for built-in functions. A different digest means a different server,
    /// even under the same name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub place: String,
    /// The names of the arguments that the call's key covers. The key covers all arguments if the list is empty or the
    /// call has none of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub business: Vec<String>,
}

impl ToolRoute {
    /// The name of a function in a model request: vendors allow at most 64 letters, digits, `_` and `-`.
    pub fn alias(server: &str, function: &str) -> String {
        const MAX_CHARS: usize = 64;
        let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let joined = format!("{server}__{function}");
        let name: String = joined.chars().map(allowed).collect();
        // A name that can be split into server and function in two ways might be another function's too.
        let parts = [joined.find("__"), joined.rfind("__")];
        if name.len() <= MAX_CHARS && name == joined && parts == [Some(server.len()); 2] {
            return name;
        }
        let digest = hex(&derive("function", &[server.as_bytes(), function.as_bytes()]));
        let kept: String = name.chars().take(MAX_CHARS - 9).collect();
        format!("{kept}_{}", digest.get(..8).unwrap_or_default())
    }

    /// The key of a call, derived from its turn, function and arguments: a repeated call has the same key, under
    /// whatever call id the model repeats it.
    fn key_of(&self, id: ResponseId, arguments: &str) -> String {
        // Some vendors send an empty string for a call without arguments.
        let text = if arguments.trim().is_empty() { "{}" } else { arguments };
        let mut parsed = crate::json::inner_value(text).unwrap_or_else(|| arguments.into());
        if let Value::Object(fields) = &mut parsed {
            // A call with none of the named arguments keeps all of them: else all such calls would have one key.
            let named = fields.keys().any(|name| self.business.contains(name));
            fields.retain(|name, _| !named || self.business.contains(name));
        }
        parsed.sort_all_objects();
        let business = parsed.to_string();
        let (server, function) = (self.server.as_bytes(), self.function.as_bytes());
        hex(&derive("call", &[&id.log.0, &id.turn, server, function, business.as_bytes()]))
    }
}

/// A call that the node is going to make.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct CallIntent {
    /// The id of the item that shows the call.
    pub item: String,
    /// The index of its block among all blocks of the turn.
    pub block: usize,
    /// The index of the first block of its step.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub step: usize,
    /// The function that is called.
    #[serde(flatten)]
    pub route: ToolRoute,
    /// The arguments, as JSON text.
    pub arguments: String,
    /// The key of the call: calls of a turn with equal keys run once.
    pub key: String,
    /// The approval request that allowed the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

impl CallIntent {
    /// The call as the client sees it.
    pub fn served(&self, result: Option<CallResult>) -> NodeCall {
        let ToolRoute { server, function, approval, .. } = self.route.clone();
        NodeCall { server, function, approval, request: self.request.clone(), result }
    }

    /// The item that shows the call: an approval request, or the call with its result.
    pub fn item(&self, result: Option<CallResult>) -> Value {
        if self.awaits_approval() {
            return responses::approval_request(&self.item, &self.arguments, &self.served(None));
        }
        responses::mcp_call(&self.item, &self.arguments, &self.served(result))
    }

    /// The call after the client has approved it.
    pub fn approved(self) -> Self {
        let item = self.item.replacen("mcpr_", "mcp_", 1);
        Self { request: Some(self.item), item, ..self }
    }

    /// Whether it waits for the client's approval.
    pub fn awaits_approval(&self) -> bool {
        self.route.approval && self.request.is_none()
    }
}

/// A model's answer in one step: the body of a [`Kind::STEP_ENDED`] entry.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct StepEnded {
    /// The index of its first block among all blocks of the turn.
    #[serde(skip_serializing_if = "is_zero")]
    pub at: usize,
    /// The candidate that answered, as `provider/model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
    /// The calls of providers that the step took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// The vendor's id of the answer.
    pub id: String,
    /// The model's name in the vendor's answer.
    pub model: String,
    /// The blocks of the answer.
    pub blocks: Vec<Block>,
    /// The tokens used, if the vendor reported them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The cost in billionths of a dollar, if the price is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nano_usd: Option<u64>,
    /// Why the model stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// The calls among the blocks that the node makes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<CallIntent>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl StepEnded {
    /// The candidate that answered, with its attempts; `None` if none did.
    pub fn answered_by(&self) -> Option<AnsweredBy> {
        Some(AnsweredBy { candidate: self.candidate.clone()?, attempts: self.attempts })
    }

    /// The step of the turn `id` in which a model gave `answer`, after `at` earlier blocks. The node makes the calls
    /// whose functions are in `routes`.
    pub fn new(id: ResponseId, at: usize, answer: &Transcript, routes: &BTreeMap<String, ToolRoute>) -> Self {
        let Transcript { id: vendor_id, model, blocks, usage, stop, .. } = answer.clone();
        let calls = blocks.iter().enumerate().filter_map(|(n, block)| {
            let Block::Call(call) = block else { return None };
            let route = routes.get(&call.name)?.clone();
            Some(CallIntent {
                item: responses::node_call_id(&id.to_string(), at + n, route.approval),
                block: at + n,
                step: at,
                arguments: call.arguments.clone(),
                key: route.key_of(id, &call.arguments),
                request: None,
                route,
            })
        });
        let calls = calls.collect();
        Self { at, id: vendor_id, model, usage, stop, calls, blocks, ..Self::default() }
    }

    /// The answer as a transcript.
    pub fn answer(&self) -> Transcript {
        let Self { id, model, blocks, usage, stop, .. } = self.clone();
        Transcript::of(id, model, blocks, usage, stop)
    }

    /// The cost, if the price is known.
    pub fn cost(&self) -> Option<NanoUsd> {
        self.nano_usd.map(NanoUsd)
    }

    /// The cost; `u64::MAX` if a model answered and the price is unknown.
    pub fn cost_or_max(&self) -> NanoUsd {
        let unknown = if self.candidate.is_some() { NanoUsd(u64::MAX) } else { NanoUsd(0) };
        self.cost().unwrap_or(unknown)
    }

    /// The call in the step's block `n`, if the node makes it.
    pub fn intent(&self, n: usize) -> Option<&CallIntent> {
        self.calls.iter().find(|call| call.block == self.at + n)
    }

    /// Whether the answer has a call that the client must make.
    pub fn has_client_calls(&self) -> bool {
        let calls = self.blocks.iter().enumerate().filter(|(_, block)| matches!(block, Block::Call(_)));
        calls.into_iter().any(|(n, _)| self.intent(n).is_none())
    }

    /// The blocks that become items, with their indexes in the step. Calls with broken arguments do not; calls that the
    /// node makes do when they end (`CALL_ENDED`); of an interrupted answer only the text does.
    pub fn item_blocks(&self, interrupted: bool) -> impl Iterator<Item = (usize, &Block)> {
        let kept = move |(n, block): &(usize, &Block)| match block {
            Block::Text(text) => !text.is_empty(),
            Block::Refusal(_) | Block::Reasoning(_) => !interrupted,
            Block::Call(call) => {
                let json = call.arguments.trim();
                let whole = json.is_empty() || serde_json::from_str::<serde::de::IgnoredAny>(json).is_ok();
                !interrupted && whole && self.intent(*n).is_none_or(CallIntent::awaits_approval)
            }
        };
        self.blocks.iter().enumerate().filter(kept)
    }

    /// The id of the item that block `n` becomes.
    pub fn item_id(&self, response: &str, n: usize, block: &Block) -> String {
        match self.intent(n) {
            Some(intent) => intent.item.clone(),
            None => responses::item_id(response, block, self.at + n),
        }
    }

    /// The item that block `n` becomes, as clients see it.
    pub fn item(&self, response: &str, n: usize, block: &Block) -> Value {
        match self.intent(n) {
            Some(intent) => intent.item(None),
            None => responses::item(&responses::item_id(response, block, self.at + n), block, "completed"),
        }
    }

    /// The item as a model gets it again: reasoning with its signature and the candidate it came from, calls with the
    /// name of their step.
    pub fn prompt_item(&self, response: &str, n: usize, block: &Block) -> Value {
        let item = self.item(response, n, block);
        match block {
            Block::Reasoning(reasoning) => {
                with(item, REASONING_FIELD, json!({"thought": reasoning, "by": self.candidate}))
            }
            Block::Call(_) => with(item, STEP, step_name(response, self.at)),
            _ => item,
        }
    }

    /// The entry that ends a step; the turn stays open.
    pub fn draft(&self, turn: TurnId) -> Draft {
        Draft { kind: Kind::STEP_ENDED, cause: turn, body: to_json(self) }
    }
}

/// The field of an item that names the step of its call. The calls of one step were made in parallel.
pub const STEP: &str = "x-outlive-step";

/// Equal for the calls of one step, different between steps.
fn step_name(response: &str, at: usize) -> Value {
    format!("{}_{at}", response.trim_start_matches("resp_")).into()
}

fn with(mut item: Value, name: &str, value: Value) -> Value {
    if let Some(fields) = item.as_object_mut() {
        fields.insert(name.into(), value);
    }
    item
}

/// The calls that are about to be made: the body of a [`Kind::CALLS_STARTED`] entry.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct CallsStarted {
    /// The calls of this turn's last step, by the ids of their items.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<String>,
    /// Calls that an earlier turn requested and this one approves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved: Vec<CallIntent>,
}

impl CallsStarted {
    /// The entry with this body.
    pub fn draft(&self, turn: TurnId) -> Draft {
        Draft { kind: Kind::CALLS_STARTED, cause: turn, body: to_json(self) }
    }
}

/// The end of a call: the body of a [`Kind::CALL_ENDED`] entry.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct CallEnded {
    /// The call.
    pub call: CallIntent,
    /// The function's output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Why there is no output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether the call may have taken effect in spite of `error`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
}

/// The error of a call whose outcome is unknown.
pub const UNKNOWN_OUTCOME: &str = "The call was interrupted. Whether it took effect is not known.";

impl CallEnded {
    /// The end of `call`.
    pub fn new(call: CallIntent, result: CallResult) -> Self {
        let (output, error, unknown) = match result {
            CallResult::Output(text) => (Some(text), None, false),
            CallResult::Failed(why) => (None, Some(why), false),
            CallResult::Unknown(why) => (None, Some(why), true),
        };
        Self { call, output, error, unknown }
    }

    /// The result: output, failure, or unknown outcome.
    pub fn result(&self) -> CallResult {
        match (&self.output, &self.error) {
            (Some(text), _) => CallResult::Output(text.clone()),
            (None, Some(why)) if !self.unknown => CallResult::Failed(why.clone()),
            (None, why) => CallResult::Unknown(why.clone().unwrap_or_else(|| UNKNOWN_OUTCOME.into())),
        }
    }

    /// The item that shows the call with its result.
    pub fn item(&self) -> Value {
        self.call.item(Some(self.result()))
    }

    /// The item as a model gets it again: with the name of its step.
    pub fn prompt_item(&self) -> Value {
        // The item's id is `mcp_`, the response's id without its prefix, `_` and the block.
        let response = self.call.item.rsplit_once('_').map_or("", |(response, _)| response);
        with(self.item(), STEP, step_name(response.trim_start_matches("mcp_"), self.call.step))
    }

    /// The entry with this body.
    pub fn draft(&self, turn: TurnId) -> Draft {
        Draft { kind: Kind::CALL_ENDED, cause: turn, body: to_json(self) }
    }
}

/// The functions that a turn offers to its models and the node runs: the body of a [`Kind::TOOLS_LISTED`] entry.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ToolsListed {
    /// How each is called, by its name in the model request.
    pub routes: BTreeMap<String, ToolRoute>,
    /// `mcp_list_tools` items of the servers whose functions the conversation did not have yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<Value>,
}

impl ToolsListed {
    /// The entry with this body.
    pub fn draft(&self, turn: TurnId) -> Draft {
        Draft { kind: Kind::TOOLS_LISTED, cause: turn, body: to_json(self) }
    }

    /// How a client sees calls of these functions, by their names in the model request.
    pub fn served(&self) -> impl Iterator<Item = (String, NodeCall)> {
        self.routes.iter().map(|(alias, route)| {
            let ToolRoute { server, function, approval, .. } = route.clone();
            (alias.clone(), NodeCall { server, function, approval, ..NodeCall::default() })
        })
    }
}

/// The turn that made the approval request `request`, and so holds the call. Its id is part of the request's.
pub fn approval_turn(request: &str) -> Option<ResponseId> {
    let (response, _) = request.strip_prefix("mcpr_")?.rsplit_once('_')?;
    ResponseId::parse(&format!("resp_{response}"))
}

/// The log of the notes that the agent keeps for `owner`.
pub fn notes_log(owner: &str) -> LogId {
    LogId::derive("notes", &[owner.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_functions_have_different_aliases() {
        let names = [("a", "b__c"), ("a__b", "c"), ("a_", "_b"), ("a", "__b"), ("a", "b.c"), ("a", "b_c")];
        let aliases: std::collections::BTreeSet<String> =
            names.iter().map(|(server, function)| ToolRoute::alias(server, function)).collect();
        assert_eq!(aliases.len(), names.len(), "{aliases:?}");
        assert_eq!(ToolRoute::alias("files", "read_file"), "files__read_file");
    }

    #[test]
    fn equal_arguments_have_equal_keys() {
        let route = |business: &[&str]| ToolRoute {
            server: "s".into(),
            function: "f".into(),
            effect: Effect::Keyed,
            approval: false,
            place: String::new(),
            business: business.iter().map(|name| (*name).to_owned()).collect(),
        };
        let id = ResponseId { log: LogId([1; 16]), turn: [2; 16] };
        let check = |business: &[&str], a: &str, b: &str, equal: bool| {
            assert_eq!(route(business).key_of(id, a) == route(business).key_of(id, b), equal, "{a} {b}");
        };
        check(&[], r#"{"a":1,"b":2}"#, r#"{ "b" : 2, "a" : 1 }"#, true);
        check(&[], r#"{"a":1}"#, r#"{"a":2}"#, false);
        check(&[], "", "{}", true);
        check(&["a"], r#"{"a":1,"b":2}"#, r#"{"a":1,"b":3}"#, true);
        check(&["a"], r#"{"b":2}"#, r#"{"b":3}"#, false);
    }
}
