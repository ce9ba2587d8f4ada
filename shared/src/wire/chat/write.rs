//! A prompt, as a chat completions request.

use serde_json::{Map, Value, json};

use crate::wire::prompt::{Effort, MediaSource, Message, OutputFormat, Part, Prompt, Role, Text, ToolChoice};

/// What vendors of this format do differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// What the limit of the answer's tokens is called: OpenAI's newer models refuse the old name, most others do not
    /// know the new one.
    pub limit: &'static str,
    /// Thoughts go back as `reasoning_content` with every turn that called tools, and at least empty: DeepSeek
    /// refuses the turn without.
    pub replays_reasoning: bool,
    /// It takes part of an answer and writes on: DeepSeek's `prefix`.
    pub prefix: bool,
    /// It has a schema for the answer's shape. DeepSeek has only "some JSON".
    pub schemas: bool,
}

impl Dialect {
    /// OpenAI's own.
    pub const OPENAI: Self =
        Self { limit: "max_completion_tokens", replays_reasoning: false, prefix: false, schemas: true };
}

/// Writes a request's body.
///
/// Fails with what can't be said in this format.
pub fn write(prompt: &Prompt, dialect: Dialect, model: &str, stream: bool) -> Result<Value, String> {
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    body.insert("messages".into(), messages(prompt, dialect)?.into());
    if stream {
        body.insert("stream".into(), true.into());
        body.insert("stream_options".into(), json!({"include_usage": true}));
    }
    let mut set = |key: &str, value: Option<Value>| value.map(|value| body.insert(key.into(), value));
    set(dialect.limit, prompt.max_output.map(Value::from));
    set("temperature", prompt.temperature.clone().map(Value::Number));
    set("top_p", prompt.top_p.clone().map(Value::Number));
    set("user", prompt.user.clone().map(Value::from));
    set("reasoning_effort", prompt.effort.map(|effort| effort.min(Effort::Xhigh).name().into()));
    if prompt.stop.len() > MAX_STOPS {
        return Err(format!("{} stop sequences; it takes at most {MAX_STOPS}", prompt.stop.len()));
    }
    set("stop", (!prompt.stop.is_empty()).then(|| prompt.stop.clone().into()));
    if !prompt.tools.is_empty() {
        let tools = prompt.tools.iter().map(|tool| {
            let mut function = json!({"name": tool.name});
            let mut set = |key: &str, value: Option<Value>| {
                if let (Some(value), Some(function)) = (value, function.as_object_mut()) {
                    function.insert(key.into(), value);
                }
            };
            set("description", tool.description.clone().map(Value::from));
            set("parameters", tool.parameters.clone());
            set("strict", tool.strict.map(Value::from));
            json!({"type": "function", "function": function})
        });
        set("tools", Some(tools.collect()));
        set("parallel_tool_calls", prompt.parallel_tool_calls.map(Value::from));
        set("tool_choice", prompt.tool_choice.as_ref().map(tool_choice));
    }
    set("response_format", prompt.format.as_ref().map(|format| output_format(format, dialect)).transpose()?);
    Ok(Value::Object(body))
}

/// OpenAI's bound.
const MAX_STOPS: usize = 4;

fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::Required => "required".into(),
        ToolChoice::Named(name) => json!({"type": "function", "function": {"name": name}}),
    }
}

fn output_format(format: &OutputFormat, dialect: Dialect) -> Result<Value, String> {
    match format {
        OutputFormat::JsonObject => Ok(json!({"type": "json_object"})),
        OutputFormat::JsonSchema { .. } if !dialect.schemas => {
            Err("it takes no schema for the answer".into())
        }
        OutputFormat::JsonSchema { name, description, schema, strict } => {
            let mut inner = json!({"name": name.as_deref().unwrap_or("answer"), "schema": schema});
            if let Some(inner) = inner.as_object_mut() {
                if let Some(description) = description {
                    inner.insert("description".into(), description.as_str().into());
                }
                if let Some(strict) = strict {
                    inner.insert("strict".into(), (*strict).into());
                }
            }
            Ok(json!({"type": "json_schema", "json_schema": inner}))
        }
    }
}

