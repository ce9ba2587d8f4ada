//! Decodes answers to chat completions requests into deltas.

use std::{borrow::Cow, collections::BTreeSet};

use serde::{
    Deserialize,
    de::{Deserializer, Error as _},
};
use serde_json::{Value, value::RawValue};

use crate::{
    error::{ErrorClass, ProviderError},
    json::{IsPresent, LossyStr, Nesting},
    money::NanoUsd,
    usage::Usage,
    wire::{
        Signal,
        decoder::{broken_off, no_error, parse_answer, truncated_json},
        delta::{Delta, Stop},
        error_body::ErrorBody,
        openai::{InputDetails, OutputDetails, usage},
        raw::{RawField, RawFields},
    },
};

/// Decodes one answer stream: classifies each event and extracts its deltas.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Choices without a finish reason so far.
    open: BTreeSet<u64>,
    /// Choices that have finished.
    finished: BTreeSet<u64>,
    /// The id of the answer, once the start was sent to the sink.
    id: Option<String>,
    calls: Vec<Call>,
    /// How many calls were sent to the sink.
    calls_started: usize,
}

/// A tool call so far.
#[derive(Debug, Default)]
struct Call {
    /// The vendor's index.
    index: Option<u64>,
    id: String,
    name: String,
    /// Arguments that arrived before the name.
    held: String,
    /// Its number in the deltas, once it was sent to the sink.
    number: Option<usize>,
    arguments: Nesting,
}

impl Decoder {
    /// Classifies the event with this data; `sink` receives what it adds to the first choice, in order.
    pub fn decode(&mut self, data: &[u8], sink: &mut dyn FnMut(Delta<'_>)) -> Signal {
        if data == b"[DONE]" {
            return Signal::Done;
        }
        let Ok(mut chunk) = serde_json::from_slice::<Chunk<'_>>(data) else {
            return truncated_json();
        };
        let is_empty = chunk.usage.is_none() && chunk.choices.as_ref().is_none_or(Vec::is_empty);
        let usage = chunk.usage.take().map(|usage| Delta::Usage(usage.into()));
        let signal = match chunk.check(data) {
            Ok(()) => self.chunk(chunk, sink).unwrap_or_else(Signal::Error),
            Err(error) => Signal::Error(error),
        };
        // Also with an error, since the tokens are billed.
        usage.into_iter().for_each(sink);
        match signal {
            // Some servers send chunks without anything as keep-alives.
            Signal::Frame if is_empty => Signal::KeepAlive,
            Signal::Frame if has_unknown_content(data) => Signal::Content,
            signal => signal,
        }
    }

