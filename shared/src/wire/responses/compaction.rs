//! Writes and reads OpenAI's `compaction` items: a summary of a conversation that the client stores and sends along.
//! The summary itself is made in `agent`.
//!
//! The content is opaque to clients, but neither encrypted nor secret, since the client had the whole conversation.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// The prefix of contents that this project wrote; those of vendors cannot be read.
const PREFIX: &str = "outlive1.";

/// The item with the summary `text`.
pub fn compaction_item(id: &str, text: &str) -> Value {
    let content = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(text));
    json!({"type": "compaction", "id": id, "encrypted_content": content})
}

/// The summary in an item's content; `None` if a vendor wrote it.
pub fn compaction_summary(content: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(content.strip_prefix(PREFIX)?).ok()?;
    String::from_utf8(bytes).ok()
}

/// The summary as a text for the model.
pub fn summary_message(text: &str) -> String {
    format!("The conversation so far, summarised to save space:\n\n{text}")
}
