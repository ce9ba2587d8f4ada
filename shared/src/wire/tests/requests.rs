//! Translates one request between all formats, and checks what is left out, not translatable or refused.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::wire::{Format, Prompt, Request, Written, chat, messages, pace::at_once, prompt, responses};

/// The same request in three formats: a question with an image, a call and its result, a limit and a schema.
const CHAT: &str = r#"{
  "model": "m", "max_completion_tokens": 100, "temperature": 0.5, "stop": ["END"], "user": "u", "seed": null,
  "reasoning_effort": "low", "parallel_tool_calls": false, "tool_choice": {"type": "function", "function": {"name": "look"}},
  "messages": [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [
      {"type": "text", "text": "What is this?"},
      {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk=", "detail": "auto"}}]},
    {"role": "assistant", "content": "Let me look.", "tool_calls": [
      {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{\"z\":1,\"a\":2}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "A cat."},
    {"role": "user", "content": "Sure?"}],
  "tools": [{"type": "function", "function": {"name": "look", "description": "Looks.",
    "parameters": {"type": "object", "properties": {"z": {"type": "number"}, "a": {"type": "number"}}}}}],
  "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": true,
    "schema": {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "null"}},
      "required": ["z", "a"], "additionalProperties": false}}}
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
    "schema": {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "null"}},
      "required": ["z", "a"], "additionalProperties": false}}}
}"#;
const MESSAGES: &str = r#"{
  "model": "m", "max_tokens": 100, "temperature": 0.5, "stop_sequences": ["END"], "metadata": {"user_id": "u"},
  "output_config": {"effort": "low", "format": {"type": "json_schema",
    "schema": {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "null"}},
      "required": ["z", "a"], "additionalProperties": false}}},
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
    at_once(format.read(body.as_bytes())).unwrap()
}

