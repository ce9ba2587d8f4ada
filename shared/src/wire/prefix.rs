//! Digests the beginning of a prompt, by which vendors find it in their caches. Knows no caches.

use std::hash::Hasher;

use serde_json::value::RawValue;

use super::raw::RawFields;

/// The fields that stand before the messages in a prompt.
const FIELDS: [&str; 3] = ["system", "instructions", "tools"];

/// Most bytes of a text that are digested, besides its length: two prompts that are equal so far are hardly different.
const MAX_BYTES: usize = 16 * 1024;

/// Digests what the requests of one session have in common: the key that the client set for the vendor's cache, or else
/// the instructions, the tools and the messages up to the user's first. `field` returns the JSON of a field. Nothing is
/// copied.
pub(super) fn digest<'a>(field: impl Fn(&str) -> Option<&'a str>, hasher: &mut impl Hasher) {
    if let Some(key) = field("prompt_cache_key").filter(|key| key.starts_with('"')) {
        return text(key, hasher);
    }
    for value in FIELDS.into_iter().filter_map(&field) {
        text(value, hasher);
    }
    let Some(messages) = field("messages").or_else(|| field("input")) else { return };
    if !messages.starts_with('[') {
        return text(messages, hasher);
    }
    for message in Items::of(messages) {
        strings(message, hasher);
        let fields = serde_json::from_str::<RawFields<'_>>(message.get());
        if fields.is_ok_and(|fields| fields.get("role").is_some_and(|role| role.get() == "\"user\"")) {
            return;
        }
    }
}

fn text(text: &str, hasher: &mut impl Hasher) {
    hasher.write_usize(text.len());
    hasher.write(text.as_bytes().get(..MAX_BYTES).unwrap_or(text.as_bytes()));
}

/// Digests the strings of a message. Its form is left out: clients move their marks of what to cache from message to
/// message, and write a text as a list of parts to mark it.
fn strings(value: &RawValue, hasher: &mut impl Hasher) {
    match value.get().as_bytes().first() {
        Some(b'"') => text(value.get(), hasher),
        Some(b'[') => Items::of(value.get()).for_each(|item| strings(item, hasher)),
        Some(b'{') => {
            let Ok(RawFields(fields)) = serde_json::from_str(value.get()) else { return };
            for field in fields {
                if !matches!(field.name().as_ref(), "type" | "cache_control") {
                    strings(field.value, hasher);
                }
            }
        }
        _ => {}
    }
}

/// The items of an array, one parsed after the other. Ends before one that is neither an object, an array nor a string.
struct Items<'a>(&'a str);

impl<'a> Items<'a> {
    fn of(array: &'a str) -> Self {
        Self(array.strip_prefix('[').unwrap_or_default())
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a RawValue;

    fn next(&mut self) -> Option<&'a RawValue> {
        let rest = self.0.trim_start_matches([',', ' ', '\n', '\r', '\t']);
        if !rest.starts_with(['{', '[', '"']) {
            return None;
        }
        let mut items = serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>();
        let item = items.next()?.ok()?;
        self.0 = rest.get(items.byte_offset()..)?;
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::DefaultHasher;

    use crate::wire::{Format, Request};

    fn digest(format: Format, body: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        Request::parse(format, body.to_owned().into()).unwrap().digest_prefix(&mut hasher);
        std::hash::Hasher::finish(&hasher)
    }

    #[test]
    fn the_requests_of_a_session_have_one_digest() {
        let chat = |rest: &str| digest(Format::Chat, &format!(r#"{{"model":"m",{rest}}}"#));
        let system = r#"{"role":"system","content":"be kind"}"#;
        let user = |text: &str| format!(r#"{{"role":"user","content":"{text}"}}"#);
        let first = chat(&format!(r#""messages":[{system},{}]"#, user("hi")));
        // The client has moved its mark of what to cache, and the conversation has gone on.
        let marked = r#"{"role":"user","content":[{"type":"text","text":"hi","cache_control":{"type":"ephemeral","ttl":"1h"}}]}"#;
        let next = chat(&format!(r#""stream":true,"messages": [ {system} , {marked},{} ]"#, user("and?")));
        assert_eq!(first, next);
        let others = [
            chat(&format!(r#""messages":[{system},{}]"#, user("ho"))),
            chat(&format!(r#""messages":[{}]"#, user("hi"))),
            chat(&format!(r#""tools":[{{"type":"function"}}],"messages":[{system},{}]"#, user("hi"))),
            chat(&format!(r#""prompt_cache_key":"s","messages":[{system},{}]"#, user("hi"))),
        ];
        assert!(!others.contains(&first));
        assert_eq!(others[3], chat(&format!(r#""messages":[{}],"prompt_cache_key":"s""#, user("other"))));
        let responses = |input: &str| {
            digest(
                Format::Responses,
                &format!(r#"{{"model":"m","store":false,"instructions":"i","input":{input}}}"#),
            )
        };
        assert_eq!(
            responses(r#"[{"role":"user","content":"a"}]"#),
            responses(r#"[{"role":"user","content":"a"},{"role":"user","content":"b"}]"#)
        );
        assert_ne!(responses(r#""a""#), responses(r#""b""#));
    }
}
