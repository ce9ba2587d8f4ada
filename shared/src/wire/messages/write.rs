//! Translates a prompt to a messages request.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::schema;
use crate::wire::{
    Format, Pace, ToolNames, Written,
    prompt::{Effort, MediaSource, OutputFormat, Part, Prompt, Role, Text, Tool, ToolChoice},
    raw::RawJson,
    written::object,
};

/// The differences between the vendor's models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// The limit of the answer's tokens if the client sets none: the format requires one.
    pub max_output: u64,
    /// Whether the model decides how long to think, and refuses a budget.
    pub adaptive: bool,
    /// Whether the model refuses sampling parameters.
    pub fixed_sampling: bool,
    /// Whether the model can be held to a JSON schema by `output_config`.
    pub schemas: bool,
    /// Whether the model takes system messages in the middle of a conversation.
    pub system_messages: bool,
    /// Whether the model can be made to call a function.
    pub forced_calls: bool,
    /// The type of `thinking` with which the model does not think before it answers; `None` if it always does.
    pub no_thinking: Option<&'static str>,
}

/// Most characters of a function's name (<https://platform.claude.com/docs/en/agents-and-tools/tool-use>).
const MAX_NAME: usize = 128;

/// Most characters of a call's id; no vendor's own are longer.
const MAX_ID: usize = 64;

/// Fails if the arguments of all calls hold too many parts. They become JSON here, and the bound on a body does not see
/// into the strings that they were.
fn check_arguments(prompt: &Prompt) -> Result<(), String> {
    let parts = prompt.messages.iter().flat_map(|message| &message.parts);
    let arguments = parts.filter_map(|part| match part {
        Part::Call(call) => Some(call.arguments.as_bytes()),
        _ => None,
    });
    if arguments.map(crate::json::parts).sum::<usize>() > crate::json::MAX_PARTS {
        return Err("the arguments of its calls have too many parts".into());
    }
    Ok(())
}

