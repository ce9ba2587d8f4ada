//! An answer for the client, in the format of its request, from deltas of whichever format the provider speaks.

use serde_json::Value;

use super::{
    Decoder, Format, chat,
    delta::{Delta, Transcript},
    messages, responses,
};

/// What an answer says besides what the model said.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// The answer's id, with the prefix of its format.
    pub id: String,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// Who answers, until the provider says it.
    pub model: String,
    /// Whether the client asked for the usage at the end of a stream of chunks.
    pub wants_usage: bool,
    /// Input tokens, as far as can be told before the provider says.
    pub estimated_input: u64,
    /// When it was complete, in seconds since the Unix epoch, where that is known.
    pub completed: Option<u64>,
    /// The request, for the formats whose answers repeat it.
    pub request: Option<Value>,
    /// Who answered and what it cost, once that is known.
    pub about: Option<Value>,
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
    /// Chunks.
    Chat(chat::Writer),
    /// Response events.
    Responses(Box<responses::Writer>),
    /// Message events.
    Messages(messages::Writer),
}

impl Writer {
    /// A writer of a stream that has not begun; `None` for formats without streams.
    pub fn new(format: Format, frame: Frame) -> Option<Self> {
        match format {
            Format::Chat => Some(Self::Chat(chat::Writer::new(frame))),
            Format::Responses => Some(Self::Responses(Box::new(responses::Writer::new(frame)))),
            Format::Messages => Some(Self::Messages(messages::Writer::new(frame))),
            Format::Embeddings | Format::TokenCount => None,
        }
    }

    /// A writer that goes on with a stream which was handed on as it came, after `answer` was said.
    ///
    /// `None` if it can't be told where in the stream that is.
    pub fn resume(format: Format, frame: Frame, answer: &Transcript, decoder: &Decoder) -> Option<Self> {
        let frame = Frame { id: answer.id.clone(), model: answer.model.clone(), ..frame };
        match (format, decoder) {
            (Format::Chat, Decoder::Chat(_)) => Some(Self::Chat(chat::Writer::new(frame).begun())),
            (Format::Messages, Decoder::Messages(decoder)) => {
                let (blocks, open) = decoder.place();
                Some(Self::Messages(messages::Writer::new(frame).after(blocks, open, answer)))
            }
            (Format::Responses, Decoder::Responses(decoder)) => {
                responses::Writer::new(frame).after(decoder, answer).map(Box::new).map(Self::Responses)
            }
            _ => None,
        }
    }

    /// Writes what a delta adds.
    pub fn write(&mut self, delta: &Delta<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Chat(writer) => writer.write(delta, out),
            Self::Responses(writer) => writer.write(delta, out),
            Self::Messages(writer) => writer.write(delta, out),
        }
    }

    /// Ends the answer. `mark` is what the final event says about how the answer came to be.
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

/// The event that ends a stream which can't go on, for a stream that was handed on as it came.
pub fn fail(format: Format, message: &str, sequence: u64, out: &mut Vec<u8>) {
    match format {
        Format::Messages => fail_messages(message, out),
        Format::Responses => responses::fail(message, sequence, out),
        Format::Chat | Format::Embeddings | Format::TokenCount => fail_chat(message, out),
    }
}

/// A sign of life that no client takes for content.
pub fn keep_alive(format: Format) -> &'static [u8] {
    match format {
        Format::Messages => b"event: ping\ndata: {\"type\":\"ping\"}\n\n",
        _ => b": keep-alive\n\n",
    }
}

/// The whole answer as one body.
pub fn whole(format: Format, frame: &Frame, answer: &Transcript) -> Value {
    match format {
        Format::Responses => responses::whole(frame, answer),
        Format::Messages => messages::whole(frame, answer),
        Format::Chat | Format::Embeddings | Format::TokenCount => chat::whole(frame, answer),
    }
}

/// The field that says how an answer came to be, where the format has none for it.
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

/// The code of a stream that could not go on.
pub const INTERRUPTED: &str = "stream_interrupted";

/// One event. JSON text holds no line breaks, so its data is one line.
pub(super) fn event(name: Option<&str>, data: &impl std::fmt::Display, out: &mut Vec<u8>) {
    use std::io::Write;
    // Writing to memory can't fail.
    let _ = match name {
        Some(name) => write!(out, "event: {name}\ndata: {data}\n\n"),
        None => write!(out, "data: {data}\n\n"),
    };
}

/// A text as JSON.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Arguments as JSON text that can be parsed: a function without arguments is called with none at all.
pub(super) fn arguments(json: &str) -> &str {
    if json.trim().is_empty() { "{}" } else { json }
}
