//! Translates a prompt to a messages request.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Map, Value, json};

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
    if !dialect.system_messages && prompt.has_system_messages() {
        prompt = Cow::Owned(prompt.into_owned().with_system_in_front());
    }
    let answer_tool = prompt.format.as_ref().and_then(|format| answer_tool(format, dialect));
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
    let prompt = prompt.as_ref();
    let mut out = Written { tool_names, ..Written::default() };
    out.set("model", Some(model.into()));
    let max_output = prompt.max_output.unwrap_or(dialect.max_output);
    out.set("system", (!prompt.system.is_empty()).then(|| system(&prompt.system)));
    // Whether the model may think depends on the messages as they are written, without other vendors' reasoning.
    let messages = messages(prompt).await?;
    let may_think = dialect.adaptive || may_think(&messages);
    out.set("messages", Some(messages.into()));
    out.set("stream", stream.then_some(Value::Bool(true)));
    out.set("stop_sequences", (!prompt.stop.is_empty()).then(|| prompt.stop.clone().into()));
    out.set("metadata", prompt.user.as_ref().map(|user| json!({"user_id": user})));
    if !prompt.tools.is_empty() {
        let empty = RawJson::from(json!({"type": "object", "properties": {}}));
        let tools = prompt.tools.iter().map(|tool| ClientTool {
            name: &tool.name,
            input_schema: tool.parameters.as_ref().unwrap_or(&empty),
            description: tool.description.as_deref(),
            strict: tool.strict.filter(|strict| *strict),
            cache_control: tool.cache.as_ref(),
        });
        out.set_encoded("tools", &tools.collect::<Vec<_>>());
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
    if cannot_think && !dialect.adaptive {
        out.drop("reasoning_effort");
    }
    let thinks = thinking.as_ref().is_some_and(|thinking| thinking.get("type") != Some(&"disabled".into()));
    set_sampling(prompt, dialect.fixed_sampling || thinks, &mut out);
    out.set_hints(prompt, Format::Messages, |_| !dialect.fixed_sampling && !thinks);
    out.set("thinking", thinking);
    out.set("output_config", output_config(prompt, effort));
    out.set("max_tokens", Some(max_tokens.into()));
    out.max_output = Some(max_tokens);
    Ok(out)
}

#[derive(Serialize)]
struct ClientTool<'a> {
    name: &'a str,
    input_schema: &'a RawJson,
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

/// The function that stands for the answer's format where the model can't be held to it otherwise: the model is made to
/// call it, and its arguments are the answer.
fn answer_tool(format: &OutputFormat, dialect: Dialect) -> Option<Tool> {
    let (description, schema) = match format {
        // `output_config` takes only schemas in which every object is closed, as strict ones are.
        OutputFormat::JsonSchema { strict: Some(true), .. } if dialect.schemas => return None,
        OutputFormat::JsonSchema { description, schema, .. } => (description.clone(), schema.clone()),
        OutputFormat::JsonObject => (None, json!({"type": "object"}).into()),
    };
    let description = description.unwrap_or_else(|| "Gives the answer.".into());
    Some(Tool {
        name: ToolNames::ANSWER.into(),
        description: Some(description),
        parameters: Some(schema),
        ..Tool::default()
    })
}

fn output_config(prompt: &Prompt, effort: Option<Effort>) -> Option<Value> {
    let mut out = Map::new();
    if let Some(effort) = effort {
        out.insert("effort".into(), effort.max(Effort::Low).name().into());
    }
    if let Some(OutputFormat::JsonSchema { schema, .. }) = &prompt.format {
        out.insert("format".into(), json!({"type": "json_schema", "schema": schema.to_value()}));
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
        Some(Effort::Off) => (Some(json!({"type": "disabled"})), None, max_output),
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

fn system(texts: &[Text]) -> Value {
    match texts {
        [Text { text, cache: None }] => text.as_str().into(),
        many => many.iter().map(text_block).collect(),
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
            // The vendor refuses empty text blocks.
            Part::Text(text) if text.text.is_empty() => continue,
            Part::Text(text) => text_block(text),
            Part::Refusal(text) => json!({"type": "text", "text": text}),
            Part::Image(source) if !source.can_be_image() => {
                return Err("an image has a media type that is not an image's".into());
            }
            Part::Image(source) => object([("type", "image".into()), ("source", self::source(source))]),
            Part::Document { source, name } => {
                let mut block = object([("type", "document".into()), ("source", self::source(source))]);
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
        prompt::{Message, Reasoning},
    };

    const DIALECT: Dialect = Dialect {
        max_output: 8_000,
        adaptive: false,
        fixed_sampling: false,
        schemas: true,
        system_messages: false,
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
            let mut parts = vec![Part::Call(crate::wire::prompt::ToolCall {
                id: "c".into(),
                name: "f".into(),
                arguments: "{}".into(),
            })];
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
