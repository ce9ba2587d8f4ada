//! An answer as response events.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    Decoder,
    item::{
        CallResult, Served, approval_request, function_call, item, item_id, item_status, mcp_call, message,
        reasoning, served_id, text_part,
    },
    object::{incomplete, response},
};
use crate::{
    usage::Usage,
    wire::{
        delta::{Block, Delta, Transcript},
        writer::{Frame, INTERRUPTED, MARK, arguments, event},
    },
};

/// Writes response events, each with the number after the last.
#[derive(Debug)]
pub struct Writer {
    frame: Frame,
    begun: bool,
    sequence: u64,
    /// What has come, which the last event repeats.
    answer: Transcript,
    /// The items that are open, by their blocks in `answer`. Calls may be open together, since their pieces may come
    /// mixed.
    open: Vec<usize>,
    /// The block of each call of the step that goes on.
    calls: Vec<usize>,
    /// Index and id of each block's item.
    places: Vec<(u64, String)>,
    /// Items that no block of the answer makes, by their index.
    others: BTreeMap<u64, Value>,
    /// The blocks that came before the step that goes on.
    settled: usize,
    /// What the steps before it used.
    spent: Usage,
    /// The calls that the node makes, by the names under which the model knows the functions.
    served: BTreeMap<String, Served>,
    /// What became of the calls that the node made, by the ids of their items.
    results: BTreeMap<String, Served>,
    /// The number of the last event that the client has, when it takes a stream up again.
    seen: Option<u64>,
}

impl Writer {
    /// A writer of a stream that has not begun.
    pub fn new(frame: Frame) -> Self {
        Self {
            frame,
            begun: false,
            sequence: 0,
            seen: None,
            answer: Transcript::default(),
            open: Vec::new(),
            calls: Vec::new(),
            places: Vec::new(),
            others: BTreeMap::new(),
            settled: 0,
            spent: Usage::default(),
            served: BTreeMap::new(),
            results: BTreeMap::new(),
        }
    }

    /// Goes on in a stream that others began; `None` if it can't be told which of its items `answer` is made of.
    pub(in crate::wire) fn after(self, decoder: &Decoder, answer: &Transcript) -> Option<Self> {
        let (places, open) = decoder.places();
        if places.len() != answer.blocks.len() {
            return None;
        }
        let open = open.then(|| places.len().checked_sub(1)).flatten().into_iter().collect();
        let sequence = decoder.sequence() + 1;
        Some(Self { begun: true, sequence, answer: answer.clone(), open, places: places.to_vec(), ..self })
    }

    /// Writes no event up to the one that has this number.
    #[must_use]
    pub fn after_event(self, seen: Option<u64>) -> Self {
        Self { seen, ..self }
    }

    /// Begins the stream before anybody has been asked.
    pub fn begin(&mut self, status: &str, out: &mut Vec<u8>) {
        self.begun = true;
        let created = self.response(status, None);
        self.send("response.created", json!({"response": created}), out);
        if status == "queued" {
            let queued = self.response(status, None);
            self.send("response.queued", json!({"response": queued}), out);
        }
    }

    /// Says that the work has begun.
    pub fn progress(&mut self, out: &mut Vec<u8>) {
        let response = self.response("in_progress", None);
        self.send("response.in_progress", json!({"response": response}), out);
    }

    /// What was said, and by whom.
    pub fn answer(&self) -> &Transcript {
        &self.answer
    }

    /// What the answer says besides what the model said.
    pub fn frame_mut(&mut self) -> &mut Frame {
        &mut self.frame
    }

    /// How many events there have been.
    pub fn events(&self) -> u64 {
        self.sequence
    }

    /// Takes back what the step that goes on has said: it could not be continued, and is said anew.
    pub fn discard(&mut self, out: &mut Vec<u8>) {
        for at in std::mem::take(&mut self.open) {
            let Some((index, mut item)) = self.item(at, "incomplete") else { continue };
            if self.answer.blocks.get(at).and_then(|block| self.served(block)).is_some_and(|s| s.approval) {
                continue;
            }
            if let Some(fields) = item.as_object_mut() {
                fields.insert("status".into(), "incomplete".into());
            }
            self.send("response.output_item.done", json!({"output_index": index, "item": item}), out);
        }
        self.answer.truncate(self.settled);
        self.places.truncate(self.settled);
        self.calls.clear();
    }

    /// From here on the model is asked anew; what it says comes after what it has said.
    pub fn step(&mut self, out: &mut Vec<u8>) {
        self.close_all("completed", out);
        self.settled = self.answer.blocks.len();
        self.spent += self.answer.usage.take().unwrap_or_default();
        self.answer.step();
        self.calls.clear();
    }

