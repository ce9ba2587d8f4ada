//! Decodes answers to messages requests into deltas.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    error::{ErrorClass, ProviderError},
    json::LossyStr,
    usage::Usage,
    wire::{
        Signal,
        decoder::{broken_off, no_error, parse_answer, truncated_json, unknown_event},
        delta::{Delta, Stop},
        error_body::ErrorBody,
    },
};

/// Decodes one answer stream: classifies each event and extracts its deltas.
#[derive(Debug, Default)]
pub struct Decoder {
    usage: Usage,
    /// The stop reason was received.
    stopped: bool,
    /// For each of the vendor's blocks, the index of its call, if it is one.
    blocks: Vec<Option<usize>>,
    /// How many calls have started.
    calls: usize,
    /// The last block is not closed yet.
    open: bool,
    /// The input in the start of the open call, while no other arguments were received.
    input: Option<String>,
}

impl Decoder {
    /// Classifies the event with this data. The event's name is not needed, since the data repeats it as `type`.
    pub fn decode(&mut self, data: &[u8], sink: &mut dyn FnMut(Delta<'_>)) -> Signal {
        let Ok(event) = serde_json::from_slice::<Event<'_>>(data) else {
            return truncated_json();
        };
        match event.kind.0.as_ref() {
            "message_start" => {
                let message = event.message.unwrap_or_default();
                self.count(message.usage, sink);
                sink(Delta::Start { id: message.id.0, model: message.model.0 });
                Signal::Frame
            }
            "content_block_start" => {
                let Some(block) = event.content_block else { return Signal::Frame };
                let at = usize::try_from(event.index).unwrap_or(usize::MAX);
                // A far too large index is refused, so that it does not allocate memory.
                if at > self.blocks.len() + 64 {
                    return Signal::Error(ProviderError::new(
                        ErrorClass::Server,
                        "the index of a content block is far too large",
                    ));
                }
                self.blocks.resize(self.blocks.len().max(at + 1), None);
                // The start of a text or thinking block usually has no content yet. Any other has: a call has its name,
                // and so has the work of the vendor's own tools.
                let is_empty = match block.kind.0.as_ref() {
                    "text" => block.text.0.is_empty(),
                    "thinking" => block.thinking.0.is_empty(),
                    _ => false,
                };
                self.open = true;
                let input = block.input.map_or("{}", RawValue::get).to_owned();
                self.input = (block.kind.0 == "tool_use").then_some(input);
                self.open(at, block, sink);
                if is_empty { Signal::Frame } else { Signal::Content }
            }
            "content_block_delta" => {
                let Some(delta) = event.delta else { return Signal::Frame };
                self.delta(event.index, delta, sink)
            }
            "message_delta" => {
                self.count(event.usage, sink);
                let delta = event.delta.unwrap_or_default();
                if delta.stop_reason.0.is_empty() {
                    return Signal::Frame;
                }
                if let Some(error) = broken_off(&delta.stop_reason.0) {
                    return Signal::Error(error);
                }
                self.stopped = true;
                self.end_call(sink);
                sink(Delta::Stop(stop(&delta.stop_reason.0, &delta.stop_sequence.0)));
                Signal::Finish
            }
            "message_stop" => Signal::Done,
            "error" => Signal::Error(ErrorBody::in_band(data)),
            "content_block_stop" => {
                self.open = false;
                self.end_call(sink);
                Signal::Frame
            }
            other => unknown_event(other),
        }
    }

    /// Whether the stop reason was received, so that only the last event is missing.
    pub fn is_complete(&self) -> bool {
        self.stopped
    }

    /// How many blocks the stream has so far, and whether the last is open.
    pub(in crate::wire) fn position(&self) -> (usize, bool) {
        (self.blocks.len(), self.open)
    }

