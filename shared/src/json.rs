//! Checks and reads JSON where serde is too strict or too lax: nesting, size, and values of unexpected types.
//!
//! Knows no field of any format.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Deepest nesting that is accepted: far above any API's need, and below the 127 levels that serde_json reads, so that
/// a body can be wrapped in an entry of the log and still be read.
pub(crate) const MAX_DEPTH: usize = 112;

/// Most brackets, colons and commas that are accepted in one text, together: as many as a chat of 100,000 messages has,
/// and more than the 300,000 tokens of OpenAI's largest request for embeddings need. Each stands for about one value,
/// which takes sixty times the memory of its text, and an isolate has 128 MB.
pub(crate) const MAX_PARTS: usize = 500_000;

/// Whether brackets in `bytes` nest deeper than [`MAX_DEPTH`]. Exact for valid JSON; the result for invalid JSON does
/// not matter, since the parser refuses it.
pub(crate) fn nests_too_deep(bytes: &[u8]) -> bool {
    let mut depth = 0_usize;
    outside_strings(bytes).flatten().any(|byte| {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > MAX_DEPTH
    })
}

/// Whether `bytes` hold more than [`MAX_PARTS`] parts. Exact for valid JSON, as [`nests_too_deep`] is.
pub(crate) fn has_too_many_parts(bytes: &[u8]) -> bool {
    let mut parts = 0;
    // Each part takes a byte, so short texts need no scan.
    bytes.len() > MAX_PARTS
        && outside_strings(bytes).any(|run| {
            parts += parts_of(run);
            parts > MAX_PARTS
        })
}

/// The number of parts of a text.
pub(crate) fn parts(bytes: &[u8]) -> usize {
    outside_strings(bytes).map(parts_of).sum()
}

fn parts_of(run: &[u8]) -> usize {
    run.iter().filter(|byte| matches!(byte, b'[' | b'{' | b':' | b',')).count()
}

/// A value in a text that is a string of another text, whose bound on parts does not hold for it: the arguments of a
/// call. `None` if it is not JSON, or too large to be read.
pub(crate) fn inner_value(text: &str) -> Option<serde_json::Value> {
    if has_too_many_parts(text.as_bytes()) { None } else { serde_json::from_str(text).ok() }
}

/// The parts of a JSON text before, between and after its strings.
fn outside_strings(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest.take()?;
        let Some(quote) = memchr::memchr(b'"', bytes) else { return Some(bytes) };
        let (run, string) = bytes.split_at(quote);
        rest = after_string(string.get(1..)?);
        Some(run)
    })
}

/// The text after the next quote that is not escaped.
fn after_string(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        let at = memchr::memchr2(b'"', b'\\', text)?;
        let is_end = text.get(at) == Some(&b'"');
        text = text.get(at + if is_end { 1 } else { 2 }..)?;
        if is_end {
            return Some(text);
        }
    }
}

/// Tells which bytes of a JSON text are outside its strings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Quotes {
    in_string: bool,
    escaped: bool,
}

impl Quotes {
    /// Whether the next byte is outside strings.
    fn is_outside(&mut self, byte: u8) -> bool {
        if !self.in_string {
            self.in_string = byte == b'"';
            return !self.in_string;
        }
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => self.in_string = false,
            _ => {}
        }
        false
    }
}

/// Follows an object or array that arrives in pieces, and tells when its text is complete. The result for invalid JSON
/// does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nesting {
    quotes: Quotes,
    depth: usize,
    is_complete: bool,
}

impl Nesting {
    /// Takes the next piece.
    pub(crate) fn push(&mut self, json: &str) {
        for byte in json.bytes().filter(|byte| self.quotes.is_outside(*byte)) {
            match byte {
                b'[' | b'{' => self.depth += 1,
                b']' | b'}' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.is_complete |= self.depth == 0;
                }
                _ => {}
            }
        }
    }

    /// Whether the outermost bracket is closed.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }
}

/// Names the type of a JSON value with its article, judged by its first character.
pub(crate) fn type_of(json: &str) -> &'static str {
    match json.trim_start().bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// Whether a value is anything but null, an empty string or an empty array. Its contents are not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IsPresent(pub(crate) bool);

impl<'de> Deserialize<'de> for IsPresent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IsPresentVisitor)
    }
}

struct IsPresentVisitor;

impl<'de> Visitor<'de> for IsPresentVisitor {
    type Value = IsPresent;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<IsPresent, E> {
        Ok(IsPresent(!text.is_empty()))
    }