    /// What the step that goes on has said.
    pub fn transcript(&self) -> Transcript {
        let blocks = self.answer.blocks.get(self.settled..).unwrap_or_default().to_vec();
        let Transcript { id, model, usage, stop, .. } = self.answer.clone();
        Transcript::of(id, model, blocks, usage, stop)
    }

    /// The functions that the node runs, by the names under which the model knows them.
    pub fn set_tools(&mut self, served: impl IntoIterator<Item = (String, Served)>) {
        self.served.extend(served);
    }

    /// An item that is whole as soon as it is there. `kind` is what its events are called.
    pub fn add(&mut self, kind: &str, item: Value, out: &mut Vec<u8>) {
        self.close_all("completed", out);
        let index = self.next_index();
        let failed = item.get("error").is_some_and(|error| !error.is_null());
        let mut announced = item.clone();
        if let Some(fields) = announced.as_object_mut() {
            fields.insert("tools".into(), json!([]));
            fields.remove("error");
        }
        let place = json!({"output_index": index, "item_id": item.get("id")});
        self.others.insert(index, item.clone());
        self.send("response.output_item.added", json!({"output_index": index, "item": announced}), out);
        self.send(&format!("response.{kind}.in_progress"), place.clone(), out);
        let end = if failed { "failed" } else { "completed" };
        self.send(&format!("response.{kind}.{end}"), place, out);
        self.send("response.output_item.done", json!({"output_index": index, "item": item}), out);
    }

    /// A call begins that the model asked for in an earlier turn.
    pub fn call_begins(&mut self, id: &str, arguments: &str, served: Served, out: &mut Vec<u8>) {
        let index = self.next_index();
        let item = mcp_call(id, arguments, &served);
        self.others.insert(index, item.clone());
        self.results.insert(id.to_owned(), served);
        self.send("response.output_item.added", json!({"output_index": index, "item": item}), out);
        let place = json!({"output_index": index, "item_id": id});
        self.send("response.mcp_call.in_progress", place, out);
    }

    /// A call that the node made has ended.
    pub fn call_ends(&mut self, id: &str, arguments: &str, served: Served, out: &mut Vec<u8>) {
        let block = self.places.iter().find(|(_, known)| known == id).map(|(index, _)| *index);
        let known = |item: &Value| item.get("id").and_then(Value::as_str) == Some(id);
        let other = || self.others.iter().find(|(_, item)| known(item)).map(|(index, _)| *index);
        let Some(index) = block.or_else(other) else { return };
        let item = mcp_call(id, arguments, &served);
        if block.is_none() {
            self.others.insert(index, item.clone());
        }
        let done = matches!(served.result, Some(CallResult::Output(_)));
        self.results.insert(id.to_owned(), served);
        let kind = if done { "response.mcp_call.completed" } else { "response.mcp_call.failed" };
        self.send(kind, json!({"output_index": index, "item_id": id}), out);
        self.send("response.output_item.done", json!({"output_index": index, "item": item}), out);
    }

    fn next_index(&self) -> u64 {
        let block = self.places.last().map(|(index, _)| index + 1);
        let other = self.others.last_key_value().map(|(index, _)| index + 1);
        block.max(other).unwrap_or(0)
    }

    /// The item of the block at `at`, as it is now, and its index.
    fn item(&self, at: usize, status: &str) -> Option<(u64, Value)> {
        let (block, (index, id)) = (self.answer.blocks.get(at)?, self.places.get(at)?);
        let item = match (block, self.served(block)) {
            (Block::Call(call), Some(served)) if served.approval => {
                approval_request(id, &call.arguments, served)
            }
            (Block::Call(call), Some(served)) => {
                mcp_call(id, &call.arguments, self.results.get(id).unwrap_or(served))
            }
            _ => item(id, block, status),
        };
        Some((*index, item))
    }

    fn served(&self, block: &Block) -> Option<&Served> {
        let Block::Call(call) = block else { return None };
        self.served.get(&call.name)
    }

    /// Writes what a delta adds.
    pub fn write(&mut self, delta: &Delta<'_>, out: &mut Vec<u8>) {
        let before = self.answer.blocks.len();
        self.answer.apply(delta);
        if let Delta::Start { .. } = delta
            && !std::mem::replace(&mut self.begun, true)
        {
            self.frame.model = if self.answer.model.is_empty() {
                self.frame.model.clone()
            } else {
                self.answer.model.clone()
            };
            for kind in ["response.created", "response.in_progress"] {
                let response = self.response("in_progress", None);
                self.send(kind, json!({"response": response}), out);
            }
        }
        let at = self.answer.blocks.len().saturating_sub(1);
        if self.answer.blocks.len() > before {
            let is_call = matches!(delta, Delta::Call { .. });
            if is_call {
                self.calls.push(at);
            }
            for before in std::mem::take(&mut self.open) {
                if is_call && self.calls.contains(&before) {
                    self.open.push(before);
                } else {
                    self.close(before, "completed", out);
                }
            }
            self.open(at, out);
        }
        match delta {
            Delta::Text(text) => self.piece("response.output_text.delta", at, text, out),
            Delta::Refusal(text) => self.piece("response.refusal.delta", at, text, out),
            Delta::Reasoning(text) => self.piece("response.reasoning_text.delta", at, text, out),
            Delta::Arguments { index, json } => {
                if let Some(at) = self.calls.get(*index).copied() {
                    let served = self.answer.blocks.get(at).and_then(|block| self.served(block));
                    match served.map(|served| served.approval) {
                        None => self.piece("response.function_call_arguments.delta", at, json, out),
                        Some(false) => self.piece("response.mcp_call_arguments.delta", at, json, out),
                        // It is shown once it is whole, so that nobody approves of half of it.
                        Some(true) => {}
                    }
                }
            }
            _ => {}
        }
    }

