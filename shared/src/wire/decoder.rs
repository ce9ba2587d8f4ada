//! An answer of a provider, in whichever format it speaks.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Format, chat, delta::Delta, messages, openai, responses};
use crate::error::{ErrorClass, ProviderError};

/// What one event of an answer stream is, for the rule that nothing is sent before the first content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Opens the answer, or says something beside it: role, filter results, usage.
    Frame,
    /// A piece of the answer: text, a tool call, reasoning, a refusal.
    Content,
    /// The provider says why the answer ends: with this, the answer is whole.
    Finish,
    /// The last event.
    Done,
    /// The provider gives up in the middle.
    Error(ProviderError),
}

/// Follows one answer stream.
#[derive(Debug)]
pub enum Decoder {
    /// Chunks.
    Chat(chat::Decoder),
    /// Response events.
    Responses(responses::Decoder),
    /// Message events.
    Messages(messages::Decoder),
}

impl Decoder {
    /// A decoder of a stream that has not begun.
    pub fn new(format: Format) -> Self {
        match format {
            Format::Responses => Self::Responses(responses::Decoder::default()),
            Format::Messages => Self::Messages(messages::Decoder::default()),
            Format::Chat | Format::Embeddings | Format::TokenCount => Self::Chat(chat::Decoder::default()),
        }
    }

    /// What the event with this data is; `sink` gets what it adds to the answer, in order.
    pub fn decode(&mut self, data: &[u8], sink: &mut dyn FnMut(Delta<'_>)) -> Signal {
        match self {
            Self::Chat(decoder) => decoder.decode(data, sink),
            Self::Responses(decoder) => decoder.decode(data, sink),
            Self::Messages(decoder) => decoder.decode(data, sink),
        }
    }

    /// Whether the answer is whole, even if the connection ended without the last event.
    pub fn is_complete(&self) -> bool {
        match self {
            Self::Chat(decoder) => decoder.is_complete(),
            Self::Responses(decoder) => decoder.is_complete(),
            Self::Messages(decoder) => decoder.is_complete(),
        }
    }

    /// The number of the last event, in the format that numbers them.
    pub fn sequence(&self) -> u64 {
        match self {
            Self::Responses(decoder) => decoder.sequence(),
            Self::Chat(_) | Self::Messages(_) => 0,
        }
    }
}

/// Whether a whole answer is one, and what it says.
pub fn decode_whole(
    format: Format,
    body: &Bytes,
    sink: &mut dyn FnMut(Delta<'_>),
) -> Result<(), ProviderError> {
    match format {
        Format::Chat => chat::decode_whole(body, sink),
        Format::Responses => responses::decode_whole(body, sink),
        Format::Messages => messages::decode_whole(body, sink),
        Format::Embeddings => super::embeddings::decode(body, sink),
        Format::TokenCount => super::messages::decode_count(body),
    }
}

/// An answer that is JSON of the shape that was asked for.
pub(super) fn parse_answer<'a, T: Deserialize<'a>>(body: &'a [u8], what: &str) -> Result<T, ProviderError> {
    let server = |what: &str| ProviderError::new(ErrorClass::Server, format!("the provider answered {what}"));
    if body.trim_ascii().is_empty() {
        return Err(server("an empty body"));
    }
    serde_json::from_slice(body).map_err(|_| server(&format!("what is not {what}")))
}

/// Fails if there is an error where an answer should be.
pub(super) fn no_error(error: Option<&RawValue>) -> Result<(), ProviderError> {
    error.filter(|raw| raw.get() != "null").map_or(Ok(()), |raw| Err(openai::in_band(raw)))
}

/// What an event is that can't be read.
pub(super) fn truncated_json() -> Signal {
    Signal::Error(ProviderError::new(ErrorClass::Truncated, "the stream holds torn JSON"))
}
