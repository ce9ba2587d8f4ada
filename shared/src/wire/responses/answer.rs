//! Writes an answer as response events: the model's deltas, and the node's own calls between them. The response object
//! and the items are in `object` and `item`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    Decoder,
    item::{
        CallResult, NodeCall, approval_request, client_call, client_item, item_id, item_status, mcp_call,
        message, node_call_id, reasoning, text_part,
    },
    object::{incomplete, response},
};
use crate::{
    json::Nesting,
    usage::Usage,
    wire::{
        delta::{Block, Delta, Transcript},
        prompt::{ClientTool, ClientToolKind},
        writer::{Frame, INTERRUPTED, MARK, arguments, event},
    },
};

/// Writes the response events of one stream, numbered from 0.
#[derive(Debug)]
pub struct Writer {
    frame: Frame,
    /// `response.created` was sent.
    started: bool,
    /// The number of the next event.
    sequence: u64,
    /// The answer so far, of all steps. The last event repeats it.
    answer: Transcript,
    /// The blocks in `answer` whose items are open. Several calls may be open, since their deltas may be interleaved.
    open: Vec<usize>,
    /// The block of each call of the current step.
    calls: Vec<usize>,
    /// The blocks of approval requests that are hidden: the answer broke off before they were complete.
    incomplete_requests: Vec<usize>,
    /// Output index and id of each block's item.
    item_refs: Vec<(u64, String)>,
    /// Items without a block in `answer`, by their output index.
    other_items: BTreeMap<u64, Value>,
    /// The number of blocks of earlier steps.
    earlier_blocks: usize,
    /// The usage of earlier steps.
    earlier_usage: Usage,
    /// The functions that the node runs, by the names under which the model knows them.
    node_functions: BTreeMap<String, NodeCall>,
    /// The calls that the node made, by the ids of their items.
    node_calls: BTreeMap<String, NodeCall>,
    /// The number of the last event that a reconnected client already has.
    last_received: Option<u64>,
}

impl Writer {
    /// A writer for a stream from its beginning.
    pub fn new(frame: Frame) -> Self {
        Self {
            frame,
            started: false,
            sequence: 0,
            last_received: None,
            answer: Transcript::default(),
            open: Vec::new(),
            calls: Vec::new(),
            incomplete_requests: Vec::new(),
            item_refs: Vec::new(),
            other_items: BTreeMap::new(),
            earlier_blocks: 0,
            earlier_usage: Usage::default(),
            node_functions: BTreeMap::new(),
            node_calls: BTreeMap::new(),
        }
    }

    /// Continues a stream whose events so far were passed on unchanged; `None` if the blocks of `answer` cannot be
    /// matched with the items of `decoder`.
    pub(in crate::wire) fn resumed_after(self, decoder: &Decoder, answer: &Transcript) -> Option<Self> {
        let (item_refs, open) = decoder.item_refs();
        if item_refs.len() != answer.blocks.len() {
            return None;
        }
        let open = open.then(|| item_refs.len().checked_sub(1)).flatten().into_iter().collect();
        let sequence = decoder.sequence() + 1;
        let item_refs = item_refs.to_vec();
        Some(Self { started: true, sequence, answer: answer.clone(), open, item_refs, ..self })
    }

    /// Omits the events up to the one with this number, which the client already has.
    #[must_use]
    pub fn after_event(self, last_received: Option<u64>) -> Self {
        Self { last_received, ..self }
    }

    /// Begins the stream with `status`, before a model is called.
    pub fn begin(&mut self, status: &str, out: &mut Vec<u8>) {
        self.started = true;
        let created = self.response(status, None);
        self.send("response.created", json!({"response": created}), out);
        if status == "queued" {
            let queued = self.response(status, None);
            self.send("response.queued", json!({"response": queued}), out);
        }
    }

    /// Writes that the response is in progress.
    pub fn write_in_progress(&mut self, out: &mut Vec<u8>) {
        let response = self.response("in_progress", None);
        self.send("response.in_progress", json!({"response": response}), out);
    }

    /// The answer so far, of all steps.
    pub fn answer(&self) -> &Transcript {
        &self.answer
    }

    /// The fields of the response that do not come from the model.
    pub fn frame_mut(&mut self) -> &mut Frame {
        &mut self.frame
    }

    /// How many events were written or omitted.
    pub fn event_count(&self) -> u64 {
        self.sequence
    }

