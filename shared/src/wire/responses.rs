//! OpenAI's responses.
//!
//! Source: <https://developers.openai.com/api/reference/resources/responses>.

mod answer;
mod decode;
mod read;

pub use answer::{
    CallResult, Served, Writer, approval_request, item, item_id, item_status, mcp_call, served_id,
};
pub(super) use answer::{fail, whole};
pub use decode::{Decoder, decode_whole};
pub use read::read;
