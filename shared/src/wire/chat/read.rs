//! Translates a chat completions request to a prompt.

use serde_json::{Value, json};

use crate::wire::{
    RequestError,
    fields::Fields,
    openai,
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
    for message in fields.objects("messages")? {
        self::message(message, &mut prompt)?;
    }
    for tool in fields.objects("tools")? {
        self::tool(tool, &mut prompt)?;
    }
    prompt.tool_choice = tool_choice(&mut fields, &mut prompt)?;
    // Fields without effect on the answer, and defaults.
    fields.ignore(&[
        "model",
        "stream",
        "stream_options",
        "metadata",
        "store",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
    ]);
    fields.ignore_if("n", &[json!(1)]);
    for key in ["frequency_penalty", "presence_penalty"] {
        fields.ignore_if(key, &[json!(0), json!(0.0)]);
    }
    fields.ignore_if("logprobs", &[json!(false)]);
    fields.ignore_if("logit_bias", &[json!({})]);
    fields.ignore_if("modalities", &[json!(["text"])]);
    fields.ignore_if("verbosity", &[json!("medium")]);
    prompt.untranslatable.extend(fields.rest());
    if let Some(id) = prompt.unmatched_output() {
        let why = format!("there is no tool call with the id {id:?} before its result");
        return Err(RequestError::Value { param: "messages".into(), why });
    }
    Ok(prompt)
}

/// Reads `stop`, one sequence or several.
fn stop(fields: &mut Fields) -> Read<Vec<String>> {
    match fields.value("stop") {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text]),
        Some(value) => serde_json::from_value(value)
            .map_err(|_| fields.bad("stop", "allowed: a string or an array of strings")),
    }
}

fn output_format(mut fields: Fields, prompt: &mut Prompt) -> Read<Option<OutputFormat>> {
    let format = match fields.needed_string("type")?.as_str() {
        "text" => None,
        "json_object" => Some(OutputFormat::JsonObject),
        "json_schema" => {
            let mut schema = fields.needed_object("json_schema")?;
            let format = OutputFormat::JsonSchema {
                name: schema.string("name")?,
                description: schema.string("description")?,
                strict: schema.boolean("strict")?,
                schema: schema.value("schema").unwrap_or_else(|| json!({"type": "object"})),
            };
            prompt.untranslatable.extend(schema.rest());
            Some(format)
        }
        other => {
            let why = format!("{other:?}; allowed: text, json_object, json_schema");
            return Err(fields.bad("type", why));
        }
    };
    prompt.untranslatable.extend(fields.rest());
    Ok(format)
}

fn message(mut fields: Fields, prompt: &mut Prompt) -> Read<()> {
    let role = fields.needed_string("role")?;
    let untranslatable = match role.as_str() {
        // System texts move to the front in their order, as Anthropic's own OpenAI-compatible endpoint does it.
        "system" | "developer" => {
            for part in parts(&mut fields, "content", prompt)? {
                match part {
                    Part::Text(text) => prompt.system.push(text),
                    _ => return Err(fields.bad("content", "allowed: text")),
                }
            }
            fields.ignore(&["name"]);
            fields.rest()
        }
        "user" => {
            let parts = parts(&mut fields, "content", prompt)?;
            prompt.messages.push(Message { role: Role::User, parts });
            fields.rest()
        }
        "assistant" => {
            let parts = assistant(&mut fields, prompt)?;
            prompt.messages.push(Message { role: Role::Assistant, parts });
            fields.rest()
        }
        "tool" => {
            let id = fields.needed_string("tool_call_id")?;
            let parts = parts(&mut fields, "content", prompt)?;
            prompt.push_part(Role::User, Part::Output { id, parts, failed: false });
            fields.rest()
        }
        _ => {
            let why = format!("{role:?}; allowed: system, developer, user, assistant, tool");
            return Err(fields.bad("role", why));
        }
    };
    prompt.untranslatable.extend(untranslatable);
    Ok(())
}