    /// Discards the content of the current step, which could not be continued and is generated again. Its open items
    /// end as incomplete.
    pub fn discard(&mut self, out: &mut Vec<u8>) {
        for at in std::mem::take(&mut self.open) {
            let Some((index, mut item)) = self.item(at, "incomplete") else { continue };
            // An open approval request has not been announced, so there is nothing to end.
            if self.needs_approval(at) {
                continue;
            }
            if let Some(fields) = item.as_object_mut() {
                fields.insert("status".into(), "incomplete".into());
            }
            self.send("response.output_item.done", json!({"output_index": index, "item": item}), out);
        }
        self.answer.truncate(self.earlier_blocks);
        self.item_refs.truncate(self.earlier_blocks);
        self.calls.clear();
    }

    /// Begins the next step: another call of the model, whose content follows that of the earlier steps.
    pub fn begin_step(&mut self, out: &mut Vec<u8>) {
        self.close_open_items("completed", out);
        self.earlier_blocks = self.answer.blocks.len();
        self.earlier_usage += self.answer.usage.take().unwrap_or_default();
        self.answer.begin_step();
        self.calls.clear();
    }

    /// The content of the current step.
    pub fn transcript(&self) -> Transcript {
        let blocks = self.answer.blocks.get(self.earlier_blocks..).unwrap_or_default().to_vec();
        let Transcript { id, model, usage, stop, .. } = self.answer.clone();
        Transcript::of(id, model, blocks, usage, stop)
    }

    /// Adds functions that the node runs, by the names under which the model knows them.
    pub fn set_tools(&mut self, functions: impl IntoIterator<Item = (String, NodeCall)>) {
        self.node_functions.extend(functions);
    }

    /// Writes an item that is complete at once. `kind` is the name of its events.
    pub fn write_item(&mut self, kind: &str, item: Value, out: &mut Vec<u8>) {
        self.close_open_items("completed", out);
        let index = self.next_index();
        let failed = item.get("error").is_some_and(|error| !error.is_null());
        let mut announced = item.clone();
        if let Some(fields) = announced.as_object_mut() {
            fields.insert("tools".into(), json!([]));
            fields.remove("error");
        }
        let item_ref = json!({"output_index": index, "item_id": item.get("id")});
        self.other_items.insert(index, item.clone());
        self.send("response.output_item.added", json!({"output_index": index, "item": announced}), out);
        self.send(&format!("response.{kind}.in_progress"), item_ref.clone(), out);
        let end = if failed { "failed" } else { "completed" };
        self.send(&format!("response.{kind}.{end}"), item_ref, out);
        self.send("response.output_item.done", json!({"output_index": index, "item": item}), out);
    }

    /// Writes the start of a call that the model requested in an earlier turn.
    pub fn begin_call(&mut self, id: &str, arguments: &str, call: NodeCall, out: &mut Vec<u8>) {
        let index = self.next_index();
        let item = mcp_call(id, arguments, &call);
        self.other_items.insert(index, item.clone());
        self.node_calls.insert(id.to_owned(), call);
        self.send("response.output_item.added", json!({"output_index": index, "item": item}), out);
        let item_ref = json!({"output_index": index, "item_id": id});
        self.send("response.mcp_call.in_progress", item_ref, out);
    }

    /// Writes the end of a call that the node made; nothing if its item is unknown.
    pub fn end_call(&mut self, id: &str, arguments: &str, call: NodeCall, out: &mut Vec<u8>) {
        let block = self.item_refs.iter().find(|(_, known)| known == id).map(|(index, _)| *index);
        let known = |item: &Value| item.get("id").and_then(Value::as_str) == Some(id);
        let other = || self.other_items.iter().find(|(_, item)| known(item)).map(|(index, _)| *index);
        let Some(index) = block.or_else(other) else { return };
        let item = mcp_call(id, arguments, &call);
        if block.is_none() {
            self.other_items.insert(index, item.clone());
        }
        let succeeded = matches!(call.result, Some(CallResult::Output(_)));
        self.node_calls.insert(id.to_owned(), call);
        let kind = if succeeded { "response.mcp_call.completed" } else { "response.mcp_call.failed" };
        self.send(kind, json!({"output_index": index, "item_id": id}), out);
        self.send("response.output_item.done", json!({"output_index": index, "item": item}), out);
    }

    /// The output index of the next item.
    fn next_index(&self) -> u64 {
        let block = self.item_refs.last().map(|(index, _)| index + 1);
        let other = self.other_items.last_key_value().map(|(index, _)| index + 1);
        block.max(other).unwrap_or(0)
    }