fn try_prompt(format: Format, body: &str) -> Result<Prompt, String> {
    at_once(format.read(body.as_bytes())).map_err(|error| error.to_string())
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
    let from_messages = || Cow::Owned(from_messages.clone());
    let written = body(at_once(chat::write(from_messages(), chat::Dialect::OPENAI, "m", false)));
    // Null values and the image detail are not translated.
    chat.as_object_mut().unwrap().remove("seed");
    chat.pointer_mut("/messages/1/content/1/image_url").unwrap().as_object_mut().unwrap().remove("detail");
    assert_eq!(written, chat);
    let mut responses = json(RESPONSES);
    let written = body(at_once(responses::write(
        Cow::Owned(prompt(Format::Responses, RESPONSES)),
        prompt::Efforts::ALL,
        "m",
        false,
    )));
    let item = |at: usize| format!("/input/{at}");
    // What the format's writer always sets, and what has no effect.
    for (pointer, key, value) in [
        (item(0), "type", Some("message".into())),
        (item(4), "type", Some("message".into())),
        (item(4), "content", Some(json!([{"type": "input_text", "text": "Sure?"}]))),
        ("/tools/0".into(), "strict", Some(false.into())),
        (item(0) + "/content/1", "detail", None),
        (item(1), "id", None),
        (item(1), "status", None),
    ] {
        let object = responses.pointer_mut(&pointer).and_then(Value::as_object_mut).unwrap();
        match value {
            Some(value) => drop(object.insert(key.into(), value)),
            None => drop(object.remove(key)),
        }
    }
    assert_eq!(written, responses);
    let written =
        body(at_once(messages::write(Cow::Owned(prompt(Format::Chat, CHAT)), DIALECT, "m", false, None)));
    assert_eq!(written, json(MESSAGES));
    // The order of a schema's properties is kept, since the model fills them in that order.
    assert!(written.to_string().contains(r#"{"z":{"type":"number"},"a":{"type":"number"}}"#));
}

/// A model of Anthropic's that takes what today's do.
const DIALECT: messages::Dialect = messages::Dialect {
    max_output: 8_000,
    adaptive: true,
    fixed_sampling: false,
    schemas: true,
    system_messages: false,
    forced_calls: true,
    no_thinking: Some("disabled"),
};

fn body(written: Result<Written, String>) -> Value {
    let written = written.unwrap();
    assert_eq!(written.dropped, Vec::<String>::new());
    encoded(written)
}

fn encoded(written: Written) -> Value {
    let body = at_once(written.encode(None)).build();
    serde_json::from_slice(&body.into_bytes().unwrap()).unwrap()
}

/// What a request in `format` becomes in each format that is asked for it, and what is left out on the way.
fn check_written(format: Format, body: Value, target: Format, expected: Value, dropped: &[&str]) {
    let prompt: Cow<'_, Prompt> = Cow::Owned(prompt(format, &body.to_string()));
    assert_eq!(prompt.untranslatable, Vec::<String>::new());
    let written = match target {
        Format::Messages => at_once(messages::write(prompt, DIALECT, "m", false, None)),
        Format::Responses => at_once(responses::write(prompt, prompt::Efforts::ALL, "m", false)),
        _ => at_once(chat::write(prompt, chat::Dialect::OPENAI, "m", false)),
    };
    let written = written.unwrap();
    let left_out = written.dropped.clone();
    assert_eq!(
        (encoded(written), left_out),
        (expected, dropped.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    );
}

#[test]
fn hints_are_carried_where_the_target_has_them_and_named_where_it_has_not() {
    let chat = || {
        json!({
            "model": "m", "messages": [{"role": "user", "content": "hi", "name": "ann"}], "seed": 1, "verbosity": "low",
            "logit_bias": {"1": 2}, "prompt_cache_key": "k", "max_tokens": 9, "temperature": 1.5, "top_k": 3,
        })
    };
    check_written(
        Format::Chat,
        chat(),
        Format::Responses,
        json!({
            "model": "m", "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
            "store": false, "max_output_tokens": 9, "temperature": 1.5, "text": {"verbosity": "low"},
            "prompt_cache_key": "k",
        }),
        &["name", "seed", "logit_bias", "top_k"],
    );
    let with_signature = json!({"model": "m", "max_tokens": 9, "messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"},
            "extra_content": {"google": {"thought_signature": "s"}}}]}]});
    check_written(
        Format::Chat,
        with_signature,
        Format::Messages,
        json!({"model": "m", "max_tokens": 9, "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]}]}),
        &["extra_content"],
    );
    check_written(
        Format::Chat,
        chat(),
        Format::Messages,
        json!({
            "model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "temperature": 1, "top_k": 3,
        }),
        &["name", "seed", "verbosity", "logit_bias", "prompt_cache_key"],
    );
    check_written(
        Format::Messages,
        json!({
            "model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "top_k": 3,
            "context_management": {"edits": []}, "metadata": {"user_id": "u", "x": 1},
            "tools": [{"name": "f", "input_schema": {"type": "object"}, "eager_input_streaming": true, "cache_control": {"type": "ephemeral"}}],
        }),
        Format::Chat,
        json!({
            "model": "m", "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 9, "user": "u",
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        }),
        &["cache_control", "eager_input_streaming", "metadata", "top_k", "context_management"],
    );
}

#[test]
fn a_users_id_and_strict_schemas_are_fitted_to_openai() {
    let open = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let request = json!({
        "model": "m", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}],
        "metadata": {"user_id": "u".repeat(152)}, "output_config": {"format": {"type": "json_schema", "schema": open}},
        "tools": [{"name": "f", "description": "F.", "input_schema": open, "strict": true}],
    });
    let user = "e2140bf95fb963f9f7b82b16841dfc54";
    check_written(
        Format::Messages,
        request.clone(),
        Format::Chat,
        json!({
            "model": "m", "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 20, "user": user,
            "tools": [{"type": "function", "function": {"name": "f", "description": "F.", "parameters": open, "strict": false}}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": open, "strict": false}},
        }),
        &["strict"],
    );
    check_written(
        Format::Messages,
        request,
        Format::Responses,
        json!({
            "model": "m", "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
            "store": false, "max_output_tokens": 20, "user": user,
            "tools": [{"type": "function", "name": "f", "description": "F.", "parameters": open, "strict": false}],
            "text": {"format": {"type": "json_schema", "name": "answer", "schema": open, "strict": false}},
        }),
        &["strict"],
    );
}

