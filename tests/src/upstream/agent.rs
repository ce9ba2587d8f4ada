//! A provider that does what the newest text of the user says, and is as strict about a conversation as vendors are.
//!
//! Line by line: `think WORDS` is thought before anything else, `call NAME {…}` is a call (several are parallel), `then`
//! begins what comes after their results, `only TAG` keeps the models of every other tag from it, and `pace` puts
//! a while between the events. Whatever else there is, is answered by [`WORDS`]; once there are results, they are the answer:
//! so a test sees what the model was told.

mod chat;
mod messages;
mod responses;

use std::{fmt::Write, time::Duration};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    WORDS,
    answer::{Answer, Format, Step},
};

/// A piece of a conversation.
enum Said {
    User(String),
    /// Words or thoughts of the model.
    Assistant,
    Call(String),
    Result {
        id: String,
        text: String,
    },
}

/// What is said next.
#[derive(Default)]
struct Turn {
    /// Tells this answer from all others.
    id: String,
    model: String,
    thoughts: String,
    /// By which the vendor knows its own thoughts again.
    proof: String,
    words: Vec<String>,
    calls: Vec<Call>,
}

/// A call of a function: its id, its name, and its arguments as JSON text.
struct Call {
    id: String,
    name: String,
    arguments: String,
}

/// What is done between two rounds of results.
#[derive(Default)]
struct Round {
    /// Who alone is available for it.
    only: Option<String>,
    thoughts: String,
    /// Names, and arguments.
    calls: Vec<(String, String)>,
}

/// Between two events of a paced answer.
const PACE: Duration = Duration::from_millis(150);

/// The answer of `model`, whose tag is after its colon, to a streamed request.
pub(super) fn answer(format: Format, model: &str, body: &[u8]) -> Answer {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let tag = model.split_once(':').map_or("", |(_, tag)| tag);
    if body["stream"] != true {
        return Answer::refused(format, 400, "the scripted agent only streams");
    }
    let said = match format {
        Format::Chat => chat::read(&body, tag),
        Format::Messages => messages::read(&body),
        Format::Responses => responses::read(&body),
    };
    let checked = said.and_then(|said| open_or_stray(&said, format).map_or(Ok(said), Err));
    let said = match checked {
        Ok(said) => said,
        Err(why) => return Answer::refused(format, 400, &why),
    };
    let newest = said.iter().rposition(|said| matches!(said, Said::User(_)));
    let text = match newest.and_then(|at| said.get(at)) {
        Some(Said::User(text)) => text.as_str(),
        _ => "",
    };
    let results = said.iter().skip(newest.unwrap_or_default()).filter_map(|said| match said {
        Said::Result { text, .. } => Some(text.as_str()),
        _ => None,
    });
    let results: Vec<&str> = results.collect();
    let (rounds, mut before) = (rounds(text), 0);
    let round = rounds.iter().find(|round| {
        let due = results.len() <= before;
        before += round.calls.len();
        due || round.calls.is_empty()
    });
    if round.and_then(|round| round.only.as_ref()).is_some_and(|only| only != tag) {
        // No failure for which a gateway would stop asking.
        return Answer::refused(format, 429, "the scripted agent has no time");
    }
    let turn = next(model, &body, round, &results);
    let events = match format {
        Format::Chat => chat::write(&turn, &body),
        Format::Messages => messages::write(&turn, &body),
        Format::Responses => responses::write(&turn),
    };
    let pause = text.lines().any(|line| line == "pace").then_some(Step::Wait(PACE));
    let paced = events.into_iter().flat_map(|event| [Some(Step::Send(event)), pause.clone()]);
    Answer::streamed(paced.flatten().collect())
}

fn next(model: &str, body: &Value, round: Option<&Round>, results: &[&str]) -> Turn {
    let id = digest(&[model, &body.to_string()]);
    let mut turn = Turn { model: model.to_owned(), ..Turn::default() };
    if let Some(round) = round {
        turn.thoughts.clone_from(&round.thoughts);
        turn.proof = digest(&[model, &turn.thoughts, &prefix(body, usize::MAX)]);
        let unknown = round.calls.iter().find(|(name, _)| !offers(body, name));
        if let Some((name, _)) = unknown {
            turn.words = vec![format!("There is no function {name}.")];
        } else {
            let call = |(at, (name, arguments)): (usize, &(String, String))| Call {
                id: format!("call_{id}_{at}"),
                name: name.clone(),
                arguments: arguments.clone(),
            };
            turn.calls = round.calls.iter().enumerate().map(call).collect();
        }
    }
    if turn.calls.is_empty() && turn.words.is_empty() {
        turn.words = match results {
            [] => WORDS.map(str::to_owned).to_vec(),
            results => vec![results.join("\n")],
        };
    }
    Turn { id, ..turn }
}

fn rounds(text: &str) -> Vec<Round> {
    let mut rounds = vec![Round::default()];
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let Some(last) = rounds.last_mut() else { break };
        match word {
            "then" => rounds.push(Round::default()),
            "only" => last.only = Some(rest.to_owned()),
            "think" => last.thoughts += rest,
            "call" => {
                let (name, arguments) = rest.split_once(' ').unwrap_or((rest, "{}"));
                last.calls.push((name.to_owned(), arguments.to_owned()));
            }
            _ => {}
        }
    }
    rounds
}

/// Whether the request offers a function: no model calls another.
fn offers(body: &Value, name: &str) -> bool {
    let mut tools = body["tools"].as_array().into_iter().flatten();
    tools.any(|tool| tool["name"] == name || tool["function"]["name"] == name)
}

/// What comes before the message at `at`, to which thoughts are bound.
fn prefix(body: &Value, at: usize) -> String {
    let messages = body["messages"].as_array().into_iter().flatten().take(at);
    let messages = messages.map(Value::to_string).collect::<Vec<_>>().join("\n");
    format!("{}\n{}\n{messages}", body["system"], body["tools"])
}

fn digest(parts: &[&str]) -> String {
    let digest = Sha256::digest(parts.join("\0"));
    digest.iter().take(12).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// In the vendors' words, the first call that is not answered before anything else is said, or result that answers none.
fn open_or_stray(said: &[Said], format: Format) -> Option<String> {
    let open_call = |id: &str| match format {
        Format::Chat => format!(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each \
             'tool_call_id'. The following tool_call_ids did not have response messages: {id}"
        ),
        Format::Messages => format!(
            "`tool_use` ids were found without `tool_result` blocks immediately after: {id}. Each `tool_use` block must \
             have a corresponding `tool_result` block in the next message."
        ),
        Format::Responses => format!("No tool output found for function call {id}."),
    };
    let stray = |id: &str| match format {
        Format::Chat => {
            "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.".into()
        }
        Format::Messages => format!(
            "unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` block must have a \
             corresponding `tool_use` block in the previous message."
        ),
        Format::Responses => format!("No tool call found for function call output with call_id {id}."),
    };
    let mut open: Vec<&str> = Vec::new();
    for said in said {
        match said {
            Said::Call(id) if open.contains(&id.as_str()) => {
                return Some(format!("the id {id} is used twice"));
            }
            Said::Call(id) => open.push(id),
            Said::Result { id, .. } => {
                let Some(at) = open.iter().position(|known| known == id) else { return Some(stray(id)) };
                open.remove(at);
            }
            Said::User(_) | Said::Assistant => {
                if let Some(id) = open.first() {
                    return Some(open_call(id));
                }
            }
        }
    }
    open.first().map(|id| open_call(id))
}

/// The words of a message's content, which is a text or a list of parts.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