    /// The output index and the item of the block at `at`, as it is now.
    fn item(&self, at: usize, status: &str) -> Option<(u64, Value)> {
        let (block, (index, id)) = (self.answer.blocks.get(at)?, self.item_refs.get(at)?);
        let item = match (block, self.node_function(block)) {
            (Block::Call(call), Some(function)) if function.approval => {
                approval_request(id, &call.arguments, function)
            }
            (Block::Call(call), Some(function)) => {
                mcp_call(id, &call.arguments, self.node_calls.get(id).unwrap_or(function))
            }
            _ => client_item(id, block, status, &self.frame.client_tools),
        };
        Some((*index, item))
    }

    /// The function that the node runs for this block, if it is a call of one.
    fn node_function(&self, block: &Block) -> Option<&NodeCall> {
        let Block::Call(call) = block else { return None };
        self.node_functions.get(&call.name)
    }

    /// What the tool that the block at `at` calls is to the client, if it is more than a function of that name.
    fn client_tool(&self, at: usize) -> Option<&ClientTool> {
        let Block::Call(call) = self.answer.blocks.get(at)? else { return None };
        self.frame.client_tools.get(&call.name)
    }

    /// Whether the block at `at` is a call that needs an approval.
    fn needs_approval(&self, at: usize) -> bool {
        let function = self.answer.blocks.get(at).and_then(|block| self.node_function(block));
        function.is_some_and(|function| function.approval)
    }

