//! Writes an answer as message events, or as one message.

use serde_json::{Value, json};

use crate::{
    json::{self, Nesting},
    usage::Usage,
    wire::{
        delta::{Block, Delta, Stop, Transcript},
        writer::{Frame, MARK, arguments, event, quoted},
    },
};

/// Writes the message events of one stream. The format closes each block before the next one opens, so what begins
/// while a call is incomplete is written after it.
#[derive(Debug)]
pub struct Writer {
    frame: Frame,
    /// `message_start` was sent.
    started: bool,
    /// How many blocks were opened.
    blocks: usize,
    open: Open,
    /// What came while the open call was incomplete and belongs behind it.
    waiting: Vec<Delta<'static>>,
    usage: Option<Usage>,
    stop: Option<Stop>,
}

/// The block that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Open {
    Nothing,
    Text,
    Thinking,
    /// The call with this index, and how far its arguments are.
    Call(usize, Nesting),
}

impl Writer {
    pub(in crate::wire) fn new(frame: Frame) -> Self {
        Self {
            frame,
            started: false,
            blocks: 0,
            open: Open::Nothing,
            waiting: Vec::new(),
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
            Delta::Usage(usage) => self.usage = Some(*usage),
            Delta::Stop(stop) => self.stop = Some(stop.clone()),
            content => {
                self.content(content, out);
                self.write_waiting(out);
            }
        }
    }

    /// Writes what waits, until another call is incomplete.
    fn write_waiting(&mut self, out: &mut Vec<u8>) {
        while !self.is_incomplete() && !self.waiting.is_empty() {
            std::mem::take(&mut self.waiting).iter().for_each(|delta| self.content(delta, out));
        }
    }

    /// Writes the events of a piece of content. It waits while a call is open that gets more arguments, unless it is
    /// these.
    fn content(&mut self, delta: &Delta<'_>, out: &mut Vec<u8>) {
        match delta {
            Delta::Arguments { index, json } if self.is_open(*index) => {
                if let Open::Call(_, nesting) = &mut self.open {
                    nesting.push(json);
                }
                self.delta("input_json_delta", "partial_json", json, out);
            }
            _ if self.is_incomplete() => self.waiting.push(delta.clone().into_owned()),
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
                let (id, name) = (quoted(id), quoted(name));
                let block = format!(r#"{{"type":"tool_use","id":{id},"name":{name},"input":{{}}}}"#);
                self.open_block(Open::Call(*index, Nesting::default()), &block, out);
            }
            // Arguments of a call that is closed follow complete ones, so they are at most white space.
            Delta::Start { .. } | Delta::Arguments { .. } | Delta::Usage(_) | Delta::Stop(_) => {}
        }
    }

    /// Whether the call with this index is open.
    fn is_open(&self, index: usize) -> bool {
        matches!(&self.open, Open::Call(open, _) if *open == index)
    }

    /// Whether the open block is a call that gets more arguments. A call without any so far does: vendors may begin all
    /// calls before they send arguments.
    fn is_incomplete(&self) -> bool {
        matches!(&self.open, Open::Call(_, nesting) if !nesting.is_complete())
    }

    pub(in crate::wire) fn finish(&mut self, mark: Option<&Value>, out: &mut Vec<u8>) {
        // No more arguments come, so calls without any are complete, too.
        self.close_block(out);
        while !self.waiting.is_empty() {
            self.write_waiting(out);
            self.close_block(out);
        }
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

    /// Opens a thinking block, unless one is open.
    fn open_thinking(&mut self, out: &mut Vec<u8>) {
        if self.open != Open::Thinking {
            self.open_block(Open::Thinking, r#"{"type":"thinking","thinking":"","signature":""}"#, out);
        }
    }

    /// Closes the open block and opens another.
    fn open_block(&mut self, open: Open, block: &str, out: &mut Vec<u8>) {
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
            let input = json::inner_value(arguments(&call.arguments));
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
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
    })
}
