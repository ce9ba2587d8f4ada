//! The wire formats of vendors, each in both directions: a request is read and written, and so is an answer.
//!
//! What is asked in one format and answered in another goes through [`Prompt`] and [`Delta`], which belong to none.

pub mod chat;
pub mod decoder;
pub mod delta;
pub mod embeddings;
mod error;
pub mod extras;
mod fields;
pub mod messages;
pub(crate) mod openai;
pub mod prompt;
pub(crate) mod raw;
pub mod request;
pub mod responses;
pub mod sse;
pub mod writer;

pub use decoder::{Decoder, Signal};
pub use delta::{Block, Delta, Stop, Transcript};
pub use error::RequestError;
pub use extras::Extras;
pub use prompt::Prompt;
pub use request::Request;
pub use writer::{Frame, Writer};

/// How a request and its answer are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's responses.
    Responses,
    /// Anthropic's messages.
    Messages,
    /// OpenAI's embeddings.
    Embeddings,
    /// Anthropic's counting of a message's tokens.
    TokenCount,
}

impl Format {
    /// The word for it in the status and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::Embeddings => "embeddings",
            Self::TokenCount => "token_count",
        }
    }

    /// Whether its answers can be streamed.
    pub fn can_stream(self) -> bool {
        matches!(self, Self::Chat | Self::Responses | Self::Messages)
    }

    /// The field that bounds the answer, where there is one.
    fn limit_name(self) -> Option<&'static str> {
        match self {
            Self::Chat => Some("max_completion_tokens"),
            Self::Responses => Some("max_output_tokens"),
            Self::Messages => Some("max_tokens"),
            Self::Embeddings | Self::TokenCount => None,
        }
    }

    /// What a body of this format asks.
    fn read(self, body: &[u8]) -> Result<Prompt, RequestError> {
        match self {
            Self::Chat => chat::read(body),
            Self::Responses => responses::read(body),
            Self::Messages | Self::TokenCount => messages::read(body),
            Self::Embeddings => Ok(Prompt { untranslatable: vec!["input".into()], ..Prompt::default() }),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
