//! OpenAI's responses.
//!
//! Source: <https://developers.openai.com/api/reference/resources/responses>.

mod answer;
mod compaction;
mod decode;
mod item;
mod object;
mod read;

pub use answer::Writer;
pub(super) use answer::{fail, whole};
pub use compaction::{compacted, compaction, introduce};
pub use decode::{Decoder, decode_whole};
pub use item::{CallResult, Served, approval_request, item, item_id, item_status, mcp_call, served_id};
pub use object::usage_object;
pub use read::read;

/// Where an item of a thought has the thought itself, on its way from the log to a prompt.
pub const THOUGHT: &str = "x-outlive-thought";