    fn chunk(&mut self, chunk: Chunk<'_>, sink: &mut dyn FnMut(Delta<'_>)) -> Result<Signal, ProviderError> {
        let mut signal = Signal::Frame;
        for mut choice in chunk.choices.into_iter().flatten() {
            if self.id.is_none() {
                self.id = Some(chunk.id.0.to_string());
                sink(Delta::Start { id: chunk.id.0.clone(), model: chunk.model.0.clone() });
            }
            let delta = choice.delta.take().unwrap_or_default();
            // Content of further choices counts for the signal, since the client gets their chunks, but has no delta.
            if delta.is_content() && signal == Signal::Frame {
                signal = Signal::Content;
            }
            if choice.index == 0 {
                self.delta(delta, false, sink)?;
            }
            if choice.finish_reason.0.is_empty() {
                // OpenRouter repeats a finished choice beside the usage.
                if !self.finished.contains(&choice.index) {
                    self.open.insert(choice.index);
                }
                continue;
            }
            let stop = self.stop(&choice.finish_reason.0)?;
            if choice.index == 0 {
                self.start_remaining(sink)?;
                sink(Delta::Stop(stop));
            }
            self.open.remove(&choice.index);
            self.finished.insert(choice.index);
            signal = Signal::Finish;
        }
        Ok(signal)
    }

    /// Whether every choice has finished, so that the answer is complete without `[DONE]`, which some compatible
    /// servers leave out.
    pub fn is_complete(&self) -> bool {
        !self.finished.is_empty() && self.open.is_empty()
    }

    /// Whether a call has begun that was not sent to the sink: the client of a stream that passes through has a part of
    /// it.
    pub(in crate::wire) fn holds_call(&self) -> bool {
        self.calls.iter().any(|call| call.number.is_none())
    }

    /// Extracts the deltas of a message, or of a piece of one. In a whole message each call is an entry of its own.
    fn delta(
        &mut self,
        mut delta: MessageJson<'_>,
        is_whole: bool,
        sink: &mut dyn FnMut(Delta<'_>),
    ) -> Result<(), ProviderError> {
        for text in delta.thoughts().into_iter().filter(|text| !text.is_empty()) {
            sink(Delta::Reasoning(text));
        }
        match delta.content {
            Content::Text(text) if text.0.is_empty() => {}
            Content::Text(text) => sink(Delta::Text(text.0)),
            Content::Parts(parts) => parts.into_iter().for_each(|part| part.write(sink)),
        }
        if !delta.refusal.0.is_empty() {
            sink(Delta::Refusal(delta.refusal.0));
        }
        for fragment in delta.tool_calls.into_iter().flatten() {
            self.call(fragment, is_whole, sink);
            if self.calls.len() > MAX_CALLS {
                let message = format!("the answer has more than {MAX_CALLS} tool calls");
                return Err(ProviderError::new(ErrorClass::Server, message));
            }
        }
        Ok(())
    }

    /// Assigns a fragment to its call, and sends what is known of the call: its start as soon as it has a name and an
    /// id, and its arguments after that.
    fn call(&mut self, fragment: ToolCallJson<'_>, is_whole: bool, sink: &mut dyn FnMut(Delta<'_>)) {
        let function = fragment.function.unwrap_or_default();
        let json = function.arguments.map(arguments).unwrap_or_default();
        // Servers with Mistral's dialect leave the index out and mean the last call.
        let known = match fragment.index {
            Some(index) => self.calls.iter_mut().rfind(|call| call.index == Some(index)),
            None => self.calls.last_mut(),
        };
        let known = known.filter(|call| !is_whole && call.takes(&fragment.id.0, &function.name.0, &json));
        let call = match known {
            Some(call) => call,
            None => {
                self.calls.push(Call { index: fragment.index, ..Call::default() });
                let Some(call) = self.calls.last_mut() else { return };
                call
            }
        };
        if call.id.is_empty() {
            call.id = fragment.id.0.into_owned();
        }
        if call.name.is_empty() {
            call.name = function.name.0.into_owned();
        }
        call.arguments.push(&json);
        // Without an id, arguments begin the call: the id comes with the name or not at all.
        if call.number.is_none() && !call.name.is_empty() && (!call.id.is_empty() || !json.is_empty()) {
            call.start(&mut self.calls_started, self.id.as_deref(), sink);
        }
        match call.number {
            Some(index) if !json.is_empty() => sink(Delta::Arguments { index, json }),
            Some(_) => {}
            None => call.held.push_str(&json),
        }
    }

    /// Sends the calls that are still held back when the answer ends. Fails for one that never got a name.
    fn start_remaining(&mut self, sink: &mut dyn FnMut(Delta<'_>)) -> Result<(), ProviderError> {
        for call in self.calls.iter_mut().filter(|call| call.number.is_none()) {
            if !call.name.is_empty() {
                call.start(&mut self.calls_started, self.id.as_deref(), sink);
            } else if !call.id.is_empty() || !call.held.is_empty() {
                return Err(ProviderError::new(ErrorClass::Truncated, "a tool call has no name"));
            }
        }
        Ok(())
    }

    /// Reads a finish reason. Fails if it says that the answer broke off.
    ///
    /// Some servers send `stop` after a call. `length` always stays, since the call may be truncated.
    fn stop(&self, reason: &str) -> Result<Stop, ProviderError> {
        let reason = reason.to_ascii_lowercase();
        Ok(match reason.as_str() {
            "length" | "max_tokens" | "max_output_tokens" | "model_length" => Stop::Length,
            "content_filter" | "safety" | "sensitive" => Stop::Filter,
            "tool_calls" | "function_call" => Stop::ToolCalls,
            _ => match broken_off(&reason) {
                Some(error) => return Err(error),
                None if self.calls.is_empty() => Stop::End,
                None => Stop::ToolCalls,
            },
        })
    }
}

