//! Translates a responses request to a prompt.

use std::collections::BTreeMap;

use serde_json::json;

use super::{compaction_summary, summary_message};
use crate::wire::{
    Pace, RequestError,
    fields::{Fields, parsed, shorten},
    openai,
    prompt::{
        ClientTool, ClientToolKind, Effort, MediaSource, OutputFormat, Part, Prompt, Reasoning, Role, Tool,
        ToolCall, ToolChoice, VendorTool,
    },
    raw::{RawJson, elements},
};

type Read<T> = Result<T, RequestError>;

/// Reads a request's body.
pub async fn read(body: &[u8]) -> Read<Prompt> {
    let mut fields = Fields::of_body(body)?;
    let mut pace = Pace::default();
    let mut prompt = Prompt {
        max_output: fields.count("max_output_tokens")?,
        temperature: fields.number("temperature")?,
        top_p: fields.number("top_p")?,
        parallel_tool_calls: fields.boolean("parallel_tool_calls")?,
        user: fields.string("user")?,
        ..Prompt::default()
    };
    prompt.system.extend(fields.string("instructions")?.map(Into::into));
    let input = fields.raw("input").ok_or_else(|| RequestError::Missing("input".into()))?;
    if input.get().starts_with('"') {
        prompt.push_part(Role::User, Part::Text(parsed::<String>(input)?.into()));
    } else if input.get().starts_with('[') {
        for (at, raw) in elements(Some(input), "input")?.into_iter().enumerate() {
            item(Fields::of(raw, format!("input[{at}]"))?, &mut prompt)?;
            pace.advance(raw.get().len()).await;
        }
    } else {
        return Err(fields.bad("input", "allowed: a string or an array of items"));
    }
    for tool in fields.objects("tools")? {
        self::tool(tool?, None, &mut prompt)?;
        pace.advance(0).await;
    }
    prompt.tools = distinct(prompt.tools)?;
    prompt.tool_choice = tool_choice(&mut fields, &mut prompt)?;
    if let Some(mut text) = fields.object("text")? {
        if let Some(format) = text.object("format")? {
            prompt.format = output_format(format, &mut prompt)?;
        }
        text.ignore_if("verbosity", &[json!("medium")]);
        prompt.leave(text);
    }
    if let Some(mut reasoning) = fields.object("reasoning")? {
        prompt.effort = reasoning.choice("effort", &Effort::NAMES)?;
        // The former name of `summary`.
        reasoning.ignore(&["generate_summary"]);
        prompt.leave(reasoning);
    }
    // Fields that the node reads itself, and values that mean the same as leaving the field out.
    fields.ignore(&["model", "stream", "stream_options"]);
    fields.ignore_if("service_tier", &[json!("auto"), json!("default")]);
    fields.ignore_if("metadata", &[json!({})]);
    for key in ["store", "background"] {
        fields.ignore_if(key, &[json!(false)]);
    }
    fields.ignore_if("truncation", &[json!("disabled")]);
    fields.ignore_if("include", &[json!([]), json!(["reasoning.encrypted_content"])]);
    fields.ignore_if("top_logprobs", &[json!(0)]);
    prompt.leave(fields);
    if let Some(id) = prompt.unmatched_output() {
        let why = format!("there is no function_call with the call_id {:?} before its output", shorten(id));
        return Err(RequestError::Value { param: "input".into(), why });
    }
    Ok(prompt)
}

