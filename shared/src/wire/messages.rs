//! Reads and writes Anthropic's messages.
//!
//! Source: <https://platform.claude.com/docs/en/api/messages>.

mod answer;
mod decode;
mod read;
mod schema;
mod write;

pub use answer::Writer;
pub(super) use answer::whole;
pub use decode::{Decoder, decode_count, decode_whole};
pub use read::{adapt, must_not_think, read};
pub use write::{Dialect, write};
