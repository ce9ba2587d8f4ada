//! Translates a chat completions request to a prompt, and adapts one to a server that takes less than OpenAI.

use serde_json::{Value, json};

use super::write::{Dialect, NO_SCHEMA, thinking_off};
use crate::{
    body::BodyBuilder,
    wire::{
        Pace, Request, RequestError,
        fields::{Fields, parsed},
        openai,
        prompt::{
            ClientTool, ClientToolKind, Effort, MediaSource, Message, OutputFormat, Part, Prompt, Reasoning,
            Role, Text, Tool, ToolCall, ToolChoice, VendorTool,
        },
        raw::RawJson,
    },
};

type Read<T> = Result<T, RequestError>;

/// Reads a request's body.
pub async fn read(body: &[u8]) -> Read<Prompt> {
    let mut fields = Fields::of_body(body)?;
    let mut pace = Pace::default();
    let mut prompt = Prompt {
        max_output: fields.count("max_completion_tokens")?,
        temperature: fields.number("temperature")?,
        top_p: fields.number("top_p")?,
        parallel_tool_calls: fields.boolean("parallel_tool_calls")?,
        effort: fields.choice("reasoning_effort", &Effort::NAMES)?,
        user: fields.string("user")?,
        ..Prompt::default()
    };
    let old_limit = fields.count("max_tokens")?;
    prompt.max_output = prompt.max_output.or(old_limit);
    prompt.stop = stop(&mut fields)?;
    prompt.format = fields
        .object("response_format")?
        .map(|format| output_format(format, &mut prompt))
        .transpose()?
        .flatten();
    for (at, raw) in fields.elements("messages")?.into_iter().enumerate() {
        self::message(Fields::of(raw, format!("messages[{at}]"))?, &mut prompt)?;
        pace.advance(raw.get().len()).await;
    }
    for tool in fields.objects("tools")? {
        self::tool(tool?, &mut prompt)?;
        pace.advance(0).await;
    }
    prompt.tool_choice = tool_choice(&mut fields, &mut prompt)?;
    // Fields that the node reads itself, and values that mean the same as leaving the field out.
    fields.ignore(&["model", "stream", "stream_options"]);
    fields.ignore_if("n", &[json!(1)]);
    for key in ["frequency_penalty", "presence_penalty"] {
        fields.ignore_if(key, &[json!(0), json!(0.0)]);
    }
    for key in ["logprobs", "store"] {
        fields.ignore_if(key, &[json!(false)]);
    }
    for key in ["logit_bias", "metadata"] {
        fields.ignore_if(key, &[json!({})]);
    }
    fields.ignore_if("modalities", &[json!(["text"])]);
    fields.ignore_if("verbosity", &[json!("medium")]);
    fields.ignore_if("service_tier", &[json!("auto"), json!("default")]);
    prompt.leave(fields);
    if let Some(id) = prompt.unmatched_output() {
        let why = format!("there is no tool call with the id {id:?} before its result");
        return Err(RequestError::Value { param: "messages".into(), why });
    }
    Ok(prompt)
}

/// Reads `stop`, one sequence or several.
fn stop(fields: &mut Fields<'_>) -> Read<Vec<String>> {
    match fields.raw("stop") {
        None => Ok(Vec::new()),
        Some(raw) if raw.get().starts_with('"') => Ok(vec![parsed(raw)?]),
        Some(raw) => parsed(raw).map_err(|_| fields.bad("stop", "allowed: a string or an array of strings")),
    }
}

fn output_format(mut fields: Fields<'_>, prompt: &mut Prompt) -> Read<Option<OutputFormat>> {
    let format = match fields.needed_string("type")?.as_str() {
        "text" => None,
        "json_object" => Some(OutputFormat::JsonObject),
        "json_schema" => {
            let mut schema = fields.needed_object("json_schema")?;
            let format = OutputFormat::JsonSchema {
                name: schema.string("name")?,
                description: schema.string("description")?,
                strict: schema.boolean("strict")?,
                schema: schema.raw("schema").map_or_else(|| json!({"type": "object"}).into(), RawJson::from),
            };
            prompt.leave(schema);
            Some(format)
        }
        other => {
            let why = format!("{other:?}; allowed: text, json_object, json_schema");
            return Err(fields.bad("type", why));
        }
    };
    prompt.leave(fields);
    Ok(format)
}

