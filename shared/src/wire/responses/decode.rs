//! Decodes answers to responses requests into deltas.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    error::{ErrorClass, ProviderError},
    json::LossyStr,
    usage::Usage,
    wire::{
        Signal,
        decoder::{no_error, parse_answer, truncated_json, unknown_event},
        delta::{Delta, Stop},
        error_body::ErrorBody,
        openai::{InputDetails, OutputDetails, usage},
    },
};

/// Decodes one answer stream: classifies each event and extracts its deltas.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The number of the last event.
    sequence: u64,
    /// The last event was received.
    finished: bool,
    /// The vendor's output index of each call, and whether any of its arguments were received.
    calls: Vec<(u64, bool)>,
    /// Output index and id of the items that had deltas.
    item_refs: Vec<(u64, String)>,
    /// The last of them is not closed yet.
    open: bool,
}

impl Decoder {
    /// Classifies the event with this data; `sink` receives what it adds to the answer, in order.
    pub fn decode(&mut self, data: &[u8], sink: &mut dyn FnMut(Delta<'_>)) -> Signal {
        let Ok(event) = serde_json::from_slice::<Event<'_>>(data) else {
            return truncated_json();
        };
        // Number and items are noted for a writer that continues this stream.
        self.sequence = event.sequence_number.unwrap_or(self.sequence + 1);
        if !event.delta.0.is_empty() {
            self.open = true;
            if self.item_refs.last().is_none_or(|(index, _)| *index != event.output_index) {
                self.item_refs.push((event.output_index, event.item_id.0.to_string()));
            }
        }
        match event.kind.0.as_ref() {
            "response.created" => {
                let response = event.response.unwrap_or_default();
                sink(Delta::Start { id: response.id.0, model: response.model.0 });
                Signal::Frame
            }
            "response.output_text.delta" => {
                sink(Delta::Text(event.delta.0));
                Signal::Content
            }
            "response.refusal.delta" => {
                sink(Delta::Refusal(event.delta.0));
                Signal::Content
            }
            "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => {
                sink(Delta::Reasoning(event.delta.0));
                Signal::Content
            }
            "response.output_item.added" => match event.item {
                Some(item) if item.kind.0 == "function_call" => {
                    sink(Delta::Call { index: self.calls.len(), id: item.call_id.0, name: item.name.0 });
                    self.calls.push((event.output_index, false));
                    Signal::Content
                }
                // A new message or reasoning item has no content yet. Any other item is work that the vendor does.
                Some(item) if matches!(item.kind.0.as_ref(), "message" | "reasoning") => Signal::Frame,
                _ => Signal::Content,
            },
            "response.output_item.done" => {
                self.open = false;
                // A call without pieces of arguments has them here, or has none: then the end of its empty object tells
                // writers that the call is complete.
                let json = event.item.map(|item| item.arguments.0).filter(|json| !json.trim().is_empty());
                if let Some((index, (_, false))) = self.call(event.output_index) {
                    sink(Delta::Arguments { index, json: json.unwrap_or("{}".into()) });
                }
                Signal::Frame
            }
            "response.function_call_arguments.delta" => {
                if let Some((index, (_, has_arguments))) = self.call(event.output_index) {
                    *has_arguments |= !event.delta.0.is_empty();
                    sink(Delta::Arguments { index, json: event.delta.0 });
                }
                Signal::Content
            }
            "response.completed" | "response.incomplete" => {
                self.finished = true;
                end(event.response.unwrap_or_default(), !self.calls.is_empty(), sink);
                Signal::Done
            }
            "response.failed" => {
                let error = event.response.and_then(|response| response.error);
                Signal::Error(ErrorBody::in_band(error.map_or(data, |error| error.get().as_bytes())))
            }
            "error" => Signal::Error(ErrorBody::in_band(data)),
            other => unknown_event(other),
        }
    }

    /// Whether the last event was received.
    pub fn is_complete(&self) -> bool {
        self.finished
    }

    /// The number of the call with this output index, and what is known of it.
    fn call(&mut self, output_index: u64) -> Option<(usize, &mut (u64, bool))> {
        self.calls.iter_mut().enumerate().find(|(_, (at, _))| *at == output_index)
    }

    /// Output index and id of the items that had deltas, and whether the last is open.
    pub(in crate::wire) fn item_refs(&self) -> (&[(u64, String)], bool) {
        (&self.item_refs, self.open)
    }

    /// The number of the last event.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// Decodes a response that is not streamed. Fails if the body is not a response or the response has failed.
