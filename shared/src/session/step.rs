//! A step of a turn: what a model said, and the ledger of the calls that the node makes for it.
//!
//! A call goes from *intended* over *started* to *ended*, each durable before the next, so that whoever finds a call of a
//! dead process knows whether it can have had an effect.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    to_json,
    turn::{ResponseId, TurnId},
};
use crate::{
    entry::{Draft, Kind, LogId, derive},
    hex::hex,
    money::NanoUsd,
    usage::Usage,
    wire::{
        Block, Stop, Transcript,
        responses::{self, CallResult, Served, THOUGHT},
    },
};

/// What happens if a call is made twice.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing: it only looks.
    Pure,
    /// Nothing more, if both calls bring the same key.
    Keyed,
    /// It happens twice.
    #[default]
    Exclusive,
}

impl Effect {
    /// The words that the configuration uses.
    pub const NAMES: [(&'static str, Self); 3] =
        [("pure", Self::Pure), ("keyed", Self::Keyed), ("exclusive", Self::Exclusive)];
}

/// A function that the node runs.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct ToolRoute {
    /// The server that has it.
    pub server: String,
    /// What it is called there.
    pub function: String,
    /// What happens if it is called twice.
    pub effect: Effect,
    /// Whether somebody must approve of each call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approval: bool,
    /// The server's address, as a digest; empty for what is built in. Another one is another server, whatever its name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub place: String,
    /// The arguments that tell one business from another; all of them if none is named, or none of these is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub business: Vec<String>,
}

impl ToolRoute {
    /// The name by which models know a function: vendors take letters, digits, `_` and `-`, at most 64 of them.
    pub fn alias(server: &str, function: &str) -> String {
        const MOST: usize = 64;
        let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let joined = format!("{server}__{function}");
        let name: String = joined.chars().map(allowed).collect();
        // Where the names could be parted otherwise, another server's function would have the same.
        let parts = [joined.find("__"), joined.rfind("__")];
        if name.len() <= MOST && name == joined && parts == [Some(server.len()); 2] {
            return name;
        }
        let digest = hex(&derive("function", &[server.as_bytes(), function.as_bytes()]));
        let kept: String = name.chars().take(MOST - 9).collect();
        format!("{kept}_{}", digest.get(..8).unwrap_or_default())
    }

    /// The key of a call: the same business of the same turn has the same key, whatever the model calls it.
    fn key_of(&self, id: ResponseId, arguments: &str) -> String {
        // Some vendors write nothing where there are no arguments.
        let text = if arguments.trim().is_empty() { "{}" } else { arguments };
        let mut parsed: Value = serde_json::from_str(text).unwrap_or_else(|_| arguments.into());
        if let Value::Object(fields) = &mut parsed {
            // A function that has none of these arguments says nothing of its business with the others left out.
            let named = fields.keys().any(|name| self.business.contains(name));
            fields.retain(|name, _| !named || self.business.contains(name));
        }
        parsed.sort_all_objects();
        let business = parsed.to_string();
        let (server, function) = (self.server.as_bytes(), self.function.as_bytes());
        hex(&derive("call", &[&id.log.0, &id.turn, server, function, business.as_bytes()]))
    }
}

/// A call that is going to be made.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct CallIntent {
    /// The item that shows it.
    pub item: String,
    /// Which block of the turn's answer asks for it.
    pub block: usize,
    /// The first block of the step that it belongs to.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub step: usize,
    /// What is called.
    #[serde(flatten)]
    pub route: ToolRoute,
    /// With what, as JSON text.
    pub arguments: String,
    /// By which the same business is known.
    pub key: String,
    /// The request that was approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

impl CallIntent {
    /// The call as its client sees it.
    pub fn served(&self, result: Option<CallResult>) -> Served {
        let ToolRoute { server, function, approval, .. } = self.route.clone();
        Served { server, function, approval, request: self.request.clone(), result }
    }

    /// The item that shows it.
    pub fn item(&self, result: Option<CallResult>) -> Value {
        if self.route.approval && self.request.is_none() {
            return responses::approval_request(&self.item, &self.arguments, &self.served(None));
        }
        responses::mcp_call(&self.item, &self.arguments, &self.served(result))
    }

    /// The same call, now that `request` is approved.
    pub fn approved(self) -> Self {
        let item = self.item.replacen("mcpr_", "mcp_", 1);
        Self { request: Some(self.item), item, ..self }
    }

