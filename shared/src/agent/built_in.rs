//! The functions that every agent has without a server: notes that outlive the session.

use serde_json::{Map, Value, json};

use crate::{
    mcp::{McpError, Output},
    node::Node,
    platform::{Platform, Store, StoreError},
    session::{
        entry::{Wake, derive},
        log::{self, CommitError, Decision, View},
        notes::{self, Notes},
        step::{Effect, notes_log},
        turn::ResponseId,
    },
};

/// What they are called, and what a second call does.
pub(super) const NAMES: [(&str, Effect); 3] =
    [("remember", Effect::Keyed), ("recall", Effect::Pure), ("forget", Effect::Keyed)];

/// Notes for one caller: what a model can read at once without losing the conversation.
const MAX_NOTES: usize = 200;

/// Bytes of a note: a few paragraphs.
const MAX_NOTE_BYTES: usize = 4_000;

/// What a function is for, and a schema of its arguments.
pub(super) fn describe(function: &str) -> Option<(&'static str, Value)> {
    let object = |properties: Value, required: &[&str]| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    Some(match function {
        "remember" => (
            "Keep a note that later conversations can recall. Answers with the note's id.",
            object(
                json!({"text": {"type": "string", "description": "What to remember, in a few sentences."}}),
                &["text"],
            ),
        ),
        "recall" => (
            "Read the notes that were kept. With a query, only those that hold all of its words.",
            object(json!({"query": {"type": "string", "description": "Words to look for."}}), &[]),
        ),
        "forget" => (
            "Forget a note for good.",
            object(json!({"id": {"type": "string", "description": "The note's id."}}), &["id"]),
        ),
        _ => return None,
    })
}

/// Makes a call for `owner` in the turn `id`. `key` is by which the same business is known.
pub(super) async fn call<P: Platform>(
    node: &Node<P>,
    owner: &str,
    _id: ResponseId,
    function: &str,
    arguments: &Map<String, Value>,
    key: &str,
) -> Result<Output, McpError> {
    let text = |name: &str| arguments.get(name).and_then(Value::as_str).unwrap_or_default().trim();
    match function {
        "remember" => remember(node, owner, text("text"), key).await,
        "recall" => recall(node, owner, text("query")).await,
        "forget" => forget(node, owner, text("id"), key).await,
        _ => Ok(failed("There is no such function.")),
    }
}

async fn remember<P: Platform>(
    node: &Node<P>,
    owner: &str,
    text: &str,
    key: &str,
) -> Result<Output, McpError> {
    if text.is_empty() || text.len() > MAX_NOTE_BYTES {
        return Ok(failed(&format!("The text has {} bytes; allowed: 1 to {MAX_NOTE_BYTES}.", text.len())));
    }
    let cause = derive("note", &[key.as_bytes()]);
    let id = notes::note_id(&cause);
    let decide = |notes: &Notes| {
        if notes.knows(&id) {
            return Ok(Decision::Done(()));
        }
        if notes.kept().len() >= MAX_NOTES {
            return Err(format!("There are {MAX_NOTES} notes already; forget some first."));
        }
        Ok(Decision::Append(vec![notes::draft(cause, id.clone(), Some(text.to_owned()))], Wake::Keep, ()))
    };
    write(node, owner, decide, &id).await
}

async fn forget<P: Platform>(node: &Node<P>, owner: &str, id: &str, key: &str) -> Result<Output, McpError> {
    let cause = derive("note", &[key.as_bytes()]);
    let decide = |notes: &Notes| {
        if !notes.kept().iter().any(|(known, _)| *known == id) {
            return if notes.knows(id) {
                Ok(Decision::Done(()))
            } else {
                Err("There is no such note.".into())
            };
        }
        Ok(Decision::Append(vec![notes::draft(cause, id.to_owned(), None)], Wake::Keep, ()))
    };
    let forgotten = write(node, owner, decide, id).await?;
    if !forgotten.failed {
        erase(node, owner, id)
            .await
            .map_err(|_| McpError::Unknown("the notes can't be erased now".into()))?;
    }
    Ok(forgotten)
}

/// Removes the words of a note that was forgotten.
async fn erase<P: Platform>(node: &Node<P>, owner: &str, id: &str) -> Result<(), StoreError> {
    let (mut view, store, log) = (View::<Notes>::default(), node.platform().store(), notes_log(owner));
    view.catch_up(store, log).await?;
    for (origin, seq) in view.fold.entries(id) {
        store.erase(log, origin, *seq, *seq).await?;
    }
    Ok(())
}

async fn recall<P: Platform>(node: &Node<P>, owner: &str, query: &str) -> Result<Output, McpError> {
    let mut view = View::<Notes>::default();
    let read = view.catch_up(node.platform().store(), notes_log(owner)).await;
    read.map_err(|_| McpError::NotSent("The notes can't be read now.".into()))?;
    let words: Vec<String> = query.split_whitespace().map(str::to_lowercase).collect();
    let fits = |text: &str| {
        let text = text.to_lowercase();
        words.iter().all(|word| text.contains(word))
    };
    let found: Vec<Value> = view
        .fold
        .kept()
        .into_iter()
        .filter(|(_, text)| fits(text))
        .map(|(id, text)| json!({"id": id, "text": text}))
        .collect();
    Ok(Output { text: json!({"notes": found}).to_string(), ..Output::default() })
}

async fn write<P: Platform>(
    node: &Node<P>,
    owner: &str,
    decide: impl FnMut(&Notes) -> Result<Decision<()>, String>,
    id: &str,
) -> Result<Output, McpError> {
    let mut view = View::<Notes>::default();
    match log::commit(node.platform(), notes_log(owner), node.origin(), &mut view, decide).await {
        Ok(_) => Ok(Output { text: json!({"id": id}).to_string(), ..Output::default() }),
        Err(CommitError::Refused(why)) => Ok(failed(&why)),
        Err(_) => Err(McpError::Unknown("the notes can't be written now".into())),
    }
}

fn failed(why: &str) -> Output {
    Output { text: why.to_owned(), failed: true, ..Output::default() }
}