/// Most tool calls of an answer: far more than models make. Each piece of a call is compared with all calls.
const MAX_CALLS: usize = 1024;

impl Call {
    /// Whether a fragment of the same index may be a part of this call. Some servers give every call the index 0, or
    /// none, and no ids either: then another name, or more arguments after complete ones, begin another call.
    fn takes(&self, id: &str, name: &str, json: &str) -> bool {
        if !self.id.is_empty() && (!id.is_empty() || self.index.is_some()) {
            return id.is_empty() || id == self.id;
        }
        let is_next = !json.is_empty() && self.arguments.is_complete();
        name.is_empty() || self.name.is_empty() || (name == self.name && !is_next)
    }

    /// Sends the start, and the arguments that were held back. A call without an id gets one, since the client answers
    /// by it.
    fn start(&mut self, started: &mut usize, answer_id: Option<&str>, sink: &mut dyn FnMut(Delta<'_>)) {
        let index = *started;
        *started += 1;
        self.number = Some(index);
        let id = if self.id.is_empty() {
            // Ids of calls have letters, digits, `_` and `-` only.
            let is_allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            let answer: String = answer_id.unwrap_or_default().chars().filter(is_allowed).collect();
            format!("call_{answer}_{index}").into()
        } else {
            self.id.as_str().into()
        };
        sink(Delta::Call { index, id, name: self.name.as_str().into() });
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            sink(Delta::Arguments { index, json: held.into() });
        }
    }
}

/// Reads arguments: a string with JSON, or from some servers the object itself.
fn arguments(raw: &RawValue) -> Cow<'_, str> {
    match raw.get() {
        "null" => Cow::Borrowed(""),
        text if text.starts_with('"') => serde_json::from_str::<LossyStr<'_>>(text).unwrap_or_default().0,
        text => Cow::Borrowed(text),
    }
}

/// Decodes a completion that is not streamed. Fails if the body is not one: vendors and their proxies send HTML, empty
/// bodies, truncated JSON and errors with status 200.
pub fn decode_whole(body: &[u8], sink: &mut dyn FnMut(Delta<'_>)) -> Result<(), ProviderError> {
    let answer: Chunk<'_> = parse_answer(body, "a chat completion")?;
    answer.check(body)?;
    let choices = answer.choices.unwrap_or_default();
    if choices.is_empty() || choices.iter().any(|choice| choice.message.is_none()) {
        return Err(ProviderError::new(
            ErrorClass::Server,
            "the provider's completion has no choices or no message",
        ));
    }
    let mut decoder = Decoder { id: Some(answer.id.0.to_string()), ..Decoder::default() };
    sink(Delta::Start { id: answer.id.0, model: answer.model.0 });
    for (at, choice) in choices.into_iter().enumerate() {
        if at == 0 {
            decoder.delta(choice.message.unwrap_or_default(), true, sink)?;
            decoder.start_remaining(sink)?;
        }
        let stop = decoder.stop(&choice.finish_reason.0)?;
        if at == 0 {
            sink(Delta::Stop(stop));
        }
    }
    if let Some(usage) = answer.usage {
        sink(Delta::Usage(usage.into()));
    }
    Ok(())
}

/// A chunk of a stream, or a completion that is not streamed.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    id: LossyStr<'a>,
    #[serde(borrow, default)]
    model: LossyStr<'a>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    usage: Option<Counts>,
    /// An error without `error`, as older vLLM and SGLang send it.
    #[serde(default)]
    message: IsPresent,
}

