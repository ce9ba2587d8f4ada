use std::collections::VecDeque;

use serde_json::Value;

use super::message::Lane;

/// Most bytes of the messages and answers that a connection knows: several of the longest prompts of text, and little of
/// the 128 MB that an isolate has.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// What came before and up to a response.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Context {
    /// The response in a log that the items continue; itself where the log keeps it, and there are none.
    pub(super) base: Option<String>,
    /// What no log keeps.
    pub(super) items: Vec<Value>,
    /// About how many bytes they are.
    pub(super) bytes: usize,
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
        let mut bytes: usize = self.0.iter().map(|(.., context)| context.bytes).sum();
        while bytes > MAX_BYTES
            && let Some((.., context)) = self.0.pop_front()
        {
            bytes -= context.bytes;
        }
    }

    /// Forgets a response that could not be continued.
    pub(super) fn evict(&mut self, response: &str) {
        self.0.retain(|(_, id, _)| id != response);
    }
}