fn messages(prompt: &Prompt, dialect: Dialect) -> Result<Vec<Value>, String> {
    let mut out = Vec::new();
    if !prompt.system.is_empty() {
        out.push(json!({"role": "system", "content": texts(&prompt.system)}));
    }
    for message in &prompt.messages {
        match message.role {
            Role::User => user(message, &mut out)?,
            Role::Assistant => out.push(assistant(message, dialect)?),
        }
    }
    if dialect.prefix && prompt.continues() {
        let last = out.last_mut().and_then(Value::as_object_mut);
        last.map(|last| last.insert("prefix".into(), true.into()));
    }
    Ok(out)
}

/// One text is a string, several are parts.
fn texts(texts: &[Text]) -> Value {
    match texts {
        [only] => only.text.as_str().into(),
        many => many.iter().map(|text| json!({"type": "text", "text": text.text})).collect(),
    }
}

/// Results of tools are messages of their own here, and what else the user said comes after them. Images in a result
/// follow as the user's, since results hold text only.
fn user(message: &Message, out: &mut Vec<Value>) -> Result<(), String> {
    let mut said = Vec::new();
    for part in &message.parts {
        match part {
            Part::Output { id, parts, failed } => {
                let mut words = Vec::new();
                if *failed {
                    words.push(Text::from("Error:".to_owned()));
                }
                for part in parts {
                    match part {
                        Part::Text(text) => words.push(text.clone()),
                        other => said.push(content(other)?),
                    }
                }
                let content = if words.is_empty() { "".into() } else { texts(&words) };
                out.push(json!({"role": "tool", "tool_call_id": id, "content": content}));
            }
            other => said.push(content(other)?),
        }
    }
    let content = match said.as_slice() {
        [] => return Ok(()),
        // A lone text is a string, as every server takes it.
        [only] if only.get("type") == Some(&"text".into()) => only.get("text").cloned().unwrap_or_default(),
        _ => said.into(),
    };
    out.push(json!({"role": "user", "content": content}));
    Ok(())
}

fn content(part: &Part) -> Result<Value, String> {
    Ok(match part {
        Part::Text(text) => json!({"type": "text", "text": text.text}),
        Part::Image(source) => json!({"type": "image_url", "image_url": {"url": source.to_url()}}),
        Part::Document { source: source @ MediaSource::Base64 { .. }, name } => {
            let name = name.as_deref().unwrap_or("document.pdf");
            json!({"type": "file", "file": {"filename": name, "file_data": source.to_url()}})
        }
        Part::Document { source: MediaSource::Url(_), .. } => {
            return Err("it takes no document by its URL".into());
        }
        Part::Refusal(_) | Part::Reasoning(_) | Part::Call(_) | Part::Output { .. } => {
            return Err("it takes no such part from a user".into());
        }
    })
}

fn assistant(message: &Message, dialect: Dialect) -> Result<Value, String> {
    let (mut words, mut calls, mut refusal) = (Vec::new(), Vec::new(), String::new());
    let mut reasoning = String::new();
    for part in &message.parts {
        match part {
            Part::Text(text) => words.push(text.clone()),
            Part::Refusal(text) => refusal.push_str(text),
            Part::Reasoning(thought) => reasoning.push_str(&thought.text),
            Part::Call(call) => calls.push(json!({
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            })),
            Part::Image(_) | Part::Document { .. } | Part::Output { .. } => {
                return Err("it takes only text and calls from the assistant".into());
            }
        }
    }
    let content = match (words.is_empty(), calls.is_empty()) {
        (false, _) => texts(&words),
        (true, true) => "".into(),
        (true, false) => Value::Null,
    };
    let mut out = json!({"role": "assistant", "content": content});
    if let Some(out) = out.as_object_mut() {
        if !refusal.is_empty() {
            out.insert("refusal".into(), refusal.into());
        }
        // Thoughts are bound to their vendor; only who wants them back gets them.
        if dialect.replays_reasoning && (!calls.is_empty() || !reasoning.is_empty()) {
            out.insert("reasoning_content".into(), reasoning.into());
        }
        if !calls.is_empty() {
            out.insert("tool_calls".into(), calls.into());
        }
    }
    Ok(out)
}