impl Chunk<'_> {
    /// Fails if `json`, from which it was read, is or has an error.
    fn check(&self, json: &[u8]) -> Result<(), ProviderError> {
        if self.choices.is_none() && self.message.0 {
            return Err(ErrorBody::in_band(json));
        }
        no_error(self.error)?;
        self.choices.iter().flatten().try_for_each(|choice| no_error(choice.error))
    }
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow, default)]
    delta: Option<MessageJson<'a>>,
    #[serde(borrow, default)]
    message: Option<MessageJson<'a>>,
    #[serde(borrow, default)]
    finish_reason: LossyStr<'a>,
    /// OpenRouter's place for the error of one choice.
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct MessageJson<'a> {
    #[serde(borrow, default)]
    content: Content<'a>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<ToolCallJson<'a>>>,
    #[serde(borrow, default)]
    refusal: LossyStr<'a>,
    /// DeepSeek's name for reasoning.
    #[serde(borrow, default)]
    reasoning_content: LossyStr<'a>,
    /// OpenRouter's name for reasoning. vLLM sends both.
    #[serde(borrow, default)]
    reasoning: LossyStr<'a>,
    /// OpenRouter's reasoning in parts, of which `reasoning` is the text.
    #[serde(borrow, default)]
    reasoning_details: Option<Vec<PartJson<'a>>>,
    #[serde(default)]
    function_call: IsPresent,
    #[serde(default)]
    audio: IsPresent,
}

impl<'a> MessageJson<'a> {
    /// Whether it has a piece of an answer, in any field.
    fn is_content(&self) -> bool {
        let Self { content, tool_calls, refusal, reasoning_content, reasoning, .. } = self;
        let has_text = [refusal, reasoning_content, reasoning].iter().any(|text| !text.0.is_empty());
        let has_parts = match content {
            Content::Text(text) => !text.0.is_empty(),
            Content::Parts(parts) => !parts.is_empty(),
        };
        let has = |list: Option<usize>| list.is_some_and(|length| length > 0);
        has_text
            || has_parts
            || self.function_call.0
            || self.audio.0
            || has(tool_calls.as_ref().map(Vec::len))
            || has(self.reasoning_details.as_ref().map(Vec::len))
    }

    /// Takes the reasoning, each text once.
    fn thoughts(&mut self) -> Vec<Cow<'a, str>> {
        let [one, other] = [&mut self.reasoning_content, &mut self.reasoning].map(std::mem::take);
        match (one.0.is_empty(), other.0.is_empty()) {
            (true, true) => {
                let parts = self.reasoning_details.take().into_iter().flatten();
                parts.map(|part| if part.text.0.is_empty() { part.summary.0 } else { part.text.0 }).collect()
            }
            (true, false) => vec![other.0],
            (false, _) if other.0.is_empty() || one.0 == other.0 => vec![one.0],
            (false, _) => vec![one.0, other.0],
        }
    }
}

/// The content of a message: text, or with some Mistral models a list of parts.
enum Content<'a> {
    Parts(Vec<PartJson<'a>>),
    Text(LossyStr<'a>),
}

impl Default for Content<'_> {
    fn default() -> Self {
        Self::Text(LossyStr::default())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By the first character, since to try one type after the other would allocate an error for every chunk.
        let raw = <&'de RawValue>::deserialize(deserializer)?.get();
        let content = if raw.starts_with('[') {
            serde_json::from_str(raw).map(Self::Parts)
        } else {
            serde_json::from_str(raw).map(Self::Text)
        };
        content.or_else(|error| match error.is_data() {
            // Of another type, so without anything that is known here.
            true => Ok(Self::default()),
            // Half of a surrogate pair, which serde checks only now.
            false => Err(D::Error::custom(error)),
        })
    }
}

