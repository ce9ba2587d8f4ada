//! Translates a messages request to a prompt, and adapts one to a model that takes less than others.

use serde_json::{Value, json, value::RawValue};

use super::write::may_think;
use crate::body::BodyBuilder;
use crate::wire::{
    Pace, Request, RequestError,
    fields::{Fields, parsed, shorten},
    hint::Hint,
    prompt::{
        Effort, MediaSource, Message, OutputFormat, Part, Prompt, Reasoning, Role, Text, Tool, ToolCall,
        ToolChoice, VendorTool,
    },
    raw::RawJson,
};

type Read<T> = Result<T, RequestError>;

/// Reads a request's body.
pub async fn read(body: &[u8]) -> Read<Prompt> {
    let mut fields = Fields::of_body(body)?;
    let mut pace = Pace::default();
    let mut prompt = Prompt {
        max_output: fields.count("max_tokens")?,
        temperature: fields.number("temperature")?,
        top_p: fields.number("top_p")?,
        ..Prompt::default()
    };
    const SYSTEM: &str = "allowed: a string or an array of text blocks";
    let system = fields.content("system", SYSTEM, |mut block| text(&mut block, &mut prompt))?;
    prompt.system = system.unwrap_or_default();
    for stop in fields.elements("stop_sequences")? {
        let stop = parsed(stop).map_err(|_| fields.bad("stop_sequences", "allowed: an array of strings"))?;
        prompt.stop.push(stop);
    }
    for (at, raw) in fields.elements("messages")?.into_iter().enumerate() {
        self::message(Fields::of(raw, format!("messages[{at}]"))?, &mut prompt)?;
        pace.advance(raw.get().len()).await;
    }
    for tool in fields.objects("tools")? {
        self::tool(tool?, &mut prompt)?;
        pace.advance(0).await;
    }
    tool_choice(&mut fields, &mut prompt)?;
    if let Some(mut metadata) = fields.object("metadata")? {
        prompt.user = metadata.string("user_id")?;
        // Other fields than the user's id mean nothing to another vendor.
        if let (Some(hint), false) = (Hint::at("metadata"), metadata.rest().next().is_none()) {
            prompt.note_hint(hint, Value::Null);
        }
    }
    if let Some(thinking) = fields.object("thinking")? {
        prompt.effort = thinking_effort(thinking, &mut prompt)?;
    }
    // Read after `thinking`: an explicit effort replaces the one that a budget of tokens stands for.
    if let Some(mut output) = fields.object("output_config")? {
        prompt.effort = output.choice("effort", &Effort::NAMES)?.or(prompt.effort);
        if let Some(mut format) = output.object("format")? {
            if format.needed_string("type")? != "json_schema" {
                return Err(format.bad("type", "allowed: json_schema"));
            }
            let schema =
                format.raw("schema").ok_or_else(|| RequestError::Missing(format.path("schema")))?.into();
            prompt.format =
                Some(OutputFormat::JsonSchema { name: None, description: None, schema, strict: Some(true) });
            prompt.leave(format);
        }
        prompt.leave(output);
    }
    fields.ignore(&["model", "stream"]);
    fields.ignore_if("service_tier", &[json!("auto")]);
    prompt.leave(fields);
    if let Some(id) = prompt.unmatched_output() {
        let why = format!("there is no tool_use block with the id {:?} before its result", shorten(id));
        return Err(RequestError::Value { param: "messages".into(), why });
    }
    Ok(prompt)
}

fn text(block: &mut Fields<'_>, prompt: &mut Prompt) -> Read<Text> {
    Ok(Text { text: block.needed_string("text")?, cache: prompt.cache_mark(block)? })
}

fn thinking_effort(mut fields: Fields<'_>, prompt: &mut Prompt) -> Read<Option<Effort>> {
    let effort = match fields.needed_string("type")?.as_str() {
        "disabled" => Some(Effort::Off),
        "adaptive" => None,
        "enabled" => fields.count("budget_tokens")?.map(Effort::of_budget),
        other => {
            let why = format!("{:?}; allowed: enabled, adaptive, disabled", shorten(other));
            return Err(fields.bad("type", why));
        }
    };
    prompt.leave(fields);
    Ok(effort)
}

fn message(mut fields: Fields<'_>, prompt: &mut Prompt) -> Read<()> {
    let roles = [("user", Role::User), ("assistant", Role::Assistant), ("system", Role::System)];
    let role = fields.choice("role", &roles)?.ok_or_else(|| RequestError::Missing(fields.path("role")))?;
    let parts = parts(&mut fields, prompt)?;
    if role != Role::System {
        prompt.leave(fields);
        prompt.messages.push(Message { role, parts });
        return Ok(());
    }
    for part in parts {
        match part {
            Part::Text(text) => prompt.push_system(text),
            _ => return Err(fields.bad("content", "allowed: text")),
        }
    }
    prompt.leave(fields);
    Ok(())
}

