//! Describes a model's answer in no vendor's format: as the pieces of a stream, and as the transcript that they add up
//! to. Reads and writes no wire format.

use std::borrow::Cow;

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::prompt::{Reasoning, ToolCall};
use crate::{
    error::{ErrorClass, ProviderError},
    usage::Usage,
};

/// One piece of an answer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Delta<'a> {
    /// The start of the answer.
    Start {
        /// The vendor's id of the answer.
        id: Cow<'a, str>,
        /// The model that answers.
        model: Cow<'a, str>,
    },
    /// Text.
    Text(Cow<'a, str>),
    /// Text with which the model declines.
    Refusal(Cow<'a, str>),
    /// Reasoning text.
    Reasoning(Cow<'a, str>),
    /// Anthropic's signature, which ends a reasoning block.
    Signature(Cow<'a, str>),
    /// A reasoning block that the vendor encrypted.
    Redacted(Cow<'a, str>),
    /// The start of a tool call.
    Call {
        /// The number of the call, from 0.
        index: usize,
        /// The model's id of the call.
        id: Cow<'a, str>,
        /// The function.
        name: Cow<'a, str>,
    },
    /// A piece of a call's arguments.
    Arguments {
        /// The number of the call.
        index: usize,
        /// A part of the JSON text.
        json: Cow<'a, str>,
    },
    /// The usage so far; it replaces earlier counts.
    Usage(Usage),
    /// The stop reason.
    Stop(Stop),
}

impl Delta<'_> {
    /// Copies what is borrowed.
    pub fn into_owned(self) -> Delta<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Self::Start { id, model } => Delta::Start { id: own(id), model: own(model) },
            Self::Text(text) => Delta::Text(own(text)),
            Self::Refusal(text) => Delta::Refusal(own(text)),
            Self::Reasoning(text) => Delta::Reasoning(own(text)),
            Self::Signature(proof) => Delta::Signature(own(proof)),
            Self::Redacted(data) => Delta::Redacted(own(data)),
            Self::Call { index, id, name } => Delta::Call { index, id: own(id), name: own(name) },
            Self::Arguments { index, json } => Delta::Arguments { index, json: own(json) },
            Self::Usage(usage) => Delta::Usage(usage),
            Self::Stop(stop) => Delta::Stop(stop),
        }
    }

    /// Bytes that the delta adds to the answer.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) | Self::Refusal(text) | Self::Reasoning(text) => text.len(),
            Self::Signature(proof) => proof.len(),
            Self::Redacted(data) => data.len(),
            Self::Call { id, name, .. } => id.len() + name.len(),
            Self::Arguments { json, .. } => json.len(),
            Self::Start { .. } | Self::Usage(_) | Self::Stop(_) => 0,
        }
    }
}

/// Why an answer ended.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The model was finished.
    End,
    /// The limit of tokens, or the size of the context.
    Length,
    /// The model waits for the results of its calls.
    ToolCalls,
    /// One of the request's stop sequences.
    Sequence(String),
    /// The vendor's content filter.
    Filter,
    /// The model declined.
    Refusal,
}

/// One block of an answer: consecutive deltas of the same kind, joined.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// Text.
    Text(String),
    /// Text with which the model declines.
    Refusal(String),
    /// Reasoning.
    Reasoning(Reasoning),
    /// A tool call.
    Call(ToolCall),
}

/// The deltas of an answer so far, joined.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transcript {
    /// The vendor's id of the answer.
    pub id: String,
    /// The model that answers.
    pub model: String,
    /// The content, in order.
    pub blocks: Vec<Block>,
    /// The tokens used, if the vendor counted them.
    pub usage: Option<Usage>,
    /// The stop reason; `None` before the end.
    pub stop: Option<Stop>,
    /// The index in `blocks` of each call since the last [`begin_step`](Self::begin_step).
    calls: Vec<usize>,
    /// Bytes received, including those that were dropped.
    bytes: usize,
}

/// Most bytes of an answer that are kept; answers have a few hundred kilobytes at most. A longer answer is passed on to
/// the client, but cannot be continued by another provider.
const MAX_KEPT_BYTES: usize = 4 * 1024 * 1024;

