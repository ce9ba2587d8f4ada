//! Translates a messages request to a prompt, and removes the reasoning from one.

use serde_json::{Value, json};

use super::write::may_think;
use crate::wire::{
    RequestError,
    fields::{Fields, shorten},
    prompt::{
        Effort, MediaSource, Message, OutputFormat, Part, Prompt, Reasoning, Role, Text, Tool, ToolCall,
        ToolChoice,
    },
};

type Read<T> = Result<T, RequestError>;

/// Reads a request's body.
pub fn read(body: &[u8]) -> Read<Prompt> {
    let mut fields = Fields::of_body(body)?;
    let mut prompt = Prompt {
        max_output: fields.count("max_tokens")?,
        temperature: fields.number("temperature")?,
        top_p: fields.number("top_p")?,
        ..Prompt::default()
    };
    const SYSTEM: &str = "allowed: a string or an array of text blocks";
    prompt.system = fields.content("system", SYSTEM, |mut block| text(&mut block))?.unwrap_or_default();
    for stop in fields.array("stop_sequences")?.unwrap_or_default() {
        let Value::String(stop) = stop else {
            return Err(fields.bad("stop_sequences", "allowed: an array of strings"));
        };
        prompt.stop.push(stop);
    }
    for message in fields.objects("messages")? {
        self::message(message, &mut prompt)?;
    }
    for tool in fields.objects("tools")? {
        self::tool(tool, &mut prompt)?;
    }
    tool_choice(&mut fields, &mut prompt)?;
    if let Some(mut metadata) = fields.object("metadata")? {
        prompt.user = metadata.string("user_id")?;
    }
    if let Some(thinking) = fields.object("thinking")? {
        prompt.effort = thinking_effort(thinking)?;
    }
    // Read after `thinking`: an explicit effort replaces the one that a budget of tokens stands for.
    if let Some(mut output) = fields.object("output_config")? {
        prompt.effort = output.choice("effort", &Effort::NAMES)?.or(prompt.effort);
        if let Some(mut format) = output.object("format")? {
            if format.needed_string("type")? != "json_schema" {
                return Err(format.bad("type", "allowed: json_schema"));
            }
            let schema = format.value("schema").ok_or(RequestError::Missing(format.path("schema")))?;
            prompt.format =
                Some(OutputFormat::JsonSchema { name: None, description: None, schema, strict: Some(true) });
            prompt.untranslatable.extend(format.rest());
        }
        prompt.untranslatable.extend(output.rest());
    }
    fields.ignore(&["model", "stream", "service_tier", "cache_control"]);
    prompt.untranslatable.extend(fields.rest());
    if let Some(id) = prompt.unmatched_output() {
        let why = format!("there is no tool_use block with the id {:?} before its result", shorten(id));
        return Err(RequestError::Value { param: "messages".into(), why });
    }
    Ok(prompt)
}

fn text(block: &mut Fields) -> Read<Text> {
    Ok(Text { text: block.needed_string("text")?, cache: block.value("cache_control") })
}

fn thinking_effort(mut fields: Fields) -> Read<Option<Effort>> {
    match fields.needed_string("type")?.as_str() {
        "disabled" => Ok(Some(Effort::Off)),
        "adaptive" => Ok(None),
        "enabled" => Ok(fields.count("budget_tokens")?.map(Effort::of_budget)),
        other => {
            Err(fields.bad("type", format!("{:?}; allowed: enabled, adaptive, disabled", shorten(other))))
        }
    }
}

fn message(mut fields: Fields, prompt: &mut Prompt) -> Read<()> {
    let roles = [("user", Role::User), ("assistant", Role::Assistant)];
    let role = fields.choice("role", &roles)?.ok_or_else(|| RequestError::Missing(fields.path("role")))?;
    let parts = parts(&mut fields, prompt)?;
    prompt.untranslatable.extend(fields.rest());
    prompt.messages.push(Message { role, parts });
    Ok(())
}

fn parts(fields: &mut Fields, prompt: &mut Prompt) -> Read<Vec<Part>> {
    const ALLOWED: &str = "allowed: a string or an array of blocks";
    Ok(fields.content("content", ALLOWED, |block| part(block, prompt))?.unwrap_or_default())
}

