//! Remembers the items of a connection's responses that no log stores, so that its client can continue them. Knows
//! nothing of requests and events.

use std::{
    borrow::Cow,
    collections::{BTreeSet, VecDeque},
};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{super::ApiError, message::Lane};
use crate::session::history;

/// Most bytes of items that a connection remembers: several of the longest text prompts, and little of an isolate's
/// 128 MB.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The history up to and including a response.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Context {
    /// The stored response that the items continue. For a response that is stored itself: its id, and no items.
    pub(super) base: Option<String>,
    /// The items that no log stores, as JSON with commas in between: parsed, they would take many times the memory.
    items: String,
    /// The ids of the calls among the items.
    calls: BTreeSet<String>,
}

/// The fields of an item that decide whether it may follow.
#[derive(Deserialize)]
struct ItemOutline<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    call_id: Option<Cow<'a, str>>,
}

impl Context {
    /// The history that ends with the stored response `base`; empty if there is none.
    pub(super) fn stored(base: Option<String>) -> Self {
        Self { base, ..Self::default() }
    }

    /// The items as the input of a request.
    pub(super) fn input(&self) -> String {
        format!("[{}]", self.items)
    }

    /// Appends items. If the whole history is here, an output needs its call before it. All other errors in items are
    /// left to the node, which parses the request.
    pub(super) fn push<'a>(&mut self, items: impl IntoIterator<Item = &'a RawValue>) -> Result<(), ApiError> {
        for item in items {
            let ItemOutline { kind, call_id } =
                serde_json::from_str(item.get()).unwrap_or(ItemOutline { kind: None, call_id: None });
            let (kind, id) = (kind.unwrap_or_default(), call_id.unwrap_or_default());
            if history::is_call(&kind) {
                self.calls.insert(id.into_owned());
            } else if history::is_output(&kind) && self.base.is_none() && !self.calls.contains(&*id) {
                return Err(ApiError::unmatched_output(&id));
            }
            if !self.items.is_empty() {
                self.items.push(',');
            }
            self.items.push_str(item.get());
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.items.len()
    }
}

/// The newest response of each lane, as far as they fit into [`MAX_BYTES`]. The oldest is first and is dropped first.
#[derive(Default)]
pub(super) struct Contexts(VecDeque<(Lane, String, Context)>);

impl Contexts {
    pub(super) fn find(&self, response: &str) -> Option<&Context> {
        self.0.iter().find(|(_, id, _)| id == response).map(|(.., context)| context)
    }

    /// Remembers the history that ends with the response `id`, in place of the lane's former one.
    pub(super) fn insert(&mut self, lane: &Lane, id: String, context: Context) {
        self.0.retain(|(other, ..)| other != lane);
        self.0.push_back((lane.clone(), id, context));
        let mut bytes: usize = self.0.iter().map(|(.., context)| context.bytes()).sum();
        while bytes > MAX_BYTES
            && let Some((.., context)) = self.0.pop_front()
        {
            bytes -= context.bytes();
        }
    }

    /// Forgets a response.
    pub(super) fn evict(&mut self, response: &str) {
        self.0.retain(|(_, id, _)| id != response);
    }
}