impl Transcript {
    /// Builds the transcript of an answer from its blocks.
    pub fn of(
        id: String,
        model: String,
        blocks: Vec<Block>,
        usage: Option<Usage>,
        stop: Option<Stop>,
    ) -> Self {
        let whole = Self { id, model, blocks, usage, stop, ..Self::default() };
        let mut answer = Self::default();
        whole.deltas_after(&Self::default()).iter().for_each(|delta| answer.apply(delta));
        answer
    }

    /// Adds one delta.
    pub fn apply(&mut self, delta: &Delta<'_>) {
        self.bytes = self.bytes.saturating_add(delta.bytes());
        // Usage and stop reason have no bytes, and are kept even of an answer that is too long.
        if self.is_too_long() && delta.bytes() > 0 {
            return;
        }
        match delta {
            Delta::Start { id, model } => {
                id.as_ref().clone_into(&mut self.id);
                model.as_ref().clone_into(&mut self.model);
            }
            Delta::Text(text) => match self.blocks.last_mut() {
                Some(Block::Text(last)) => last.push_str(text),
                _ => self.blocks.push(Block::Text(text.to_string())),
            },
            Delta::Refusal(text) => match self.blocks.last_mut() {
                Some(Block::Refusal(last)) => last.push_str(text),
                _ => self.blocks.push(Block::Refusal(text.to_string())),
            },
            Delta::Reasoning(text) => match self.blocks.last_mut() {
                Some(Block::Reasoning(last)) if last.signature.is_none() && last.redacted.is_none() => {
                    last.text.push_str(text);
                }
                _ => self.push_reasoning(text, None, None),
            },
            Delta::Signature(proof) => match self.blocks.last_mut() {
                Some(Block::Reasoning(last)) => last.signature = Some(proof.to_string()),
                _ => self.push_reasoning("", Some(proof), None),
            },
            Delta::Redacted(data) => self.push_reasoning("", None, Some(data)),
            Delta::Call { id, name, .. } => {
                self.calls.push(self.blocks.len());
                let call = ToolCall { id: id.to_string(), name: name.to_string(), arguments: String::new() };
                self.blocks.push(Block::Call(call));
            }
            Delta::Arguments { index, json } => {
                let block = self.calls.get(*index).and_then(|at| self.blocks.get_mut(*at));
                if let Some(Block::Call(call)) = block {
                    call.arguments.push_str(json);
                }
            }
            Delta::Usage(usage) => self.usage = Some(*usage),
            Delta::Stop(stop) => self.stop = Some(stop.clone()),
        }
    }

    /// Removes all blocks from the one at `from` on.
    pub fn truncate(&mut self, from: usize) {
        self.blocks.truncate(from);
        self.calls.retain(|at| *at < from);
    }

    /// Begins another step of the same turn: its calls count from 0, and it has its own stop reason.
    pub fn begin_step(&mut self) {
        self.calls.clear();
        self.stop = None;
    }

