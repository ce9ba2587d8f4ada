//! Writes an answer as message events, or as one message.

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::{
    usage::Usage,
    wire::{
        delta::{Block, Delta, Stop, Transcript},
        writer::{Frame, MARK, arguments, event, quoted},
    },
};

/// Writes the message events of one stream. The format closes each block before the next one opens, so calls that are
/// interleaved in the deltas are written one after the other.
#[derive(Debug)]
pub struct Writer {
    frame: Frame,
    /// `message_start` was sent.
    started: bool,
    /// How many blocks were opened.
    blocks: usize,
    open: Open,
    /// Calls that started while another was incomplete.
    waiting: VecDeque<WaitingCall>,
    usage: Option<Usage>,
    stop: Option<Stop>,
}

/// A call that is written after the open block.
#[derive(Debug)]
struct WaitingCall {
    index: usize,
    id: String,
    name: String,
    /// The arguments so far.
    json: String,
}

/// The block that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Open {
    Nothing,
    Text,
    Thinking,
    /// The call with this index, and its arguments so far.
    Call(usize, String),
}

impl Writer {
    pub(in crate::wire) fn new(frame: Frame) -> Self {
        Self {
            frame,
            started: false,
            blocks: 0,
            open: Open::Nothing,
            waiting: VecDeque::new(),
            usage: None,
            stop: None,
        }
    }

    /// Continues a stream whose first `blocks` blocks were passed on unchanged; `open` says that the last is not
    /// closed.
    pub(in crate::wire) fn resumed_after(self, blocks: usize, open: bool, answer: &Transcript) -> Self {
        let open = match answer.blocks.last() {
            Some(Block::Text(_) | Block::Refusal(_)) if open => Open::Text,
            Some(_) if open => Open::Thinking,
            _ => Open::Nothing,
        };
        Self { started: true, blocks, open, ..self }
    }