    fn open(&mut self, at: usize, block: ContentBlock<'_>, sink: &mut dyn FnMut(Delta<'_>)) {
        match block.kind.0.as_ref() {
            "tool_use" => {
                let index = self.calls;
                self.calls += 1;
                if let Some(slot) = self.blocks.get_mut(at) {
                    *slot = Some(index);
                }
                sink(Delta::Call { index, id: block.id.0, name: block.name.0 });
            }
            "redacted_thinking" => sink(Delta::Redacted(block.data.0)),
            "text" if !block.text.0.is_empty() => sink(Delta::Text(block.text.0)),
            "thinking" if !block.thinking.0.is_empty() => sink(Delta::Reasoning(block.thinking.0)),
            _ => {}
        }
    }

    fn delta(&mut self, index: u64, delta: EventDelta<'_>, sink: &mut dyn FnMut(Delta<'_>)) -> Signal {
        match delta.kind.0.as_ref() {
            "text_delta" => sink(Delta::Text(delta.text.0)),
            "thinking_delta" => sink(Delta::Reasoning(delta.thinking.0)),
            "signature_delta" => sink(Delta::Signature(delta.signature.0)),
            "input_json_delta" => {
                let at = usize::try_from(index).unwrap_or(usize::MAX);
                let json = delta.partial_json.0;
                match self.blocks.get(at) {
                    Some(Some(index)) if !json.is_empty() => {
                        self.input = None;
                        sink(Delta::Arguments { index: *index, json });
                    }
                    // The input of the vendor's own tools, and empty pieces.
                    _ => {}
                }
            }
            // Citations, and what this code does not know.
            _ => {}
        }
        Signal::Content
    }

    /// Ends the open call. One that came without arguments has those of its start, usually none: then the end of its
    /// empty object tells writers that the call is complete.
    fn end_call(&mut self, sink: &mut dyn FnMut(Delta<'_>)) {
        if let Some(json) = self.input.take() {
            sink(Delta::Arguments { index: self.calls.saturating_sub(1), json: json.into() });
        }
    }

    /// Applies counts. They are cumulative: each replaces the earlier one, and a missing one leaves it unchanged.
    fn count(&mut self, counts: Option<Counts>, sink: &mut dyn FnMut(Delta<'_>)) {
        let Some(counts) = counts else { return };
        counts.update(&mut self.usage);
        sink(Delta::Usage(self.usage));
    }
}

/// Decodes a message that is not streamed. Fails if the body is not a message.
pub fn decode_whole(body: &[u8], sink: &mut dyn FnMut(Delta<'_>)) -> Result<(), ProviderError> {
    let answer: MessageJson<'_> = parse_answer(body, "a message")?;
    no_error(answer.error)?;
    let Some(blocks) = answer.content else {
        return Err(ProviderError::new(ErrorClass::Server, "the provider's message has no content"));
    };
    broken_off(&answer.stop_reason.0).map_or(Ok(()), Err)?;
    sink(Delta::Start { id: answer.id.0, model: answer.model.0 });
    let mut decoder = Decoder::default();
    decoder.blocks.resize(blocks.len(), None);
    for (at, mut block) in blocks.into_iter().enumerate() {
        let (input, signature) = (block.input.take(), std::mem::take(&mut block.signature.0));
        let index = decoder.calls;
        let (is_call, is_thinking) = (block.kind.0 == "tool_use", block.kind.0 == "thinking");
        decoder.open(at, block, sink);
        if let (true, Some(input)) = (is_call, input) {
            sink(Delta::Arguments { index, json: input.get().into() });
        }
        if is_thinking && !signature.is_empty() {
            sink(Delta::Signature(signature));
        }
    }
    decoder.count(answer.usage, sink);
    sink(Delta::Stop(stop(&answer.stop_reason.0, &answer.stop_sequence.0)));
    Ok(())
}

/// Fails unless the body is a count of tokens.
pub fn decode_count(body: &[u8]) -> Result<(), ProviderError> {
    let counts: Counts = parse_answer(body, "a count of tokens")?;
    let missing = || ProviderError::new(ErrorClass::Server, "the provider's answer has no count of tokens");
    counts.input_tokens.map(drop).ok_or_else(missing)
}

fn stop(reason: &str, sequence: &str) -> Stop {
    match reason {
        "max_tokens" | "model_context_window_exceeded" => Stop::Length,
        "tool_use" => Stop::ToolCalls,
        "stop_sequence" => Stop::Sequence(sequence.to_owned()),
        "refusal" => Stop::Refusal,
        _ => Stop::End,
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: LossyStr<'a>,
    #[serde(default)]
    index: u64,
    #[serde(borrow, default)]
    message: Option<MessageJson<'a>>,
    #[serde(borrow, default)]
    content_block: Option<ContentBlock<'a>>,
    #[serde(borrow, default)]
    delta: Option<EventDelta<'a>>,
    #[serde(default)]
    usage: Option<Counts>,
}

/// The message at the start of a stream, or an answer that is not streamed.
#[derive(Default, Deserialize)]
struct MessageJson<'a> {
    #[serde(borrow, default)]
    id: LossyStr<'a>,
    #[serde(borrow, default)]
    model: LossyStr<'a>,
    #[serde(borrow, default)]
    content: Option<Vec<ContentBlock<'a>>>,
    #[serde(borrow, default)]
    stop_reason: LossyStr<'a>,
    #[serde(borrow, default)]
    stop_sequence: LossyStr<'a>,
    #[serde(default)]
    usage: Option<Counts>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ContentBlock<'a> {
    #[serde(borrow, rename = "type")]
    kind: LossyStr<'a>,
    #[serde(borrow, default)]
    text: LossyStr<'a>,
    #[serde(borrow, default)]
    thinking: LossyStr<'a>,
    #[serde(borrow, default)]
    signature: LossyStr<'a>,
    #[serde(borrow, default)]
    data: LossyStr<'a>,
    #[serde(borrow, default)]
    id: LossyStr<'a>,
    #[serde(borrow, default)]
    name: LossyStr<'a>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

/// The `delta` of a `content_block_delta` or a `message_delta`.
#[derive(Default, Deserialize)]
struct EventDelta<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: LossyStr<'a>,
    #[serde(borrow, default)]
    text: LossyStr<'a>,
    #[serde(borrow, default)]
    thinking: LossyStr<'a>,
    #[serde(borrow, default)]
    signature: LossyStr<'a>,
    #[serde(borrow, default)]
    partial_json: LossyStr<'a>,
    #[serde(borrow, default)]
    stop_reason: LossyStr<'a>,
    #[serde(borrow, default)]
    stop_sequence: LossyStr<'a>,
}

/// The vendor's token counts. They do not overlap: cached tokens are not in `input_tokens`.
#[derive(Deserialize)]
struct Counts {
    #[serde(default)]
    input_tokens: Option<u64>,
    #[serde(default)]
    output_tokens: Option<u64>,
    #[serde(default)]
    cache_read_input_tokens: Option<u64>,
    #[serde(default)]
    cache_creation_input_tokens: Option<u64>,
    #[serde(default)]
    cache_creation: Option<CacheCreation>,
    #[serde(default)]
    output_tokens_details: Option<OutputDetails>,
    /// The passes of an answer before which the vendor compacted the conversation.
    #[serde(default)]
    iterations: Option<Vec<Iteration>>,
}

/// A pass of the model. The counts beside it leave compactions out, which are billed as well
/// (<https://platform.claude.com/docs/en/build-with-claude/compaction>).
#[derive(Deserialize)]
struct Iteration {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    input_tokens: u64,
    #[serde(default)]
    output_tokens: u64,
}

#[derive(Deserialize)]
struct OutputDetails {
    #[serde(default)]
    thinking_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CacheCreation {
    #[serde(default)]
    ephemeral_1h_input_tokens: Option<u64>,
}

impl Counts {
    fn update(&self, usage: &mut Usage) {
        let set = |slot: &mut u64, count: Option<u64>| *slot = count.unwrap_or(*slot);
        let passes = self.iterations.iter().flatten();
        let compacted = passes.filter(|pass| pass.kind == "compaction").fold((0_u64, 0_u64), |sum, pass| {
            (sum.0.saturating_add(pass.input_tokens), sum.1.saturating_add(pass.output_tokens))
        });
        set(&mut usage.input, self.input_tokens.map(|input| input.saturating_add(compacted.0)));
        set(&mut usage.output, self.output_tokens.map(|output| output.saturating_add(compacted.1)));
        set(&mut usage.cache_read, self.cache_read_input_tokens);
        let thinking = self.output_tokens_details.as_ref().and_then(|details| details.thinking_tokens);
        set(&mut usage.reasoning, thinking);
        if let Some(written) = self.cache_creation_input_tokens {
            let hour = self.cache_creation.as_ref().and_then(|parts| parts.ephemeral_1h_input_tokens);
            usage.cache_write_1h = hour.unwrap_or(usage.cache_write_1h).min(written);
            usage.cache_write = written - usage.cache_write_1h;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compactions_are_billed_too() {
        let counts = r#"{"input_tokens":23000,"output_tokens":1000,"iterations":[
            {"type":"compaction","input_tokens":180000,"output_tokens":3500},
            {"type":"message","input_tokens":23000,"output_tokens":1000}]}"#;
        let mut usage = Usage::default();
        serde_json::from_str::<Counts>(counts).unwrap().update(&mut usage);
        assert_eq!((usage.input, usage.output), (203_000, 4_500));
    }
}
