//! Finds what a request costs beside the tokens of its text, so that a budget can bound the cost of a call. Computes no
//! prices.
//!
//! What may pass under a budget is a list: fields, parts of messages and tools that are known to cost nothing but
//! tokens. [`hint`](super::hint) lists the fields that may be left out, with their cost.

use std::borrow::Cow;

use base64::{
    Engine, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{Pace, fields::shorten, hint::Hint, raw::RawFields, request::LIMITS};
use crate::json::LossyStr;

/// What a request costs beside the tokens of its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Its images.
    pub images: Vec<Image>,
    /// Bytes of the images in base64, which are not text.
    pub image_bytes: usize,
    /// Whether it has a document, whose tokens cannot be estimated from its bytes.
    pub documents: bool,
    /// Hints whose price is unknown.
    pub unpriced_hints: Vec<&'static str>,
    /// The path of the first field or part whose price is unknown, and that cannot be left out.
    pub unpriced: Option<String>,
}

/// An image of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Width and height in pixels; `None` if the request does not hold the image, or its header cannot be read.
    pub pixels: Option<(u32, u32)>,
}

/// Fields of a request, in any format, whose cost is that of the request's and the answer's tokens: those that every
/// format has, then those of OpenAI, Anthropic, and servers such as vLLM.
#[rustfmt::skip]
const BOUNDED_FIELDS: &[&str] = &[
    "model", "stream", "stream_options", "temperature", "top_p", "stop", "stop_sequences", "tool_choice", "user",
    "n", "functions", "function_call", "parallel_tool_calls", "response_format", "text", "reasoning", "reasoning_effort",
    "logprobs", "top_logprobs", "background", "encoding_format", "dimensions", "instructions",
    "thinking", "output_config", "output_format",
    "enable_thinking", "include_reasoning", "chat_template_kwargs", "add_generation_prompt", "ignore_eos", "min_tokens",
    "stop_token_ids", "skip_special_tokens", "length_penalty", "guided_json", "guided_regex", "guided_choice",
    "guided_grammar", "structured_outputs", "grammar", "top_a", "typical_p", "keep_alive",
];

/// Fields of a message that cost nothing but tokens.
#[rustfmt::skip]
const BOUNDED_MESSAGE_FIELDS: &[&str] = &[
    "role", "content", "name", "type", "id", "status", "phase", "tool_calls", "tool_call_id", "function_call", "refusal",
    "reasoning", "reasoning_content", "reasoning_details", "thinking", "annotations", "cache_control", "prefix", "partial",
];

/// Types of parts and items that cost nothing but the tokens of their text.
#[rustfmt::skip]
const BOUNDED_PARTS: &[&str] = &[
    "text", "input_text", "output_text", "refusal", "summary_text", "reasoning_text", "message",
    "thinking", "redacted_thinking", "reasoning", "compaction",
    "tool_use", "tool_result", "tool_reference", "search_result", "server_tool_use", "web_search_tool_result",
    "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "local_shell_call",
    "local_shell_call_output", "shell_call", "shell_call_output", "apply_patch_call", "apply_patch_call_output",
    "web_search_call", "tool_search_call", "mcp_list_tools", "mcp_call", "mcp_approval_request",
    "mcp_approval_response",
];

/// Types of tools that the client runs, so that no vendor bills them.
const CLIENT_TOOLS: [&str; 7] =
    ["function", "custom", "namespace", "local_shell", "shell", "apply_patch", "tool_search"];

/// Prefixes of Anthropic's dated types of such tools.
const CLIENT_TOOL_PREFIXES: [&str; 5] =
    ["bash_", "text_editor_", "computer_", "memory_", "tool_search_tool_"];

/// Base64 characters of an image that are decoded to find its size: in a JPEG it stands after the preview and the colour
/// profile.
const HEAD_CHARS: usize = 256 * 1024;

impl Extras {
    /// Scans a request's body. A duplicate field counts each time, since vendors differ in which one they take. A body
    /// that cannot be parsed has no extras, since vendors refuse it.
    pub(super) async fn of(body: &[u8]) -> Self {
        let mut extras = Self::default();
        let RawFields(fields) = serde_json::from_slice(body).unwrap_or_default();
        for field in fields {
            match field.name().as_ref() {
                "messages" => extras.messages(field.value).await,
                "input" if field.value.get().starts_with('[') => extras.input(field.value).await,
                name => extras.field(name, field.value),
            }
        }
        extras
    }