fn message(mut fields: Fields<'_>, prompt: &mut Prompt) -> Read<()> {
    let role = fields.needed_string("role")?;
    match role.as_str() {
        "system" | "developer" => {
            for part in parts(&mut fields, "content", prompt)? {
                match part {
                    Part::Text(text) => prompt.push_system(text),
                    _ => return Err(fields.bad("content", "allowed: text")),
                }
            }
        }
        "user" => {
            let parts = parts(&mut fields, "content", prompt)?;
            prompt.messages.push(Message { role: Role::User, parts });
        }
        "assistant" => {
            let parts = assistant(&mut fields, prompt)?;
            prompt.messages.push(Message { role: Role::Assistant, parts });
        }
        "tool" => {
            let id = fields.needed_string("tool_call_id")?;
            let parts = parts(&mut fields, "content", prompt)?;
            prompt.push_part(Role::User, Part::Output { id, parts, failed: false });
        }
        _ => {
            let why = format!("{role:?}; allowed: system, developer, user, assistant, tool");
            return Err(fields.bad("role", why));
        }
    }
    prompt.leave(fields);
    Ok(())
}

/// Reads an assistant's message, in the order reasoning, text, calls.
fn assistant(fields: &mut Fields<'_>, prompt: &mut Prompt) -> Read<Vec<Part>> {
    let mut parts = Vec::new();
    // DeepSeek and OpenRouter name reasoning differently; a message with both has the same text twice.
    let reasoning = [fields.string("reasoning_content")?, fields.string("reasoning")?];
    if let Some(text) = reasoning.into_iter().flatten().next() {
        parts.push(Part::Reasoning(Reasoning { text, ..Reasoning::default() }));
    }
    parts.extend(self::parts(fields, "content", prompt)?);
    parts.extend(fields.string("refusal")?.filter(|text| !text.is_empty()).map(Part::Refusal));
    for call in fields.objects("tool_calls")? {
        let mut call = call?;
        let id = call.needed_string("id")?;
        let (mut function, is_custom) = match call.object("custom")? {
            Some(custom) => (custom, true),
            None => (call.needed_object("function")?, false),
        };
        let name = function.needed_string("name")?;
        let arguments = if is_custom {
            ClientTool::arguments(&function.needed_string("input")?)
        } else {
            function.needed_string("arguments")?
        };
        call.ignore_if("type", &[json!("function"), json!("custom")]);
        // Clients may send back the deltas of a stream, in which calls have an index.
        call.ignore(&["index"]);
        prompt.leave(call);
        prompt.leave(function);
        parts.push(Part::Call(ToolCall { id, name, arguments }));
    }
    fields.ignore_if("annotations", &[json!([])]);
    Ok(parts)
}

fn parts(fields: &mut Fields<'_>, key: &str, prompt: &mut Prompt) -> Read<Vec<Part>> {
    // An empty text counts as absent.
    fields.ignore_if(key, &[json!("")]);
    let parts = fields.content(key, "allowed: a string or an array of parts", |fields| part(fields, prompt));
    Ok(parts?.unwrap_or_default())
}

fn part(mut fields: Fields<'_>, prompt: &mut Prompt) -> Read<Part> {
    let kind = fields.needed_string("type")?;
    let part = match kind.as_str() {
        "text" => {
            Part::Text(Text { text: fields.needed_string("text")?, cache: prompt.cache_mark(&mut fields)? })
        }
        "refusal" => Part::Refusal(fields.needed_string("refusal")?),
        "image_url" => {
            let mut image = fields.needed_object("image_url")?;
            image.ignore_if("detail", &[json!("auto")]);
            let url = image.needed_string("url")?;
            let source = MediaSource::of_url(url).map_err(|why| image.bad("url", why))?;
            prompt.leave(image);
            Part::Image(source)
        }
        "file" => {
            let mut file = fields.needed_object("file")?;
            let name = file.string("filename")?;
            let data = file.string("file_data")?;
            let source = match data {
                Some(data) => MediaSource::of_url(data).map_err(|why| file.bad("file_data", why))?,
                None => {
                    // A file id is valid only at the vendor that stores the file.
                    prompt.untranslatable.push(file.path("file_id"));
                    file.ignore(&["file_id"]);
                    MediaSource::Url(String::new())
                }
            };
            prompt.leave(file);
            Part::Document { source, name }
        }
        _ => {
            prompt.untranslatable.push(fields.path(&kind));
            return Ok(Part::Text(String::new().into()));
        }
    };
    prompt.leave(fields);
    Ok(part)
}