/// A part of Mistral's content, or of OpenRouter's reasoning.
#[derive(Deserialize)]
struct PartJson<'a> {
    #[serde(borrow, default)]
    text: LossyStr<'a>,
    #[serde(borrow, default)]
    summary: LossyStr<'a>,
    #[serde(borrow, default)]
    refusal: LossyStr<'a>,
    #[serde(borrow, default)]
    thinking: Option<Thinking<'a>>,
}

/// Mistral's thoughts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Thinking<'a> {
    #[serde(borrow)]
    Parts(Vec<TextJson<'a>>),
    #[serde(borrow)]
    Text(LossyStr<'a>),
}

#[derive(Deserialize)]
struct TextJson<'a> {
    #[serde(borrow, default)]
    text: LossyStr<'a>,
}

impl<'a> PartJson<'a> {
    /// Sends what the part adds to the answer. References and images have no delta.
    fn write(self, sink: &mut dyn FnMut(Delta<'_>)) {
        let thoughts = match self.thinking {
            Some(Thinking::Parts(parts)) => parts.into_iter().map(|part| part.text.0).collect(),
            Some(Thinking::Text(text)) => vec![text.0],
            None => Vec::new(),
        };
        let thoughts = thoughts.into_iter().map(Delta::Reasoning);
        let texts = [Delta::Text(self.text.0), Delta::Refusal(self.refusal.0)];
        thoughts.chain(texts).filter(|delta| delta.bytes() > 0).for_each(sink);
    }
}

/// Whether a chunk without content in the fields above has it in another one, or of another type: OpenRouter's
/// `reasoning_details`, Mistral's `content` that is an array of parts, audio.
fn has_unknown_content(data: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Deltas<'a> {
        #[serde(borrow)]
        choices: Vec<DeltaFields<'a>>,
    }
    #[derive(Deserialize)]
    struct DeltaFields<'a> {
        #[serde(borrow)]
        delta: RawFields<'a>,
    }
    let is_content = |field: &RawField<'_>| {
        let value = field.value.get();
        field.name() != "role" && value.len() > 2 && value.starts_with(['"', '[', '{'])
    };
    let deltas = serde_json::from_slice::<Deltas<'_>>(data);
    deltas.is_ok_and(|chunk| chunk.choices.iter().any(|choice| choice.delta.0.iter().any(is_content)))
}

#[derive(Deserialize)]
struct ToolCallJson<'a> {
    #[serde(default)]
    index: Option<u64>,
    #[serde(borrow, default)]
    id: LossyStr<'a>,
    #[serde(borrow, default)]
    function: Option<Function<'a>>,
}

#[derive(Default, Deserialize)]
struct Function<'a> {
    #[serde(borrow, default)]
    name: LossyStr<'a>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
}

/// The token counts of OpenAI and DeepSeek. Any of them may be missing or null.
#[derive(Deserialize)]
struct Counts {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<InputDetails>,
    #[serde(default)]
    completion_tokens_details: Option<OutputDetails>,
    #[serde(default)]
    total_tokens: Option<u64>,
    /// DeepSeek's name for cached tokens.
    #[serde(default)]
    prompt_cache_hit_tokens: Option<u64>,
    /// SGLang's place for thoughts.
    #[serde(default)]
    reasoning_tokens: Option<u64>,
    /// What OpenRouter charged, in dollars.
    #[serde(default)]
    cost: Value,
    /// Whether the vendor charges the operator's own account there, and OpenRouter only a fee.
    #[serde(default)]
    is_byok: Value,
    #[serde(default)]
    cost_details: Value,
}

impl Counts {
    /// The cost as OpenRouter reports it
    /// (<https://openrouter.ai/docs/cookbook/administration/usage-accounting>). Other providers have other things under
    /// these names.
    fn cost(&self) -> Option<NanoUsd> {
        let charged = self.cost.as_f64()?;
        // Without an own account the vendor's cost is a part of what was charged.
        let is_own = self.is_byok == true;
        let vendors = self.cost_details.get("upstream_inference_cost").filter(|_| is_own);
        NanoUsd::from_dollars(charged + vendors.and_then(Value::as_f64).unwrap_or_default())
    }
}

