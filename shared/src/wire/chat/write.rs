//! Translates a prompt to a chat completions request.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Value, json};

use crate::wire::{
    Format, Pace, ToolNames, Written, openai,
    prompt::{
        Effort, Efforts, MediaSource, Message, OutputFormat, Part, Prompt, Role, Text, Tool, ToolChoice,
    },
    raw::RawJson,
    written::object,
};

/// The differences between vendors of this format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// The name of the field that limits the answer's tokens: OpenAI's newer models refuse the old name, most other
    /// vendors ignore the new one.
    pub limit: &'static str,
    /// Whether messages with tool calls must have `reasoning_content`, even if it is empty: DeepSeek refuses them
    /// without.
    pub replays_reasoning: bool,
    /// Whether the model can continue a partial answer: DeepSeek's `prefix`.
    pub prefix: bool,
    /// Whether `response_format` takes a JSON schema. DeepSeek takes only `json_object`.
    pub schemas: bool,
    /// Whether messages may have the role `developer`.
    pub developer: bool,
    /// The efforts that the model takes. They hold for the vendor's responses, too.
    pub efforts: Efforts,
    /// Whether the model thinks unless `thinking` turns it off, as DeepSeek's does, since it takes no effort for that.
    pub thinking_switch: bool,
    /// Whether the vendor knows OpenAI's own hints. Other servers may refuse a field that they don't know.
    pub hints: bool,
}

impl Dialect {
    /// The dialect of OpenAI itself.
    pub const OPENAI: Self = Self {
        limit: "max_completion_tokens",
        replays_reasoning: false,
        prefix: false,
        schemas: true,
        developer: true,
        efforts: Efforts::between(Effort::Off, Effort::Xhigh),
        thinking_switch: false,
        hints: true,
    };
}

/// Writes a request's body.
///
/// Fails with what this format cannot express; "it" in the text is the vendor.
pub async fn write(
    prompt: Cow<'_, Prompt>,
    dialect: Dialect,
    model: &str,
    stream: bool,
) -> Result<Written, String> {
    let (prompt, tool_names) = ToolNames::fit(prompt, MAX_NAME, MAX_ID)?;
    let prompt = prompt.as_ref();
    let mut out = Written { max_output: prompt.max_output, tool_names, ..Written::default() };
    out.set("model", Some(model.into()));
    out.set("messages", Some(messages(prompt, dialect).await?.into()));
    if stream {
        out.set("stream", Some(true.into()));
        out.set("stream_options", Some(json!({"include_usage": true})));
    }
    out.set(dialect.limit, prompt.max_output.map(Value::from));
    out.set("temperature", prompt.temperature.clone().map(Value::Number));
    out.set("top_p", prompt.top_p.clone().map(Value::Number));
    out.set("user", prompt.user.as_deref().map(openai::user).map(Value::from));
    match prompt.effort.and_then(|effort| dialect.efforts.fit(effort)) {
        Some(Effort::Off) if dialect.thinking_switch => out.set("thinking", Some(thinking_off())),
        effort => out.set("reasoning_effort", effort.map(|effort| effort.name().into())),
    }
    if prompt.stop.len() > MAX_STOPS {
        return Err(format!("it accepts at most {MAX_STOPS} stop sequences, not {}", prompt.stop.len()));
    }
    out.set("stop", (!prompt.stop.is_empty()).then(|| prompt.stop.clone().into()));
    if !prompt.tools.is_empty() {
        let tools = prompt.tools.iter().map(|tool| FunctionTool::of(tool, &mut out));
        let tools: Vec<_> = tools.collect();
        out.set_encoded("tools", &tools);
        out.set("parallel_tool_calls", prompt.parallel_tool_calls.map(Value::from));
        out.set("tool_choice", prompt.tool_choice.as_ref().map(tool_choice));
    }
    let format = prompt.format.as_ref().map(|format| output_format(format, dialect, &mut out)).transpose()?;
    out.set("response_format", format);
    out.set_hints(prompt, Format::Chat, |_| dialect.hints);
    Ok(out)
}

/// The value of `thinking` that turns it off.
pub(super) fn thinking_off() -> Value {
    json!({"type": "disabled"})
}

#[derive(Serialize)]
struct FunctionTool<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<&'a RawJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

impl<'a> FunctionTool<'a> {
    fn of(tool: &'a Tool, out: &mut Written) -> Self {
        let Tool { name, description, parameters, strict, .. } = tool;
        let strict = parameters.as_ref().map_or(*strict, |schema| openai::strict(*strict, schema, out));
        let (description, parameters) = (description.as_deref(), parameters.as_ref());
        Self { kind: "function", function: Function { name, description, parameters, strict } }
    }
}

/// Why a vendor without schemas is unfit.
pub(super) const NO_SCHEMA: &str = "it accepts no JSON schema for the answer";

/// Most characters of a function's name (<https://platform.openai.com/docs/api-reference/chat/create>).
pub(in crate::wire) const MAX_NAME: usize = 64;

/// Most characters of a call's id; the API refuses longer ones.
const MAX_ID: usize = 40;

/// Most stop sequences that OpenAI accepts.
const MAX_STOPS: usize = 4;

fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::Required => "required".into(),
        ToolChoice::Named(name) => json!({"type": "function", "function": {"name": name}}),
    }
}

