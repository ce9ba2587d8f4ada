use std::{
    borrow::Cow,
    collections::{BTreeSet, VecDeque},
};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{super::ApiError, message::Lane};
use crate::session::history;

/// Most bytes of the messages and answers that a connection knows: several of the longest prompts of text, and little of
/// the 128 MB that an isolate has.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// What came before and up to a response.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Context {
    /// The response in a log that the items continue; itself where the log keeps it, and there are none.
    pub(super) base: Option<String>,
    /// What no log keeps: items as JSON, with commas in between. Read, they would take many times as much.
    items: String,
    /// Which calls are among them.
    calls: BTreeSet<String>,
}

/// The part of an item that is looked at.
#[derive(Deserialize)]
struct ItemOutline<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    call_id: Option<Cow<'a, str>>,
}

impl Context {
    /// What is in the log that keeps the response `base`.
    pub(super) fn logged(base: Option<String>) -> Self {
        Self { base, ..Self::default() }
    }

    /// The items as the input of a request.
    pub(super) fn input(&self) -> String {
        format!("[{}]", self.items)
    }

    /// What is said next. A result needs its call, if all that came before is here; anything else that is wrong with an item
    /// is for the node to say.
    pub(super) fn push<'a>(&mut self, items: impl IntoIterator<Item = &'a RawValue>) -> Result<(), ApiError> {
        for item in items {
            let ItemOutline { kind, call_id } =
                serde_json::from_str(item.get()).unwrap_or(ItemOutline { kind: None, call_id: None });
            let (kind, id) = (kind.unwrap_or_default(), call_id.unwrap_or_default());
            if history::is_call(&kind) {
                self.calls.insert(id.into_owned());
            } else if history::is_output(&kind) && self.base.is_none() && !self.calls.contains(&*id) {
                return Err(ApiError::orphan(&id));
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

/// What a connection knows: the newest response of each lane, as long as there is room. Those used last are last.
#[derive(Default)]
pub(super) struct Contexts(VecDeque<(Lane, String, Context)>);

impl Contexts {
    pub(super) fn find(&self, response: &str) -> Option<&Context> {
        self.0.iter().find(|(_, id, _)| id == response).map(|(.., context)| context)
    }

    /// Keeps what the response `id` is the end of, in place of what its lane had.
    pub(super) fn keep(&mut self, lane: &Lane, id: String, context: Context) {
        self.0.retain(|(other, ..)| other != lane);
        self.0.push_back((lane.clone(), id, context));
        let mut bytes: usize = self.0.iter().map(|(.., context)| context.bytes()).sum();
        while bytes > MAX_BYTES
            && let Some((.., context)) = self.0.pop_front()
        {
            bytes -= context.bytes();
        }
    }

    /// Forgets a response that could not be continued.
    pub(super) fn evict(&mut self, response: &str) {
        self.0.retain(|(_, id, _)| id != response);
    }
}
