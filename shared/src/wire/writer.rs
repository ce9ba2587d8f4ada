//! Writes an answer from deltas in the format of the client's request: chooses the format's own writer. Sends nothing.

use serde_json::Value;

use super::{
    Decoder, Format, chat,
    delta::{Delta, Transcript},
    messages,
    prompt::ClientTools,
    responses,
};

/// The fields of an answer that do not come from the model.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// The answer's id, with the prefix of its format.
    pub id: String,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// The model's name, until the provider reports one.
    pub model: String,
    /// Whether a stream of chat chunks ends with the usage.
    pub wants_usage: bool,
    /// Estimated input tokens, until the provider counts them.
    pub estimated_input: u64,
    /// When the answer was complete, in seconds since the Unix epoch, if known.
    pub completed: Option<u64>,
    /// The request, for the formats whose answers repeat it.
    pub request: Option<Value>,
    /// The tools that are more than functions to the client.
    pub client_tools: ClientTools,
    /// The provider that answered and the cost, once known: the content of [`MARK`].
    pub mark: Option<Value>,
}

impl Frame {
    /// The id of an answer to the request `id`.
    pub fn id(format: Format, id: &str) -> String {
        let prefix = match format {
            Format::Responses => "resp_",
            Format::Messages => "msg_",
            Format::Chat | Format::Embeddings | Format::TokenCount => "chatcmpl-",
        };
        format!("{prefix}{id}")
    }
}

/// Writes the events of one stream.
#[derive(Debug)]
pub enum Writer {
    /// Chat completion chunks.
    Chat(chat::Writer),
    /// Response events.
    Responses(Box<responses::Writer>),
    /// Message events.
    Messages(messages::Writer),
}

impl Writer {
    /// A writer for a stream from its beginning; `None` for formats without streams.
    pub fn new(format: Format, frame: Frame) -> Option<Self> {
        match format {
            Format::Chat => Some(Self::Chat(chat::Writer::new(frame))),
            Format::Responses => Some(Self::Responses(Box::new(responses::Writer::new(frame)))),
            Format::Messages => Some(Self::Messages(messages::Writer::new(frame))),
            Format::Embeddings | Format::TokenCount => None,
        }
    }

    /// A writer that continues a stream whose events so far were passed on unchanged. `answer` and `decoder` are the
    /// state after them.
    ///
    /// `None` if they do not tell where to continue.
    pub fn resume(format: Format, frame: Frame, answer: &Transcript, decoder: &Decoder) -> Option<Self> {
        let frame = Frame { id: answer.id.clone(), model: answer.model.clone(), ..frame };
        match (format, decoder) {
            (Format::Chat, Decoder::Chat(decoder)) => {
                (!decoder.holds_call()).then(|| Self::Chat(chat::Writer::new(frame).already_started()))
            }
            (Format::Messages, Decoder::Messages(decoder)) => {
                let (blocks, open) = decoder.position();
                Some(Self::Messages(messages::Writer::new(frame).resumed_after(blocks, open, answer)))
            }
            (Format::Responses, Decoder::Responses(decoder)) => responses::Writer::new(frame)
                .resumed_after(decoder, answer)
                .map(Box::new)
                .map(Self::Responses),
            _ => None,
        }
    }

    /// Writes the events of one delta.
    pub fn write(&mut self, delta: &Delta<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Chat(writer) => writer.write(delta, out),
            Self::Responses(writer) => writer.write(delta, out),
            Self::Messages(writer) => writer.write(delta, out),
        }
    }

    /// Ends the answer. The last event has `mark` under [`MARK`].
    pub fn finish(&mut self, mark: Option<&Value>, out: &mut Vec<u8>) {
        match self {
            Self::Chat(writer) => writer.finish(mark, out),
            Self::Responses(writer) => writer.finish(mark, out),
            Self::Messages(writer) => writer.finish(mark, out),
        }
    }

    /// Ends the stream with an error.
    pub fn fail(&mut self, message: &str, out: &mut Vec<u8>) {
        match self {
            Self::Chat(_) => fail_chat(message, out),
            Self::Responses(writer) => writer.fail(message, out),
            Self::Messages(_) => fail_messages(message, out),
        }
    }
}

/// Writes the error event that ends a stream whose events were passed on unchanged. `sequence` is the last event's
/// number.
pub fn fail(format: Format, message: &str, sequence: u64, out: &mut Vec<u8>) {
    match format {
        Format::Messages => fail_messages(message, out),
        Format::Responses => responses::fail(message, sequence, out),
        Format::Chat | Format::Embeddings | Format::TokenCount => fail_chat(message, out),
    }
}

/// An event or comment that keeps the connection alive and that no client takes for content.
pub fn keep_alive(format: Format) -> &'static [u8] {
    match format {
        Format::Messages => b"event: ping\ndata: {\"type\":\"ping\"}\n\n",
        _ => b": keep-alive\n\n",
    }
}

/// The body of an answer that is not streamed.
pub fn whole(format: Format, frame: &Frame, answer: &Transcript) -> Value {
    match format {
        Format::Responses => responses::whole(frame, answer),
        Format::Messages => messages::whole(frame, answer),
        Format::Chat | Format::Embeddings | Format::TokenCount => chat::whole(frame, answer),
    }
}

/// The field of an answer that says which providers made it and what it cost. No vendor's format has such a field.
pub const MARK: &str = "x-outlive";

fn fail_chat(message: &str, out: &mut Vec<u8>) {
    let error = serde_json::json!({"error": {
        "message": message, "type": "server_error", "param": null, "code": INTERRUPTED,
    }});
    event(None, &error, out);
}

fn fail_messages(message: &str, out: &mut Vec<u8>) {
    let error = serde_json::json!({"type": "error", "error": {"type": "api_error", "message": message}});
    event(Some("error"), &error, out);
}

/// The error code of a stream that ended before the answer was complete.
pub const INTERRUPTED: &str = "stream_interrupted";

/// Writes one event. JSON text contains no line breaks, so one data line is enough.
pub(super) fn event(name: Option<&str>, data: &impl std::fmt::Display, out: &mut Vec<u8>) {
    use std::io::Write;
    // Writing to a `Vec` does not fail.
    let _ = match name {
        Some(name) => write!(out, "event: {name}\ndata: {data}\n\n"),
        None => write!(out, "data: {data}\n\n"),
    };
}

/// A text as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Arguments as valid JSON text: some vendors send nothing for a call without arguments.
pub(super) fn arguments(json: &str) -> &str {
    if json.trim().is_empty() { "{}" } else { json }
}
