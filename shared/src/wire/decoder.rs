//! Decodes a provider's answer, streamed or whole, into deltas: chooses the format's own decoder.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Format, chat, delta::Delta, error_body::ErrorBody, messages, responses};
use crate::error::{ErrorClass, ProviderError};

/// The kind of one event of an answer stream. The gateway sends nothing to the client before the first
/// [`Content`](Signal::Content), so that it can still fail over.
///
/// An event that this code does not know is at least progress: vendors add events, and a list of known ones would cut
/// off answers that are alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Says only that the provider is alive.
    KeepAlive,
    /// Progress, but no piece of the answer: its opening, role, filter results, usage.
    Frame,
    /// A piece of the answer: text, a tool call, reasoning, a refusal, or a delta of an unknown kind.
    Content,
    /// The stop reason: the answer is complete.
    Finish,
    /// The last event.
    Done,
    /// The provider reports an error in the middle of the stream.
    Error(ProviderError),
}

/// Decodes one answer stream.
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
    /// A decoder for a stream from its beginning.
    pub fn new(format: Format) -> Self {
        match format {
            Format::Responses => Self::Responses(responses::Decoder::default()),
            Format::Messages => Self::Messages(messages::Decoder::default()),
            Format::Chat | Format::Embeddings | Format::TokenCount => Self::Chat(chat::Decoder::default()),
        }
    }

    /// Classifies the event with this data; `sink` receives what it adds to the answer, in order.
    pub fn decode(&mut self, data: &[u8], sink: &mut dyn FnMut(Delta<'_>)) -> Signal {
        match self {
            Self::Chat(decoder) => decoder.decode(data, sink),
            Self::Responses(decoder) => decoder.decode(data, sink),
            Self::Messages(decoder) => decoder.decode(data, sink),
        }
    }

    /// Whether the answer is complete, even if the connection ended without the last event.
    pub fn is_complete(&self) -> bool {
        match self {
            Self::Chat(decoder) => decoder.is_complete(),
            Self::Responses(decoder) => decoder.is_complete(),
            Self::Messages(decoder) => decoder.is_complete(),
        }
    }

    /// The number of the last event; 0 for formats without event numbers.
    pub fn sequence(&self) -> u64 {
        match self {
            Self::Responses(decoder) => decoder.sequence(),
            Self::Chat(_) | Self::Messages(_) => 0,
        }
    }
}

/// Decodes an answer that is not streamed. Fails if it is not an answer of `format`.
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

/// Parses an answer. `what` names its kind with an article, for the error.
pub(super) fn parse_answer<'a, T: Deserialize<'a>>(body: &'a [u8], what: &str) -> Result<T, ProviderError> {
    if body.trim_ascii().is_empty() {
        return Err(ProviderError::new(ErrorClass::Server, "the provider sent an empty body"));
    }
    let not_an_answer =
        |_| ProviderError::new(ErrorClass::Server, format!("the body that the provider sent is not {what}"));
    serde_json::from_slice(body).map_err(not_an_answer)
}

/// Fails with the error of an answer that has one.
pub(super) fn no_error(error: Option<&RawValue>) -> Result<(), ProviderError> {
    error
        .filter(|raw| raw.get() != "null")
        .map_or(Ok(()), |raw| Err(ErrorBody::in_band(raw.get().as_bytes())))
}

/// The error for a stop reason that says that the answer broke off; `None` for any other.
///
/// OpenRouter and Mistral have `error`, vLLM `abort`, DeepSeek `insufficient_system_resource`, Zhipu `network_error`, Google
/// `MALFORMED_FUNCTION_CALL`. Servers invent names for a clean end, so those of the other kind are listed.
pub(super) fn broken_off(reason: &str) -> Option<ProviderError> {
    const WORDS: [&str; 9] =
        ["error", "abort", "cancel", "fail", "interrupt", "malformed", "timeout", "overload", "insufficient"];
    let reason = reason.to_ascii_lowercase();
    let word = WORDS.into_iter().find(|word| reason.contains(word))?;
    let class = match word {
        "overload" | "insufficient" => ErrorClass::Overloaded,
        _ => ErrorClass::Truncated,
    };
    Some(ProviderError::new(class, "the provider's stop reason says that the answer broke off"))
}

/// The signal for an event of a type that this code does not know, in the formats whose events have types.
pub(super) fn unknown_event(kind: &str) -> Signal {
    match kind {
        "ping" | "keepalive" => Signal::KeepAlive,
        delta if delta.ends_with("delta") => Signal::Content,
        _ => Signal::Frame,
    }
}

/// The signal for an event whose JSON cannot be parsed.
pub(super) fn truncated_json() -> Signal {
    Signal::Error(ProviderError::new(ErrorClass::Truncated, "the stream contains an event with invalid JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_to_be_a_keep_alive_is_progress() {
        let check = |format, data: &str, expected: Signal| {
            let signal = Decoder::new(format).decode(data.as_bytes(), &mut |_| ());
            assert_eq!(signal, expected, "{data}");
        };
        let messages = |data: &str, expected| check(Format::Messages, data, expected);
        messages(r#"{"type":"ping"}"#, Signal::KeepAlive);
        messages(r#"{"type":"news"}"#, Signal::Frame);
        messages(
            r#"{"type":"content_block_start","content_block":{"type":"thinking","thinking":""}}"#,
            Signal::Frame,
        );
        messages(
            r#"{"type":"content_block_start","content_block":{"type":"text","text":""}}"#,
            Signal::Frame,
        );
        messages(
            r#"{"type":"content_block_start","content_block":{"type":"server_tool_use"}}"#,
            Signal::Content,
        );
        messages(
            r#"{"type":"content_block_start","content_block":{"type":"redacted_thinking"}}"#,
            Signal::Content,
        );
        messages(r#"{"type":"content_block_delta","delta":{"type":"citations_delta"}}"#, Signal::Content);
        let responses = |data: &str, expected| check(Format::Responses, data, expected);
        responses(r#"{"type":"keepalive"}"#, Signal::KeepAlive);
        responses(r#"{"type":"response.in_progress"}"#, Signal::Frame);
        responses(r#"{"type":"response.output_item.added","item":{"type":"reasoning"}}"#, Signal::Frame);
        responses(
            r#"{"type":"response.output_item.added","item":{"type":"custom_tool_call"}}"#,
            Signal::Content,
        );
        responses(r#"{"type":"response.custom_tool_call_input.delta","delta":"*"}"#, Signal::Content);
    }
}