fn parts(fields: &mut Fields<'_>, prompt: &mut Prompt) -> Read<Vec<Part>> {
    const ALLOWED: &str = "allowed: a string or an array of blocks";
    Ok(fields.content("content", ALLOWED, |block| part(block, prompt))?.unwrap_or_default())
}

fn part(mut fields: Fields<'_>, prompt: &mut Prompt) -> Read<Part> {
    let kind = fields.needed_string("type")?;
    fields.ignore_if("citations", &[json!([]), json!({"enabled": false})]);
    let part = match kind.as_str() {
        "text" => Part::Text(text(&mut fields, prompt)?),
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
            let input = fields.value("input")?.unwrap_or_else(|| json!({}));
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
    prompt.leave(fields);
    Ok(part)
}

fn source(fields: &mut Fields<'_>, prompt: &mut Prompt) -> Read<MediaSource> {
    let mut source = fields.needed_object("source")?;
    match source.needed_string("type")?.as_str() {
        "base64" => {
            let (media_type, data) = (source.needed_string("media_type")?, source.needed_string("data")?);
            MediaSource::base64(&media_type, data).map_err(|why| source.bad("data", why))
        }
        "url" => {
            let url = source.needed_string("url")?;
            MediaSource::of_url(url).map_err(|why| source.bad("url", why))
        }
        "text" => {
            source.ignore(&["media_type"]);
            Ok(MediaSource::plain_text(&source.needed_string("data")?))
        }
        other => {
            prompt.untranslatable.push(source.path(&shorten(other)));
            Ok(MediaSource::Url(String::new()))
        }
    }
}

fn tool(mut fields: Fields<'_>, prompt: &mut Prompt) -> Read<()> {
    // Tools that the vendor runs have a dated type.
    if let Some(kind) = fields.string("type")?.filter(|kind| kind != "custom") {
        let kind = shorten(&kind);
        prompt.vendor_tools.push(VendorTool { path: fields.path(&kind), kind });
        return Ok(());
    }
    let name = fields.needed_string("name")?;
    let description = fields.string("description")?;
    let strict = fields.boolean("strict")?;
    let parameters = fields.raw("input_schema").map(RawJson::from);
    let cache = prompt.cache_mark(&mut fields)?;
    prompt.tools.push(Tool { name, client: None, description, parameters, strict, cache });
    prompt.leave(fields);
    Ok(())
}

fn tool_choice(fields: &mut Fields<'_>, prompt: &mut Prompt) -> Read<()> {
    let Some(mut choice) = fields.object("tool_choice")? else { return Ok(()) };
    prompt.tool_choice = Some(match choice.needed_string("type")?.as_str() {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(choice.needed_string("name")?),
        _ => return Err(choice.bad("type", "allowed: auto, any, tool, none")),
    });
    prompt.parallel_tool_calls = choice.boolean("disable_parallel_tool_use")?.map(|disabled| !disabled);
    prompt.leave(choice);
    Ok(())
}

/// Whether the vendor would refuse a request to think: it takes a budget for thoughts within a round of calls only if
/// the round began with thoughts, as one that another vendor began does not.
pub fn must_not_think(request: &Request) -> bool {
    let budget = |raw: &[u8]| {
        let thinking: Option<Value> = serde_json::from_slice(raw).ok();
        thinking.is_some_and(|thinking| thinking.get("type") == Some(&"enabled".into()))
    };
    if !request.raw_field("thinking").is_some_and(budget) {
        return false;
    }
    let messages = request.raw_field("messages").and_then(|raw| serde_json::from_slice(raw).ok());
    let messages: Vec<&RawValue> = messages.unwrap_or_default();
    let parsed = |raw: &&RawValue| serde_json::from_str::<Value>(raw.get()).ok();
    let is_assistant = |message: &Value| message.get("role") == Some(&"assistant".into());
    // Only the last message of the assistant matters, so the others are not parsed.
    let last = messages.iter().rev().filter_map(parsed).find(is_assistant);
    !last.is_none_or(|last| may_think(&[last]))
}

/// The body as a model takes it: without thoughts that have no signature, such as those of other vendors, and with
/// system messages in front of the conversation unless the model `takes_system_messages`. With `without_thoughts`, all
/// thoughts are left out: the vendor has refused them as bound to another account or conversation.
///
/// `body` is the encoded body of `request`. It is parsed only if something has to be changed.
pub fn adapt(
    request: &Request,
    body: BodyBuilder,
    without_thoughts: bool,
    takes_system_messages: bool,
) -> BodyBuilder {
    // In a text these would have their quotes escaped, so bodies without them are not parsed.
    let has = |texts: &[&str]| {
        texts.iter().any(|text| memchr::memmem::find(request.body(), text.as_bytes()).is_some())
    };
    let has_unsigned = has(&["\"signature\":\"\"", "\"signature\": \"\""]);
    let has_system = !takes_system_messages && has(&["\"role\":\"system\"", "\"role\": \"system\""]);
    if !without_thoughts && !has_unsigned && !has_system {
        return body;
    }
    let body = body.build().into_bytes().unwrap_or_default();
    let mut out = BodyBuilder::default();
    match serde_json::from_slice(&body).ok().and_then(|body| edited(body, without_thoughts, has_system)) {
        Some(edited) => out.add_value(edited),
        None => out.add(&body, 0..body.len()),
    }
    out
}

/// The body without thoughts that have no signature, or without all of them, and with system messages in front if it
/// `has_system` messages that must be there. `None` if it has no messages.
pub(super) fn edited(mut body: Value, without_thoughts: bool, has_system: bool) -> Option<Value> {
    if has_system {
        move_system_to_front(&mut body)?;
    }
    body.get_mut("messages")?.as_array_mut()?.retain_mut(|message| {
        let Some(blocks) = message.get_mut("content").and_then(Value::as_array_mut) else { return true };
        let had_blocks = !blocks.is_empty();
        blocks.retain(|block| match block.get("type").and_then(Value::as_str) {
            Some("thinking") => !without_thoughts && block.get("signature") != Some(&"".into()),
            Some("redacted_thinking") => !without_thoughts,
            _ => true,
        });
        // The vendor refuses a turn without content, and joins the turns around it.
        !had_blocks || !blocks.is_empty()
    });
    let has_budget = body.pointer("/thinking/type") == Some(&"enabled".into());
    if has_budget && !may_think(body.get("messages")?.as_array()?) {
        body.as_object_mut()?.shift_remove("thinking");
    }
    Some(body)
}

/// Moves the texts of system messages to the end of `system`. Those that the model would have to answer next become a
/// user's message, as in [`Prompt::with_system_placed`].
fn move_system_to_front(body: &mut Value) -> Option<()> {
    let blocks = |content: Value| match content {
        Value::String(text) => vec![json!({"type": "text", "text": text})],
        Value::Array(blocks) => blocks,
        _ => Vec::new(),
    };
    let is = |message: &Value, role: &str| message.get("role").is_some_and(|name| name == role);
    let messages = body.get_mut("messages")?.as_array_mut()?;
    let (mut front, mut waiting): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    // `None` is the answer.
    for message in std::mem::take(messages).into_iter().map(Some).chain([None]) {
        let message = match message {
            Some(message) if is(&message, "system") => {
                waiting.push(message);
                continue;
            }
            message => message,
        };
        let answers_next = message.as_ref().is_none_or(|message| is(message, "assistant"));
        if answers_next && messages.last().is_some_and(|last| is(last, "assistant")) {
            let content =
                waiting.drain(..).filter_map(|mut message| message.get_mut("content").map(Value::take));
            let content: Vec<Value> = content.flat_map(blocks).collect();
            if !content.is_empty() {
                messages.push(json!({"role": "user", "content": content}));
            }
        }
        front.append(&mut waiting);
        messages.extend(message);
    }
    let mut texts = body.get_mut("system").map(Value::take).map(blocks).unwrap_or_default();
    for mut message in front {
        texts.extend(message.get_mut("content").map(Value::take).map(blocks).unwrap_or_default());
    }
    body.as_object_mut()?.insert("system".into(), texts.into());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_of_nothing_but_unsigned_thoughts_is_left_out() {
        let thought = json!({"type": "thinking", "thinking": "hm", "signature": ""});
        let user = json!({"role": "user", "content": "a"});
        let messages = json!([user, {"role": "assistant", "content": [thought]}, user]);
        let edited = edited(json!({"messages": messages}), false, false).unwrap();
        assert_eq!(edited["messages"], json!([user, user]));
    }

    #[test]
    fn system_messages_of_a_body_go_to_the_front_unless_they_are_next() {
        let said = |role: &str| json!({"role": role, "content": role});
        let text = json!([{"type": "text", "text": "system"}]);
        let next = json!({"role": "user", "content": text});
        let (user, system, assistant) = (said("user"), said("system"), said("assistant"));
        for (messages, expected, front) in [
            (json!([user, system, user]), json!([user, user]), &text),
            (json!([user, assistant, system, user]), json!([user, assistant, user]), &text),
            (json!([user, assistant, system]), json!([user, assistant, next]), &json!([])),
            (
                json!([user, assistant, system, assistant]),
                json!([user, assistant, next, assistant]),
                &json!([]),
            ),
        ] {
            let edited = edited(json!({"messages": messages}), false, true).unwrap();
            assert_eq!((&edited["messages"], &edited["system"]), (&expected, front), "{messages}");
        }
    }
}