    /// Whether it waits for somebody's word.
    pub fn awaits_approval(&self) -> bool {
        self.route.approval && self.request.is_none()
    }
}

/// What a model said in one step.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct StepEnded {
    /// How many blocks of the turn's answer came before.
    #[serde(skip_serializing_if = "is_zero")]
    pub at: usize,
    /// Who answered, as `provider/model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
    /// The vendor's name for the answer.
    pub id: String,
    /// What the vendor calls the model.
    pub model: String,
    /// What was said.
    pub blocks: Vec<Block>,
    /// What it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What that cost, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nano_usd: Option<u64>,
    /// Why the model stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// The calls in it that the node makes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<CallIntent>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl StepEnded {
    /// What `answer` says of the turn `id`, after `at` blocks. `routes` tell which of its calls are the node's.
    pub fn new(id: ResponseId, at: usize, answer: &Transcript, routes: &BTreeMap<String, ToolRoute>) -> Self {
        let Transcript { id: name, model, blocks, usage, stop, .. } = answer.clone();
        let calls = blocks.iter().enumerate().filter_map(|(n, block)| {
            let Block::Call(call) = block else { return None };
            let route = routes.get(&call.name)?.clone();
            Some(CallIntent {
                item: responses::served_id(&id.to_string(), at + n, route.approval),
                block: at + n,
                step: at,
                arguments: call.arguments.clone(),
                key: route.key_of(id, &call.arguments),
                request: None,
                route,
            })
        });
        let calls = calls.collect();
        Self { at, id: name, model, usage, stop, calls, blocks, ..Self::default() }
    }

    /// All that was said.
    pub fn answer(&self) -> Transcript {
        let Self { id, model, blocks, usage, stop, .. } = self.clone();
        Transcript::of(id, model, blocks, usage, stop)
    }

    /// What it cost.
    pub fn cost(&self) -> Option<NanoUsd> {
        self.nano_usd.map(NanoUsd)
    }

    /// The same; everything where nobody knows the price.
    pub fn cost_or_max(&self) -> NanoUsd {
        let unknown = if self.candidate.is_some() { NanoUsd(u64::MAX) } else { NanoUsd(0) };
        self.cost().unwrap_or(unknown)
    }

    /// The call of the block at `n`, if the node makes it.
    pub fn intent(&self, n: usize) -> Option<&CallIntent> {
        self.calls.iter().find(|call| call.block == self.at + n)
    }

    /// Whether the client is to make a call.
    pub fn has_client_calls(&self) -> bool {
        let calls = self.blocks.iter().enumerate().filter(|(_, block)| matches!(block, Block::Call(_)));
        calls.into_iter().any(|(n, _)| self.intent(n).is_none())
    }

    /// The blocks that make items, by their number. A call that nobody will make is none of them, of an answer that broke
    /// off only the words are, and a call of the node's is an item once it has ended.
    pub fn item_blocks(&self, broke: bool) -> impl Iterator<Item = (usize, &Block)> {
        let kept = move |(n, block): &(usize, &Block)| match block {
            Block::Text(text) => !text.is_empty(),
            Block::Refusal(_) | Block::Reasoning(_) => !broke,
            Block::Call(call) => {
                let json = call.arguments.trim();
                let whole = json.is_empty() || serde_json::from_str::<serde::de::IgnoredAny>(json).is_ok();
                !broke && whole && self.intent(*n).is_none_or(CallIntent::awaits_approval)
            }
        };
        self.blocks.iter().enumerate().filter(kept)
    }

    /// The id of the item that the block at `n` makes.
    pub fn item_id(&self, response: &str, n: usize, block: &Block) -> String {
        match self.intent(n) {
            Some(intent) => intent.item.clone(),
            None => responses::item_id(response, block, self.at + n),
        }
    }

    /// The item that the block at `n` makes.
    pub fn item(&self, response: &str, n: usize, block: &Block) -> Value {
        match self.intent(n) {
            Some(intent) => intent.item(None),
            None => responses::item(&responses::item_id(response, block, self.at + n), block, "completed"),
        }
    }

    /// The same, as a model is told it again: thoughts with what proves them, and who thought them; calls with their step.
    pub fn prompt_item(&self, response: &str, n: usize, block: &Block) -> Value {
        let item = self.item(response, n, block);
        match block {
            Block::Reasoning(thought) => {
                with(item, THOUGHT, json!({"thought": thought, "by": self.candidate}))
            }
            Block::Call(_) => with(item, STEP, step_name(response, self.at)),
            _ => item,
        }
    }

    /// The entry of a step after which the turn goes on.
    pub fn draft(&self, turn: TurnId) -> Draft {
        Draft { kind: Kind::STEP_ENDED, cause: turn, body: to_json(self) }
    }
}

/// Where an item of a call has the name of its step: the calls of one step were made at once.
pub const STEP: &str = "x-outlive-step";

fn step_name(response: &str, at: usize) -> Value {
    format!("{}_{at}", response.trim_start_matches("resp_")).into()
}

fn with(mut item: Value, name: &str, value: Value) -> Value {
    if let Some(fields) = item.as_object_mut() {
        fields.insert(name.into(), value);
    }
    item
}