#[test]
fn a_chat_is_adapted_to_a_server_that_takes_less() {
    let dialect = chat::Dialect {
        schemas: false,
        developer: false,
        replays_reasoning: true,
        thinking_switch: true,
        ..chat::Dialect::OPENAI
    };
    let adapt = |body: &Value| {
        let bytes = bytes::Bytes::from(body.to_string());
        let request = Request::parse(Format::Chat, bytes.clone()).unwrap();
        let mut builder = crate::body::BodyBuilder::default();
        builder.add(&bytes, 0..bytes.len());
        let adapted = chat::adapt(&request, builder, dialect)?.build().into_bytes().unwrap();
        Ok::<_, String>(serde_json::from_slice::<Value>(&adapted).unwrap())
    };
    let plain =
        json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "reasoning_effort": "low"});
    assert_eq!(adapt(&plain), Ok(plain));
    let calls = json!([{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    let output = || json!({"role": "tool", "tool_call_id": "1", "content": "x"});
    let body = json!({"model": "m", "logprobs": true, "reasoning_effort": "none", "messages": [
        {"role": "developer", "content": "a \"developer\""}, {"role": "user", "content": "b"},
        {"role": "assistant", "tool_calls": calls}, output(),
        {"role": "assistant", "tool_calls": calls, "reasoning_content": "c"}, output()]});
    let expected = json!({"model": "m", "logprobs": true, "messages": [
        {"role": "system", "content": "a \"developer\""}, {"role": "user", "content": "b"},
        {"role": "assistant", "tool_calls": calls, "reasoning_content": ""}, output(),
        {"role": "assistant", "tool_calls": calls, "reasoning_content": "c"}, output()],
        "thinking": {"type": "disabled"}});
    assert_eq!(adapt(&body), Ok(expected));
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {}}});
    let schema =
        json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "response_format": format});
    assert_eq!(adapt(&schema), Err("it accepts no JSON schema for the answer".into()));
    // The same switch in a translated request.
    let off = Cow::Owned(Prompt { effort: Some(prompt::Effort::Off), ..Prompt::default() });
    let written = encoded(at_once(chat::write(off, dialect, "m", false)).unwrap());
    assert_eq!(written, json!({"model": "m", "messages": [], "thinking": {"type": "disabled"}}));
}