fn tool(mut fields: Fields<'_>, prompt: &mut Prompt) -> Read<()> {
    let kind = fields.needed_string("type")?;
    let is_custom = kind == "custom";
    if kind != "function" && !is_custom {
        prompt.vendor_tools.push(VendorTool { path: fields.path(&kind), kind });
        return Ok(());
    }
    let mut function = fields.needed_object(&kind)?;
    let name = function.needed_string("name")?;
    let mut description = function.string("description")?;
    let strict = function.boolean("strict")?;
    let mut parameters = function.raw("parameters").map(RawJson::from);
    let kind = ClientToolKind::Custom;
    let client = is_custom.then(|| ClientTool { name: name.clone(), group: None, kind });
    if is_custom {
        let format = function.value("format")?;
        let grammar = format.as_ref().and_then(|format| format.get("grammar"));
        (description, parameters) = ClientTool::function(description, grammar);
    }
    let cache = prompt.cache_mark(&mut fields)?;
    prompt.tools.push(Tool { name, client, description, parameters, strict, cache });
    prompt.leave(function);
    prompt.leave(fields);
    Ok(())
}

fn tool_choice(fields: &mut Fields<'_>, prompt: &mut Prompt) -> Read<Option<ToolChoice>> {
    const ALLOWED: &str =
        "allowed: auto, none, required, or {\"type\": \"function\", \"function\": {\"name\": …}}";
    openai::tool_choice(fields, prompt, ALLOWED, |choice, kind| {
        choice.needed_object(kind)?.needed_string("name")
    })
}

/// The body as the server takes it: with `system` for the role `developer`, with the reasoning that DeepSeek requires
/// beside calls, and with its switch of thinking. Fails if the server can't hold the answer to its format.
///
/// `body` is the encoded body of `request`. It is parsed only if something may have to be changed.
pub fn adapt(request: &Request, body: BodyBuilder, dialect: Dialect) -> Result<BodyBuilder, String> {
    let format = || serde_json::from_slice::<Value>(request.raw_field("response_format")?).ok();
    let wants_schema = || format().is_some_and(|format| format.get("type") == Some(&"json_schema".into()));
    if !dialect.schemas && wants_schema() {
        return Err(NO_SCHEMA.into());
    }
    // In a text these would have their quotes escaped, so bodies without them are not parsed.
    let has = |text: &str| memchr::memmem::find(request.body(), text.as_bytes()).is_some();
    let is_switched = dialect.thinking_switch && request.thinks == Some(false);
    let may_change = (!dialect.developer && has("\"developer\""))
        || (dialect.replays_reasoning && has("\"tool_calls\""))
        || (is_switched && has("\"reasoning_effort\""));
    if !may_change {
        return Ok(body);
    }
    let body = body.build().into_bytes().unwrap_or_default();
    let mut out = BodyBuilder::default();
    match serde_json::from_slice(&body).ok().and_then(|body| edited(body, dialect)) {
        Some(edited) => out.add_value(edited),
        None => out.add(&body, 0..body.len()),
    }
    Ok(out)
}

/// `None` if the body has no messages.
fn edited(mut body: Value, dialect: Dialect) -> Option<Value> {
    for message in body.get_mut("messages")?.as_array_mut()?.iter_mut().filter_map(Value::as_object_mut) {
        if !dialect.developer && message.get("role") == Some(&"developer".into()) {
            message.insert("role".into(), "system".into());
        }
        let has_calls = message.get("tool_calls").and_then(Value::as_array).is_some_and(|it| !it.is_empty());
        if dialect.replays_reasoning && has_calls {
            let reasoning = message.entry("reasoning_content").or_insert_with(|| "".into());
            if reasoning.is_null() {
                *reasoning = "".into();
            }
        }
    }
    let fields = body.as_object_mut()?;
    if dialect.thinking_switch && fields.get("reasoning_effort") == Some(&"none".into()) {
        fields.shift_remove("reasoning_effort");
        fields.entry("thinking").or_insert_with(thinking_off);
    }
    Some(body)
}