/// Writes a request's body, with `max_tokens` of at most `cap`.
///
/// Fails with what this format cannot express; "it" in the text is the vendor.
pub async fn write(
    prompt: Cow<'_, Prompt>,
    dialect: Dialect,
    model: &str,
    stream: bool,
    cap: Option<u64>,
) -> Result<Written, String> {
    check_arguments(&prompt)?;
    let (mut prompt, tool_names) = ToolNames::fit(prompt, MAX_NAME, MAX_ID)?;
    let schema = prompt.format.as_ref().and_then(|format| output_schema(format, dialect));
    let answer_tool = prompt.format.as_ref().filter(|_| schema.is_none()).map(answer_tool);
    let is_clients_choice = answer_tool.is_none();
    if let Some(tool) = answer_tool {
        let mut with_tool = prompt.into_owned();
        with_tool.tool_choice = Some(match with_tool.tools.is_empty() {
            true => ToolChoice::Named(tool.name.clone()),
            // The model may still call the client's functions first.
            false => ToolChoice::Required,
        });
        with_tool.tools.push(tool);
        with_tool.format = None;
        prompt = Cow::Owned(with_tool);
    }
    let mut out = Written { tool_names, ..Written::default() };
    if !dialect.forced_calls
        && let Some(instruction) = forced_call(&prompt)
    {
        // What the vendor recommends instead (https://platform.claude.com/docs/en/models/sonnet-5-5/whats-new-sonnet-5-5).
        // It stands last, so that it leaves the cached prefix as it is.
        let mut with_instruction = prompt.into_owned();
        with_instruction.push_system(instruction.into());
        with_instruction.tool_choice = Some(ToolChoice::Auto);
        prompt = Cow::Owned(with_instruction);
        if is_clients_choice {
            out.drop("tool_choice");
        }
    }
    if prompt.has_system_messages() {
        prompt = Cow::Owned(prompt.into_owned().with_system_placed(dialect.system_messages));
    }
    let prompt = prompt.as_ref();
    out.set("model", Some(model.into()));
    let max_output = prompt.max_output.unwrap_or(dialect.max_output);
    let mut system: Vec<&Text> = prompt.system.iter().filter(|text| !text.text.trim().is_empty()).collect();
    // Whether the model may think depends on the messages as they are written, without other vendors' reasoning.
    let mut messages = messages(prompt).await?;
    if messages.is_empty() && !system.is_empty() {
        // The vendor refuses a conversation without a message.
        messages.push(object([
            ("role", "user".into()),
            ("content", system_content(&std::mem::take(&mut system))),
        ]));
    }
    out.set("system", (!system.is_empty()).then(|| system_content(&system)));
    let may_think = dialect.adaptive || may_think(&messages);
    out.set("messages", Some(messages.into()));
    out.set("stream", stream.then_some(Value::Bool(true)));
    // The vendor refuses stop sequences of white space.
    let stop: Vec<&str> =
        prompt.stop.iter().map(String::as_str).filter(|stop| !stop.trim().is_empty()).collect();
    if stop.len() < prompt.stop.len() {
        out.drop("stop");
    }
    out.set("stop_sequences", (!stop.is_empty()).then(|| stop.into()));
    out.set("metadata", prompt.user.as_ref().map(|user| json!({"user_id": user})));
    if !prompt.tools.is_empty() {
        let empty = RawJson::from(json!({"type": "object", "properties": {}}));
        let tools = prompt.tools.iter().map(|tool| {
            let parameters = tool.parameters.as_ref().unwrap_or(&empty);
            let is_strict = tool.strict == Some(true);
            let strict = Some(parameters).filter(|_| is_strict && dialect.schemas).and_then(schema::fitted);
            if is_strict && strict.is_none() {
                out.drop("strict");
            }
            ClientTool {
                name: &tool.name,
                strict: strict.is_some().then_some(true),
                input_schema: strict.map_or(Cow::Borrowed(parameters), |schema| Cow::Owned(schema.into())),
                description: tool.description.as_deref(),
                cache_control: tool.cache.as_ref(),
            }
        });
        let tools: Vec<_> = tools.collect();
        out.set_encoded("tools", &tools);
        out.set("tool_choice", tool_choice(prompt));
    }
    // The vendor refuses to think before a call that it must make. The call is what the client needs.
    let must_call = matches!(prompt.tool_choice, Some(ToolChoice::Required | ToolChoice::Named(_)));
    let wants_thoughts = prompt.effort.is_some_and(|effort| effort != Effort::Off);
    let cannot_think = wants_thoughts && (must_call || !may_think);
    // `max_tokens` comes last, since a budget for thinking raises it.
    let (thinking, effort, max_tokens) = match prompt.effort {
        // The effort alone also shapes an answer without thoughts.
        effort if cannot_think && dialect.adaptive => (None, effort, max_output),
        effort => thinking(effort.filter(|_| !cannot_think), dialect, max_output, cap),
    };
    let must_think = prompt.effort == Some(Effort::Off) && dialect.no_thinking.is_none();
    if cannot_think && !dialect.adaptive || must_think {
        out.drop("reasoning_effort");
    }
    let thinks = thinking.as_ref().is_some_and(|thinking| thinking.get("type") != Some(&"disabled".into()));
    set_sampling(prompt, dialect.fixed_sampling || thinks, &mut out);
    out.set_hints(prompt, Format::Messages, |_| !dialect.fixed_sampling && !thinks);
    out.set("thinking", thinking);
    out.set("output_config", output_config(schema, effort));
    out.set("max_tokens", Some(max_tokens.into()));
    out.max_output = Some(max_tokens);
    Ok(out)
}

#[derive(Serialize)]
struct ClientTool<'a> {
    name: &'a str,
    input_schema: Cow<'a, RawJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    /// May only be `true` in this format.
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<&'a Value>,
}

/// Sets the sampling parameters. The format's temperatures end at 1; the newer models refuse `top_p` beside a
/// temperature; and no parameter is set if sampling is `fixed`, as it is while a model thinks.
fn set_sampling(prompt: &Prompt, fixed: bool, out: &mut Written) {
    let temperature = prompt.temperature.clone().map(|temperature| {
        let is_too_high = temperature.as_f64().is_some_and(|temperature| temperature > 1.0);
        if is_too_high { 1.into() } else { temperature }
    });
    let has_temperature = temperature.is_some() && !fixed;
    for (name, number, is_left_out) in
        [("temperature", temperature, fixed), ("top_p", prompt.top_p.clone(), fixed || has_temperature)]
    {
        let Some(number) = number else { continue };
        if !is_left_out {
            out.set(name, Some(Value::Number(number)));
        } else if number.as_f64().is_none_or(|number| (number - 1.0).abs() > f64::EPSILON) {
            // 1 is the default, so leaving it out changes nothing.
            out.drop(name);
        }
    }
}

