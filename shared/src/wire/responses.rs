//! OpenAI's responses, as far as they need no memory.
//!
//! Source: <https://developers.openai.com/api/reference/resources/responses>.

mod answer;
mod decode;
mod read;

pub use answer::Writer;
pub(super) use answer::{fail, whole};
pub use decode::{Decoder, decode_whole};
pub use read::read;