/// Reads an assistant's message, in the order reasoning, text, calls.
fn assistant(fields: &mut Fields, prompt: &mut Prompt) -> Read<Vec<Part>> {
    let mut parts = Vec::new();
    // The names that DeepSeek and OpenRouter give to reasoning.
    for key in ["reasoning_content", "reasoning"] {
        if let Some(text) = fields.string(key)? {
            parts.push(Part::Reasoning(Reasoning { text, signature: None, redacted: None, by: None }));
        }
    }
    parts.extend(self::parts(fields, "content", prompt)?);
    parts.extend(fields.string("refusal")?.filter(|text| !text.is_empty()).map(Part::Refusal));
    for mut call in fields.objects("tool_calls")? {
        let id = call.needed_string("id")?;
        let mut function = call.needed_object("function")?;
        let name = function.needed_string("name")?;
        let arguments = function.needed_string("arguments")?;
        call.ignore_if("type", &[json!("function")]);
        // Clients may send back the deltas of a stream, in which calls have an index.
        call.ignore(&["index"]);
        prompt.untranslatable.extend(call.rest());
        prompt.untranslatable.extend(function.rest());
        parts.push(Part::Call(ToolCall { id, name, arguments }));
    }
    fields.ignore_if("annotations", &[json!([])]);
    fields.ignore(&["name"]);
    Ok(parts)
}

fn parts(fields: &mut Fields, key: &str, prompt: &mut Prompt) -> Read<Vec<Part>> {
    // An empty text counts as absent.
    fields.ignore_if(key, &[json!("")]);
    let parts = fields.content(key, "allowed: a string or an array of parts", |fields| part(fields, prompt));
    Ok(parts?.unwrap_or_default())
}

fn part(mut fields: Fields, prompt: &mut Prompt) -> Read<Part> {
    let kind = fields.needed_string("type")?;
    let part = match kind.as_str() {
        "text" => {
            Part::Text(Text { text: fields.needed_string("text")?, cache: fields.value("cache_control") })
        }
        "refusal" => Part::Refusal(fields.needed_string("refusal")?),
        "image_url" => {
            let mut image = fields.needed_object("image_url")?;
            // The image detail affects only the price.
            image.ignore(&["detail"]);
            let url = image.needed_string("url")?;
            let source = MediaSource::of_url(&url).map_err(|why| image.bad("url", why))?;
            prompt.untranslatable.extend(image.rest());
            Part::Image(source)
        }
        "file" => {
            let mut file = fields.needed_object("file")?;
            let name = file.string("filename")?;
            let data = file.string("file_data")?;
            let source = match data {
                Some(data) => MediaSource::of_url(&data).map_err(|why| file.bad("file_data", why))?,
                None => {
                    // A file id is valid only at the vendor that stores the file.
                    prompt.untranslatable.push(file.path("file_id"));
                    file.ignore(&["file_id"]);
                    MediaSource::Url(String::new())
                }
            };
            prompt.untranslatable.extend(file.rest());
            Part::Document { source, name }
        }
        _ => {
            prompt.untranslatable.push(fields.path(&kind));
            return Ok(Part::Text(String::new().into()));
        }
    };
    prompt.untranslatable.extend(fields.rest());
    Ok(part)
}

fn tool(mut fields: Fields, prompt: &mut Prompt) -> Read<()> {
    let kind = fields.needed_string("type")?;
    if kind != "function" {
        prompt.untranslatable.push(fields.path(&kind));
        return Ok(());
    }
    let mut function = fields.needed_object("function")?;
    let name = function.needed_string("name")?;
    let description = function.string("description")?;
    let strict = function.boolean("strict")?;
    let parameters = function.value("parameters");
    prompt.tools.push(Tool { name, description, parameters, strict, cache: fields.value("cache_control") });
    prompt.untranslatable.extend(function.rest());
    prompt.untranslatable.extend(fields.rest());
    Ok(())
}

fn tool_choice(fields: &mut Fields, prompt: &mut Prompt) -> Read<Option<ToolChoice>> {
    const ALLOWED: &str =
        "allowed: auto, none, required, or {\"type\": \"function\", \"function\": {\"name\": …}}";
    openai::tool_choice(fields, prompt, ALLOWED, |choice| {
        choice.needed_object("function")?.needed_string("name")
    })
}
