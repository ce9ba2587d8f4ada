//! Translates one request between all formats, and checks what is not translatable or refused.

use crate::wire::{Format, Prompt, chat, messages, prompt};

/// The same request in three formats: a question with an image, a call and its result, a limit and a schema.
const CHAT: &str = r#"{
  "model": "m", "max_completion_tokens": 100, "temperature": 0.5, "stop": ["END"], "user": "u", "seed": null,
  "reasoning_effort": "low", "parallel_tool_calls": false, "tool_choice": {"type": "function", "function": {"name": "look"}},
  "messages": [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [
      {"type": "text", "text": "What is this?"},
      {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk=", "detail": "low"}}]},
    {"role": "assistant", "content": "Let me look.", "tool_calls": [
      {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{\"z\":1,\"a\":2}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "A cat."},
    {"role": "user", "content": "Sure?"}],
  "tools": [{"type": "function", "function": {"name": "look", "description": "Looks.",
    "parameters": {"type": "object", "properties": {"z": {"type": "number"}, "a": {"type": "number"}}}}}],
  "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": true,
    "schema": {"type": "object", "properties": {"z": {}, "a": {}}}}}
}"#;
const RESPONSES: &str = r#"{
  "model": "m", "max_output_tokens": 100, "temperature": 0.5, "user": "u", "store": false,
  "reasoning": {"effort": "low"}, "parallel_tool_calls": false, "tool_choice": {"type": "function", "name": "look"},
  "instructions": "Be brief.",
  "input": [
    {"role": "user", "content": [
      {"type": "input_text", "text": "What is this?"},
      {"type": "input_image", "image_url": "data:image/png;base64,aGk=", "detail": "auto"}]},
    {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
      "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}]},
    {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{\"z\":1,\"a\":2}"},
    {"type": "function_call_output", "call_id": "c1", "output": "A cat."},
    {"role": "user", "content": "Sure?"}],
  "tools": [{"type": "function", "name": "look", "description": "Looks.",
    "parameters": {"type": "object", "properties": {"z": {"type": "number"}, "a": {"type": "number"}}}}],
  "text": {"format": {"type": "json_schema", "name": "answer", "strict": true,
    "schema": {"type": "object", "properties": {"z": {}, "a": {}}}}}
}"#;
const MESSAGES: &str = r#"{
  "model": "m", "max_tokens": 100, "temperature": 0.5, "stop_sequences": ["END"], "metadata": {"user_id": "u"},
  "output_config": {"effort": "low", "format": {"type": "json_schema",
    "schema": {"type": "object", "properties": {"z": {}, "a": {}}}}},
  "thinking": {"type": "adaptive"},
  "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": true},
  "system": "Be brief.",
  "messages": [
    {"role": "user", "content": [
      {"type": "text", "text": "What is this?"},
      {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}]},
    {"role": "assistant", "content": [
      {"type": "text", "text": "Let me look."},
      {"type": "tool_use", "id": "c1", "name": "look", "input": {"z":1,"a":2}}]},
    {"role": "user", "content": [
      {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "A cat."}]},
      {"type": "text", "text": "Sure?"}]}],
  "tools": [{"name": "look", "description": "Looks.",
    "input_schema": {"type": "object", "properties": {"z": {"type": "number"}, "a": {"type": "number"}}}}]
}"#;

fn prompt(format: Format, body: &str) -> Prompt {
    format.read(body.as_bytes()).unwrap()
}

fn try_prompt(format: Format, body: &str) -> Result<Prompt, String> {
    format.read(body.as_bytes()).map_err(|error| error.to_string())
}

/// Joins consecutive messages of one role, since the formats split them differently.
fn joined(mut prompt: Prompt) -> Prompt {
    for message in std::mem::take(&mut prompt.messages) {
        message.parts.into_iter().for_each(|part| prompt.push_part(message.role, part));
    }
    prompt
}