/// The schema to which `output_config` holds the answer. `None` if it can't.
fn output_schema(format: &OutputFormat, dialect: Dialect) -> Option<Value> {
    match format {
        // A schema that need not be followed is not worth being closed, except to a model that can't be made to call.
        OutputFormat::JsonSchema { schema, strict, .. }
            if dialect.schemas && (*strict == Some(true) || !dialect.forced_calls) =>
        {
            schema::fitted(schema)
        }
        OutputFormat::JsonSchema { .. } | OutputFormat::JsonObject => None,
    }
}

/// The function that stands for the answer's format where the model can't be held to it otherwise: the model is made to
/// call it, and its arguments are the answer.
fn answer_tool(format: &OutputFormat) -> Tool {
    let (description, schema) = match format {
        OutputFormat::JsonSchema { description, schema, .. } => (description.clone(), schema.clone()),
        OutputFormat::JsonObject => (None, json!({"type": "object"}).into()),
    };
    let description = description.unwrap_or_else(|| "Gives the answer.".into());
    Tool {
        name: ToolNames::ANSWER.into(),
        description: Some(description),
        parameters: Some(schema),
        ..Tool::default()
    }
}

/// Tells a model to make the call that it can't be made to.
fn forced_call(prompt: &Prompt) -> Option<String> {
    match &prompt.tool_choice {
        _ if prompt.tools.is_empty() => None,
        Some(ToolChoice::Required) => {
            Some("Your next message must call at least one of the functions.".into())
        }
        Some(ToolChoice::Named(name)) => Some(format!("Your next message must call the function {name}.")),
        Some(ToolChoice::Auto | ToolChoice::None) | None => None,
    }
}