    /// Writes the events of one delta.
    pub fn write(&mut self, delta: &Delta<'_>, out: &mut Vec<u8>) {
        let blocks_before = self.answer.blocks.len();
        self.answer.apply(delta);
        if let Delta::Start { .. } = delta
            && !std::mem::replace(&mut self.started, true)
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
        // The delta began a block: open items end, except incomplete calls, whose arguments may be interleaved with it.
        if self.answer.blocks.len() > blocks_before {
            if matches!(delta, Delta::Call { .. }) {
                self.calls.push(at);
            }
            for open in std::mem::take(&mut self.open) {
                if self.is_incomplete_call(open) {
                    self.open.push(open);
                } else {
                    self.close_item(open, "completed", out);
                }
            }
            self.open_item(at, out);
        }
        match delta {
            Delta::Text(text) => self.send_delta("response.output_text.delta", at, text, out),
            Delta::Refusal(text) => self.send_delta("response.refusal.delta", at, text, out),
            Delta::Reasoning(text) => self.send_delta("response.reasoning_text.delta", at, text, out),
            Delta::Arguments { index, json } => {
                if let Some(at) = self.calls.get(*index).copied() {
                    let function = self.answer.blocks.get(at).and_then(|block| self.node_function(block));
                    match function.map(|function| function.approval) {
                        // The text of a custom tool is sent when it is complete, since it comes as JSON.
                        None if self
                            .client_tool(at)
                            .is_some_and(|tool| tool.kind != ClientToolKind::Function) => {}
                        None => self.send_delta("response.function_call_arguments.delta", at, json, out),
                        Some(false) => self.send_delta("response.mcp_call_arguments.delta", at, json, out),
                        // An approval request is sent when its arguments are complete, so that no part is approved.
                        Some(true) => {}
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether the block at `at` is a call that gets more arguments. A call without any so far does: vendors may begin
    /// all calls before they send arguments.
    fn is_incomplete_call(&self, at: usize) -> bool {
        let Some(Block::Call(call)) = self.answer.blocks.get(at) else { return false };
        let mut nesting = Nesting::default();
        nesting.push(&call.arguments);
        !nesting.is_complete()
    }

    /// Ends the stream before the answer is complete, with `status`.
    pub fn end(&mut self, status: &str, error: Option<Value>, out: &mut Vec<u8>) {
        self.close_open_items(status, out);
        let response = self.response(status, error);
        let kind = if status == "failed" { "response.failed" } else { "response.incomplete" };
        self.send(kind, json!({"response": response}), out);
    }

    /// Ends the answer. The last event has `mark` under [`MARK`].
    pub fn finish(&mut self, mark: Option<&Value>, out: &mut Vec<u8>) {
        let (status, kind) = match incomplete(&self.answer) {
            Some(_) => ("incomplete", "response.incomplete"),
            None => ("completed", "response.completed"),
        };
        self.close_open_items(status, out);
        let mut fields = json!({"response": self.response(status, None)});
        if let (Some(mark), Some(fields)) = (mark, fields.as_object_mut()) {
            fields.insert(MARK.into(), mark.clone());
        }
        self.send(kind, fields, out);
    }

    pub(in crate::wire) fn fail(&mut self, message: &str, out: &mut Vec<u8>) {
        // OpenAI's clients accept only a few codes.
        let error = json!({"code": "server_error", "message": message});
        self.end("failed", Some(error), out);
    }

    /// The response object as it is now.
    pub fn response(&self, status: &str, error: Option<Value>) -> Value {
        let has_ended = !matches!(status, "in_progress" | "queued");
        let output = if has_ended { self.output(status) } else { Vec::new() };
        let usage = match self.answer.usage {
            None if self.earlier_usage == Usage::default() => None,
            usage => {
                let mut total = self.earlier_usage;
                total += usage.unwrap_or_default();
                Some(total)
            }
        };
        response(&self.frame, &self.answer, usage, status, output, error)
    }

    /// All items, in the order of their output index.
    ///
    /// A call that the node has not made when the answer ends is never made, so it is incomplete.
    fn output(&self, status: &str) -> Vec<Value> {
        let mut items = self.other_items.clone();
        let shown = (0..self.answer.blocks.len()).filter(|at| !self.incomplete_requests.contains(at));
        items.extend(shown.filter_map(|at| {
            let ended = item_status(at, self.answer.blocks.len(), status == "completed");
            self.item(at, ended).or_else(|| {
                // Items without an event so far come last.
                let block = self.answer.blocks.get(at)?;
                let (id, tools) = (item_id(&self.frame.id, block, at), &self.frame.client_tools);
                Some((self.next_index() + at as u64, client_item(&id, block, ended, tools)))
            })
        }));
        let end_call = |mut item: Value| {
            if let Some(fields) = item.as_object_mut()
                && fields.get("type") == Some(&"mcp_call".into())
                && fields.get("status") == Some(&"in_progress".into())
            {
                fields.insert("status".into(), "incomplete".into());
            }
            item
        };
        items.into_values().map(end_call).collect()
    }

    /// Writes an event with the next number, unless the client already has it.
    fn send(&mut self, kind: &str, fields: Value, out: &mut Vec<u8>) {
        let mut data = Map::new();
        data.insert("type".into(), kind.into());
        data.insert("sequence_number".into(), self.sequence.into());
        if let Value::Object(fields) = fields {
            data.extend(fields);
        }
        if self.last_received.is_none_or(|last| self.sequence > last) {
            event(Some(kind), &Value::Object(data), out);
        }
        self.sequence += 1;
    }

    /// Opens the item of the block at `at`.
    fn open_item(&mut self, at: usize, out: &mut Vec<u8>) {
        let Some(block) = self.answer.blocks.get(at) else { return };
        let index = self.next_index();
        if let Some(function) = self.node_function(block) {
            let approval = function.approval;
            let id = node_call_id(&self.frame.id, at, approval);
            self.item_refs.push((index, id.clone()));
            self.open.push(at);
            // An approval request has no events before its arguments are complete.
            if let Some((_, item)) = self.item(at, "in_progress").filter(|_| !approval) {
                self.send("response.output_item.added", json!({"output_index": index, "item": item}), out);
                let item_ref = json!({"output_index": index, "item_id": id});
                self.send("response.mcp_call.in_progress", item_ref, out);
            }
            return;
        }
        let id = item_id(&self.frame.id, block, at);
        self.item_refs.push((index, id.clone()));
        let (item, part) = match block {
            Block::Text(_) => (message(&id, "in_progress", json!([])), Some(text_part(""))),
            Block::Refusal(_) => {
                (message(&id, "in_progress", json!([])), Some(json!({"type": "refusal", "refusal": ""})))
            }
            Block::Reasoning(_) => {
                (reasoning(&id, json!([])), Some(json!({"type": "reasoning_text", "text": ""})))
            }
            Block::Call(call) => (client_call(&id, "in_progress", call, self.client_tool(at)), None),
        };
        self.open.push(at);
        self.send("response.output_item.added", json!({"output_index": index, "item": item}), out);
        if let Some(part) = part {
            let fields = json!({"item_id": id, "output_index": index, "content_index": 0, "part": part});
            self.send("response.content_part.added", fields, out);
        }
    }

    /// Writes a delta event for the block at `at`.
    fn send_delta(&mut self, kind: &str, at: usize, text: &str, out: &mut Vec<u8>) {
        let (Some(block), Some((index, id))) = (self.answer.blocks.get(at), self.item_refs.get(at)) else {
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

    /// Closes the open items of a response or step that ends with `status`.
    fn close_open_items(&mut self, status: &str, out: &mut Vec<u8>) {
        let is_interrupted = matches!(status, "failed" | "cancelled");
        for at in std::mem::take(&mut self.open) {
            // The client must see all arguments that it approves, so a request that broke off is not shown at all.
            if is_interrupted && self.needs_approval(at) {
                self.incomplete_requests.push(at);
                continue;
            }
            self.close_item(at, item_status(at, self.answer.blocks.len(), status == "completed"), out);
        }
    }

    /// Closes the item of the block at `at`.
    fn close_item(&mut self, at: usize, status: &str, out: &mut Vec<u8>) {
        let (Some(block), Some((index, id))) = (self.answer.blocks.get(at), self.item_refs.get(at)) else {
            return;
        };
        let (block, index, id) = (block.clone(), *index, id.clone());
        // The item of a node's call stays open until `call_ends`: only its arguments are complete here.
        if let Some(function) = self.node_function(&block).cloned() {
            let Some((_, item)) = self.item(at, status) else { return };
            if function.approval {
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
        let with_item_ref = |more: Value| {
            let mut fields = json!({"item_id": id, "output_index": index});
            if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
                fields.extend(more);
            }
            fields
        };
        match &block {
            Block::Text(text) => {
                let done = with_item_ref(json!({"content_index": 0, "text": text, "logprobs": []}));
                self.send("response.output_text.done", done, out);
                let part = with_item_ref(json!({"content_index": 0, "part": text_part(text)}));
                self.send("response.content_part.done", part, out);
            }
            Block::Refusal(text) => {
                let done = with_item_ref(json!({"content_index": 0, "refusal": text}));
                self.send("response.refusal.done", done, out);
                let part = json!({"type": "refusal", "refusal": text});
                let part = with_item_ref(json!({"content_index": 0, "part": part}));
                self.send("response.content_part.done", part, out);
            }
            Block::Reasoning(reasoning) => {
                let text = &reasoning.text;
                let done = with_item_ref(json!({"content_index": 0, "text": text}));
                self.send("response.reasoning_text.done", done, out);
                let part = json!({"type": "reasoning_text", "text": text});
                let part = with_item_ref(json!({"content_index": 0, "part": part}));
                self.send("response.content_part.done", part, out);
            }
            Block::Call(call) => match self.client_tool(at).map(|tool| (tool.kind, tool.name.clone())) {
                Some((ClientToolKind::Search, _)) => {}
                Some((ClientToolKind::Custom, _)) => {
                    let input = ClientTool::input(&call.arguments);
                    let delta = with_item_ref(json!({"delta": input}));
                    self.send("response.custom_tool_call_input.delta", delta, out);
                    let done = with_item_ref(json!({"input": input}));
                    self.send("response.custom_tool_call_input.done", done, out);
                }
                named => {
                    let name = named.map_or_else(|| call.name.clone(), |(_, name)| name);
                    let fields =
                        with_item_ref(json!({"name": name, "arguments": arguments(&call.arguments)}));
                    self.send("response.function_call_arguments.done", fields, out);
                }
            },
        }
        let item = client_item(&id, &block, status, &self.frame.client_tools);
        self.send("response.output_item.done", json!({"output_index": index, "item": item}), out);
    }
}

/// Writes the error event that ends a stream whose events were passed on unchanged. `sequence` is the last event's
/// number.
pub(in crate::wire) fn fail(message: &str, sequence: u64, out: &mut Vec<u8>) {
    let error = json!({
        "type": "error", "sequence_number": sequence + 1, "code": INTERRUPTED, "message": message, "param": null,
    });
    event(Some("error"), &error, out);
}

/// Writes the answer as one response object.
pub(in crate::wire) fn whole(frame: &Frame, answer: &Transcript) -> Value {
    let status = if incomplete(answer).is_some() { "incomplete" } else { "completed" };
    let items = answer.blocks.iter().enumerate();
    let items = items.map(|(at, block)| {
        let ended = item_status(at, answer.blocks.len(), status == "completed");
        client_item(&item_id(&frame.id, block, at), block, ended, &frame.client_tools)
    });
    let output = items.collect();
    response(frame, answer, answer.usage, status, output, None)
}
