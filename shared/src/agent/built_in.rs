//! Provides the functions that an agent has without a tool server: notes of a caller, which outlive the session, and
//! schedules. Stores nothing in the session's own log but the schedules that run in it.

use serde_json::{Map, Value, json};

use super::schedules::{self, NewSchedule, ScheduleError, ScheduleView};
use crate::{
    entry::{LogId, Wake, derive},
    log::{self, CommitError, Decision, View},
    mcp::{McpError, ToolOutput},
    node::Node,
    platform::{Platform, Store, StoreError},
    session::{
        notes::{self, Notes},
        schedule::{ScheduleId, ScheduleRequest, ScheduleSource},
        step::notes_log,
        turn::ResponseId,
    },
};

/// Notes of one caller: as many as a model can read at once beside a conversation.
const MAX_NOTES: usize = 200;

/// Bytes of one note: a few paragraphs.
const MAX_NOTE_BYTES: usize = 4_000;

/// The description of a function and the schema of its arguments; `None` if there is no such function.
pub(super) fn describe(function: &str) -> Option<(&'static str, Value)> {
    let object = |properties: Value, required: &[&str]| {
        json!({
            "type": "object", "properties": properties, "required": required, "additionalProperties": false,
        })
    };
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
        "schedule_create" => (
            "Have this conversation go on by itself, once or again and again. Give exactly one of cron, at and every. \
             Answers with the schedule and when it is due next.",
            object(
                json!({
                    "name": {"type": "string", "description": "What people call it."},
                    "prompt": {"type": "string", "description": "What you are asked then."},
                    "cron": {"type": "string", "description": "minute hour day month weekday, such as 0 7 * * MON-FRI"},
                    "at": {"type": "string", "description": "One moment, such as 2027-01-31T07:00:00"},
                    "every": {"type": "string", "description": "An interval from 60s on, such as 15m or 2h"},
                    "time_zone": {"type": "string", "description": "IANA name such as Europe/Berlin; UTC if left out."}
                }),
                &["name", "prompt"],
            ),
        ),
        "schedule_list" => ("The schedules of this user, with their ids.", object(json!({}), &[])),
        "schedule_pause" => (
            "Let a schedule rest, or go on.",
            object(json!({"id": {"type": "string"}, "paused": {"type": "boolean"}}), &["id", "paused"]),
        ),
        "schedule_delete" => ("Remove a schedule.", object(json!({"id": {"type": "string"}}), &["id"])),
        _ => return None,
    })
}

/// Calls `function` for `owner` in the turn `id`. `key` identifies the call: a second call with the same key has no
/// second effect.
pub(super) async fn call<P: Platform>(
    node: &Node<P>,
    owner: &str,
    id: ResponseId,
    function: &str,
    arguments: &Map<String, Value>,
    key: &str,
) -> Result<ToolOutput, McpError> {
    let text = |name: &str| arguments.get(name).and_then(Value::as_str).unwrap_or_default().trim();
    match function {
        "remember" => remember(node, owner, text("text"), key).await,
        "recall" => recall(node, owner, text("query")).await,
        "forget" => forget(node, owner, text("id"), key).await,
        "schedule_create" => create_schedule(node, owner, id, arguments, key).await,
        "schedule_list" => list_schedules(node, owner).await,
        "schedule_pause" | "schedule_delete" => {
            let paused = arguments.get("paused").and_then(Value::as_bool).unwrap_or(true);
            change_schedule(node, owner, text("id"), (function == "schedule_pause").then_some(paused)).await
        }
        _ => Ok(failed("There is no such function.")),
    }
}

/// Writes a note.
async fn remember<P: Platform>(
    node: &Node<P>,
    owner: &str,
    text: &str,
    key: &str,
) -> Result<ToolOutput, McpError> {
    if text.is_empty() || text.len() > MAX_NOTE_BYTES {
        return Ok(failed(&format!("The text has {} bytes; allowed: 1 to {MAX_NOTE_BYTES}.", text.len())));
    }
    let cause = derive("note", &[key.as_bytes()]);
    let id = notes::note_id(&cause);
    let decide = |notes: &Notes| {
        // The same call was made before.
        if notes.has_ever_had(&id) {
            return Ok(Decision::Done(()));
        }
        if notes.kept().len() >= MAX_NOTES {
            return Err(format!("There are {MAX_NOTES} notes already; forget some first."));
        }
        Ok(Decision::Append(vec![notes::draft(cause, id.clone(), Some(text.to_owned()))], Wake::Keep, ()))
    };
    write(node, owner, decide, &id).await
}

/// Deletes a note and erases its text.
async fn forget<P: Platform>(
    node: &Node<P>,
    owner: &str,
    id: &str,
    key: &str,
) -> Result<ToolOutput, McpError> {
    let cause = derive("note", &[key.as_bytes()]);
    let decide = |notes: &Notes| {
        if !notes.kept().iter().any(|(known, _)| *known == id) {
            return if notes.has_ever_had(id) {
                Ok(Decision::Done(()))
            } else {
                Err("There is no such note.".into())
            };
        }
        Ok(Decision::Append(vec![notes::draft(cause, id.to_owned(), None)], Wake::Keep, ()))
    };
    let output = write(node, owner, decide, id).await?;
    // Also if the note was deleted before: the process may have died before it erased the text.
    if !output.failed {
        erase(node, owner, id)
            .await
            .map_err(|_| McpError::Unknown("the notes can't be erased now".into()))?;
    }
    Ok(output)
}