pub fn decode_whole(body: &[u8], sink: &mut dyn FnMut(Delta<'_>)) -> Result<(), ProviderError> {
    let mut answer: Response<'_> = parse_answer(body, "a response")?;
    no_error(answer.error)?;
    if matches!(answer.status.0.as_ref(), "failed" | "cancelled") {
        return Err(ProviderError::new(
            ErrorClass::Server,
            "the status of the provider's response is failed or cancelled",
        ));
    }
    let Some(output) = answer.output.take() else {
        return Err(ProviderError::new(ErrorClass::Server, "the provider's response has no output"));
    };
    sink(Delta::Start { id: std::mem::take(&mut answer.id.0), model: std::mem::take(&mut answer.model.0) });
    let mut calls = 0;
    for item in output {
        match item.kind.0.as_ref() {
            "function_call" => {
                sink(Delta::Call { index: calls, id: item.call_id.0, name: item.name.0 });
                sink(Delta::Arguments { index: calls, json: item.arguments.0 });
                calls += 1;
            }
            "message" => {
                for part in item.content.into_iter().flatten() {
                    match part.kind.0.as_ref() {
                        "refusal" => sink(Delta::Refusal(part.refusal.0)),
                        _ => sink(Delta::Text(part.text.0)),
                    }
                }
            }
            "reasoning" => {
                for part in item.summary.into_iter().chain(item.content).flatten() {
                    sink(Delta::Reasoning(part.text.0));
                }
            }
            _ => {}
        }
    }
    end(answer, calls > 0, sink);
    Ok(())
}

/// Sends the usage and the stop reason of an ended response.
fn end(response: Response<'_>, has_calls: bool, sink: &mut dyn FnMut(Delta<'_>)) {
    if let Some(usage) = response.usage {
        sink(Delta::Usage(usage.into()));
    }
    let reason = response.incomplete_details.map(|details| details.reason.0).unwrap_or_default();
    sink(Delta::Stop(match reason.as_ref() {
        "content_filter" => Stop::Filter,
        "" if has_calls => Stop::ToolCalls,
        "" => Stop::End,
        _ => Stop::Length,
    }));
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: LossyStr<'a>,
    #[serde(default)]
    sequence_number: Option<u64>,
    #[serde(default)]
    output_index: u64,
    #[serde(borrow, default)]
    item_id: LossyStr<'a>,
    #[serde(borrow, default)]
    delta: LossyStr<'a>,
    #[serde(borrow, default)]
    item: Option<ItemJson<'a>>,
    #[serde(borrow, default)]
    response: Option<Response<'a>>,
}

/// A response: an answer that is not streamed, or the one that the first and last events of a stream have.
#[derive(Default, Deserialize)]
struct Response<'a> {
    #[serde(borrow, default)]
    id: LossyStr<'a>,
    #[serde(borrow, default)]
    model: LossyStr<'a>,
    #[serde(borrow, default)]
    status: LossyStr<'a>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    output: Option<Vec<ItemJson<'a>>>,
    #[serde(borrow, default)]
    incomplete_details: Option<Incomplete<'a>>,
    #[serde(default)]
    usage: Option<Counts>,
}

#[derive(Deserialize)]
struct Incomplete<'a> {
    #[serde(borrow, default)]
    reason: LossyStr<'a>,
}

#[derive(Deserialize)]
struct ItemJson<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: LossyStr<'a>,
    #[serde(borrow, default)]
    call_id: LossyStr<'a>,
    #[serde(borrow, default)]
    name: LossyStr<'a>,
    #[serde(borrow, default)]
    arguments: LossyStr<'a>,
    #[serde(borrow, default)]
    content: Option<Vec<ContentPart<'a>>>,
    #[serde(borrow, default)]
    summary: Option<Vec<ContentPart<'a>>>,
}

#[derive(Deserialize)]
struct ContentPart<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: LossyStr<'a>,
    #[serde(borrow, default)]
    text: LossyStr<'a>,
    #[serde(borrow, default)]
    refusal: LossyStr<'a>,
}

#[derive(Deserialize)]
struct Counts {
    #[serde(default)]
    input_tokens: Option<u64>,
    #[serde(default)]
    output_tokens: Option<u64>,
    #[serde(default)]
    input_tokens_details: Option<InputDetails>,
    #[serde(default)]
    output_tokens_details: Option<OutputDetails>,
}

impl From<Counts> for Usage {
    fn from(counts: Counts) -> Self {
        let Counts { input_tokens, output_tokens, input_tokens_details, output_tokens_details } = counts;
        usage(input_tokens, input_tokens_details, output_tokens, output_tokens_details)
    }
}
