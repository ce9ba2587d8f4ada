//! Turns the result of a call into text for a model. Images and other data are described, not passed on.

use serde_json::{Map, Value};

use super::message::cut;

/// The output of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolOutput {
    /// The content as text: text parts verbatim, other parts as a description in brackets. The structured result as
    /// JSON if there is no text part.
    pub text: String,
    /// Whether the function reports that it failed.
    pub failed: bool,
    /// Whether the text was cut off at 64 KiB.
    pub truncated: bool,
}

/// Longest text that is kept: about 16,000 tokens, which every later request to a model carries again.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// Longest name of a type, resource or link that is shown.
const MAX_LABEL_BYTES: usize = 256;

/// Reads the result of a call. The error describes what the server sent instead, as the object of "sent …".
pub(super) fn output(mut result: Map<String, Value>) -> Result<ToolOutput, &'static str> {
    let failed = match result.get("isError") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(failed)) => *failed,
        Some(_) => return Err("an `isError` that is not a boolean"),
    };
    let structured = result.remove("structuredContent").filter(|content| !content.is_null());
    let parts = match result.remove("content") {
        Some(Value::Array(parts)) => parts,
        None if structured.is_some() => Vec::new(),
        _ => return Err("a result without content"),
    };
    let mut text = CappedText::default();
    let mut has_text = false;
    for part in &parts {
        let Value::Object(part) = part else { return Err("content that is not an object") };
        has_text |= add(part, &mut text)?;
    }
    if let Some(structured) = structured.filter(|_| !has_text) {
        text.add(&structured.to_string());
    }
    Ok(ToolOutput { text: text.buffer, failed, truncated: text.truncated })
}

/// Adds a part of the content. Returns whether it holds text.
fn add(part: &Map<String, Value>, text: &mut CappedText) -> Result<bool, &'static str> {
    let name = |value: &Map<String, Value>, key: &str| {
        let value = value.get(key).and_then(Value::as_str).unwrap_or_default();
        // Control characters and `]` are dropped, so that a name can't end its bracket.
        let printable = cut(value, MAX_LABEL_BYTES).chars().filter(|c| !c.is_control() && *c != ']');
        printable.collect::<String>()
    };
    let kind = part.get("type").and_then(Value::as_str).ok_or("content without a type")?;
    match kind {
        "text" => {
            text.add(part.get("text").and_then(Value::as_str).ok_or("a text that is not a string")?);
            return Ok(true);
        }
        "image" | "audio" => {
            text.add(&format!(
                "[{kind} {}, {} bytes]",
                name(part, "mimeType"),
                decoded_len(part.get("data"))
            ));
        }
        "resource_link" => text.add(&format!("[link {} {}]", name(part, "name"), name(part, "uri"))),
        "resource" => {
            let resource = part.get("resource").and_then(Value::as_object).ok_or("an empty resource")?;
            let (uri, mime) = (name(resource, "uri"), name(resource, "mimeType"));
            if let Some(Value::String(content)) = resource.get("text") {
                text.add(&format!("[resource {uri}]"));
                text.add(content);
                return Ok(true);
            }
            text.add(&format!("[resource {uri} {mime}, {} bytes]", decoded_len(resource.get("blob"))));
        }
        _ => text.add(&format!("[{}]", name(part, "type"))),
    }
    Ok(false)
}

/// The number of bytes that Base64 `data` encodes.
fn decoded_len(data: Option<&Value>) -> usize {
    let data = data.and_then(Value::as_str).unwrap_or_default();
    data.trim_end_matches('=').len() * 3 / 4
}

/// Lines of text, truncated at [`MAX_TEXT_BYTES`].
#[derive(Default)]
struct CappedText {
    buffer: String,
    has_parts: bool,
    truncated: bool,
}

impl CappedText {
    fn add(&mut self, part: &str) {
        if std::mem::replace(&mut self.has_parts, true) {
            self.push("\n");
        }
        self.push(part);
    }

    fn push(&mut self, text: &str) {
        if self.truncated {
            return;
        }
        let fits = cut(text, MAX_TEXT_BYTES.saturating_sub(self.buffer.len()));
        self.truncated = fits.len() < text.len();
        self.buffer.push_str(fits);
    }
}