    fn field(&mut self, name: &str, value: &RawValue) {
        match name {
            _ if value.get() == "null" || LIMITS.contains(&name) => {}
            "system" | "input" => self.content(value, name),
            "tools" => self.tools(value, name),
            "modalities" => {
                let modalities = serde_json::from_str::<Vec<Cow<'_, str>>>(value.get());
                if !modalities.is_ok_and(|all| all.iter().all(|modality| modality == "text")) {
                    self.refuse(name);
                }
            }
            _ if BOUNDED_FIELDS.contains(&name) => {}
            _ => match Hint::at(name) {
                Some(hint) if hint.is_free(&parsed(value)) => {}
                Some(hint) => self.unpriced_hints.push(hint.name()),
                None => self.refuse(name),
            },
        }
    }

    async fn messages(&mut self, value: &RawValue) {
        let mut pace = Pace::default();
        for (at, message) in elements(value).into_iter().enumerate() {
            let RawFields(fields) = serde_json::from_str(message.get()).unwrap_or_default();
            for field in fields {
                let name = field.name();
                let path = || format!("messages[{at}].{}", shorten(&name));
                if name == "content" {
                    // Most contents are a text, which needs no path.
                    if !is_text(field.value) {
                        self.content(field.value, &path());
                    }
                } else if !BOUNDED_MESSAGE_FIELDS.contains(&name.as_ref()) && field.value.get() != "null" {
                    self.refuse(&path());
                }
            }
            pace.advance(message.get().len()).await;
        }
    }

    /// Scans the items of a response's input, or the texts or tokens of embeddings.
    async fn input(&mut self, value: &RawValue) {
        let mut pace = Pace::default();
        for (at, item) in elements(value).into_iter().enumerate() {
            self.element(item, "input", at);
            pace.advance(item.get().len()).await;
        }
    }

    /// Scans a text, or an array of parts, items or texts.
    fn content(&mut self, value: &RawValue, path: &str) {
        if is_text(value) || value.get() == "null" {
            return;
        }
        let Ok(parts) = serde_json::from_str::<Vec<&RawValue>>(value.get()) else {
            return self.refuse(path);
        };
        parts.into_iter().enumerate().for_each(|(at, part)| self.element(part, path, at));
    }

    fn element(&mut self, part: &RawValue, path: &str, at: usize) {
        // Embeddings take arrays of texts and of tokens, and arrays of these.
        let is_token = part.get().starts_with(|char: char| char.is_ascii_digit());
        if is_text(part) || is_token || part.get().starts_with('[') && path == "input" {
            return;
        }
        match serde_json::from_str::<RawFields<'_>>(part.get()) {
            Ok(fields) => self.part(&fields, &format!("{path}[{at}]")),
            Err(_) => self.refuse(&format!("{path}[{at}]")),
        }
    }

    /// Scans a part of a message, or an item of a response's input.
    fn part(&mut self, fields: &RawFields<'_>, path: &str) {
        let kinds: Vec<Value> =
            fields.0.iter().filter(|field| field.name() == "type").map(|field| parsed(field.value)).collect();
        let kind = match kinds.as_slice() {
            [Value::String(kind)] => kind.as_str(),
            // Only a message may be without a type.
            [] if fields.get("role").is_some() => "message",
            _ => return self.refuse(&format!("{path}.type")),
        };
        match kind {
            "image" | "image_url" | "input_image" => self.image(fields),
            "document" | "file" | "input_file" => self.documents = true,
            "additional_tools" | "tool_search_output" => {
                fields.all("tools").for_each(|tools| self.tools(tools, &format!("{path}.tools")));
            }
            _ if BOUNDED_PARTS.contains(&kind) => {
                for field in &fields.0 {
                    let name = field.name();
                    if matches!(name.as_ref(), "content" | "output") && field.value.get().starts_with('[') {
                        self.content(field.value, &format!("{path}.{name}"));
                    }
                }
            }
            _ => self.refuse(&format!("{path}.{}", shorten(kind))),
        }
    }

    fn tools(&mut self, value: &RawValue, path: &str) {
        let Ok(tools) = serde_json::from_str::<Vec<RawFields<'_>>>(value.get()) else {
            return self.refuse(path);
        };
        for (at, tool) in tools.iter().enumerate() {
            if !tool.is_client_tool() {
                self.refuse(&format!("{path}[{at}]"));
            }
            tool.all("tools").for_each(|inner| self.tools(inner, &format!("{path}[{at}].tools")));
        }
    }

    /// Notes an image, and its size if the request holds it.
    fn image(&mut self, fields: &RawFields<'_>) {
        // Borrowed, since the data may be most of the request.
        let source = fields.get("image_url").or_else(|| fields.get("source"));
        // A URL of its own, an object with a URL, or an object with the data.
        let inner = |name: &str| {
            let fields = serde_json::from_str::<RawFields<'_>>(source?.get()).ok()?;
            text(fields.get(name)?)
        };
        let url = source.and_then(text).or_else(|| inner("url"));
        let data = inner("data").or_else(|| data_of_url(url?));
        self.image_bytes += data.as_deref().map_or(0, str::len);
        self.images.push(Image { pixels: data.as_deref().and_then(pixels) });
    }

    fn refuse(&mut self, path: &str) {
        self.unpriced.get_or_insert_with(|| shorten(path));
    }
}

