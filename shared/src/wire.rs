//! Reads and writes requests and answers in the vendors' wire formats. Sends nothing and knows no URLs or headers.
//!
//! A request in one format that a provider of another format answers is translated through [`Prompt`] and [`Delta`],
//! which belong to no vendor.

pub mod chat;
pub mod decoder;
pub mod delta;
pub mod embeddings;
mod error;
pub(crate) mod error_body;
pub mod extras;
mod fields;
pub mod hint;
pub mod messages;
pub(crate) mod openai;
pub mod pace;
mod prefix;
pub mod prompt;
pub(crate) mod raw;
pub mod request;
pub mod responses;
pub mod sse;
pub mod tool_names;
pub mod writer;
pub mod written;

pub use decoder::{Decoder, Signal};
pub use delta::{Block, Delta, Stop, Transcript};
pub use error::RequestError;
pub use extras::Extras;
pub use pace::Pace;
pub use prompt::Prompt;
pub use request::Request;
pub use tool_names::ToolNames;
pub use writer::{Frame, Writer};
pub use written::Written;

/// The wire format of a request and of its answer.
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
    /// Anthropic's token counting (`/v1/messages/count_tokens`).
    TokenCount,
}

impl Format {
    /// Its name in the status and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::Embeddings => "embeddings",
            Self::TokenCount => "token_count",
        }
    }

    /// Whether answers in this format can be streamed.
    pub fn can_stream(self) -> bool {
        matches!(self, Self::Chat | Self::Responses | Self::Messages)
    }

    /// Whether its answers can be limited in their tokens.
    pub(crate) fn has_limit(self) -> bool {
        matches!(self, Self::Chat | Self::Responses | Self::Messages)
    }

    /// Translates a body of this format. Embeddings cannot be translated, so their prompt says so.
    async fn read(self, body: &[u8]) -> Result<Prompt, RequestError> {
        match self {
            Self::Chat => chat::read(body).await,
            Self::Responses => responses::read(body).await,
            Self::Messages | Self::TokenCount => messages::read(body).await,
            Self::Embeddings => Ok(Prompt { untranslatable: vec!["input".into()], ..Prompt::default() }),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
