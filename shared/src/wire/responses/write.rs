//! Translates a prompt to a responses request.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Value, json};

use crate::wire::{
    Format, Pace, ToolNames, Written, chat, openai,
    prompt::{Efforts, MediaSource, Message, OutputFormat, Part, Prompt, Role, ToolChoice},
    raw::RawJson,
    written::object,
};

/// Fewest tokens that the API takes as the limit of an answer.
pub const MIN_OUTPUT: u64 = 16;

/// Most characters of a call's id.
const MAX_ID: usize = 64;

/// Writes a request's body. The vendor stores nothing of it.
///
/// Fails with what this format cannot express; "it" in the text is the vendor.
pub async fn write(
    prompt: Cow<'_, Prompt>,
    efforts: Efforts,
    model: &str,
    stream: bool,
) -> Result<Written, String> {
    let (prompt, tool_names) = ToolNames::fit(prompt, chat::MAX_NAME, MAX_ID)?;
    let prompt = prompt.as_ref();
    if !prompt.stop.is_empty() {
        return Err("it accepts no stop sequences".into());
    }
    let mut out = Written { max_output: prompt.max_output, tool_names, ..Written::default() };
    out.set("model", Some(model.into()));
    let system: Vec<&str> = prompt.system.iter().map(|text| text.text.as_str()).collect();
    out.set("instructions", (!system.is_empty()).then(|| system.join("\n\n").into()));
    out.set("input", Some(input(prompt).await?.into()));
    out.set("store", Some(false.into()));
    out.set("stream", stream.then_some(true.into()));
    out.set("max_output_tokens", prompt.max_output.map(Value::from));
    out.set("temperature", prompt.temperature.clone().map(Value::Number));
    out.set("top_p", prompt.top_p.clone().map(Value::Number));
    out.set("user", prompt.user.as_deref().map(openai::user).map(Value::from));
    let effort = prompt.effort.and_then(|effort| efforts.fit(effort));
    out.set("reasoning", effort.map(|effort| json!({"effort": effort.name()})));
    if !prompt.tools.is_empty() {
        let empty = RawJson::from(json!({"type": "object", "properties": {}}));
        let tools = prompt.tools.iter().map(|tool| {
            let parameters = tool.parameters.as_ref().unwrap_or(&empty);
            FunctionTool {
                kind: "function",
                name: &tool.name,
                description: tool.description.as_deref(),
                parameters,
                strict: openai::strict(tool.strict, parameters, &mut out).unwrap_or_default(),
            }
        });
        let tools: Vec<_> = tools.collect();
        out.set_encoded("tools", &tools);
        out.set("parallel_tool_calls", prompt.parallel_tool_calls.map(Value::from));
        out.set("tool_choice", prompt.tool_choice.as_ref().map(tool_choice));
    }
    let format = prompt.format.as_ref().map(|format| output_format(format, &mut out));
    out.set("text", format.map(|format| json!({"format": format})));
    out.set_hints(prompt, Format::Responses, |_| true);
    Ok(out)
}

#[derive(Serialize)]
struct FunctionTool<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    description: Option<&'a str>,
    parameters: &'a RawJson,
    /// Functions are strict here unless the request says otherwise, unlike in the other formats.
    strict: bool,
}

fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::Required => "required".into(),
        ToolChoice::Named(name) => json!({"type": "function", "name": name}),
    }
}

fn output_format(format: &OutputFormat, out: &mut Written) -> Value {
    match format {
        OutputFormat::JsonObject => json!({"type": "json_object"}),
        OutputFormat::JsonSchema { name, description, schema, strict } => {
            let strict = openai::strict(*strict, schema, out).unwrap_or_default();
            let mut format = json!({
                "type": "json_schema", "name": name.as_deref().unwrap_or("answer"), "schema": schema.to_value(),
                "strict": strict,
            });
            if let (Some(description), Some(format)) = (description, format.as_object_mut()) {
                format.insert("description".into(), description.as_str().into());
            }
            format
        }
    }
}

async fn input(prompt: &Prompt) -> Result<Vec<Value>, String> {
    let (mut out, mut pace) = (Vec::new(), Pace::default());
    for message in &prompt.messages {
        match message.role {
            Role::System => {
                let texts = chat::system_texts(message);
                let parts = texts.iter().map(|text| json!({"type": "input_text", "text": text.text}));
                out.push(self::message("system", parts.collect()));
            }
            Role::User => user(message, &mut out)?,
            Role::Assistant => assistant(message, &mut out)?,
        }
        pace.advance(0).await;
    }
    Ok(out)
}

/// Writes a user's message: tool outputs become items of their own, and the other parts follow in one message.
fn user(message: &Message, out: &mut Vec<Value>) -> Result<(), String> {
    let mut parts = Vec::new();
    for part in &message.parts {
        match part {
            Part::Output { id, parts, failed } => {
                let error = failed.then(|| json!({"type": "input_text", "text": "Error:"}));
                let content: Vec<Value> =
                    error.into_iter().map(Ok).chain(parts.iter().map(content)).collect::<Result<_, _>>()?;
                // A single text is a string, which every server accepts.
                let output = match content.as_slice() {
                    [] => "".into(),
                    [only] if only.get("type") == Some(&"input_text".into()) => {
                        only.get("text").cloned().unwrap_or_default()
                    }
                    _ => content.into(),
                };
                let (kind, id) = ("function_call_output".into(), id.as_str().into());
                out.push(object([("type", kind), ("call_id", id), ("output", output)]));
            }
            other => parts.push(content(other)?),
        }
    }
    if !parts.is_empty() {
        out.push(self::message("user", parts));
    }
    Ok(())
}

fn message(role: &str, parts: Vec<Value>) -> Value {
    object([("type", "message".into()), ("role", role.into()), ("content", parts.into())])
}

fn content(part: &Part) -> Result<Value, String> {
    Ok(match part {
        Part::Text(text) => json!({"type": "input_text", "text": text.text}),
        Part::Image(source) => {
            object([("type", "input_image".into()), ("image_url", source.to_url().into())])
        }
        Part::Document { source: source @ MediaSource::Base64 { .. }, name } => {
            let name = name.as_deref().unwrap_or(source.default_name());
            let data = source.to_url().into();
            object([("type", "input_file".into()), ("filename", name.into()), ("file_data", data)])
        }
        Part::Document { source: MediaSource::Url(url), .. } => {
            json!({"type": "input_file", "file_url": url})
        }
        Part::Refusal(_) | Part::Reasoning(_) | Part::Call(_) | Part::Output { .. } => {
            return Err("it accepts only text, images, documents and tool outputs in a user message".into());
        }
    })
}

/// Writes an assistant's message: its texts and calls, each as an item. Reasoning is left out, since it is bound to
/// the vendor that wrote it.
fn assistant(message: &Message, out: &mut Vec<Value>) -> Result<(), String> {
    for part in &message.parts {
        let content = match part {
            Part::Text(text) => json!({"type": "output_text", "text": text.text, "annotations": []}),
            Part::Refusal(text) => json!({"type": "refusal", "refusal": text}),
            Part::Reasoning(_) => continue,
            Part::Call(call) => {
                out.push(json!({
                    "type": "function_call", "call_id": call.id, "name": call.name,
                    "arguments": call.arguments,
                }));
                continue;
            }
            Part::Image(_) | Part::Document { .. } | Part::Output { .. } => {
                return Err("it accepts only text and tool calls in an assistant message".into());
            }
        };
        out.push(self::message("assistant", vec![content]));
    }
    Ok(())
}