fn output_format(format: &OutputFormat, dialect: Dialect, out: &mut Written) -> Result<Value, String> {
    match format {
        OutputFormat::JsonObject => Ok(json!({"type": "json_object"})),
        OutputFormat::JsonSchema { .. } if !dialect.schemas => Err(NO_SCHEMA.into()),
        OutputFormat::JsonSchema { name, description, schema, strict } => {
            let mut inner = json!({"name": name.as_deref().unwrap_or("answer"), "schema": schema.to_value()});
            if let Some(inner) = inner.as_object_mut() {
                if let Some(description) = description {
                    inner.insert("description".into(), description.as_str().into());
                }
                if let Some(strict) = openai::strict(*strict, schema, out) {
                    inner.insert("strict".into(), strict.into());
                }
            }
            Ok(json!({"type": "json_schema", "json_schema": inner}))
        }
    }
}

async fn messages(prompt: &Prompt, dialect: Dialect) -> Result<Vec<Value>, String> {
    let (mut out, mut pace) = (Vec::new(), Pace::default());
    if !prompt.system.is_empty() {
        out.push(json!({"role": "system", "content": texts(&prompt.system)}));
    }
    for message in &prompt.messages {
        match message.role {
            Role::System => out.push(json!({"role": "system", "content": texts(&system_texts(message))})),
            Role::User => user(message, &mut out)?,
            Role::Assistant => out.push(assistant(message, dialect)?),
        }
        pace.advance(0).await;
    }
    if dialect.prefix && prompt.continues() {
        let last = out.last_mut().and_then(Value::as_object_mut);
        last.map(|last| last.insert("prefix".into(), true.into()));
    }
    Ok(out)
}

/// The texts of a system message.
pub(in crate::wire) fn system_texts(message: &Message) -> Vec<Text> {
    let texts = message.parts.iter().filter_map(|part| match part {
        Part::Text(text) => Some(text.clone()),
        _ => None,
    });
    texts.collect()
}

/// Writes one text as a string, several as parts.
fn texts(texts: &[Text]) -> Value {
    match texts {
        [only] => only.text.as_str().into(),
        many => many.iter().map(|text| json!({"type": "text", "text": text.text})).collect(),
    }
}

/// Writes a user's message: tool outputs become messages of their own, and the other parts follow in one message.
/// Images of an output follow there too, since outputs can only be text in this format.
fn user(message: &Message, out: &mut Vec<Value>) -> Result<(), String> {
    let mut user_parts = Vec::new();
    for part in &message.parts {
        match part {
            Part::Output { id, parts, failed } => {
                let mut output = Vec::new();
                if *failed {
                    output.push(Text::from("Error:".to_owned()));
                }
                for part in parts {
                    match part {
                        Part::Text(text) => output.push(text.clone()),
                        other => user_parts.push(content(other)?),
                    }
                }
                let content = if output.is_empty() { "".into() } else { texts(&output) };
                out.push(object([
                    ("role", "tool".into()),
                    ("tool_call_id", id.as_str().into()),
                    ("content", content),
                ]));
            }
            other => user_parts.push(content(other)?),
        }
    }
    let content = match user_parts.as_mut_slice() {
        [] => return Ok(()),
        // A single text is a string, which every server accepts.
        [only] if only.get("type") == Some(&"text".into()) => {
            only.get_mut("text").map(Value::take).unwrap_or_default()
        }
        _ => user_parts.into(),
    };
    out.push(object([("role", "user".into()), ("content", content)]));
    Ok(())
}

fn content(part: &Part) -> Result<Value, String> {
    Ok(match part {
        Part::Text(text) => json!({"type": "text", "text": text.text}),
        Part::Image(source) => {
            let url = object([("url", source.to_url().into())]);
            object([("type", "image_url".into()), ("image_url", url)])
        }
        Part::Document { source: source @ MediaSource::Base64 { .. }, name } => {
            let name = name.as_deref().unwrap_or(source.default_name());
            let file = object([("filename", name.into()), ("file_data", source.to_url().into())]);
            object([("type", "file".into()), ("file", file)])
        }
        Part::Document { source: MediaSource::Url(_), .. } => {
            return Err("it accepts no document by URL".into());
        }
        Part::Refusal(_) | Part::Reasoning(_) | Part::Call(_) | Part::Output { .. } => {
            return Err("it accepts only text, images, documents and tool outputs in a user message".into());
        }
    })
}

fn assistant(message: &Message, dialect: Dialect) -> Result<Value, String> {
    let (mut content, mut calls, mut refusal) = (Vec::new(), Vec::new(), String::new());
    let mut reasoning = String::new();
    for part in &message.parts {
        match part {
            Part::Text(text) => content.push(text.clone()),
            Part::Refusal(text) => refusal.push_str(text),
            Part::Reasoning(thought) => reasoning.push_str(&thought.text),
            Part::Call(call) => calls.push(json!({
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            })),
            Part::Image(_) | Part::Document { .. } | Part::Output { .. } => {
                return Err("it accepts only text and tool calls in an assistant message".into());
            }
        }
    }
    let content = match (content.is_empty(), calls.is_empty()) {
        (false, _) => texts(&content),
        (true, true) => "".into(),
        (true, false) => Value::Null,
    };
    let mut out = object([("role", "assistant".into()), ("content", content)]);
    if let Some(out) = out.as_object_mut() {
        if !refusal.is_empty() {
            out.insert("refusal".into(), refusal.into());
        }
        // Reasoning is bound to its vendor, so it is sent only where the dialect requires it.
        if dialect.replays_reasoning && (!calls.is_empty() || !reasoning.is_empty()) {
            out.insert("reasoning_content".into(), reasoning.into());
        }
        if !calls.is_empty() {
            out.insert("tool_calls".into(), calls.into());
        }
    }
    Ok(out)
}
