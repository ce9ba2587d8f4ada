//! OpenAI's responses.
//!
//! Source: <https://developers.openai.com/api/reference/resources/responses>.

mod answer;
mod compaction;
mod decode;
mod read;

pub use answer::{
    CallResult, Served, Writer, approval_request, item, item_id, item_status, mcp_call, served_id,
    usage_object,
};
pub(super) use answer::{fail, whole};
pub use compaction::{compacted, compaction, introduce};
pub use decode::{Decoder, decode_whole};
pub use read::read;