fn part(mut fields: Fields, prompt: &mut Prompt) -> Read<Part> {
    let kind = fields.needed_string("type")?;
    fields.ignore_if("citations", &[json!([]), json!({"enabled": false})]);
    let part = match kind.as_str() {
        "text" => Part::Text(text(&mut fields)?),
        "image" => Part::Image(source(&mut fields, prompt)?),
        "document" => {
            let name = fields.string("title")?;
            Part::Document { source: source(&mut fields, prompt)?, name }
        }
        "thinking" => Part::Reasoning(Reasoning {
            text: fields.string("thinking")?.unwrap_or_default(),
            signature: fields.string("signature")?.filter(|signature| !signature.is_empty()),
            ..Reasoning::default()
        }),
        "redacted_thinking" => Part::Reasoning(Reasoning {
            redacted: Some(fields.needed_string("data")?),
            ..Reasoning::default()
        }),
        "tool_use" => {
            let input = fields.value("input").unwrap_or_else(|| json!({}));
            let (id, name) = (fields.needed_string("id")?, fields.needed_string("name")?);
            Part::Call(ToolCall { id, name, arguments: input.to_string() })
        }
        "tool_result" => {
            let id = fields.needed_string("tool_use_id")?;
            let failed = fields.boolean("is_error")?.unwrap_or_default();
            Part::Output { id, parts: parts(&mut fields, prompt)?, failed }
        }
        _ => {
            prompt.untranslatable.push(fields.path(&shorten(&kind)));
            return Ok(Part::Text(String::new().into()));
        }
    };
    fields.ignore(&["cache_control"]);
    prompt.untranslatable.extend(fields.rest());
    Ok(part)
}

fn source(fields: &mut Fields, prompt: &mut Prompt) -> Read<MediaSource> {
    let mut source = fields.needed_object("source")?;
    match source.needed_string("type")?.as_str() {
        "base64" => {
            let (media_type, data) = (source.needed_string("media_type")?, source.needed_string("data")?);
            MediaSource::base64(&media_type, &data).map_err(|why| source.bad("data", why))
        }
        "url" => {
            let url = source.needed_string("url")?;
            MediaSource::of_url(&url).map_err(|why| source.bad("url", why))
        }
        other => {
            prompt.untranslatable.push(source.path(&shorten(other)));
            Ok(MediaSource::Url(String::new()))
        }
    }
}

fn tool(mut fields: Fields, prompt: &mut Prompt) -> Read<()> {
    // Tools that the vendor runs have a dated type.
    if let Some(kind) = fields.string("type")?.filter(|kind| kind != "custom") {
        prompt.untranslatable.push(fields.path(&shorten(&kind)));
        return Ok(());
    }
    let name = fields.needed_string("name")?;
    let description = fields.string("description")?;
    let strict = fields.boolean("strict")?;
    let parameters = fields.value("input_schema");
    prompt.tools.push(Tool { name, description, parameters, strict, cache: fields.value("cache_control") });
    prompt.untranslatable.extend(fields.rest());
    Ok(())
}

fn tool_choice(fields: &mut Fields, prompt: &mut Prompt) -> Read<()> {
    let Some(mut choice) = fields.object("tool_choice")? else { return Ok(()) };
    prompt.tool_choice = Some(match choice.needed_string("type")?.as_str() {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(choice.needed_string("name")?),
        _ => return Err(choice.bad("type", "allowed: auto, any, tool, none")),
    });
    prompt.parallel_tool_calls = choice.boolean("disable_parallel_tool_use")?.map(|disabled| !disabled);
    prompt.untranslatable.extend(choice.rest());
    Ok(())
}

/// The body without its thinking blocks, for a retry after the vendor refused them as bound to another account or
/// conversation. `None` if it is not a messages request.
pub fn without_thoughts(body: &[u8]) -> Option<Vec<u8>> {
    let mut body: Value = serde_json::from_slice(body).ok()?;
    for message in body.get_mut("messages")?.as_array_mut()? {
        if let Some(blocks) = message.get_mut("content").and_then(Value::as_array_mut) {
            blocks.retain(|block| {
                !matches!(block.get("type").and_then(Value::as_str), Some("thinking" | "redacted_thinking"))
            });
        }
    }
    // The vendor refuses a budget for thinking in a round of calls that does not begin with thinking.
    let has_budget = body.pointer("/thinking/type") == Some(&"enabled".into());
    if has_budget && !may_think(body.get("messages")?.as_array()?) {
        body.as_object_mut()?.remove("thinking");
    }
    Some(body.to_string().into_bytes())
}