    pub(in crate::wire) fn write(&mut self, delta: &Delta<'_>, out: &mut Vec<u8>) {
        match delta {
            Delta::Start { model, .. } => {
                if !model.is_empty() {
                    model.as_ref().clone_into(&mut self.frame.model);
                }
                // A failover starts the answer again, but the client gets one message.
                if !std::mem::replace(&mut self.started, true) {
                    self.start(out);
                }
            }
            Delta::Text(text) | Delta::Refusal(text) => {
                if self.open != Open::Text {
                    self.open_block(Open::Text, r#"{"type":"text","text":""}"#, out);
                }
                self.delta("text_delta", "text", text, out);
            }
            Delta::Reasoning(text) => {
                self.open_thinking(out);
                self.delta("thinking_delta", "thinking", text, out);
            }
            Delta::Signature(proof) => {
                self.open_thinking(out);
                self.delta("signature_delta", "signature", proof, out);
                self.close_block(out);
            }
            Delta::Redacted(data) => {
                let block = format!(r#"{{"type":"redacted_thinking","data":{}}}"#, quoted(data));
                self.open_block(Open::Thinking, &block, out);
                self.close_block(out);
            }
            Delta::Call { index, id, name } => {
                // An open call with incomplete arguments gets more of them: vendors may interleave calls.
                let is_incomplete = match &self.open {
                    Open::Call(_, json) => serde_json::from_str::<Value>(arguments(json)).is_err(),
                    Open::Nothing | Open::Text | Open::Thinking => false,
                };
                if is_incomplete || !self.waiting.is_empty() {
                    let (id, name) = (id.to_string(), name.to_string());
                    self.waiting.push_back(WaitingCall { index: *index, id, name, json: String::new() });
                } else {
                    self.open_call(*index, id, name, out);
                }
            }
            Delta::Arguments { index, json } => match &mut self.open {
                Open::Call(open, so_far) if open == index => {
                    so_far.push_str(json);
                    self.delta("input_json_delta", "partial_json", json, out);
                }
                _ => {
                    if let Some(call) = self.waiting.iter_mut().find(|call| call.index == *index) {
                        call.json.push_str(json);
                    }
                }
            },
            Delta::Usage(usage) => self.usage = Some(*usage),
            Delta::Stop(stop) => self.stop = Some(stop.clone()),
        }
    }

    pub(in crate::wire) fn finish(&mut self, mark: Option<&Value>, out: &mut Vec<u8>) {
        self.write_waiting_calls(out);
        self.close_block(out);
        let (reason, sequence) = stop_reason(self.stop.as_ref());
        let usage = counts(&self.usage());
        let mark = mark.map(|mark| format!(r#","{MARK}":{mark}"#)).unwrap_or_default();
        let delta = json!({"stop_reason": reason, "stop_sequence": sequence});
        let data = format!(r#"{{"type":"message_delta","delta":{delta},"usage":{usage}{mark}}}"#);
        event(Some("message_delta"), &data, out);
        event(Some("message_stop"), &r#"{"type":"message_stop"}"#, out);
    }

    /// The usage so far, with an estimated input if it is unknown: clients treat 0 input tokens as an error.
    fn usage(&self) -> Usage {
        let counted = self.usage.unwrap_or_default();
        if counted.total_input() > 0 {
            return counted;
        }
        Usage { input: self.frame.estimated_input.max(1), ..counted }
    }

    fn start(&self, out: &mut Vec<u8>) {
        let message = json!({
            "id": self.frame.id,
            "type": "message",
            "role": "assistant",
            "model": self.frame.model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": counts(&self.usage()),
        });
        event(Some("message_start"), &json!({"type": "message_start", "message": message}), out);
    }

    fn open_call(&mut self, index: usize, id: &str, name: &str, out: &mut Vec<u8>) {
        let block =
            format!(r#"{{"type":"tool_use","id":{},"name":{},"input":{{}}}}"#, quoted(id), quoted(name));
        self.open_block(Open::Call(index, String::new()), &block, out);
    }

    /// Opens a thinking block, unless one is open.
    fn open_thinking(&mut self, out: &mut Vec<u8>) {
        if self.open != Open::Thinking {
            self.open_block(Open::Thinking, r#"{"type":"thinking","thinking":"","signature":""}"#, out);
        }
    }

    /// Closes the open block and opens another; waiting calls are written before.
    fn open_block(&mut self, open: Open, block: &str, out: &mut Vec<u8>) {
        if !matches!(open, Open::Call(..)) {
            self.write_waiting_calls(out);
        }
        self.close_block(out);
        let index = self.blocks;
        self.blocks += 1;
        self.open = open;
        let data = format!(r#"{{"type":"content_block_start","index":{index},"content_block":{block}}}"#);
        event(Some("content_block_start"), &data, out);
    }

    fn delta(&self, kind: &str, key: &str, text: &str, out: &mut Vec<u8>) {
        let (index, text) = (self.blocks.saturating_sub(1), quoted(text));
        let data = format_args!(
            r#"{{"type":"content_block_delta","index":{index},"delta":{{"type":"{kind}","{key}":{text}}}}}"#
        )
        .to_string();
        event(Some("content_block_delta"), &data, out);
    }

    fn close_block(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.open, Open::Nothing) != Open::Nothing {
            let index = self.blocks.saturating_sub(1);
            let data = format!(r#"{{"type":"content_block_stop","index":{index}}}"#);
            event(Some("content_block_stop"), &data, out);
        }
    }

    /// Writes the waiting calls, each with all its arguments.
    fn write_waiting_calls(&mut self, out: &mut Vec<u8>) {
        while let Some(WaitingCall { index, id, name, json }) = self.waiting.pop_front() {
            self.open_call(index, &id, &name, out);
            if !json.is_empty() {
                self.delta("input_json_delta", "partial_json", &json, out);
            }
        }
    }
}

/// Writes the answer as one message.
pub(in crate::wire) fn whole(frame: &Frame, answer: &Transcript) -> Value {
    let content = answer.blocks.iter().flat_map(|block| match block {
        Block::Text(text) | Block::Refusal(text) => vec![json!({"type": "text", "text": text})],
        Block::Reasoning(thought) => match &thought.redacted {
            Some(data) => vec![json!({"type": "redacted_thinking", "data": data})],
            None => {
                let signature = thought.signature.as_deref().unwrap_or_default();
                vec![json!({"type": "thinking", "thinking": thought.text, "signature": signature})]
            }
        },
        Block::Call(call) => {
            // Arguments that are not JSON were truncated by a token limit; such a call is left out.
            let input = serde_json::from_str::<Value>(arguments(&call.arguments)).ok();
            let call = |input| json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input});
            input.map(call).into_iter().collect()
        }
    });
    let (reason, sequence) = stop_reason(answer.stop.as_ref());
    let model = if answer.model.is_empty() { &frame.model } else { &answer.model };
    json!({
        "id": frame.id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content.collect::<Vec<_>>(),
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": counts(&answer.usage.unwrap_or_default()),
    })
}

fn stop_reason(stop: Option<&Stop>) -> (&'static str, Option<&str>) {
    match stop {
        Some(Stop::End) | None => ("end_turn", None),
        Some(Stop::Length) => ("max_tokens", None),
        Some(Stop::ToolCalls) => ("tool_use", None),
        Some(Stop::Sequence(text)) => ("stop_sequence", Some(text)),
        Some(Stop::Filter | Stop::Refusal) => ("refusal", None),
    }
}

fn counts(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write.saturating_add(usage.cache_write_1h),
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output,
    })
}
