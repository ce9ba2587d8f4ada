use serde_json::{Map, Value};

use super::message::cut;

/// What a function answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolOutput {
    /// All of it as text: texts as they are, other parts by what they are. Where there is no text but a structured
    /// result, that as JSON.
    pub text: String,
    /// Whether the function says that it failed.
    pub failed: bool,
    /// Whether more was said than is kept.
    pub truncated: bool,
}

/// Most of an answer's text that is kept: some 16,000 tokens, which every later request carries again.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// More of a type's, a resource's or a link's name is not shown.
const MAX_LABEL_BYTES: usize = 256;

/// Reads the result of a call.
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
    Ok(ToolOutput { text: text.kept, failed, truncated: text.truncated })
}

/// Adds a part of the content; says whether it is text.
fn add(part: &Map<String, Value>, text: &mut CappedText) -> Result<bool, &'static str> {
    let name = |value: &Map<String, Value>, key: &str| {
        let value = value.get(key).and_then(Value::as_str).unwrap_or_default();
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
            text.add(&format!("[{kind} {}, {} bytes]", name(part, "mimeType"), decoded(part.get("data"))));
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
            text.add(&format!("[resource {uri} {mime}, {} bytes]", decoded(resource.get("blob"))));
        }
        _ => text.add(&format!("[{}]", name(part, "type"))),
    }
    Ok(false)
}

/// How many bytes Base64 stands for.
fn decoded(data: Option<&Value>) -> usize {
    let data = data.and_then(Value::as_str).unwrap_or_default();
    data.trim_end_matches('=').len() * 3 / 4
}

/// Text that does not grow beyond what is kept.
#[derive(Default)]
struct CappedText {
    kept: String,
    begun: bool,
    truncated: bool,
}

impl CappedText {
    fn add(&mut self, part: &str) {
        if std::mem::replace(&mut self.begun, true) {
            self.push("\n");
        }
        self.push(part);
    }

    fn push(&mut self, text: &str) {
        if self.truncated {
            return;
        }
        let fits = cut(text, MAX_TEXT_BYTES.saturating_sub(self.kept.len()));
        self.truncated = fits.len() < text.len();
        self.kept.push_str(fits);
    }
}
