//! An answer of a model in no vendor's words: as it comes, and as it adds up.

use std::borrow::Cow;

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::prompt::{Reasoning, ToolCall};
use crate::{
    error::{ErrorClass, ProviderError},
    usage::Usage,
};

/// One more piece of an answer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Delta<'a> {
    /// The answer begins.
    Start {
        /// The vendor's name for it.
        id: Cow<'a, str>,
        /// The model that answers.
        model: Cow<'a, str>,
    },
    /// Words.
    Text(Cow<'a, str>),
    /// Words that decline.
    Refusal(Cow<'a, str>),
    /// Thoughts.
    Reasoning(Cow<'a, str>),
    /// The proof that ends a thought.
    Signature(Cow<'a, str>),
    /// A thought that nobody may read.
    Redacted(Cow<'a, str>),
    /// A call begins. Calls are counted from 0.
    Call {
        /// Which call.
        index: usize,
        /// The model's name for it.
        id: Cow<'a, str>,
        /// The function.
        name: Cow<'a, str>,
    },
    /// A piece of a call's arguments.
    Arguments {
        /// Which call.
        index: usize,
        /// JSON text.
        json: Cow<'a, str>,
    },
    /// What was used so far; it replaces what was said before.
    Usage(Usage),
    /// Why the answer ends.
    Stop(Stop),
}

impl Delta<'_> {
    /// The same, without a loan.
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

    /// How many bytes of the answer are in it.
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

/// Why an answer ends.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The model has said all.
    End,
    /// The limit of tokens, or of the context.
    Length,
    /// It waits for the results of its calls.
    ToolCalls,
    /// One of the texts at which it was to end.
    Sequence(String),
    /// A filter of the vendor.
    Filter,
    /// The model declined.
    Refusal,
}

/// A piece of an answer that has come.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// Words.
    Text(String),
    /// Words that decline.
    Refusal(String),
    /// Thoughts.
    Reasoning(Reasoning),
    /// A call.
    Call(ToolCall),
}

/// All that has come of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transcript {
    /// The vendor's name for it.
    pub id: String,
    /// The model that answers.
    pub model: String,
    /// What was said, in order.
    pub blocks: Vec<Block>,
    /// The tokens it took, if the vendor said.
    pub usage: Option<Usage>,
    /// Why it ended; `None` while it goes on.
    pub stop: Option<Stop>,
    /// Where the calls are in `blocks`.
    calls: Vec<usize>,
    /// Bytes that have come, kept or not.
    bytes: usize,
}

/// Answers are a few hundred kilobytes at most; what is above is not kept, and then not rescued either.
const MAX_KEPT_BYTES: usize = 4 * 1024 * 1024;

impl Transcript {
    /// An answer that has ended.
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

    /// Takes one more piece in.
    pub fn apply(&mut self, delta: &Delta<'_>) {
        self.bytes = self.bytes.saturating_add(delta.bytes());
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
                _ => self.thought(text, None, None),
            },
            Delta::Signature(proof) => match self.blocks.last_mut() {
                Some(Block::Reasoning(last)) => last.signature = Some(proof.to_string()),
                _ => self.thought("", Some(proof), None),
            },
            Delta::Redacted(data) => self.thought("", None, Some(data)),
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

    /// Forgets all blocks from the one at `from` on.
    pub fn truncate(&mut self, from: usize) {
        self.blocks.truncate(from);
        self.calls.retain(|at| *at < from);
    }

    /// From here on calls are counted anew, and another end is waited for.
    pub fn step(&mut self) {
        self.calls.clear();
        self.stop = None;
    }

    /// What `self` says beyond `begun`, which it begins with: the deltas that make the one of the other.
    pub fn deltas_after(&self, begun: &Self) -> Vec<Delta<'static>> {
        let mut deltas = Vec::new();
        if (&self.id, &self.model) != (&begun.id, &begun.model) {
            deltas.push(Delta::Start { id: self.id.clone().into(), model: self.model.clone().into() });
        }
        let mut calls = 0;
        for (at, block) in self.blocks.iter().enumerate() {
            let old = begun.blocks.get(at);
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
                    let begun = match old {
                        Some(Block::Reasoning(begun)) => begun.clone(),
                        _ => Reasoning::default(),
                    };
                    if let (Some(data), None) = (&thought.redacted, &begun.redacted) {
                        deltas.push(Delta::Redacted(data.clone().into()));
                        continue;
                    }
                    // An empty one opens a block that holds a proof alone.
                    if old.is_none() || thought.text != begun.text {
                        deltas.push(Delta::Reasoning(rest(&thought.text, &begun.text).into()));
                    }
                    if let (Some(proof), None) = (&thought.signature, &begun.signature) {
                        deltas.push(Delta::Signature(proof.clone().into()));
                    }
                }
                (Block::Call(call), old) => {
                    let (id, name) = (call.id.clone().into(), call.name.clone().into());
                    let begun = match old {
                        Some(Block::Call(begun)) => begun.arguments.as_str(),
                        _ => {
                            deltas.push(Delta::Call { index: calls, id, name });
                            ""
                        }
                    };
                    let json = rest(&call.arguments, begun).into();
                    deltas.push(Delta::Arguments { index: calls, json });
                    calls += 1;
                }
            }
        }
        deltas.retain(|delta| match delta {
            Delta::Text(text) | Delta::Refusal(text) | Delta::Arguments { json: text, .. } => {
                !text.is_empty()
            }
            _ => true,
        });
        deltas.extend(self.usage.filter(|_| self.usage != begun.usage).map(Delta::Usage));
        deltas.extend(self.stop.clone().filter(|_| self.stop != begun.stop).map(Delta::Stop));
        deltas
    }

    fn thought(&mut self, text: &str, signature: Option<&str>, redacted: Option<&str>) {
        let [signature, redacted] = [signature, redacted].map(|part| part.map(str::to_owned));
        self.blocks.push(Block::Reasoning(Reasoning { text: text.into(), signature, redacted, by: None }));
    }

    /// The words so far.
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

    /// Whether any call has begun.
    pub fn has_calls(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Bytes of the answer so far, to estimate tokens where the vendor did not count them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether so much was said that it is not all kept.
    pub fn is_too_long(&self) -> bool {
        self.bytes > MAX_KEPT_BYTES
    }

    /// Whether the calls of an answer that has ended can be made: half a call is none, unless a limit cut it.
    pub(crate) fn check(&self) -> Result<(), ProviderError> {
        let whole = |call: &ToolCall| {
            let json = call.arguments.trim();
            json.is_empty() || serde_json::from_str::<IgnoredAny>(json).is_ok()
        };
        if self.stop == Some(Stop::Length) || self.is_too_long() || self.calls().all(whole) {
            return Ok(());
        }
        Err(ProviderError::new(ErrorClass::Truncated, "the arguments of a call are not JSON"))
    }
}