    fn visit_unit<E>(self) -> Result<IsPresent, E> {
        Ok(IsPresent(false))
    }

    fn visit_bool<E>(self, _: bool) -> Result<IsPresent, E> {
        Ok(IsPresent(true))
    }

    fn visit_u64<E>(self, _: u64) -> Result<IsPresent, E> {
        Ok(IsPresent(true))
    }

    fn visit_i64<E>(self, _: i64) -> Result<IsPresent, E> {
        Ok(IsPresent(true))
    }

    fn visit_f64<E>(self, _: f64) -> Result<IsPresent, E> {
        Ok(IsPresent(true))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<IsPresent, A::Error> {
        let mut has_elements = false;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            has_elements = true;
        }
        Ok(IsPresent(has_elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<IsPresent, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(IsPresent(true))
    }
}

/// A string that may also be null or, against the vendor's documentation, of another type: whole numbers become their
/// digits, everything else becomes empty. Borrows from the input if the string has no escapes.
#[derive(Clone, Debug, Default)]
pub(crate) struct LossyStr<'a>(pub(crate) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for LossyStr<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LossyStrVisitor;
        impl<'de> Visitor<'de> for LossyStrVisitor {
            type Value = LossyStr<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("text or null")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<LossyStr<'de>, E> {
                Ok(LossyStr(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<LossyStr<'de>, E> {
                Ok(LossyStr(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E>(self) -> Result<LossyStr<'de>, E> {
                Ok(LossyStr::default())
            }

            fn visit_bool<E>(self, _: bool) -> Result<LossyStr<'de>, E> {
                Ok(LossyStr::default())
            }

            fn visit_u64<E>(self, number: u64) -> Result<LossyStr<'de>, E> {
                Ok(LossyStr(Cow::Owned(number.to_string())))
            }

            fn visit_i64<E>(self, number: i64) -> Result<LossyStr<'de>, E> {
                Ok(LossyStr(Cow::Owned(number.to_string())))
            }

            fn visit_f64<E>(self, _: f64) -> Result<LossyStr<'de>, E> {
                Ok(LossyStr::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<LossyStr<'de>, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(LossyStr::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LossyStr<'de>, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(LossyStr::default())
            }
        }
        deserializer.deserialize_any(LossyStrVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(!nests_too_deep(nested(MAX_DEPTH).as_bytes()));
        assert!(nests_too_deep(nested(MAX_DEPTH + 1).as_bytes()));
        assert!(!nests_too_deep(format!("\"\\\"{}\"", "[".repeat(200)).as_bytes()));
        assert!(!nests_too_deep("[]".repeat(200).as_bytes()));
    }

    #[test]
    fn parts_are_counted_and_bytes_of_strings_are_not() {
        let many = |part: &str, count: usize| format!("[{}]", vec![part; count].join(","));
        assert!(!has_too_many_parts(many("\"\\\",:[\"", MAX_PARTS).as_bytes()));
        assert!(has_too_many_parts(many("\"\\\",:[\"", MAX_PARTS + 1).as_bytes()));
        assert!(has_too_many_parts(many("1", MAX_PARTS + 1).as_bytes()));
        assert!(has_too_many_parts(many("[]", MAX_PARTS / 2 + 1).as_bytes()));
        // OpenAI's largest request for embeddings, and a long conversation.
        let tokens = many(&many("7", 300_000 / 2048), 2048);
        assert!(!has_too_many_parts(format!("{{\"model\":\"m\",\"input\":{tokens}}}").as_bytes()));
        let messages = many(r#"{"role":"user","content":"x"}"#, 80_000);
        assert!(!has_too_many_parts(format!("{{\"model\":\"m\",\"messages\":{messages}}}").as_bytes()));
    }

    #[test]
    fn an_object_is_complete_at_its_last_bracket() {
        let text = r#" {"a}\\\"": [1, {"b": "]"}]} "#;
        let end = text.trim_end().len();
        let mut nesting = Nesting::default();
        for (at, piece) in text.split_inclusive(|_| true).enumerate() {
            nesting.push(piece);
            assert_eq!(nesting.is_complete(), at + 1 >= end, "{at}");
        }
    }

    #[test]
    fn null_and_empty_values_are_not_present() {
        for (json, expected) in [
            ("null", false),
            ("\"\"", false),
            ("\"a\"", true),
            ("[]", false),
            ("[1]", true),
            ("{\"a\":{}}", true),
            ("1.5", true),
        ] {
            assert_eq!(serde_json::from_str::<IsPresent>(json).unwrap(), IsPresent(expected), "{json}");
        }
    }
}