/// Erases the entries that hold a deleted note's text.
async fn erase<P: Platform>(node: &Node<P>, owner: &str, id: &str) -> Result<(), StoreError> {
    let (mut view, store, log) = (View::<Notes>::default(), node.platform().store(), notes_log(owner));
    view.catch_up(store, log).await?;
    for (origin, seq) in view.fold.entries(id) {
        store.erase(log, origin, *seq, *seq).await?;
    }
    Ok(())
}

/// Reads the notes that contain every word of `query`.
async fn recall<P: Platform>(node: &Node<P>, owner: &str, query: &str) -> Result<ToolOutput, McpError> {
    let mut view = View::<Notes>::default();
    let read = view.catch_up(node.platform().store(), notes_log(owner)).await;
    read.map_err(|_| McpError::NotSent("The notes can't be read now.".into()))?;
    let words: Vec<String> = query.split_whitespace().map(str::to_lowercase).collect();
    let matches = |text: &str| {
        let text = text.to_lowercase();
        words.iter().all(|word| text.contains(word))
    };
    let found: Vec<Value> = view
        .fold
        .kept()
        .into_iter()
        .filter(|(_, text)| matches(text))
        .map(|(id, text)| json!({"id": id, "text": text}))
        .collect();
    Ok(ToolOutput { text: json!({"notes": found}).to_string(), ..ToolOutput::default() })
}

/// Writes to the notes of `owner` what `decide` says, and answers with the note's `id`.
async fn write<P: Platform>(
    node: &Node<P>,
    owner: &str,
    decide: impl FnMut(&Notes) -> Result<Decision<()>, String>,
    id: &str,
) -> Result<ToolOutput, McpError> {
    let mut view = View::<Notes>::default();
    match log::commit(node.platform(), notes_log(owner), node.origin(), &mut view, decide).await {
        Ok(_) => Ok(ToolOutput { text: json!({"id": id}).to_string(), ..ToolOutput::default() }),
        Err(CommitError::Refused(why)) => Ok(failed(&why)),
        Err(_) => Err(McpError::Unknown("the notes can't be written now".into())),
    }
}

/// Schedules in one answer, the newest ones.
const MAX_LISTED: usize = 50;

/// Creates a schedule: in the conversation of the turn `id`, or, if the turn is outside of one, in a new conversation.
async fn create_schedule<P: Platform>(
    node: &Node<P>,
    owner: &str,
    id: ResponseId,
    arguments: &Map<String, Value>,
    key: &str,
) -> Result<ToolOutput, McpError> {
    let request = ScheduleRequest::parse(Value::Object(arguments.clone()).to_string().as_bytes());
    let terms = match request {
        Ok(request) => request.terms,
        Err(error) => return Ok(failed(&error.to_string())),
    };
    let unreadable = |_| McpError::NotSent("The session can't be read now.".into());
    let joins = node.read_session(id.log, |session| session.created().is_some()).await.map_err(unreadable)?;
    let schedule = derive("schedule", &[key.as_bytes()]);
    let log = if joins { id.log } else { LogId::derive("schedule", &[&id.log.0, &schedule]) };
    let new = NewSchedule { owner, source: ScheduleSource::Agent, joins };
    let created = schedules::create(node, ScheduleId { log, schedule }, &new, &terms).await;
    output(created.map(|view| outline(&view)))
}

/// Lists the schedules of `owner`.
async fn list_schedules<P: Platform>(node: &Node<P>, owner: &str) -> Result<ToolOutput, McpError> {
    let unreadable = |_| McpError::NotSent("The schedules can't be read now.".into());
    let listed = schedules::list_all(node).await.map_err(unreadable)?;
    let own = listed.into_iter().rev().filter(|(_, listed_owner)| listed_owner == owner).take(MAX_LISTED);
    let found = schedules::find_all(node, own.map(|(id, _)| id)).await.map_err(unreadable)?;
    let found: Vec<Value> = found.iter().map(outline).collect();
    Ok(ToolOutput { text: json!({"schedules": found}).to_string(), ..ToolOutput::default() })
}

/// Pauses or resumes a schedule as `paused` says; removes it if `paused` is `None`.
async fn change_schedule<P: Platform>(
    node: &Node<P>,
    owner: &str,
    id: &str,
    paused: Option<bool>,
) -> Result<ToolOutput, McpError> {
    let unreadable = |_| McpError::NotSent("The schedule can't be read now.".into());
    let found = match ScheduleId::parse(id) {
        Some(id) => schedules::find(node, id).await.map_err(unreadable)?,
        None => None,
    };
    let Some(view) = found.filter(|view| view.definition.owner == owner) else {
        return Ok(failed("There is no such schedule."));
    };
    output(match paused {
        Some(paused) => schedules::pause(node, view.id, paused).await.map(|view| outline(&view)),
        None => schedules::remove(node, view.id).await.map(|()| json!({"deleted": true})),
    })
}

/// A schedule as the model is shown it: without the fields that it can't use.
fn outline(view: &ScheduleView) -> Value {
    let mut object = schedules::schedule_object(view);
    if let Some(fields) = object.as_object_mut() {
        for field in ["object", "owner", "source", "session", "jitter", "max_runs_per_day", "max_usd_per_day"]
        {
            fields.remove(field);
        }
    }
    object
}

/// The output of a call that changed a schedule. What the model can correct is an output, not an error.
fn output(result: Result<Value, ScheduleError>) -> Result<ToolOutput, McpError> {
    match result {
        Ok(value) => Ok(ToolOutput { text: value.to_string(), ..ToolOutput::default() }),
        Err(ScheduleError::Store(_)) => Err(McpError::Unknown("the schedule can't be written now".into())),
        Err(error) => Ok(failed(&error.to_string())),
    }
}

/// The output of a call that the function refused.
fn failed(why: &str) -> ToolOutput {
    ToolOutput { text: why.to_owned(), failed: true, ..ToolOutput::default() }
}
