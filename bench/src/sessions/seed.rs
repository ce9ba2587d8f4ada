//! Sessions with a past: copies of a turn that the core has written, put straight into a store, since thousands of turns
//! would take minutes by HTTP.

use std::{
    io::{Error, Result},
    ops::Range,
    path::Path,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use outlive::{
    entry::{Batch, Draft, Entry, Kind, LogId, MAX_BATCH, Origin, Seq, VersionVector, derive},
    hex::hex,
    platform::{Platform, ReadLimit, Store},
    time::Timestamp,
};
use serde_json::{Value, json};

use super::inside::{Inside, open};
use crate::load::SAID;

/// A conversation of one turn, as the core has written it.
pub(crate) struct Template {
    origin: Origin,
    created: Draft,
    opened: Value,
    closed: Bytes,
}

/// One turn in so many is the core's own.
const OWN: usize = 64;

/// Appends that wait for one flush together.
const AT_ONCE: usize = 128;

impl Template {
    /// Lets the core write one.
    pub(crate) async fn record(upstream: &str, data: &Path) -> Result<Self> {
        let inside = Inside::start(data, upstream)?;
        let made: Value = serde_json::from_slice(&inside.ask("/v1/conversations", Some("{}".into())).await?)?;
        let id = made.get("id").and_then(Value::as_str).unwrap_or_default();
        inside.ask("/v1/responses", Some(turn(id, false).to_string())).await?;
        let log = id.strip_prefix("conv_").and_then(LogId::parse);
        let log = log.ok_or_else(|| Error::other(format!("{id:?} is no conversation's id")))?;
        let (store, origin) = (inside.node.platform().store(), inside.node.origin().clone());
        let entries = store.read(log, &origin, Seq::FIRST, ReadLimit::PAGE).await.map_err(Error::other)?;
        let find = |kind: Kind| {
            let found = entries.iter().find(|entry| entry.header().kind == kind);
            found.ok_or_else(|| Error::other(format!("no entry of kind {} was written", kind.0)))
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

    /// Writes turns of a conversation, and makes it with the first.
    pub(crate) async fn write(&self, store: &impl Store, log: LogId, turns: Range<usize>) -> Result<()> {
        let created = (turns.start == 0).then(|| self.created.clone());
        let drafts: Vec<Draft> =
            created.into_iter().chain(turns.flat_map(|number| self.turn(log, number))).collect();
        let heads = store.heads(log).await.map_err(Error::other)?;
        let mut head = heads.into_iter().find(|head| head.origin == self.origin);
        for drafts in drafts.chunks(MAX_BATCH) {
            let (origin, deps) = (&self.origin, VersionVector::new());
            let batch = Batch::build(log, origin, head.as_ref(), &deps, WRITTEN, drafts.iter().cloned());
            let batch = batch.map_err(Error::other)?;
            store.append(&batch).await.map_err(Error::other)?;
            head = batch.entries().last().map(Entry::head);
        }
        Ok(())
    }

    /// Writes a conversation of `turns` turns below `data`. Some are the core's own, so that it does on the way whatever it
    /// does with a past that grows.
    pub(crate) async fn write_long(
        &self,
        upstream: &str,
        data: &Path,
        log: LogId,
        turns: usize,
    ) -> Result<()> {
        let inside = Inside::start(data, upstream)?;
        let mut written = 0;
        while written < turns {
            let own = turns.min(written + OWN) - 1;
            self.write(inside.node.platform().store(), log, written..own).await?;
            let turn = turn(&format!("conv_{log}"), false);
            inside.ask("/v1/responses", Some(turn.to_string())).await?;
            written = own + 1;
        }
        Ok(())
    }

    /// Writes `count` conversations of one turn each below `data`.
    pub(crate) async fn write_many(&self, data: &Path, count: usize) -> Result<()> {
        let store = open(data)?;
        let written = stream::iter(0..count).map(|number| self.write(&store, log(number), 0..1));
        written.buffer_unordered(AT_ONCE).try_collect().await
    }

    fn turn(&self, log: LogId, number: usize) -> [Draft; 2] {
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

/// When all of it was written: some time in the past.
const WRITTEN: Timestamp = Timestamp(1_750_000_000_000);

/// The log of the conversation of this number.
pub(crate) fn log(number: usize) -> LogId {
    LogId::derive("bench", &[&(number as u64).to_be_bytes()])
}

/// The body of a request for the next turn of a conversation.
pub(crate) fn turn(conversation: &str, streamed: bool) -> Value {
    json!({"model": "bench", "input": SAID, "conversation": conversation, "stream": streamed})
}

/// The path of the first items of a conversation.
pub(crate) fn items(log: LogId) -> String {
    format!("/v1/conversations/conv_{log}/items?limit=20")
}
