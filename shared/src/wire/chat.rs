//! OpenAI's chat completions, as OpenAI and everybody compatible with it speak them.
//!
//! Source: <https://developers.openai.com/api/reference>; the traps of compatible servers are noted where they are met.

mod answer;
mod decode;
mod read;
mod write;

pub use answer::Writer;
pub(super) use answer::whole;
pub use decode::{Decoder, decode_whole};
pub use read::read;
pub use write::{Dialect, write};