    /// The deltas that turn `prefix`, with which `self` begins, into `self`.
    pub fn deltas_after(&self, prefix: &Self) -> Vec<Delta<'static>> {
        let mut deltas = Vec::new();
        if (&self.id, &self.model) != (&prefix.id, &prefix.model) {
            deltas.push(Delta::Start { id: self.id.clone().into(), model: self.model.clone().into() });
        }
        let mut calls = 0;
        for (at, block) in self.blocks.iter().enumerate() {
            let old = prefix.blocks.get(at);
            let rest = |all: &str, old: &str| all.strip_prefix(old).unwrap_or_default().to_owned();
            match (block, old) {
                (Block::Text(text), Some(Block::Text(old))) => {
                    deltas.push(Delta::Text(rest(text, old).into()))
                }
                (Block::Text(text), _) => deltas.push(Delta::Text(text.clone().into())),
                (Block::Refusal(text), Some(Block::Refusal(old))) => {
                    deltas.push(Delta::Refusal(rest(text, old).into()));
                }
                (Block::Refusal(text), _) => deltas.push(Delta::Refusal(text.clone().into())),
                (Block::Reasoning(thought), old) => {
                    let known = match old {
                        Some(Block::Reasoning(known)) => known.clone(),
                        _ => Reasoning::default(),
                    };
                    if let (Some(data), None) = (&thought.redacted, &known.redacted) {
                        deltas.push(Delta::Redacted(data.clone().into()));
                        continue;
                    }
                    // An empty delta opens a block that has only a signature, which would else go to the block before.
                    if old.is_none() || thought.text != known.text {
                        deltas.push(Delta::Reasoning(rest(&thought.text, &known.text).into()));
                    }
                    if let (Some(proof), None) = (&thought.signature, &known.signature) {
                        deltas.push(Delta::Signature(proof.clone().into()));
                    }
                }
                (Block::Call(call), old) => {
                    let (id, name) = (call.id.clone().into(), call.name.clone().into());
                    let known = match old {
                        Some(Block::Call(known)) => known.arguments.as_str(),
                        _ => {
                            deltas.push(Delta::Call { index: calls, id, name });
                            ""
                        }
                    };
                    let json = rest(&call.arguments, known).into();
                    deltas.push(Delta::Arguments { index: calls, json });
                    calls += 1;
                }
            }
        }
        // Empty pieces are dropped, except empty reasoning: see above.
        deltas.retain(|delta| match delta {
            Delta::Text(text) | Delta::Refusal(text) | Delta::Arguments { json: text, .. } => {
                !text.is_empty()
            }
            _ => true,
        });
        deltas.extend(self.usage.filter(|_| self.usage != prefix.usage).map(Delta::Usage));
        deltas.extend(self.stop.clone().filter(|_| self.stop != prefix.stop).map(Delta::Stop));
        deltas
    }

    fn push_reasoning(&mut self, text: &str, signature: Option<&str>, redacted: Option<&str>) {
        let [signature, redacted] = [signature, redacted].map(|part| part.map(str::to_owned));
        self.blocks.push(Block::Reasoning(Reasoning { text: text.into(), signature, redacted, by: None }));
    }

    /// The text so far, without refusals and reasoning.
    pub fn text(&self) -> String {
        let texts = self.blocks.iter().filter_map(|block| match block {
            Block::Text(text) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    /// The calls, in order.
    pub fn calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.blocks.iter().filter_map(|block| match block {
            Block::Call(call) => Some(call),
            _ => None,
        })
    }

    /// Whether the current step has a call.
    pub fn has_calls(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Bytes of the answer so far, for estimates where the vendor did not count tokens.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the answer is longer than the part that is kept.
    pub fn is_too_long(&self) -> bool {
        self.bytes > MAX_KEPT_BYTES
    }

    /// Fails if an ended answer has a call with truncated arguments, unless its stop reason explains them.
    pub(crate) fn check(&self) -> Result<(), ProviderError> {
        let is_complete = |call: &ToolCall| {
            let json = call.arguments.trim();
            json.is_empty() || serde_json::from_str::<IgnoredAny>(json).is_ok()
        };
        if self.may_be_cut() || self.calls().all(is_complete) {
            return Ok(());
        }
        Err(ProviderError::new(ErrorClass::Truncated, "the arguments of a tool call are not valid JSON"))
    }

    /// Whether an ended answer has a call whose arguments stop in the middle, although its stop reason says nothing of
    /// it. Arguments that are wrong in another way are the model's.
    pub(crate) fn has_half_call(&self) -> bool {
        let is_half = |call: &ToolCall| {
            let json = call.arguments.trim();
            !json.is_empty() && serde_json::from_str::<IgnoredAny>(json).is_err_and(|error| error.is_eof())
        };
        !self.may_be_cut() && self.calls().any(is_half)
    }

    /// Whether the answer may end in the middle of a call: its tokens were used up, a filter cut it, or not all of it is
    /// kept.
    fn may_be_cut(&self) -> bool {
        matches!(self.stop, Some(Stop::Length | Stop::Filter | Stop::Refusal)) || self.is_too_long()
    }
}
