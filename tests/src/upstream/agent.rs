//! Answers as the script in the user's newest text says, and refuses conversations that vendors would refuse.
//!
//! The script has one command in each line: `think WORDS` adds a thought before the answer, `call NAME {…}` adds a call
//! (several are parallel), `then` begins the round after their results, `only TAG` lets the models of other tags answer
//! 429, and `pace` adds a pause after each event. Without a call the answer is [`WORDS`], or the results of the calls,
//! so that a test can read what the model was sent.

mod chat;
mod messages;
mod refusal;
mod responses;
mod tools;

use std::{fmt::Write, time::Duration};

use serde_json::Value;
use sha2::{Digest, Sha256};

use self::tools::Tool;
use super::{
    Record, WORDS,
    answer::{Answer, AnswerStep, Format},
};

/// A part of a conversation.
enum Part {
    User(String),
    /// Text or thoughts of the model.
    Assistant,
    Call(String),
    Result {
        id: String,
        text: String,
    },
}

/// The next answer.
#[derive(Default)]
struct AgentAnswer {
    /// Different in each answer.
    id: String,
    model: String,
    thoughts: String,
    /// The vendor's signature of its thoughts.
    signature: String,
    words: Vec<String>,
    calls: Vec<ToolCall>,
}

/// A call of a tool: its id, the tool, and its input: JSON, or a free text.
struct ToolCall {
    id: String,
    tool: Tool,
    input: String,
}

/// The part of the script between two rounds of results.
#[derive(Default)]
struct Round {
    /// The tag of the one model that answers it.
    only_tag: Option<String>,
    thoughts: String,
    /// Names and arguments.
    calls: Vec<(String, String)>,
}

/// Pause between two events of a paced answer.
const EVENT_PAUSE: Duration = Duration::from_millis(150);

/// The answer of `model`, whose tag is after its colon, to a streamed request.
pub(super) fn answer(format: Format, model: &str, record: &Record) -> Answer {
    let body: Value = serde_json::from_slice(&record.body).unwrap_or_default();
    let tag = model.split_once(':').map_or("", |(_, tag)| tag);
    if body["stream"] != true {
        return Answer::refused(format, 400, "the scripted agent only streams");
    }
    let unknown = refusal::unknown_field(format, tag, record, &body);
    if let Some(why) = unknown.or_else(|| refusal::unknown_tool(format, &body)) {
        return Answer::refused(format, 400, &why);
    }
    let parts = match format {
        Format::Chat => chat::read(&body, tag),
        Format::Messages => messages::read(&body),
        Format::Responses => responses::read(&body),
    };
    let checked = parts.and_then(|parts| unmatched_call_or_result(&parts, format).map_or(Ok(parts), Err));
    let parts = match checked {
        Ok(parts) => parts,
        Err(why) => return Answer::refused(format, 400, &why),
    };
    let newest = parts.iter().rposition(|part| matches!(part, Part::User(text) if !is_note(text)));
    let text = match newest.and_then(|at| parts.get(at)) {
        Some(Part::User(text)) => text.as_str(),
        _ => "",
    };
    let results = parts.iter().skip(newest.unwrap_or_default()).filter_map(|part| match part {
        Part::Result { text, .. } => Some(text.as_str()),
        _ => None,
    });
    let results: Vec<&str> = results.collect();
    // The round that is due: the first one without any result, or without calls.
    let (rounds, mut before) = (rounds(text), 0);
    let round = rounds.iter().find(|round| {
        let due = results.len() <= before;
        before += round.calls.len();
        due || round.calls.is_empty()
    });
    if round.and_then(|round| round.only_tag.as_ref()).is_some_and(|only_tag| only_tag != tag) {
        // 429, because a gateway tries another candidate then.
        return Answer::refused(format, 429, "the scripted agent has no time");
    }
    let answer = plan_answer(model, &body, round, &results);
    let events = match format {
        Format::Chat => chat::write(&answer, &body),
        Format::Messages => messages::write(&answer, &body),
        Format::Responses => responses::write(&answer),
    };
    let pause = text.lines().any(|line| line == "pace").then_some(AnswerStep::Wait(EVENT_PAUSE));
    let paced = events.into_iter().flat_map(|event| [Some(AnswerStep::Send(event)), pause.clone()]);
    Answer::streamed(paced.flatten().collect())
}