fn item(mut fields: Fields<'_>, prompt: &mut Prompt) -> Read<()> {
    let kind = fields.string("type")?.unwrap_or_else(|| "message".into());
    fields.ignore(&["status"]);
    match kind.as_str() {
        "message" => {
            fields.ignore(&["id", "phase"]);
            message(&mut fields, prompt)?;
        }
        "function_call" => {
            fields.ignore(&["id"]);
            let id = fields.needed_string("call_id")?;
            let (name, arguments) = (tool_name(&mut fields)?, fields.needed_string("arguments")?);
            prompt.push_part(Role::Assistant, Part::Call(ToolCall { id, name, arguments }));
        }
        "custom_tool_call" => {
            fields.ignore(&["id"]);
            let id = fields.needed_string("call_id")?;
            let (name, input) = (tool_name(&mut fields)?, fields.needed_string("input")?);
            let arguments = ClientTool::arguments(&input);
            prompt.push_part(Role::Assistant, Part::Call(ToolCall { id, name, arguments }));
        }
        "function_call_output" | "custom_tool_call_output" => {
            fields.ignore(&["id"]);
            let id = fields.needed_string("call_id")?;
            let parts = parts(&mut fields, "output", prompt)?;
            prompt.push_part(Role::User, Part::Output { id, parts, failed: false });
        }
        "reasoning" => {
            // Encrypted reasoning is bound to its vendor; only the text can be translated.
            fields.ignore(&["id", "encrypted_content", "summary", crate::wire::responses::REASONING_FIELD]);
            let texts = fields.objects("content")?.map(|part| part?.needed_string("text"));
            let text = texts.collect::<Read<Vec<_>>>()?.concat();
            prompt.push_part(
                Role::Assistant,
                Part::Reasoning(Reasoning { text, signature: None, redacted: None, by: None }),
            );
        }
        "tool_search_call" => {
            fields.ignore(&["id", "execution"]);
            let id = fields.needed_string("call_id")?;
            let arguments = fields.value("arguments")?.unwrap_or_else(|| json!({})).to_string();
            let name = "tool_search".to_owned();
            prompt.push_part(Role::Assistant, Part::Call(ToolCall { id, name, arguments }));
        }
        // The tools that were found can be called from here on.
        "tool_search_output" => {
            fields.ignore(&["id", "execution"]);
            let id = fields.needed_string("call_id")?;
            let known = prompt.tools.len();
            for tool in fields.objects("tools")? {
                self::tool(tool?, None, prompt)?;
            }
            let found = prompt.tools.get(known..).unwrap_or_default().iter();
            let names: Vec<&str> = found.map(|tool| tool.name.as_str()).collect();
            let text = format!("Tools found: {}", names.join(", "));
            let output = Part::Output { id, parts: vec![text.into()], failed: false };
            prompt.push_part(Role::User, output);
        }
        // Tools that the client adds in the middle of a conversation.
        "additional_tools" => {
            fields.ignore(&["id", "role"]);
            for tool in fields.objects("tools")? {
                self::tool(tool?, None, prompt)?;
            }
        }
        "compaction" => {
            fields.ignore(&["id", "created_by"]);
            match compaction_summary(&fields.needed_string("encrypted_content")?) {
                Some(text) => prompt.system.push(summary_message(&text).into()),
                // A vendor's content can only be read by that vendor.
                None => prompt.untranslatable.push(fields.path("encrypted_content")),
            }
        }
        other => {
            prompt.untranslatable.push(fields.path(&shorten(other)));
            return Ok(());
        }
    }
    prompt.leave(fields);
    Ok(())
}

fn message(fields: &mut Fields<'_>, prompt: &mut Prompt) -> Read<()> {
    let role = fields.needed_string("role")?;
    let parts = parts(fields, "content", prompt)?;
    match role.as_str() {
        "system" | "developer" => {
            for part in parts {
                let Part::Text(text) = part else { return Err(fields.bad("content", "allowed: text")) };
                prompt.push_system(text);
            }
        }
        "user" => parts.into_iter().for_each(|part| prompt.push_part(Role::User, part)),
        "assistant" => parts.into_iter().for_each(|part| prompt.push_part(Role::Assistant, part)),
        _ => return Err(fields.bad("role", "allowed: system, developer, user, assistant")),
    }
    Ok(())
}

fn parts(fields: &mut Fields<'_>, key: &str, prompt: &mut Prompt) -> Read<Vec<Part>> {
    let parts = fields.content(key, "allowed: a string or an array of parts", |fields| part(fields, prompt));
    parts?.ok_or_else(|| RequestError::Missing(fields.path(key)))
}

fn part(mut fields: Fields<'_>, prompt: &mut Prompt) -> Read<Part> {
    let kind = fields.needed_string("type")?;
    let part = match kind.as_str() {
        "input_text" | "output_text" | "text" => {
            fields.ignore_if("annotations", &[json!([])]);
            fields.ignore_if("logprobs", &[json!([])]);
            Part::Text(fields.needed_string("text")?.into())
        }
        "refusal" => Part::Refusal(fields.needed_string("refusal")?),
        "input_image" => {
            fields.ignore_if("detail", &[json!("auto")]);
            match fields.string("image_url")? {
                Some(url) => {
                    Part::Image(MediaSource::of_url(url).map_err(|why| fields.bad("image_url", why))?)
                }
                None => vendor_file(&mut fields, prompt),
            }
        }
        "input_file" => {
            let name = fields.string("filename")?;
            let url = fields.string("file_url")?;
            match fields
                .string("file_data")?
                .map(|data| ("file_data", data))
                .or(url.map(|url| ("file_url", url)))
            {
                Some((key, url)) => Part::Document {
                    source: MediaSource::of_url(url).map_err(|why| fields.bad(key, why))?,
                    name,
                },
                None => vendor_file(&mut fields, prompt),
            }
        }
        _ => {
            prompt.untranslatable.push(fields.path(&shorten(&kind)));
            return Ok(Part::Text(String::new().into()));
        }
    };
    prompt.leave(fields);
    Ok(part)
}

