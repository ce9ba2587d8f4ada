//! Takes the text for people out of a provider's error, without secrets. What the error means is decided elsewhere.

use serde_json::Value;

use crate::secret::{REMOVED, Secret};

/// Longest text that is kept, in characters: the first sentences say what is wrong.
const MAX_CHARS: usize = 300;

/// Letters and digits in a row from which on a word with a digit counts as a key: parts of models' names are shorter.
const KEY_CHARS: usize = 16;

/// The text of an error's body, without `secrets` and whatever else looks like a key. `None` if it has no text.
pub(crate) fn error_text(body: &[u8], secrets: &[Secret]) -> Option<Box<str>> {
    let body = String::from_utf8_lossy(body);
    let json: Option<Value> = serde_json::from_str(&body).ok();
    let text = match &json {
        Some(json) => ["/error/message", "/message", "/error", "/detail"]
            .iter()
            .find_map(|path| json.pointer(path).and_then(Value::as_str))?,
        // The page of a proxy says nothing that the status does not say.
        None if body.trim_start().starts_with('<') => return None,
        None => &body,
    };
    let text = secrets.iter().fold(text.to_owned(), |text, secret| secret.remove_from(&text));
    let words = text.split_whitespace().map(|word| if is_like_key(word) { REMOVED } else { word });
    let text: String =
        words.collect::<Vec<_>>().join(" ").chars().filter(|c| !c.is_control()).take(MAX_CHARS).collect();
    (!text.is_empty()).then(|| text.into())
}

/// Whether a word may be a key or a part of one: vendors show masked keys, too.
fn is_like_key(word: &str) -> bool {
    let is_long = |part: &str| part.len() >= KEY_CHARS && part.bytes().any(|byte| byte.is_ascii_digit());
    word.contains("sk-")
        || word.contains("**")
        || word.split(|c: char| !c.is_ascii_alphanumeric()).any(is_long)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_kept_without_anything_that_looks_like_a_key() {
        let check = |body: &str, expected: Option<&str>| {
            let secrets = [Secret::new("tiny key".into()).unwrap()];
            assert_eq!(error_text(body.as_bytes(), &secrets).as_deref(), expected, "{body}");
        };
        check(
            r#"{"error":{"message":"Incorrect API key provided: sk-abc***xyz.\nSee https://example.com/keys."}}"#,
            Some("Incorrect API key provided: [removed] See https://example.com/keys."),
        );
        check(r#"{"message":"bad tiny key here"}"#, Some("bad [removed] here"));
        check(r#"{"detail":"token 0123456789abcdef0123 expired"}"#, Some("token [removed] expired"));
        check(
            r#"{"error":"model gpt-5-mini-2025-08-07 is gone"}"#,
            Some("model gpt-5-mini-2025-08-07 is gone"),
        );
        check("upstream connect error", Some("upstream connect error"));
        check("<html>nginx</html>", None);
        check(r#"{"error":{"code":1}}"#, None);
        check("", None);
        assert_eq!(error_text("x ".repeat(999).as_bytes(), &[]).unwrap().chars().count(), MAX_CHARS);
    }
}
