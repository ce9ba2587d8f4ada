//! Writes an answer as chat completion chunks, or as one completion.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{
    usage::Usage,
    wire::{
        delta::{Block, Delta, Stop, Transcript},
        prompt::{ClientTool, ToolCall},
        writer::{Frame, MARK, arguments, event, quoted},
    },
};

/// Writes the chunks of one stream.
#[derive(Debug)]
pub struct Writer {
    frame: Frame,
    /// The chunk with the role was sent.
    started: bool,
    /// For each call, whether any of its arguments were written.
    has_arguments: Vec<bool>,
    /// The calls of custom tools by their index, as calls of the functions that stand for these.
    custom: BTreeMap<usize, ToolCall>,
    usage: Option<Usage>,
    stop: Option<Stop>,
}

impl Writer {
    pub(in crate::wire) fn new(frame: Frame) -> Self {
        Self {
            frame,
            started: false,
            has_arguments: Vec::new(),
            custom: BTreeMap::new(),
            usage: None,
            stop: None,
        }
    }

    /// Skips the first chunk, because the client has it already.
    pub(in crate::wire) fn already_started(self) -> Self {
        Self { started: true, ..self }
    }

    pub(in crate::wire) fn write(&mut self, delta: &Delta<'_>, out: &mut Vec<u8>) {
        match delta {
            Delta::Start { model, .. } => {
                if !model.is_empty() {
                    model.as_ref().clone_into(&mut self.frame.model);
                }
                if !std::mem::replace(&mut self.started, true) {
                    self.delta(r#"{"role":"assistant","content":""}"#, out);
                }
            }
            Delta::Text(text) => self.delta(&format!(r#"{{"content":{}}}"#, quoted(text)), out),
            Delta::Refusal(text) => self.delta(&format!(r#"{{"refusal":{}}}"#, quoted(text)), out),
            Delta::Reasoning(text) => {
                self.delta(&format!(r#"{{"reasoning_content":{}}}"#, quoted(text)), out);
            }
            // The format has no field for signatures and encrypted reasoning.
            Delta::Signature(_) | Delta::Redacted(_) => {}
            Delta::Call { index, id, name } => {
                self.has_arguments.resize((*index + 1).max(self.has_arguments.len()), false);
                if self.frame.client_tools.contains_key(name.as_ref()) {
                    // The text of a custom tool is written when it is complete, since it comes as JSON.
                    let (id, name) = (id.to_string(), name.to_string());
                    self.custom.insert(*index, ToolCall { id, name, arguments: String::new() });
                    return;
                }
                let call = format!(
                    r#"{{"tool_calls":[{{"index":{index},"id":{},"type":"function","function":{{"name":{},"arguments":""}}}}]}}"#,
                    quoted(id),
                    quoted(name)
                );
                self.delta(&call, out);
            }
            Delta::Arguments { index, json } => {
                if let Some(written) = self.has_arguments.get_mut(*index) {
                    *written = true;
                }
                if let Some(call) = self.custom.get_mut(index) {
                    call.arguments.push_str(json);
                    return;
                }
                self.arguments(*index, json, out);
            }
            Delta::Usage(usage) => self.usage = Some(*usage),
            Delta::Stop(stop) => self.stop = Some(stop.clone()),
        }
    }

    pub(in crate::wire) fn finish(&mut self, mark: Option<&Value>, out: &mut Vec<u8>) {
        for (index, call) in std::mem::take(&mut self.custom) {
            let mut call = written_call(&self.frame, &call);
            if let Some(call) = call.as_object_mut() {
                call.insert("index".into(), index.into());
            }
            self.delta(&json!({"tool_calls": [call]}).to_string(), out);
            if let Some(written) = self.has_arguments.get_mut(index) {
                *written = true;
            }
        }
        // Clients parse arguments, so a call without any gets an empty object.
        let calls = self.has_arguments.iter().enumerate();
        let empty: Vec<usize> = calls.filter(|(_, written)| !**written).map(|(index, _)| index).collect();
        for index in empty {
            self.arguments(index, "{}", out);
        }
        let reason = finish_reason(self.stop.as_ref());
        self.chunk("{}", Some(reason), mark, out);
        if self.frame.wants_usage
            && let Some(usage) = &self.usage
        {
            let head = self.head();
            event(None, &format_args!(r#"{head},"choices":[],"usage":{}}}"#, counts(usage)), out);
        }
        event(None, &"[DONE]", out);
    }

    fn arguments(&self, index: usize, json: &str, out: &mut Vec<u8>) {
        let call =
            format!(r#"{{"tool_calls":[{{"index":{index},"function":{{"arguments":{}}}}}]}}"#, quoted(json));
        self.delta(&call, out);
    }

    /// The beginning of each chunk, without its closing brace.
    fn head(&self) -> String {
        let Frame { id, created, model, .. } = &self.frame;
        let (id, model) = (quoted(id), quoted(model));
        format!(r#"{{"id":{id},"object":"chat.completion.chunk","created":{created},"model":{model}"#)
    }

    fn delta(&self, delta: &str, out: &mut Vec<u8>) {
        self.chunk(delta, None, None, out);
    }

    fn chunk(&self, delta: &str, finish: Option<&str>, mark: Option<&Value>, out: &mut Vec<u8>) {
        let head = self.head();
        let finish = finish.map_or("null".into(), quoted);
        let usage = if self.frame.wants_usage { r#","usage":null"# } else { "" };
        let mark = mark.map(|mark| format!(r#","{MARK}":{mark}"#)).unwrap_or_default();
        let choice =
            format_args!(r#"{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}"#);
        event(None, &format_args!(r#"{head},"choices":[{choice}]{usage}{mark}}}"#), out);
    }
}

/// Writes the answer as one completion.
pub(in crate::wire) fn whole(frame: &Frame, answer: &Transcript) -> Value {
    let (mut content, mut refusal, mut reasoning) = (String::new(), String::new(), String::new());
    for block in &answer.blocks {
        match block {
            Block::Text(text) => content.push_str(text),
            Block::Refusal(text) => refusal.push_str(text),
            Block::Reasoning(thought) => reasoning.push_str(&thought.text),
            Block::Call(_) => {}
        }
    }
    let null_if_empty = |text: String| if text.is_empty() { Value::Null } else { text.into() };
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    // Only a call or a refusal explains the absence of text; else clients expect a string.
    let is_null = content.is_empty() && (answer.has_calls() || !refusal.is_empty());
    message.insert("content".into(), if is_null { Value::Null } else { content.into() });
    message.insert("refusal".into(), null_if_empty(refusal));
    if !reasoning.is_empty() {
        message.insert("reasoning_content".into(), reasoning.into());
    }
    if answer.has_calls() {
        let calls = answer.calls().map(|call| written_call(frame, call));
        message.insert("tool_calls".into(), calls.collect());
    }
    let model = if answer.model.is_empty() { &frame.model } else { &answer.model };
    let mut body = json!({
        "id": frame.id,
        "object": "chat.completion",
        "created": frame.created,
        "model": model,
        "choices": [{
            "index": 0,
            "message": message,
            "logprobs": null,
            "finish_reason": finish_reason(answer.stop.as_ref()),
        }],
    });
    if let (Some(usage), Some(body)) = (&answer.usage, body.as_object_mut()) {
        body.insert("usage".into(), counts(usage));
    }
    body
}

/// A whole call: of a function, or of the client's custom tool that it stands for.
fn written_call(frame: &Frame, call: &ToolCall) -> Value {
    match frame.client_tools.get(&call.name) {
        Some(tool) => {
            let custom = json!({"name": tool.name, "input": ClientTool::input(&call.arguments)});
            json!({"id": call.id, "type": "custom", "custom": custom})
        }
        None => {
            let function = json!({"name": call.name, "arguments": arguments(&call.arguments)});
            json!({"id": call.id, "type": "function", "function": function})
        }
    }
}

fn finish_reason(stop: Option<&Stop>) -> &'static str {
    match stop {
        Some(Stop::Length) => "length",
        Some(Stop::ToolCalls) => "tool_calls",
        Some(Stop::Filter | Stop::Refusal) => "content_filter",
        Some(Stop::End | Stop::Sequence(_)) | None => "stop",
    }
}

fn counts(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.total_input(),
        "completion_tokens": usage.output,
        "total_tokens": usage.total(),
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write.saturating_add(usage.cache_write_1h),
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    })
}