/// A part with a file id, which is valid only at the vendor that stores the file.
fn vendor_file(fields: &mut Fields<'_>, prompt: &mut Prompt) -> Part {
    fields.ignore(&["file_id"]);
    prompt.untranslatable.push(fields.path("file_id"));
    Part::Text(String::new().into())
}

/// Reads a tool, of the group `group` if it is in one.
fn tool(mut fields: Fields<'_>, group: Option<&str>, prompt: &mut Prompt) -> Read<()> {
    let kind = fields.needed_string("type")?;
    match kind.as_str() {
        "function" | "custom" => {
            let kind = if kind == "custom" { ClientToolKind::Custom } else { ClientToolKind::Function };
            let name = fields.needed_string("name")?;
            let mut description = fields.string("description")?;
            let mut parameters = fields.raw("parameters").map(RawJson::from);
            let strict = fields.boolean("strict")?;
            if kind == ClientToolKind::Custom {
                (description, parameters) =
                    ClientTool::function(description, fields.value("format")?.as_ref());
            }
            let flat_name = group.map_or(name.clone(), |group| ClientTool::flat_name(group, &name));
            let is_plain = kind == ClientToolKind::Function && group.is_none();
            let client = (!is_plain).then(|| ClientTool { name, group: group.map(str::to_owned), kind });
            prompt.tools.push(Tool { name: flat_name, client, description, parameters, strict, cache: None });
        }
        "tool_search" if fields.string("execution")?.as_deref() == Some("client") => {
            let name = kind.clone();
            let client = ClientTool { name: name.clone(), group: None, kind: ClientToolKind::Search };
            let description = fields.string("description")?;
            let parameters = fields.raw("parameters").map(RawJson::from);
            let client = Some(client);
            prompt.tools.push(Tool { name, client, description, parameters, strict: None, cache: None });
        }
        "namespace" if group.is_none() => {
            let group = fields.needed_string("name")?;
            let about = fields.string("description")?.filter(|about| !about.is_empty());
            let first = prompt.tools.len();
            for inner in fields.objects("tools")? {
                tool(inner?, Some(&group), prompt)?;
            }
            // What is said about the group stands once, with its first function.
            if let (Some(about), Some(tool)) = (about, prompt.tools.get_mut(first)) {
                let texts = [Some(about), tool.description.take()];
                tool.description = Some(texts.into_iter().flatten().collect::<Vec<_>>().join("\n\n"));
            }
        }
        _ => {
            let kind = shorten(&kind);
            prompt.vendor_tools.push(VendorTool { path: fields.path(&kind), kind });
            return Ok(());
        }
    }
    prompt.leave(fields);
    Ok(())
}

/// The name of the tool of a call, with its group in front if it has one.
fn tool_name(fields: &mut Fields<'_>) -> Read<String> {
    let (name, group) = (fields.needed_string("name")?, fields.string("namespace")?);
    Ok(group.map_or(name.clone(), |group| ClientTool::flat_name(&group, &name)))
}

/// The tools, each once: clients may add the same one again in the middle of a conversation. Refuses different tools whose
/// names are equal once their groups are written in front: an answer could mean either.
fn distinct(tools: Vec<Tool>) -> Read<Vec<Tool>> {
    let mut out: Vec<Tool> = Vec::new();
    let mut places = BTreeMap::new();
    for tool in tools {
        match places.get(&tool.name).and_then(|place: &usize| out.get(*place)) {
            None => {
                places.insert(tool.name.clone(), out.len());
                out.push(tool);
            }
            Some(known) if *known == tool => {}
            Some(known) => {
                let why = format!("two tools would have the name {:?}; allowed: one", shorten(&known.name));
                return Err(RequestError::Value { param: "tools".into(), why });
            }
        }
    }
    Ok(out)
}

fn tool_choice(fields: &mut Fields<'_>, prompt: &mut Prompt) -> Read<Option<ToolChoice>> {
    const ALLOWED: &str = "allowed: auto, none, required, or {\"type\": \"function\", \"name\": …}";
    openai::tool_choice(fields, prompt, ALLOWED, |choice, _| tool_name(choice))
}

fn output_format(mut fields: Fields<'_>, prompt: &mut Prompt) -> Read<Option<OutputFormat>> {
    let format = match fields.needed_string("type")?.as_str() {
        "text" => None,
        "json_object" => Some(OutputFormat::JsonObject),
        "json_schema" => Some(OutputFormat::JsonSchema {
            name: fields.string("name")?,
            description: fields.string("description")?,
            strict: fields.boolean("strict")?,
            schema: fields.raw("schema").ok_or_else(|| RequestError::Missing(fields.path("schema")))?.into(),
        }),
        other => {
            let why = format!("{:?}; allowed: text, json_object, json_schema", shorten(other));
            return Err(fields.bad("type", why));
        }
    };
    prompt.leave(fields);
    Ok(format)
}
