//! Reads and writes OpenAI's responses. Their storage is in `api` and `session`.
//!
//! Source: <https://developers.openai.com/api/reference/resources/responses>.

mod answer;
mod compaction;
mod decode;
mod item;
mod object;
mod read;
mod write;

pub use answer::Writer;
pub(super) use answer::{fail, whole};
pub use compaction::{compaction_item, compaction_summary, summary_message};
pub use decode::{Decoder, decode_whole};
pub use item::{CallResult, NodeCall, approval_request, item, item_id, item_status, mcp_call, node_call_id};
pub use object::usage_object;
pub use read::read;
pub use write::{MIN_OUTPUT, write};

/// The field of a `reasoning` item that carries its signed or encrypted reasoning from the log to a prompt.
pub const REASONING_FIELD: &str = "x-outlive-thought";