#[test]
fn every_format_is_read_to_the_same_prompt() {
    let expected = joined(prompt(Format::Chat, CHAT));
    assert_eq!(expected.untranslatable, Vec::<String>::new());
    let responses = joined(prompt(Format::Responses, RESPONSES));
    // Responses have no stop sequences.
    assert_eq!(Prompt { stop: expected.stop.clone(), ..responses }, expected);
    // Messages have no name for a schema.
    let unnamed = |mut prompt: Prompt| {
        if let Some(prompt::OutputFormat::JsonSchema { name, .. }) = &mut prompt.format {
            *name = None;
        }
        prompt
    };
    assert_eq!(unnamed(joined(prompt(Format::Messages, MESSAGES))), unnamed(expected));
}

#[test]
fn a_prompt_is_written_to_the_vendors_formats() {
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let mut chat = json(CHAT);
    let from_messages = prompt(Format::Messages, MESSAGES);
    let written = chat::write(&from_messages, chat::Dialect::OPENAI, "m", false).unwrap();
    // Null values and the image detail are not translated.
    chat.as_object_mut().unwrap().remove("seed");
    chat.pointer_mut("/messages/1/content/1/image_url").unwrap().as_object_mut().unwrap().remove("detail");
    assert_eq!(written, chat);
    let dialect = messages::Dialect { max_output: None, adaptive: true, fixed_sampling: false };
    let written = messages::write(&prompt(Format::Chat, CHAT), dialect, "m", false, None).unwrap().0;
    assert_eq!(written, json(MESSAGES));
    // The order of a schema's properties is kept, since the model fills them in that order.
    assert!(written.to_string().contains(r#"{"z":{"type":"number"},"a":{"type":"number"}}"#));
}

#[test]
fn untranslatable_fields_and_mistakes_are_named() {
    let user = r#""model":"m","messages":[{"role":"user","content":"hi"}]"#;
    for (format, body, untranslatable) in [
        (Format::Chat, format!(r#"{{{user},"n":2,"logprobs":true,"future":{{}}}}"#), "n, logprobs, future"),
        (Format::Chat, format!(r#"{{{user},"n":1,"logprobs":false,"presence_penalty":0}}"#), ""),
        (
            Format::Chat,
            format!(r#"{{{user},"tools":[{{"type":"custom","custom":{{}}}}]}}"#),
            "tools[0].custom",
        ),
        (
            Format::Messages,
            format!(r#"{{{user},"top_k":5,"tools":[{{"type":"web_search_20250305","name":"w"}}]}}"#),
            "tools[0].web_search_20250305, top_k",
        ),
        (
            Format::Responses,
            r#"{"model":"m","input":"hi","tools":[{"type":"web_search"}],"truncation":"auto"}"#.into(),
            "tools[0].web_search, truncation",
        ),
    ] {
        assert_eq!(try_prompt(format, &body).unwrap().untranslatable.join(", "), untranslatable, "{body}");
    }
    for (format, body, expected) in [
        (
            Format::Chat,
            r#"{"messages":[{"role":"tool","tool_call_id":"x","content":"y"}]}"#,
            "invalid value for 'messages': there is no tool call with the id \"x\" before its result",
        ),
        (
            Format::Messages,
            r#"{"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/bmp","data":"aGk="}}]}]}"#,
            "invalid value for 'messages[0].content[0].source.data': the type \"image/bmp\"; allowed: image/png, image/jpeg, image/gif, image/webp, application/pdf, text/plain",
        ),
        (
            Format::Chat,
            r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}]}]}"#,
            "invalid value for 'messages[0].content[0].image_url.url': allowed: a URL that begins with https://, or data:TYPE;base64,…",
        ),
        (
            Format::Responses,
            r#"{"input":[{"type":"function_call","call_id":"c","arguments":"{}"}]}"#,
            "missing required parameter: 'input[0].name'",
        ),
        (
            Format::Chat,
            r#"{"messages":[{"role":"robot"}]}"#,
            "invalid value for 'messages[0].role': \"robot\"; allowed: system, developer, user, assistant, tool",
        ),
        (
            Format::Messages,
            r#"{"messages":[],"max_tokens":0}"#,
            "invalid value for 'max_tokens': 0 is not a whole number from 1",
        ),
    ] {
        assert_eq!(try_prompt(format, body).unwrap_err(), expected, "{body}");
    }
}