/// The answer of a round; without a round, that of the end of the script.
fn plan_answer(model: &str, body: &Value, round: Option<&Round>, results: &[&str]) -> AgentAnswer {
    let id = digest(&[model, &body.to_string()]);
    let mut answer = AgentAnswer { model: model.to_owned(), ..AgentAnswer::default() };
    if let Some(round) = round {
        answer.thoughts.clone_from(&round.thoughts);
        answer.signature = digest(&[model, &answer.thoughts, &prefix(body, usize::MAX)]);
        // A model calls no tool that it is not offered.
        let call = |(at, (name, input)): (usize, &(String, String))| {
            let tool = Tool::find(body, name).ok_or_else(|| format!("There is no function {name}."))?;
            Ok(ToolCall { id: format!("call_{id}_{at}"), input: tool.input(input), tool })
        };
        match round.calls.iter().enumerate().map(call).collect::<Result<_, String>>() {
            Ok(calls) => answer.calls = calls,
            Err(why) => answer.words = vec![why],
        }
    }
    if answer.calls.is_empty() && answer.words.is_empty() {
        answer.words = match results {
            [] => WORDS.map(str::to_owned).to_vec(),
            results => vec![results.join("\n")],
        };
    }
    let beginning = beginning(body);
    if !beginning.is_empty()
        && let Some(rest) = answer.words.concat().strip_prefix(&beginning)
    {
        answer.words = vec![rest.to_owned()];
    }
    AgentAnswer { id, ..answer }
}

/// The beginning of the answer, if the request gives one as its last message; only DeepSeek and older Claude models
/// continue it.
fn beginning(body: &Value) -> String {
    let last = body["messages"].as_array().and_then(|messages| messages.last());
    last.filter(|message| message["role"] == "assistant")
        .map_or(String::new(), |message| text(&message["content"]))
}

/// Reads the script.
fn rounds(text: &str) -> Vec<Round> {
    let mut rounds = vec![Round::default()];
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let Some(last) = rounds.last_mut() else { break };
        match word {
            "then" => rounds.push(Round::default()),
            "only" => last.only_tag = Some(rest.to_owned()),
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

/// Whether a text of the user's role is no message of the user: coding agents put their notes into tags, and a gateway
/// asks for the rest of an answer that broke off.
fn is_note(text: &str) -> bool {
    text.starts_with('<') || text.starts_with("Your previous response was interrupted")
}

/// The prompt before the message at `at`, which a signature of thoughts covers.
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

/// The vendor's error for the first call without a result right after it, or for the first result without a call.
fn unmatched_call_or_result(parts: &[Part], format: Format) -> Option<String> {
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
    // `open` has the calls without a result so far: they must all have one before any other part.
    let mut open: Vec<&str> = Vec::new();
    for part in parts {
        match part {
            Part::Call(id) if open.contains(&id.as_str()) => {
                return Some(format!("the id {id} is used twice"));
            }
            Part::Call(id) => open.push(id),
            Part::Result { id, .. } => {
                let Some(at) = open.iter().position(|known| known == id) else { return Some(stray(id)) };
                open.remove(at);
            }
            Part::User(_) | Part::Assistant => {
                if let Some(id) = open.first() {
                    return Some(open_call(id));
                }
            }
        }
    }
    open.first().map(|id| open_call(id))
}

/// The texts of a message's content, each for itself: a gateway may have joined messages.
fn texts(content: &Value) -> Vec<String> {
    match content {
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part["text"].as_str().map(str::to_owned)).collect()
        }
        content => vec![text(content)],
    }
}

/// The text of a message's content, which is a string or a list of parts.
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