fn output_config(schema: Option<Value>, effort: Option<Effort>) -> Option<Value> {
    let mut out = Map::new();
    if let Some(effort) = effort {
        out.insert("effort".into(), effort.max(Effort::Low).name().into());
    }
    if let Some(schema) = schema {
        out.insert("format".into(), object([("type", "json_schema".into()), ("schema", schema)]));
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

/// Whether a model with a budget may think now: within a round of calls only if the round began with thinking
/// (<https://platform.claude.com/docs/en/build-with-claude/extended-thinking>).
pub(super) fn may_think(messages: &[Value]) -> bool {
    let last = messages.iter().rev().find(|message| message.get("role") == Some(&"assistant".into()));
    let blocks = last.and_then(|message| message.get("content")?.as_array());
    let mut kinds = blocks.into_iter().flatten().filter_map(|block| block.get("type")?.as_str()).peekable();
    let begins = matches!(kinds.peek(), Some(&("thinking" | "redacted_thinking")));
    begins || !kinds.any(|kind| kind == "tool_use")
}

/// The `thinking` object, the effort, and `max_tokens`, which must exceed the budget for thinking. A budget that would
/// raise `max_tokens` above the cap or the model's own limit is lowered; if the lowest does too, the model does not
/// think.
fn thinking(
    effort: Option<Effort>,
    dialect: Dialect,
    max_output: u64,
    cap: Option<u64>,
) -> (Option<Value>, Option<Effort>, u64) {
    match effort {
        None => (None, None, max_output),
        Some(Effort::Off) => match dialect.no_thinking {
            Some(kind) => (Some(json!({"type": kind})), None, max_output),
            None => (None, Some(Effort::Low), max_output),
        },
        Some(effort) if dialect.adaptive => (Some(json!({"type": "adaptive"})), Some(effort), max_output),
        Some(effort) => {
            let most = cap.unwrap_or(dialect.max_output);
            let raised = |budget: u64| {
                if max_output > budget { max_output } else { max_output.saturating_add(budget) }
            };
            let budgets = [effort, Effort::Medium, Effort::Low].map(Effort::budget);
            let fitting =
                budgets.into_iter().find(|budget| *budget <= effort.budget() && raised(*budget) <= most);
            let Some(budget) = fitting else { return (None, None, max_output) };
            (Some(json!({"type": "enabled", "budget_tokens": budget})), None, raised(budget))
        }
    }
}

fn tool_choice(prompt: &Prompt) -> Option<Value> {
    let mut choice = match &prompt.tool_choice {
        None if prompt.parallel_tool_calls == Some(false) => json!({"type": "auto"}),
        None => return None,
        Some(ToolChoice::Auto) => json!({"type": "auto"}),
        Some(ToolChoice::None) => return Some(json!({"type": "none"})),
        Some(ToolChoice::Required) => json!({"type": "any"}),
        Some(ToolChoice::Named(name)) => json!({"type": "tool", "name": name}),
    };
    if let (Some(parallel), Some(choice)) = (prompt.parallel_tool_calls, choice.as_object_mut()) {
        choice.insert("disable_parallel_tool_use".into(), (!parallel).into());
    }
    Some(choice)
}

fn system_content(texts: &[&Text]) -> Value {
    match texts {
        [Text { text, cache: None }] => text.as_str().into(),
        many => many.iter().map(|text| text_block(text)).collect(),
    }
}

fn text_block(text: &Text) -> Value {
    let mut block = json!({"type": "text", "text": text.text});
    if let (Some(cache), Some(block)) = (&text.cache, block.as_object_mut()) {
        block.insert("cache_control".into(), cache.clone());
    }
    block
}

/// Writes the messages: consecutive ones of one role are joined, and in a user's message tool results come first, as
/// the vendor requires.
async fn messages(prompt: &Prompt) -> Result<Vec<Value>, String> {
    let (mut out, mut pace): (Vec<(Role, Vec<Value>)>, _) = (Vec::new(), Pace::default());
    for message in &prompt.messages {
        let blocks = blocks(&message.parts)?;
        match out.last_mut() {
            _ if blocks.is_empty() => {}
            Some((role, last)) if *role == message.role => last.extend(blocks),
            _ => out.push((message.role, blocks)),
        }
        pace.advance(0).await;
    }
    // The vendor refuses a prefill that ends in white space.
    if let Some((Role::Assistant, blocks)) = out.last_mut()
        && let Some(Value::String(text)) = blocks.last_mut().and_then(|block| block.get_mut("text"))
    {
        text.truncate(text.trim_end().len());
    }
    let mut messages = Vec::with_capacity(out.len());
    for (role, mut blocks) in out {
        let name = match role {
            Role::User => {
                let is_result = |block: &Value| block.get("type") == Some(&"tool_result".into());
                blocks.sort_by_key(|block| !is_result(block));
                "user"
            }
            Role::Assistant => "assistant",
            Role::System => "system",
        };
        let content = match blocks.as_mut_slice() {
            [only]
                if only.as_object().is_some_and(|block| block.len() == 2 && block.contains_key("text")) =>
            {
                only.get_mut("text").map(Value::take).unwrap_or_default()
            }
            _ => blocks.into(),
        };
        messages.push(object([("role", name.into()), ("content", content)]));
        pace.advance(0).await;
    }
    Ok(messages)
}

fn blocks(parts: &[Part]) -> Result<Vec<Value>, String> {
    let mut out = Vec::new();
    for part in parts {
        out.push(match part {
            // The vendor refuses text blocks that are empty or only white space.
            part if part.is_blank() => continue,
            Part::Text(text) => text_block(text),
            Part::Refusal(text) => json!({"type": "text", "text": text}),
            Part::Image(source) if !source.can_be_image() => {
                return Err("an image has a media type that is not an image's".into());
            }
            Part::Image(source) => object([("type", "image".into()), ("source", self::source(source))]),
            Part::Document { source, name } => {
                let mut block = object([("type", "document".into()), ("source", document(source)?)]);
                if let (Some(name), Some(block)) = (name, block.as_object_mut()) {
                    block.insert("title".into(), name.as_str().into());
                }
                block
            }
            // The vendor refuses thinking blocks without its signature, such as those of other vendors.
            Part::Reasoning(thought) => match (&thought.redacted, &thought.signature) {
                (Some(data), _) => json!({"type": "redacted_thinking", "data": data}),
                (None, Some(signature)) => {
                    json!({"type": "thinking", "thinking": thought.text, "signature": signature})
                }
                (None, None) => continue,
            },
            Part::Call(call) => {
                let text = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
                let input: Value =
                    serde_json::from_str(text).ok().filter(Value::is_object).ok_or_else(|| {
                        format!("the arguments of the call {:?} are not a JSON object", call.id)
                    })?;
                let mut block = json!({"type": "tool_use", "id": call.id, "name": call.name});
                if let Some(block) = block.as_object_mut() {
                    block.insert("input".into(), input);
                }
                block
            }
            Part::Output { id, parts, failed } => {
                let (id, content) = (id.as_str().into(), blocks(parts)?.into());
                let mut block =
                    object([("type", "tool_result".into()), ("tool_use_id", id), ("content", content)]);
                if let (true, Some(block)) = (*failed, block.as_object_mut()) {
                    block.insert("is_error".into(), true.into());
                }
                block
            }
        });
    }
    Ok(out)
}

/// The source of a document: the vendor takes plain text as it is, and only PDFs in base64
/// (<https://platform.claude.com/docs/en/build-with-claude/pdf-support>).
fn document(source: &MediaSource) -> Result<Value, String> {
    match source {
        MediaSource::Base64 { media_type, data } if media_type == MediaSource::PLAIN_TEXT => {
            let text = BASE64.decode(data).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.ok_or("a document of plain text is not UTF-8 in base64")?;
            Ok(json!({"type": "text", "media_type": media_type, "data": text}))
        }
        MediaSource::Base64 { .. } | MediaSource::Url(_) => Ok(self::source(source)),
    }
}

fn source(source: &MediaSource) -> Value {
    match source {
        MediaSource::Base64 { media_type, data } => {
            json!({"type": "base64", "media_type": media_type, "data": data})
        }
        MediaSource::Url(url) => json!({"type": "url", "url": url}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{
        messages::read::edited,
        pace::at_once,
        prompt::{Message, Reasoning, ToolCall},
    };

    const DIALECT: Dialect = Dialect {
        max_output: 8_000,
        adaptive: false,
        fixed_sampling: false,
        schemas: true,
        system_messages: false,
        forced_calls: true,
        no_thinking: Some("disabled"),
    };

    #[test]
    fn arguments_that_would_fill_the_memory_are_refused() {
        let call = |elements: usize| {
            let arguments = format!("{{\"a\":[{}0]}}", "[0],".repeat(elements));
            let (id, name) = ("c".into(), "f".into());
            let parts = vec![Part::Call(crate::wire::prompt::ToolCall { id, name, arguments })];
            Prompt {
                messages: vec![crate::wire::prompt::Message { role: Role::Assistant, parts }],
                ..Prompt::default()
            }
        };
        assert!(check_arguments(&call(1_000)).is_ok());
        assert!(check_arguments(&call(crate::json::MAX_PARTS / 2)).is_err());
    }

    #[test]
    fn a_thinking_budget_is_only_set_in_rounds_that_began_with_thinking() {
        let round = |has_thinking: bool| {
            let mut parts =
                vec![Part::Call(ToolCall { id: "c".into(), name: "f".into(), arguments: "{}".into() })];
            if has_thinking {
                let proof = Reasoning { signature: Some("proof".into()), ..Reasoning::default() };
                parts.insert(0, Part::Reasoning(proof));
            }
            let result = Part::Output { id: "c".into(), parts: vec!["1".to_owned().into()], failed: false };
            let messages = vec![
                Message { role: Role::User, parts: vec!["?".to_owned().into()] },
                Message { role: Role::Assistant, parts },
                Message { role: Role::User, parts: vec![result] },
            ];
            Prompt { messages, effort: Some(Effort::Low), max_output: Some(5_000), ..Prompt::default() }
        };
        let check = |has_thinking: bool, adaptive: bool, expected: Value| {
            let dialect = Dialect { adaptive, ..DIALECT };
            let written = at_once(write(Cow::Owned(round(has_thinking)), dialect, "m", true, None)).unwrap();
            let body = Value::Object(written.body);
            assert_eq!(
                body.get("thinking").cloned().unwrap_or_default(),
                expected,
                "{has_thinking} {adaptive}"
            );
            if has_thinking && !adaptive {
                let bare = edited(body, true, false).unwrap();
                assert_eq!(bare.get("thinking"), None);
            }
        };
        check(true, false, json!({"type": "enabled", "budget_tokens": 1_024}));
        check(false, false, Value::Null);
        check(false, true, json!({"type": "adaptive"}));
    }

    #[test]
    fn texts_of_white_space_are_left_out() {
        let said = |role, text: &str| Message { role, parts: vec![text.to_owned().into()] };
        let call = |text: &str| {
            let call = ToolCall { id: "c".into(), name: "f".into(), arguments: "{}".into() };
            Message { role: Role::Assistant, parts: vec![text.to_owned().into(), Part::Call(call)] }
        };
        let output = |text: &str| {
            let parts = vec![text.to_owned().into()];
            Message { role: Role::User, parts: vec![Part::Output { id: "c".into(), parts, failed: false }] }
        };
        let tool_use = json!({"type": "tool_use", "id": "c", "name": "f", "input": {}});
        let tool_result = json!({"type": "tool_result", "tool_use_id": "c", "content": []});
        let (user, system) = (json!({"role": "user", "content": "a"}), Some("s"));
        for (messages, expected, expected_system) in [
            (
                vec![said(Role::User, "a"), call("\n\n"), output(" ")],
                json!([user, {"role": "assistant", "content": [tool_use]}, {"role": "user", "content": [tool_result]}]),
                system,
            ),
            (
                vec![said(Role::User, "a"), said(Role::Assistant, " "), said(Role::User, "b")],
                json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]),
                system,
            ),
            (
                vec![said(Role::User, "a"), said(Role::Assistant, "Sure: \n")],
                json!([user, {"role": "assistant", "content": "Sure:"}]),
                system,
            ),
            (Vec::new(), json!([{"role": "user", "content": "s"}]), None),
        ] {
            let system = vec![" ".to_owned().into(), "s".to_owned().into()];
            let stop = vec!["\n".into(), "END".into()];
            let prompt = Prompt { messages, system, stop, ..Prompt::default() };
            let written = at_once(write(Cow::Owned(prompt), DIALECT, "m", true, None)).unwrap();
            let body = Value::Object(written.body);
            assert_eq!(body["messages"], expected);
            assert_eq!(body.get("system").and_then(Value::as_str), expected_system);
            assert_eq!(
                (&body["stop_sequences"], written.dropped),
                (&json!(["END"]), vec!["stop".to_owned()])
            );
        }
    }

    #[test]
    fn a_model_that_refuses_to_be_forced_is_told_what_to_call() {
        let newest = Dialect {
            adaptive: true,
            fixed_sampling: true,
            system_messages: true,
            forced_calls: false,
            no_thinking: None,
            ..DIALECT
        };
        let schema = |schema: Value| OutputFormat::JsonSchema {
            name: None,
            description: None,
            schema: schema.into(),
            strict: None,
        };
        let closed =
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": false});
        let open = json!({"type": "object", "properties": {}});
        let user = Message { role: Role::User, parts: vec!["?".to_owned().into()] };
        let prompt = Prompt {
            messages: vec![user],
            tools: vec![Tool { name: "f".into(), ..Tool::default() }],
            ..Prompt::default()
        };
        let answer = Prompt { tools: Vec::new(), ..prompt.clone() };
        let with = |choice| Prompt { tool_choice: Some(choice), ..prompt.clone() };
        let answer = |format| Prompt { format: Some(format), ..answer.clone() };
        let named = "Your next message must call the function";
        for (prompt, instruction, dropped) in [
            (
                with(ToolChoice::Required),
                Some("Your next message must call at least one of the functions.".to_owned()),
                "tool_choice",
            ),
            (with(ToolChoice::Named("f".into())), Some(format!("{named} f.")), "tool_choice"),
            (with(ToolChoice::Auto), None, ""),
            (answer(OutputFormat::JsonObject), Some(format!("{named} outlive_answer.")), ""),
            (answer(schema(open)), Some(format!("{named} outlive_answer.")), ""),
            (answer(schema(closed.clone())), None, ""),
        ] {
            let forced = at_once(write(Cow::Borrowed(&prompt), DIALECT, "m", true, None)).unwrap();
            let written = at_once(write(Cow::Borrowed(&prompt), newest, "m", true, None)).unwrap();
            let body = Value::Object(written.body);
            assert_eq!(body.pointer("/messages/1/content").and_then(Value::as_str), instruction.as_deref());
            assert_eq!(written.dropped.join(", "), dropped);
            if instruction.is_some() {
                assert_eq!(body["tool_choice"], json!({"type": "auto"}));
                assert_ne!(forced.body["tool_choice"], json!({"type": "auto"}));
            } else if prompt.format.is_some() {
                assert_eq!(body.pointer("/output_config/format/schema"), Some(&closed));
            }
        }
        for (no_thinking, thinking, effort) in [
            (Some("disabled"), Some("disabled"), None),
            (Some("between_tools"), Some("between_tools"), None),
            (None, None, Some("low")),
        ] {
            let prompt = Prompt { effort: Some(Effort::Off), ..prompt.clone() };
            let written =
                at_once(write(Cow::Owned(prompt), Dialect { no_thinking, ..newest }, "m", true, None));
            let written = written.unwrap();
            let body = Value::Object(written.body);
            assert_eq!(body.pointer("/thinking/type").and_then(Value::as_str), thinking);
            assert_eq!(body.pointer("/output_config/effort").and_then(Value::as_str), effort);
            assert_eq!(written.dropped.is_empty(), thinking.is_some());
        }
    }

    #[test]
    fn a_strict_function_gets_a_schema_that_the_vendor_takes() {
        let tool = |parameters: Value| Tool {
            name: "f".into(),
            parameters: Some(parameters.into()),
            strict: Some(true),
            ..Tool::default()
        };
        let integer = |more: &str, value: Value| json!({"type": "object", "properties": {"a": {"type": "integer", more: value}}, "additionalProperties": false});
        let open = json!({"type": "object", "additionalProperties": {"type": "string"}});
        for (schemas, parameters, expected, strict) in [
            (true, integer("minimum", 1.into()), integer("description", "{minimum: 1}".into()), Some(true)),
            (true, open.clone(), open, None),
            (false, integer("minimum", 1.into()), integer("minimum", 1.into()), None),
        ] {
            let prompt = Prompt { tools: vec![tool(parameters)], ..Prompt::default() };
            let dialect = Dialect { schemas, ..DIALECT };
            let written = at_once(write(Cow::Owned(prompt), dialect, "m", true, None)).unwrap();
            let tools = written.encoded.first().map(|(_, tools)| tools.to_value()).unwrap();
            assert_eq!(tools[0]["input_schema"], expected);
            assert_eq!(tools[0].get("strict").and_then(Value::as_bool), strict);
            assert_eq!(written.dropped.is_empty(), strict.is_some());
        }
    }

    #[test]
    fn a_budget_for_thinking_stays_within_the_cap() {
        for (cap, thinking, max_tokens) in [
            (None, Some(16_384), 16_484),
            (Some(16_484), Some(16_384), 16_484),
            (Some(10_000), Some(8_192), 8_292),
            (Some(1_124), Some(1_024), 1_124),
            (Some(1_123), None, 100),
        ] {
            let dialect = Dialect { max_output: 64_000, ..DIALECT };
            let prompt = Prompt { effort: Some(Effort::High), max_output: Some(100), ..Prompt::default() };
            let Written { body, max_output, .. } =
                at_once(write(Cow::Owned(prompt), dialect, "m", true, cap)).unwrap();
            let (body, most) = (Value::Object(body), max_output.unwrap());
            let budget = body.pointer("/thinking/budget_tokens").and_then(Value::as_u64);
            assert_eq!((budget, most, body["max_tokens"].as_u64()), (thinking, max_tokens, Some(max_tokens)));
        }
    }
}
