//! What a long conversation came to, as an item that its client keeps and sends along: OpenAI's `compaction`.
//!
//! To its client the content is opaque. Here it is a text that can be read, and no secret: the client had all of it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// How our own contents begin; those of others can't be read.
const MARK: &str = "outlive1.";

/// The item that holds `text`.
pub fn compaction(id: &str, text: &str) -> Value {
    let content = format!("{MARK}{}", URL_SAFE_NO_PAD.encode(text));
    json!({"type": "compaction", "id": id, "encrypted_content": content})
}

/// The text of a compaction's content; `None` if it is not ours.
pub fn compacted(content: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(content.strip_prefix(MARK)?).ok()?;
    String::from_utf8(bytes).ok()
}

/// How a model is told of it.
pub fn introduce(text: &str) -> String {
    format!("The conversation so far, summed up to save space:\n\n{text}")
}