/// Which calls are about to be made: the body of a [`Kind::CALLS_STARTED`] entry.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct CallsStarted {
    /// Those of this turn's last step, by their items.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<String>,
    /// Those that an earlier turn asked for, and this one approves of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved: Vec<CallIntent>,
}

impl CallsStarted {
    /// The entry.
    pub fn draft(&self, turn: TurnId) -> Draft {
        Draft { kind: Kind::CALLS_STARTED, cause: turn, body: to_json(self) }
    }
}

/// What came of a call: the body of a [`Kind::CALL_ENDED`] entry.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct CallEnded {
    /// The call.
    pub call: CallIntent,
    /// What the function answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Why there is no output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// It may have taken effect, and nobody knows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
}

/// The words for a call whose end nobody saw.
pub const UNKNOWN: &str = "The call was interrupted. Whether it took effect is not known.";

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

    /// What came of it.
    pub fn result(&self) -> CallResult {
        match (&self.output, &self.error) {
            (Some(text), _) => CallResult::Output(text.clone()),
            (None, Some(why)) if !self.unknown => CallResult::Failed(why.clone()),
            (None, why) => CallResult::Unknown(why.clone().unwrap_or_else(|| UNKNOWN.into())),
        }
    }

    /// The item that shows it.
    pub fn item(&self) -> Value {
        self.call.item(Some(self.result()))
    }

    /// The same, as a model is told it again: with its step.
    pub fn told(&self) -> Value {
        let names = self.call.item.rsplit_once('_').map_or("", |(names, _)| names);
        with(self.item(), STEP, step_name(names.trim_start_matches("mcp_"), self.call.step))
    }

    /// The entry.
    pub fn draft(&self, turn: TurnId) -> Draft {
        Draft { kind: Kind::CALL_ENDED, cause: turn, body: to_json(self) }
    }
}

/// How the functions of a turn are called and run: the body of a [`Kind::TOOLS_LISTED`] entry.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ToolsListed {
    /// By the names under which the model knows them.
    pub routes: BTreeMap<String, ToolRoute>,
    /// What servers said anew of their functions: the items that show it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<Value>,
}

impl ToolsListed {
    /// The entry.
    pub fn draft(&self, turn: TurnId) -> Draft {
        Draft { kind: Kind::TOOLS_LISTED, cause: turn, body: to_json(self) }
    }

    /// How a client sees the calls of these functions.
    pub fn served(&self) -> impl Iterator<Item = (String, Served)> {
        self.routes.iter().map(|(alias, route)| {
            let ToolRoute { server, function, approval, .. } = route.clone();
            (alias.clone(), Served { server, function, approval, ..Served::default() })
        })
    }
}

/// The turn that asked for the approval `request`, and so wrote down what is to be called.
pub fn approval_turn(request: &str) -> Option<ResponseId> {
    let (names, _) = request.strip_prefix("mcpr_")?.rsplit_once('_')?;
    ResponseId::parse(&format!("resp_{names}"))
}

/// The log of the notes that the agent keeps for `owner`.
pub fn notes_log(owner: &str) -> LogId {
    LogId::derive("notes", &[owner.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_functions_have_one_name() {
        let names = [("a", "b__c"), ("a__b", "c"), ("a_", "_b"), ("a", "__b"), ("a", "b.c"), ("a", "b_c")];
        let aliases: std::collections::BTreeSet<String> =
            names.iter().map(|(server, function)| ToolRoute::alias(server, function)).collect();
        assert_eq!(aliases.len(), names.len(), "{aliases:?}");
        assert_eq!(ToolRoute::alias("files", "read_file"), "files__read_file");
    }

    #[test]
    fn the_same_business_has_the_same_key() {
        let route = |business: &[&str]| ToolRoute {
            server: "s".into(),
            function: "f".into(),
            effect: Effect::Keyed,
            approval: false,
            place: String::new(),
            business: business.iter().map(|name| (*name).to_owned()).collect(),
        };
        let id = ResponseId { log: LogId([1; 16]), turn: [2; 16] };
        let check = |business: &[&str], a: &str, b: &str, same: bool| {
            assert_eq!(route(business).key_of(id, a) == route(business).key_of(id, b), same, "{a} {b}");
        };
        check(&[], r#"{"a":1,"b":2}"#, r#"{ "b" : 2, "a" : 1 }"#, true);
        check(&[], r#"{"a":1}"#, r#"{"a":2}"#, false);
        check(&[], "", "{}", true);
        check(&["a"], r#"{"a":1,"b":2}"#, r#"{"a":1,"b":3}"#, true);
        check(&["a"], r#"{"b":2}"#, r#"{"b":3}"#, false);
    }
}
