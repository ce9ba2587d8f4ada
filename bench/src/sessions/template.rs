//! Writes conversations straight into a store, as copies of one turn that the core wrote: over HTTP, thousands of
//! turns would take minutes. Measures nothing.

use std::{
    io::{Error, Result},
    ops::Range,
    path::Path,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use outlive::{
    entry::{Batch, Draft, Entry, Kind, LogId, MAX_BATCH_ENTRIES, Origin, Seq, VersionVector, derive},
    hex::hex,
    platform::{Platform, ReadLimit, Store},
    time::Timestamp,
};
use serde_json::{Value, json};

use super::embedded_node::{EmbeddedNode, open_store};
use crate::load::PROMPT;

/// A conversation of one turn, as the core wrote it.
pub(crate) struct ConversationTemplate {
    origin: Origin,
    created: Draft,
    opened: Value,
    closed: Bytes,
}

/// One turn in this many is not copied but run by the core.
const CORE_TURN_INTERVAL: usize = 64;

/// Concurrent appends, which share one flush.
const CONCURRENT_APPENDS: usize = 128;

impl ConversationTemplate {
    /// Runs one turn in the core and keeps the entries that it wrote.
    pub(crate) async fn record(upstream: &str, data: &Path) -> Result<Self> {
        let embedded = EmbeddedNode::start(data, upstream)?;
        let body = embedded.request("/v1/conversations", Some("{}".into())).await?;
        let conversation: Value = serde_json::from_slice(&body)?;
        let id = conversation.get("id").and_then(Value::as_str).unwrap_or_default();
        embedded.request("/v1/responses", Some(turn_request(id, false).to_string())).await?;
        let log = id.strip_prefix("conv_").and_then(LogId::parse);
        let log = log.ok_or_else(|| Error::other(format!("{id:?} is not a conversation's id")))?;
        let (store, origin) = (embedded.node.platform().store(), embedded.node.origin().clone());
        let entries = store.read(log, &origin, Seq::FIRST, ReadLimit::PAGE).await.map_err(Error::other)?;
        let find = |kind: Kind| {
            let found = entries.iter().find(|entry| entry.header().kind == kind);
            found.ok_or_else(|| Error::other(format!("the core wrote no entry of kind {}", kind.0)))
        };
        let created = find(Kind::CONVERSATION_CREATED)?;
        let cause = created.header().cause;
        Ok(Self {
            created: Draft { kind: Kind::CONVERSATION_CREATED, cause, body: created.body().clone() },
            opened: serde_json::from_slice(find(Kind::TURN_OPENED)?.body())?,
            closed: find(Kind::TURN_CLOSED)?.body().clone(),
            origin,
        })
    }

    /// Appends copies of the turn to a conversation, which the first turn creates.
    pub(crate) async fn write_turns(
        &self,
        store: &impl Store,
        log: LogId,
        turns: Range<usize>,
    ) -> Result<()> {
        let created = (turns.start == 0).then(|| self.created.clone());
        let drafts: Vec<Draft> =
            created.into_iter().chain(turns.flat_map(|number| self.turn_drafts(log, number))).collect();
        let heads = store.heads(log).await.map_err(Error::other)?;
        let mut head = heads.into_iter().find(|head| head.origin == self.origin);
        for drafts in drafts.chunks(MAX_BATCH_ENTRIES) {
            let (origin, deps) = (&self.origin, VersionVector::new());
            let batch = Batch::build(log, origin, head.as_ref(), &deps, WRITTEN_AT, drafts.iter().cloned());
            let batch = batch.map_err(Error::other)?;
            store.append(&batch).await.map_err(Error::other)?;
            head = batch.entries().last().map(Entry::head);
        }
        Ok(())
    }

    /// Writes one conversation of `turns` turns into the directory `data`. The core runs some of them, so that it
    /// writes its snapshots on the way.
    pub(crate) async fn write_long_conversation(
        &self,
        upstream: &str,
        data: &Path,
        log: LogId,
        turns: usize,
    ) -> Result<()> {
        let embedded = EmbeddedNode::start(data, upstream)?;
        let mut written = 0;
        while written < turns {
            let core_turn = turns.min(written + CORE_TURN_INTERVAL) - 1;
            self.write_turns(embedded.node.platform().store(), log, written..core_turn).await?;
            let request = turn_request(&format!("conv_{log}"), false);
            embedded.request("/v1/responses", Some(request.to_string())).await?;
            written = core_turn + 1;
        }
        Ok(())
    }

    /// Writes `count` conversations of one turn each into the directory `data`.
    pub(crate) async fn write_short_conversations(&self, data: &Path, count: usize) -> Result<()> {
        let store = open_store(data)?;
        let appends = stream::iter(0..count).map(|number| self.write_turns(&store, log_id(number), 0..1));
        appends.buffer_unordered(CONCURRENT_APPENDS).try_collect().await
    }

    /// The entries of a turn: the template's, with the turn's own cause and item id.
    fn turn_drafts(&self, log: LogId, number: usize) -> [Draft; 2] {
        let number = (number as u64).to_be_bytes();
        let cause = derive("bench turn", &[&log.0, &number]);
        let mut opened = self.opened.clone();
        if let Some(id) = opened.pointer_mut("/input/0/id") {
            *id = json!(format!("msg_{}", hex(&cause)));
        }
        let opened = Bytes::from(opened.to_string());
        [(Kind::TURN_OPENED, opened), (Kind::TURN_CLOSED, self.closed.clone())].map(|(kind, body)| Draft {
            kind,
            cause,
            body,
        })
    }
}

/// The time of every copied entry: before any run of the bench.
const WRITTEN_AT: Timestamp = Timestamp(1_750_000_000_000);

/// The log of the conversation with this number.
pub(crate) fn log_id(number: usize) -> LogId {
    LogId::derive("bench", &[&(number as u64).to_be_bytes()])
}

/// The body of a `POST /v1/responses` in a conversation.
pub(crate) fn turn_request(conversation: &str, streamed: bool) -> Value {
    json!({"model": "bench", "input": PROMPT, "conversation": conversation, "stream": streamed})
}

/// The path of a conversation's first 20 items.
pub(crate) fn items_path(log: LogId) -> String {
    format!("/v1/conversations/conv_{log}/items?limit=20")
}
