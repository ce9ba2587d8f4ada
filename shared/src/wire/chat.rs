//! Reads, writes and adapts chat completions, as OpenAI and compatible servers use them.
//!
//! Source: <https://developers.openai.com/api/reference>. Deviations of compatible servers are noted where they are
//! handled.

mod answer;
mod decode;
mod read;
mod write;

pub use answer::Writer;
pub(super) use answer::whole;
pub use decode::{Decoder, decode_whole};
pub use read::{adapt, read};
pub use write::{Dialect, write};
pub(super) use write::{MAX_NAME, system_texts};