impl From<Counts> for Usage {
    fn from(counts: Counts) -> Self {
        let cost = counts.cost();
        let mut details = counts.prompt_tokens_details.unwrap_or_default();
        details.cached_tokens = details.cached_tokens.or(counts.prompt_cache_hit_tokens);
        let mut output_details = counts.completion_tokens_details.unwrap_or_default();
        output_details.reasoning_tokens = output_details.reasoning_tokens.or(counts.reasoning_tokens);
        // xAI and Google count thoughts in the total alone; they are billed as output.
        let rest = counts.total_tokens.and_then(|total| total.checked_sub(counts.prompt_tokens?));
        let (input, output) = (counts.prompt_tokens, counts.completion_tokens.max(rest));
        Usage { cost, ..usage(input, Some(details), output, Some(output_details)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Transcript;

    fn deltas(events: &[&str]) -> Vec<Delta<'static>> {
        let (mut decoder, mut deltas) = (Decoder::default(), Vec::new());
        for data in events {
            let signal = decoder.decode(data.as_bytes(), &mut |delta| deltas.push(delta.into_owned()));
            assert!(!matches!(signal, Signal::Error(_)), "{data}: {signal:?}");
        }
        deltas
    }

    #[test]
    fn events_are_classified() {
        let mut decoder = Decoder::default();
        let mut check = |data: &str, expected: Signal| {
            assert_eq!(decoder.decode(data.as_bytes(), &mut |_| ()), expected, "{data}");
        };
        check(r#"{"choices":[],"prompt_filter_results":[]}"#, Signal::KeepAlive);
        check(
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
            Signal::Frame,
        );
        check(r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#, Signal::Content);
        // Half of a surrogate pair is text that was lost, also within a part.
        for content in [r#""\ud83d""#, r#"[{"type":"text","text":"\ud83d"}]"#] {
            check(
                &format!(r#"{{"choices":[{{"index":0,"delta":{{"content":{content}}}}}]}}"#),
                truncated_json(),
            );
        }
        check(r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#, Signal::Content);
        check(r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#, Signal::Content);
        check(
            r#"{"choices":[{"delta":{"content":"","reasoning_details":[{"data":"x"}]}}]}"#,
            Signal::Content,
        );
        check(r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[]}]}}]}"#, Signal::Content);
        check(r#"{"choices":[{"delta":{"audio":{"data":"x"}}}]}"#, Signal::Content);
        check(r#"{"choices":[{"delta":{"role":"assistant","content":[],"refusal":null}}]}"#, Signal::Frame);
        check(r#"{"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}"#, Signal::Finish);
        check(r#"{"choices":[],"usage":{}}"#, Signal::Frame);
        check("[DONE]", Signal::Done);
        assert!(!decoder.is_complete(), "choice 0 is still open");
        decoder.decode(br#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#, &mut |_| ());
        assert!(decoder.is_complete());
        for (data, class) in [
            (r#"{"error":{"code":429}}"#, ErrorClass::RateLimited),
            (r#"{"error":{"type":"overloaded_error"}}"#, ErrorClass::Overloaded),
            (r#"{"error":"oops"}"#, ErrorClass::Server),
            (r#"{"choices":[{"del"#, ErrorClass::Truncated),
        ] {
            let Signal::Error(error) = decoder.decode(data.as_bytes(), &mut |_| ()) else { panic!("{data}") };
            assert_eq!(error.class, class, "{data}");
        }
    }

    #[test]
    fn calls_are_distinguished_in_every_dialect() {
        let two = [
            Delta::Start { id: "c".into(), model: "m".into() },
            Delta::Call { index: 0, id: "a".into(), name: "f".into() },
            Delta::Arguments { index: 0, json: "{}".into() },
            Delta::Call { index: 1, id: "b".into(), name: "g".into() },
            Delta::Arguments { index: 1, json: "{\"x\":1}".into() },
        ];
        let chunk = |calls: &str| {
            format!(
                r#"{{"id":"c","model":"m","choices":[{{"index":0,"delta":{{"tool_calls":[{calls}]}}}}]}}"#
            )
        };
        let by_index = [
            chunk(r#"{"index":0,"id":"a","function":{"name":"f","arguments":""}}"#),
            chunk(r#"{"index":0,"function":{"arguments":"{}"}}"#),
            chunk(r#"{"index":1,"id":"b","function":{"name":"g","arguments":null}}"#),
            chunk(r#"{"index":1,"function":{"arguments":"{\"x\":1}"}}"#),
        ];
        let without_index = [
            chunk(r#"{"id":"a","function":{"name":"f","arguments":"{}"}}"#),
            chunk(r#"{"id":"b","function":{"name":"g","arguments":{"x":1}}}"#),
        ];
        let always_zero = [
            chunk(r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}"#),
            chunk(r#"{"index":0,"id":"b","function":{"name":"g","arguments":"{\"x\":1}"}}"#),
        ];
        let name_after_id = [
            chunk(r#"{"index":0,"id":"a"}"#),
            chunk(
                r#"{"index":0,"function":{"arguments":"{"}},{"index":0,"function":{"name":"f","arguments":"}"}}"#,
            ),
            chunk(r#"{"index":1,"function":{"name":"g"}}"#),
            chunk(
                r#"{"index":1,"id":"b"},{"index":1,"id":"b","function":{"name":"g","arguments":"{\"x\":1}"}}"#,
            ),
        ];
        for events in [by_index.as_slice(), &without_index, &always_zero, &name_after_id] {
            let mut joined = Transcript::default();
            let events: Vec<&str> = events.iter().map(String::as_str).collect();
            deltas(&events).iter().for_each(|delta| joined.apply(delta));
            let mut expected = Transcript::default();
            two.iter().for_each(|delta| expected.apply(delta));
            assert_eq!(joined.blocks, expected.blocks, "{events:?}");
        }
        // Without ids, a second name or more arguments after complete ones begin a call, and each gets an id.
        let same_function = [
            chunk(r#"{"index":0,"function":{"name":"f","arguments":"{}"}}"#),
            chunk(r#"{"index":0,"function":{"name":"f","arguments":""}}"#),
            chunk(r#"{"index":0,"function":{"name":"f","arguments":"{\"x\":1}"}}"#),
        ];
        let deltas = deltas(&same_function.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(
            deltas.into_iter().skip(1).collect::<Vec<_>>(),
            [
                Delta::Call { index: 0, id: "call_c_0".into(), name: "f".into() },
                Delta::Arguments { index: 0, json: "{}".into() },
                Delta::Call { index: 1, id: "call_c_1".into(), name: "f".into() },
                Delta::Arguments { index: 1, json: "{\"x\":1}".into() },
            ]
        );
    }

    #[test]
    fn an_answer_that_broke_off_has_no_clean_end() {
        let check = |chunk: &str, expected: Result<Stop, ErrorClass>| {
            let mut stop = None;
            let mut sink = |delta: Delta<'_>| {
                if let Delta::Stop(reason) = delta {
                    stop = Some(reason);
                }
            };
            let streamed = Decoder::default().decode(chunk.as_bytes(), &mut sink);
            let whole = decode_whole(chunk.replace("delta", "message").as_bytes(), &mut |_| ());
            match (streamed, expected) {
                (Signal::Error(error), Err(class)) => {
                    assert_eq!((error.class, whole.unwrap_err().class), (class, class), "{chunk}");
                    assert_eq!(stop, None, "{chunk}");
                }
                (signal, expected) => {
                    assert_eq!((signal, stop, whole), (Signal::Finish, expected.ok(), Ok(())), "{chunk}")
                }
            }
        };
        let ends = |reason: &str, expected| {
            check(&format!(r#"{{"choices":[{{"delta":{{}},"finish_reason":"{reason}"}}]}}"#), expected);
        };
        ends("stop", Ok(Stop::End));
        ends("eos", Ok(Stop::End));
        ends("model_length", Ok(Stop::Length));
        ends("sensitive", Ok(Stop::Filter));
        ends("abort", Err(ErrorClass::Truncated));
        ends("error", Err(ErrorClass::Truncated));
        ends("network_error", Err(ErrorClass::Truncated));
        ends("insufficient_system_resource", Err(ErrorClass::Overloaded));
        let error = r#""error":{"code":429,"message":"slow"}"#;
        check(
            &format!(r#"{{{error},"choices":[{{"delta":{{"content":""}},"finish_reason":"error"}}]}}"#),
            Err(ErrorClass::RateLimited),
        );
        check(
            &format!(r#"{{"choices":[{{"delta":{{"content":"a"}},"finish_reason":"stop",{error}}}]}}"#),
            Err(ErrorClass::RateLimited),
        );
        check(
            r#"{"object":"error","message":"no","type":"BadRequestError","code":400}"#,
            Err(ErrorClass::Caller),
        );
        // The tokens of an answer that broke off are billed.
        let mut usage = None;
        let data = br#"{"error":{"code":502},"usage":{"prompt_tokens":5,"completion_tokens":2}}"#;
        Decoder::default().decode(data, &mut |delta| usage = Some(delta.into_owned()));
        assert_eq!(usage, Some(Delta::Usage(Usage { input: 5, output: 2, ..Usage::default() })));
    }

    #[test]
    fn input_tokens_exclude_cached_and_written_ones() {
        let usage = |counts: &str| {
            let deltas = deltas(&[&format!(r#"{{"choices":[],"usage":{counts}}}"#)]);
            let Some(Delta::Usage(usage)) = deltas.first() else { panic!("{counts}") };
            *usage
        };
        let expected = Usage { input: 6, cache_read: 4, output: 5, reasoning: 2, ..Usage::default() };
        assert_eq!(
            usage(
                r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}"#
            ),
            expected
        );
        assert_eq!(
            usage(
                r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_cache_hit_tokens":4,"prompt_cache_miss_tokens":6,"completion_tokens_details":null}"#
            ),
            Usage { reasoning: 0, ..expected }
        );
        assert_eq!(
            usage(
                r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":1,"cache_write_tokens":7}}"#
            ),
            Usage { input: 2, cache_read: 1, cache_write: 7, output: 5, ..Usage::default() }
        );
    }

    #[test]
    fn thoughts_beside_the_output_are_output() {
        let whole = r#"{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":12,"completion_tokens":1,"total_tokens":399,"completion_tokens_details":{"reasoning_tokens":386}}}"#;
        let mut last = None;
        decode_whole(whole.as_bytes(), &mut |delta| last = Some(delta.into_owned())).unwrap();
        let usage = Usage { input: 12, output: 387, reasoning: 386, ..Usage::default() };
        assert_eq!(last, Some(Delta::Usage(usage)));
    }

    #[test]
    fn bodies_that_are_no_completion_are_errors() {
        let check = |body: &[u8]| decode_whole(body, &mut |_| ());
        assert_eq!(check(b"\n\n{\"choices\":[{\"message\":{}}]}"), Ok(()));
        for bad in [
            "",
            " \n",
            "<html>",
            "{\"choices\":[",
            "{}",
            "{\"choices\":[]}",
            "{\"choices\":[{}]}",
            "[]",
            "null",
        ] {
            assert_eq!(check(bad.as_bytes()).unwrap_err().class, ErrorClass::Server, "{bad}");
        }
        assert_eq!(
            check(br#"{"error":{"code":"rate_limit_exceeded"}}"#).unwrap_err().class,
            ErrorClass::RateLimited
        );
    }
}