/// Width and height of an image in base64, from its header.
fn pixels(data: &str) -> Option<(u32, u32)> {
    // Only whole groups of four characters can be decoded.
    let head = data.get(..data.len().min(HEAD_CHARS) / 4 * 4)?;
    let lenient = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
    let bytes = GeneralPurpose::new(&alphabet::STANDARD, lenient).decode(head).ok()?;
    let size = imagesize::blob_size(&bytes).ok()?;
    Some((size.width.try_into().ok()?, size.height.try_into().ok()?))
}

/// The text of a string; `None` of any other value.
fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    // Deserialized as a `Cow` alone, a text would be copied.
    let LossyStr(text) = serde_json::from_str(raw.get()).ok()?;
    is_text(raw).then_some(text)
}

/// The data of a `data:` URL.
fn data_of_url(url: Cow<'_, str>) -> Option<Cow<'_, str>> {
    let start = url.strip_prefix("data:")?.find(',')? + "data:,".len();
    Some(match url {
        Cow::Borrowed(url) => Cow::Borrowed(url.get(start..)?),
        Cow::Owned(mut url) => Cow::Owned(url.split_off(start)),
    })
}

fn is_text(raw: &RawValue) -> bool {
    raw.get().starts_with('"')
}

/// The elements of an array; none of any other value.
fn elements(value: &RawValue) -> Vec<&RawValue> {
    serde_json::from_str(value.get()).unwrap_or_default()
}

fn parsed(raw: &RawValue) -> Value {
    Value::deserialize(raw).unwrap_or_default()
}

impl RawFields<'_> {
    /// Whether these are the fields of a tool that the client runs.
    fn is_client_tool(&self) -> bool {
        let is_client_kind = self.all("type").all(|kind| {
            let kind = parsed(kind);
            let kind = kind.as_str().unwrap_or_default();
            CLIENT_TOOLS.contains(&kind) || CLIENT_TOOL_PREFIXES.iter().any(|prefix| kind.starts_with(prefix))
        });
        // In any other environment than the local one, OpenAI runs a shell in a container of its own
        // (<https://platform.openai.com/docs/guides/tools-shell>).
        let is_local = |environment| parsed(environment).get("type").is_some_and(|kind| kind == "local");
        is_client_kind && self.all("environment").all(|raw| raw.get() == "null" || is_local(raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pace::at_once;

    fn extras(body: &str) -> Extras {
        at_once(Extras::of(body.as_bytes()))
    }

    /// The smallest PNG header with a size.
    fn png(width: u32, height: u32) -> String {
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        bytes.extend(width.to_be_bytes());
        bytes.extend(height.to_be_bytes());
        bytes.extend([8, 2, 0, 0, 0, 0, 0, 0, 0]);
        base64::engine::general_purpose::STANDARD.encode(bytes)
    }

    #[test]
    fn images_are_measured_and_documents_found() {
        let none = r#"{"messages":[{"role":"user","content":"image"}],"service_tier":"default","n":1.5}"#;
        assert_eq!(extras(none), Extras::default());
        let data = png(640, 480);
        for part in [
            format!(r#"{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{data}"}}}}"#),
            format!(r#"{{"type":"input_image","image_url":"data:image\/png;base64,{data}"}}"#),
            format!(r#"{{"\u0074ype":"image","source":{{"type":"base64","data":"{data}"}}}}"#),
        ] {
            let found = extras(&format!(r#"{{"messages":[{{"role":"user","content":[{part}]}}]}}"#));
            let expected = Extras {
                images: vec![Image { pixels: Some((640, 480)) }],
                image_bytes: data.len(),
                ..Extras::default()
            };
            assert_eq!(found, expected, "{part}");
        }
        let url = r#"{"input":[{"type":"function_call_output","output":[{"type":"input_image","image_url":"https://x"}]}]}"#;
        assert_eq!(extras(url).images, [Image { pixels: None }]);
        let document = r#"{"messages":[{"content":[{"type":"document","source":{"type":"url"}}]}]}"#;
        assert!(extras(document).documents);
    }

    #[test]
    fn what_has_no_price_is_named() {
        for (path, body) in [
            ("inference_geo", r#"{"inference_geo":"us"}"#),
            ("modalities", r#"{"modalities":["text","audio"]}"#),
            ("web_search_options", r#"{"web_search_options":{}}"#),
            ("search_parameters", r#"{"search_parameters":{"mode":"on"}}"#),
            ("enable_search", r#"{"enable_search":true}"#),
            ("preset", r#"{"preset":"x"}"#),
            ("fallbacks", r#"{"fallbacks":["x"]}"#),
            ("models", r#"{"models":["dear"]}"#),
            ("tools[1]", r#"{"tools":[{"type":"function"},{"type":"web_search_20250305"}]}"#),
            ("tools[0]", r#"{"tools":[{"type":"code_interpreter"}]}"#),
            ("tools[0]", r#"{"tools":[{"type":"function","type":"web_search_20250305"}]}"#),
            ("tools", r#"{"tools":{}}"#),
            ("tools[0]", r#"{"tools":[{"type":"shell","environment":{"type":"container_auto"}}]}"#),
            ("input[0].tools[0]", r#"{"input":[{"type":"tool_search_output","tools":[{"type":"mcp"}]}]}"#),
            (
                "input[0].tools[0]",
                r#"{"input":[{"type":"additional_tools","tools":[],"tools":[{"type":"web_search"}]}]}"#,
            ),
            ("tools[0].tools[0]", r#"{"tools":[{"type":"namespace","tools":[{"type":"mcp"}]}]}"#),
            (
                "messages[0].content[0].video_url",
                r#"{"messages":[{"role":"user","content":[{"type":"video_url","video_url":{"url":"x"}}]}]}"#,
            ),
            (
                "messages[0].content[0].type",
                r#"{"messages":[{"role":"user","content":[{"image_url":{"url":"x"}}]}]}"#,
            ),
            (
                "messages[0].content[0].type",
                r#"{"messages":[{"role":"user","content":[{"type":"text","type":"video_url"}]}]}"#,
            ),
            ("messages[0].content", r#"{"messages":[{"role":"user","content":{"type":"video_url"}}]}"#),
            ("messages[0].images", r#"{"messages":[{"role":"user","content":"x","images":["aGk="]}]}"#),
            ("messages[0].audio", r#"{"messages":[{"role":"assistant","audio":{"id":"x"}}]}"#),
            (
                "messages[0].content[0].content[0].input_audio",
                r#"{"messages":[{"role":"user","content":[{"type":"tool_result","content":[{"type":"input_audio"}]}]}]}"#,
            ),
            ("input[0].item_reference", r#"{"input":[{"type":"item_reference","id":"x"}]}"#),
        ] {
            assert_eq!(extras(body).unpriced.as_deref(), Some(path), "{body}");
        }
        for body in [
            r#"{"tools":[{"name":"f"},{"type":"bash_20250124"}],"speed":null,"modalities":["text"],"seed":1}"#,
            r#"{"tools":[{"type":"shell"},{"type":"shell","environment":{"type":"local"}}]}"#,
            r#"{"input":["a","b"]}"#,
            r#"{"input":[[1,2],[3]]}"#,
            r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"x"}]}]}"#,
        ] {
            assert_eq!(extras(body).unpriced, None, "{body}");
        }
    }

    #[test]
    fn hints_without_a_price_are_found() {
        for (hints, body) in [
            (vec!["service_tier"], r#"{"service_tier":"priority"}"#),
            (vec!["service_tier"], r#"{"service_t\u0069er":["x"]}"#),
            (vec!["speed", "prediction"], r#"{"speed":"fast","prediction":{"type":"content"}}"#),
            (vec![], r#"{"service_tier":"flex","speed":"standard","seed":1,"metadata":{}}"#),
        ] {
            let found = extras(body);
            assert_eq!((found.unpriced_hints, found.unpriced), (hints, None), "{body}");
        }
    }
}