    /// Ends the stream otherwise than by the answer's own end.
    pub fn end(&mut self, status: &str, error: Option<Value>, out: &mut Vec<u8>) {
        self.close_all(status, out);
        let response = self.response(status, error);
        let kind = if status == "failed" { "response.failed" } else { "response.incomplete" };
        self.send(kind, json!({"response": response}), out);
    }

    /// Ends the answer.
    pub fn finish(&mut self, mark: Option<&Value>, out: &mut Vec<u8>) {
        let (status, kind) = match incomplete(&self.answer) {
            Some(_) => ("incomplete", "response.incomplete"),
            None => ("completed", "response.completed"),
        };
        self.close_all(status, out);
        let mut fields = json!({"response": self.response(status, None)});
        if let (Some(mark), Some(fields)) = (mark, fields.as_object_mut()) {
            fields.insert(MARK.into(), mark.clone());
        }
        self.send(kind, fields, out);
    }

    pub(in crate::wire) fn fail(&mut self, message: &str, out: &mut Vec<u8>) {
        // The vendor's clients know few codes.
        let error = json!({"code": "server_error", "message": message});
        self.end("failed", Some(error), out);
    }

    /// The response as it is now.
    pub fn response(&self, status: &str, error: Option<Value>) -> Value {
        let done = !matches!(status, "in_progress" | "queued");
        let output = if done { self.output(status) } else { Vec::new() };
        let usage = match self.answer.usage {
            None if self.spent == Usage::default() => None,
            usage => {
                let mut all = self.spent;
                all += usage.unwrap_or_default();
                Some(all)
            }
        };
        response(&self.frame, &self.answer, usage, status, output, error)
    }

    /// All items, in their order.
    ///
    /// A call that was not made when the answer ended will not be.
    fn output(&self, status: &str) -> Vec<Value> {
        let mut items = self.others.clone();
        items.extend((0..self.answer.blocks.len()).filter_map(|at| {
            let ended = item_status(at, self.answer.blocks.len(), status == "completed");
            self.item(at, ended).or_else(|| {
                // What was never announced comes last.
                let block = self.answer.blocks.get(at)?;
                Some((self.next_index() + at as u64, item(&item_id(&self.frame.id, block, at), block, ended)))
            })
        }));
        let ended = |mut item: Value| {
            if let Some(fields) = item.as_object_mut()
                && fields.get("type") == Some(&"mcp_call".into())
                && fields.get("status") == Some(&"in_progress".into())
            {
                fields.insert("status".into(), "incomplete".into());
            }
            item
        };
        items.into_values().map(ended).collect()
    }

    fn send(&mut self, kind: &str, fields: Value, out: &mut Vec<u8>) {
        let mut data = Map::new();
        data.insert("type".into(), kind.into());
        data.insert("sequence_number".into(), self.sequence.into());
        if let Value::Object(fields) = fields {
            data.extend(fields);
        }
        if self.seen.is_none_or(|seen| self.sequence > seen) {
            event(Some(kind), &Value::Object(data), out);
        }
        self.sequence += 1;
    }

    fn open(&mut self, at: usize, out: &mut Vec<u8>) {
        let Some(block) = self.answer.blocks.get(at) else { return };
        let index = self.next_index();
        if let (Block::Call(_), Some(served)) = (block, self.served(block)) {
            let (id, approval) = (served_id(&self.frame.id, at, served.approval), served.approval);
            self.places.push((index, id.clone()));
            self.open.push(at);
            if let Some((_, item)) = self.item(at, "in_progress").filter(|_| !approval) {
                self.send("response.output_item.added", json!({"output_index": index, "item": item}), out);
                let place = json!({"output_index": index, "item_id": id});
                self.send("response.mcp_call.in_progress", place, out);
            }
            return;
        }
        let id = item_id(&self.frame.id, block, at);
        self.places.push((index, id.clone()));
        let (item, part) = match block {
            Block::Text(_) => (message(&id, "in_progress", json!([])), Some(text_part(""))),
            Block::Refusal(_) => {
                (message(&id, "in_progress", json!([])), Some(json!({"type": "refusal", "refusal": ""})))
            }
            Block::Reasoning(_) => {
                (reasoning(&id, json!([])), Some(json!({"type": "reasoning_text", "text": ""})))
            }
            Block::Call(call) => (function_call(&id, "in_progress", &call.id, &call.name, ""), None),
        };
        self.open.push(at);
        self.send("response.output_item.added", json!({"output_index": index, "item": item}), out);
        if let Some(part) = part {
            let fields = json!({"item_id": id, "output_index": index, "content_index": 0, "part": part});
            self.send("response.content_part.added", fields, out);
        }
    }

