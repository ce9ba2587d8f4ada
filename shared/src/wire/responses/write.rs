//! Translates a prompt to a responses request.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::wire::{
    Format, ToolNames, Written, chat,
    prompt::{Effort, MediaSource, Message, OutputFormat, Part, Prompt, Role, ToolChoice},
};

/// Fewest tokens that the API takes as the limit of an answer.
pub const MIN_OUTPUT: u64 = 16;

/// Most characters of a call's id.
const MAX_ID: usize = 64;

/// Writes a request's body. The vendor stores nothing of it.
///
/// Fails with what this format cannot express; "it" in the text is the vendor.
pub fn write(prompt: Cow<'_, Prompt>, model: &str, stream: bool) -> Result<Written, String> {
    let (prompt, tool_names) = ToolNames::fit(prompt, chat::MAX_NAME, MAX_ID)?;
    let prompt = prompt.as_ref();
    if !prompt.stop.is_empty() {
        return Err("it accepts no stop sequences".into());
    }
    let mut out = Written { max_output: prompt.max_output, tool_names, ..Written::default() };
    out.set("model", Some(model.into()));
    let system: Vec<&str> = prompt.system.iter().map(|text| text.text.as_str()).collect();
    out.set("instructions", (!system.is_empty()).then(|| system.join("\n\n").into()));
    out.set("input", Some(input(prompt)?.into()));
    out.set("store", Some(false.into()));
    out.set("stream", stream.then_some(true.into()));
    out.set("max_output_tokens", prompt.max_output.map(Value::from));
    out.set("temperature", prompt.temperature.clone().map(Value::Number));
    out.set("top_p", prompt.top_p.clone().map(Value::Number));
    out.set("user", prompt.user.clone().map(Value::from));
    let effort = prompt.effort.map(|effort| json!({"effort": effort.min(Effort::Xhigh).name()}));
    out.set("reasoning", effort);
    if !prompt.tools.is_empty() {
        let tools = prompt.tools.iter().map(|tool| {
            let empty = || json!({"type": "object", "properties": {}});
            // Functions are strict here unless the request says otherwise, unlike in the other formats.
            json!({
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters.clone().unwrap_or_else(empty),
                "strict": tool.strict.unwrap_or_default(),
            })
        });
        out.set("tools", Some(tools.collect()));
        out.set("parallel_tool_calls", prompt.parallel_tool_calls.map(Value::from));
        out.set("tool_choice", prompt.tool_choice.as_ref().map(tool_choice));
    }
    out.set("text", prompt.format.as_ref().map(|format| json!({"format": output_format(format)})));
    out.set_hints(prompt, Format::Responses, |_| true);
    Ok(out)
}

fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::Required => "required".into(),
        ToolChoice::Named(name) => json!({"type": "function", "name": name}),
    }
}

fn output_format(format: &OutputFormat) -> Value {
    match format {
        OutputFormat::JsonObject => json!({"type": "json_object"}),
        OutputFormat::JsonSchema { name, description, schema, strict } => {
            let mut out = json!({
                "type": "json_schema", "name": name.as_deref().unwrap_or("answer"), "schema": schema,
                "strict": strict.unwrap_or_default(),
            });
            if let (Some(description), Some(out)) = (description, out.as_object_mut()) {
                out.insert("description".into(), description.as_str().into());
            }
            out
        }
    }
}

fn input(prompt: &Prompt) -> Result<Vec<Value>, String> {
    let mut out = Vec::new();
    for message in &prompt.messages {
        match message.role {
            Role::System => {
                let texts = chat::system_texts(message);
                let parts = texts.iter().map(|text| json!({"type": "input_text", "text": text.text}));
                out.push(json!({"type": "message", "role": "system", "content": parts.collect::<Vec<_>>()}));
            }
            Role::User => user(message, &mut out)?,
            Role::Assistant => assistant(message, &mut out)?,
        }
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
                out.push(json!({"type": "function_call_output", "call_id": id, "output": output}));
            }
            other => parts.push(content(other)?),
        }
    }
    if !parts.is_empty() {
        out.push(json!({"type": "message", "role": "user", "content": parts}));
    }
    Ok(())
}

fn content(part: &Part) -> Result<Value, String> {
    Ok(match part {
        Part::Text(text) => json!({"type": "input_text", "text": text.text}),
        Part::Image(source) => json!({"type": "input_image", "image_url": source.to_url()}),
        Part::Document { source: source @ MediaSource::Base64 { .. }, name } => {
            let name = name.as_deref().unwrap_or("document.pdf");
            json!({"type": "input_file", "filename": name, "file_data": source.to_url()})
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
        out.push(json!({"type": "message", "role": "assistant", "content": [content]}));
    }
    Ok(())
}