#[test]
fn system_messages_keep_their_place_where_the_target_takes_them() {
    let messages = || {
        json!({
            "model": "m", "max_tokens": 9, "messages": [
                {"role": "user", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"}],
        })
    };
    check_written(
        Format::Messages,
        messages(),
        Format::Chat,
        json!({"model": "m", "max_completion_tokens": 9, "messages": [
            {"role": "user", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"}]}),
        &[],
    );
    check_written(
        Format::Messages,
        messages(),
        Format::Messages,
        json!({"model": "m", "max_tokens": 9, "system": "b", "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "c"}]}]}),
        &[],
    );
}

#[test]
fn system_messages_are_placed_where_the_model_takes_them() {
    let call = json!({"role": "assistant", "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]});
    let result = json!({"role": "tool", "tool_call_id": "c", "content": "r"});
    let said = |role: &str| json!({"role": role, "content": role});
    let (user, system, assistant) = (said("user"), said("system"), said("assistant"));
    let (blank, result_turn) = (json!({"role": "user", "content": " "}), "user:tool_result");
    for (messages, in_middle, in_front) in [
        (json!([user, system, user]), "user:2 system", "user:2"),
        (json!([user, system]), "user system", "user"),
        (json!([user, assistant, system, user]), "user assistant user system", "user assistant user"),
        (json!([user, assistant, system]), "user assistant user:system", "user assistant user:system"),
        (
            json!([user, assistant, system, assistant, user]),
            "user assistant user:system assistant user",
            "user assistant user:system assistant user",
        ),
        (
            json!([user, call, system, result]),
            &format!("user assistant:tool_use {result_turn} system"),
            &format!("user assistant:tool_use {result_turn}"),
        ),
        (json!([blank, system]), "user:system", "user:system"),
    ] {
        for (system_messages, expected) in [(true, in_middle), (false, in_front)] {
            let prompt = prompt(Format::Chat, &json!({"model": "m", "messages": messages}).to_string());
            let dialect = messages::Dialect { system_messages, ..DIALECT };
            let written =
                encoded(at_once(messages::write(Cow::Owned(prompt), dialect, "m", false, None)).unwrap());
            let turns = written["messages"].as_array().unwrap().iter().map(|message| {
                let role = message["role"].as_str().unwrap();
                match &message["content"] {
                    Value::String(text) if text == role => role.to_owned(),
                    Value::String(text) => format!("{role}:{text}"),
                    blocks => match blocks.as_array().unwrap().as_slice() {
                        [block] => format!("{role}:{}", block["type"].as_str().unwrap()),
                        blocks => format!("{role}:{}", blocks.len()),
                    },
                }
            });
            assert_eq!(turns.collect::<Vec<_>>().join(" "), expected, "{messages}");
        }
    }
}

#[test]
fn a_document_of_plain_text_is_text_for_anthropic_and_a_file_for_openai() {
    let request = |part: Value| json!({"model": "m", "messages": [{"role": "user", "content": [part]}], "max_tokens": 9});
    let limit = |mut request: Value| {
        let limit = request.as_object_mut().unwrap().remove("max_tokens").unwrap();
        request["max_completion_tokens"] = limit;
        request
    };
    let file = |name: &str| {
        request(
            json!({"type": "file", "file": {"filename": name, "file_data": "data:text/plain;base64,aMOp"}}),
        )
    };
    let source = json!({"type": "text", "media_type": "text/plain", "data": "hé"});
    let titled = request(json!({"type": "document", "source": source, "title": "a.txt"}));
    check_written(Format::Chat, file("a.txt"), Format::Messages, titled.clone(), &[]);
    check_written(Format::Messages, titled, Format::Chat, limit(file("a.txt")), &[]);
    let untitled = request(json!({"type": "document", "source": source}));
    check_written(Format::Messages, untitled, Format::Chat, limit(file("document.txt")), &[]);
}

#[test]
fn groups_custom_tools_and_searches_become_functions() {
    let tools = json!([
        {"type": "namespace", "name": "fs", "description": "Files.", "tools": [
            {"type": "function", "name": "read", "description": "Reads.", "parameters": {"type": "object"}, "strict": false}]},
        {"type": "custom", "name": "patch", "description": "Patches.",
            "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"}},
        {"type": "tool_search", "execution": "client", "description": "Searches.", "parameters": {"type": "object"}},
    ]);
    let body = json!({"model": "m", "max_output_tokens": 20, "tools": tools, "input": [
        {"role": "user", "content": "hi"},
        {"type": "function_call", "call_id": "1", "namespace": "fs", "name": "read", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "2", "name": "patch", "input": "*** x"},
        {"type": "function_call_output", "call_id": "1", "output": "a"},
        {"type": "custom_tool_call_output", "call_id": "2", "output": "b"},
        {"type": "additional_tools", "role": "developer", "tools": [
            {"type": "namespace", "name": "fs", "tools": [{"type": "function", "name": "list"}]}]}]});
    let prompt = prompt(Format::Responses, &body.to_string());
    let names: Vec<&str> = prompt.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["fs__list", "fs__read", "patch", "tool_search"]);
    let written = at_once(messages::write(Cow::Owned(prompt), DIALECT, "m", false, None)).unwrap();
    let text = encoded(written).to_string();
    for part in [
        r#"{"type":"tool_use","id":"1","name":"fs__read","input":{}}"#,
        r#"{"type":"tool_use","id":"2","name":"patch","input":{"input":"*** x"}}"#,
        r#""description":"Files.\n\nReads.""#,
        r#""description":"Patches.\n\nThe lark grammar of 'input':\nstart: x""#,
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // Two tools of one name once their groups are written in front.
    let twice = r#"{"input":"x","tools":[{"type":"function","name":"a__b"},{"type":"namespace","name":"a","tools":[{"type":"function","name":"b"}]}]}"#;
    let error = try_prompt(Format::Responses, twice).unwrap_err();
    assert_eq!(error, "invalid value for 'tools': two tools would have the name \"a__b\"; allowed: one");
}

#[test]
fn a_json_format_without_a_strict_schema_is_a_function_for_anthropic() {
    check_written(
        Format::Chat,
        json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}],
            "response_format": {"type": "json_object"}}),
        Format::Messages,
        json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}],
            "tools": [{"name": "outlive_answer", "input_schema": {"type": "object"}, "description": "Gives the answer."}],
            "tool_choice": {"type": "tool", "name": "outlive_answer"}}),
        &[],
    );
}

#[test]
fn untranslatable_fields_and_mistakes_are_named() {
    let user = r#""model":"m","messages":[{"role":"user","content":"hi"}]"#;
    for (format, body, untranslatable) in [
        (Format::Chat, format!(r#"{{{user},"n":2,"logprobs":true,"future":{{}}}}"#), "n, logprobs, future"),
        (Format::Chat, format!(r#"{{{user},"n":1,"logprobs":false,"presence_penalty":0}}"#), ""),
        (
            Format::Messages,
            format!(r#"{{{user},"top_k":5,"tools":[{{"type":"web_search_20250305","name":"w"}}]}}"#),
            "tools[0].web_search_20250305",
        ),
        (
            Format::Responses,
            r#"{"model":"m","input":"hi","tools":[{"type":"web_search"}],"truncation":"auto"}"#.into(),
            "tools[0].web_search",
        ),
    ] {
        let prompt = try_prompt(format, &body).unwrap();
        let tools = prompt.vendor_tools.into_iter().map(|tool| tool.path);
        let named: Vec<String> = prompt.untranslatable.into_iter().chain(tools).collect();
        assert_eq!(named.join(", "), untranslatable, "{body}");
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