    fn piece(&mut self, kind: &str, at: usize, text: &str, out: &mut Vec<u8>) {
        let (Some(block), Some((index, id))) = (self.answer.blocks.get(at), self.places.get(at)) else {
            return;
        };
        let mut fields = json!({"item_id": id, "output_index": index});
        if let Some(fields) = fields.as_object_mut() {
            if !matches!(block, Block::Call(_)) {
                fields.insert("content_index".into(), 0.into());
            }
            fields.insert("delta".into(), text.into());
            if matches!(block, Block::Text(_)) {
                fields.insert("logprobs".into(), json!([]));
            }
        }
        self.send(kind, fields, out);
    }

    /// Closes what is open in a response that ends as `status`.
    fn close_all(&mut self, status: &str, out: &mut Vec<u8>) {
        for at in std::mem::take(&mut self.open) {
            self.close(at, item_status(at, self.answer.blocks.len(), status == "completed"), out);
        }
    }

    fn close(&mut self, at: usize, status: &str, out: &mut Vec<u8>) {
        let (Some(block), Some((index, id))) = (self.answer.blocks.get(at), self.places.get(at)) else {
            return;
        };
        let (block, index, id) = (block.clone(), *index, id.clone());
        if let Some(served) = self.served(&block).cloned() {
            let Some((_, item)) = self.item(at, status) else { return };
            if served.approval {
                for kind in ["response.output_item.added", "response.output_item.done"] {
                    self.send(kind, json!({"output_index": index, "item": item}), out);
                }
            } else {
                let fields = json!({
                    "item_id": id, "output_index": index, "arguments": item.get("arguments"),
                });
                self.send("response.mcp_call_arguments.done", fields, out);
            }
            return;
        }
        let place = |more: Value| {
            let mut fields = json!({"item_id": id, "output_index": index});
            if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
                fields.extend(more);
            }
            fields
        };
        match &block {
            Block::Text(text) => {
                let done = place(json!({"content_index": 0, "text": text, "logprobs": []}));
                self.send("response.output_text.done", done, out);
                let part = place(json!({"content_index": 0, "part": text_part(text)}));
                self.send("response.content_part.done", part, out);
            }
            Block::Refusal(text) => {
                self.send("response.refusal.done", place(json!({"content_index": 0, "refusal": text})), out);
                let part = json!({"type": "refusal", "refusal": text});
                self.send(
                    "response.content_part.done",
                    place(json!({"content_index": 0, "part": part})),
                    out,
                );
            }
            Block::Reasoning(thought) => {
                let text = &thought.text;
                self.send(
                    "response.reasoning_text.done",
                    place(json!({"content_index": 0, "text": text})),
                    out,
                );
                let part = json!({"type": "reasoning_text", "text": text});
                self.send(
                    "response.content_part.done",
                    place(json!({"content_index": 0, "part": part})),
                    out,
                );
            }
            Block::Call(call) => {
                let fields = place(json!({"name": call.name, "arguments": arguments(&call.arguments)}));
                self.send("response.function_call_arguments.done", fields, out);
            }
        }
        let item = item(&id, &block, status);
        self.send("response.output_item.done", json!({"output_index": index, "item": item}), out);
    }
}

/// The end of a stream that was handed on as it came, and can't go on.
pub(in crate::wire) fn fail(message: &str, sequence: u64, out: &mut Vec<u8>) {
    let error = json!({
        "type": "error", "sequence_number": sequence + 1, "code": INTERRUPTED, "message": message, "param": null,
    });
    event(Some("error"), &error, out);
}

pub(in crate::wire) fn whole(frame: &Frame, answer: &Transcript) -> Value {
    let status = if incomplete(answer).is_some() { "incomplete" } else { "completed" };
    let items = answer.blocks.iter().enumerate();
    let items = items.map(|(at, block)| {
        let ended = item_status(at, answer.blocks.len(), status == "completed");
        item(&item_id(&frame.id, block, at), block, ended)
    });
    let output = items.collect();
    response(frame, answer, answer.usage, status, output, None)
}
