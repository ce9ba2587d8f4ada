//! Lists the fields of requests without which an answer is still an answer: their names in each format, and whether
//! they cost something. Reads no request.
//!
//! A field that a target's format has no place for is one of three. What [`Prompt`](super::Prompt) holds is *adapted* by
//! the formats' readers and writers. What this table lists is *left out*, and its name is reported to the client.
//! Everything else *makes the candidate unfit*, since leaving it out would change the meaning of the request.

use serde_json::Value;

use super::Format;

/// A field that may be left out.
#[derive(Debug, PartialEq, Eq)]
pub struct Hint {
    /// Its path in a chat request; empty if the format has no such field. A path that begins with a dot is a field of
    /// any object but the outermost one.
    chat: &'static str,
    /// Its path in a responses request.
    responses: &'static str,
    /// Its path in a messages request.
    messages: &'static str,
    /// What it costs beside the tokens of the request.
    cost: Cost,
}

/// What a hint costs beside the tokens of the request and its answer.
#[derive(Debug, PartialEq, Eq)]
enum Cost {
    Nothing,
    /// These values cost nothing; the price of every other value is unknown.
    NothingIf(&'static [&'static str]),
    Unknown,
}

/// Hints whose names begin with a dot are fields of messages, blocks or tools; the others are fields of the request.
#[rustfmt::skip]
const HINTS: &[Hint] = &[
    // Sampling. OpenAI's responses and Anthropic's newer models have none of it.
    hint("seed",                   "",                       "",                   Cost::Nothing),
    hint("frequency_penalty",      "",                       "",                   Cost::Nothing),
    hint("presence_penalty",       "",                       "",                   Cost::Nothing),
    hint("repetition_penalty",     "",                       "",                   Cost::Nothing),
    hint("logit_bias",             "",                       "",                   Cost::Nothing),
    hint("min_p",                  "",                       "",                   Cost::Nothing),
    hint("top_k",                  "",                       "top_k",              Cost::Nothing),
    // Rejected tokens of a prediction are billed as output, above the limit of the answer
    // (https://platform.openai.com/docs/guides/predicted-outputs).
    hint("prediction",             "",                       "",                   Cost::Unknown),
    hint("verbosity",              "text.verbosity",         "",                   Cost::Nothing),
    // Speed. Tiers other than the standard one have prices of their own.
    hint("service_tier",           "service_tier",           "service_tier",       Cost::NothingIf(&["auto", "default", "flex", "standard_only"])),
    hint("",                       "",                       "speed",              Cost::NothingIf(&["standard"])),
    // Labels.
    hint("metadata",               "metadata",               "metadata",           Cost::Nothing),
    hint("",                       "client_metadata",        "",                   Cost::Nothing),
    hint("safety_identifier",      "safety_identifier",      "",                   Cost::Nothing),
    hint(".name",                  "",                       "",                   Cost::Nothing),
    // What the vendor stores and caches.
    hint("store",                  "store",                  "",                   Cost::Nothing),
    hint("prompt_cache_key",       "prompt_cache_key",       "",                   Cost::Nothing),
    hint("prompt_cache_retention", "prompt_cache_retention", "",                   Cost::Nothing),
    hint("prompt_cache_options",   "prompt_cache_options",   "",                   Cost::Nothing),
    hint("",                       "",                       "cache_control",      Cost::Nothing),
    hint(".cache_control",         "",                       ".cache_control",     Cost::Nothing),
    // Gemini's signatures of thoughts (https://ai.google.dev/gemini-api/docs/openai), which other vendors can't read.
    hint(".extra_content",         "",                       "",                   Cost::Nothing),
    // How the vendor shortens a long conversation, and what it reports beside the answer.
    hint("",                       "truncation",             "",                   Cost::Nothing),
    hint("",                       "context_management",     "context_management", Cost::Nothing),
    hint("",                       "include",                "",                   Cost::Nothing),
    hint("",                       "reasoning.summary",      "",                   Cost::Nothing),
    hint("",                       "reasoning.context",      "",                   Cost::Nothing),
    hint("",                       "",                       "thinking.display",   Cost::Nothing),
    hint("",                       "max_tool_calls",         "",                   Cost::Nothing),
    // How tools are shown to the model.
    hint("",                       "",                       ".eager_input_streaming", Cost::Nothing),
    hint("",                       ".defer_loading",         ".defer_loading",     Cost::Nothing),
    hint("",                       "",                       ".input_examples",    Cost::Nothing),
    hint("",                       ".output_schema",         "",                   Cost::Nothing),
    // How closely an image is looked at.
    hint(".detail",                ".detail",                "",                   Cost::Nothing),
];

const fn hint(chat: &'static str, responses: &'static str, messages: &'static str, cost: Cost) -> Hint {
    Hint { chat, responses, messages, cost }
}

impl Hint {
    /// The hint at `path` of a request, such as `text.verbosity` or `tools[0].cache_control`; `None` if the field may
    /// not be left out.
    ///
    /// The request's format does not matter: what is a hint in one format is one in all.
    pub(crate) fn at(path: &str) -> Option<&'static Self> {
        let inner = path.rfind('.').and_then(|dot| path.get(dot..));
        HINTS.iter().find(|hint| {
            let names = [hint.chat, hint.responses, hint.messages];
            names.iter().any(|name| !name.is_empty() && (*name == path || Some(*name) == inner))
        })
    }

    /// Its name for the client: the path without the objects that it is in.
    pub(super) fn name(&self) -> &'static str {
        let names = [self.chat, self.responses, self.messages];
        names.into_iter().find(|name| !name.is_empty()).unwrap_or_default().trim_start_matches('.')
    }

    /// Its path in a request that this node writes; `None` if the target ignores or refuses it.
    ///
    /// OpenAI's two formats take from each other what both have. A field of a message, a block or a tool is never
    /// written here: if it is carried, the prompt holds it.
    pub(super) fn path_in(&self, format: Format) -> Option<&'static str> {
        let path = match format {
            Format::Chat if !self.responses.is_empty() => self.chat,
            Format::Responses if !self.chat.is_empty() => self.responses,
            Format::Messages if self.messages == "top_k" => self.messages,
            _ => "",
        };
        // The node decides what is stored, and the labels of one vendor mean nothing to another.
        let is_carried = !path.is_empty() && !path.starts_with('.') && path != "store";
        is_carried.then_some(path)
    }

    /// Whether the prompt holds the hint where it belongs, so that the writer of `format` writes it there.
    pub(super) fn is_in_parts(&self, format: Format) -> bool {
        format == Format::Messages && self.messages == ".cache_control"
    }

    /// Whether the hint costs nothing beside tokens, with this value.
    pub(crate) fn is_free(&self, value: &Value) -> bool {
        match self.cost {
            Cost::Nothing => true,
            Cost::NothingIf(values) => value.as_str().is_some_and(|value| values.contains(&value)),
            Cost::Unknown => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_found_at_its_path_and_only_there() {
        let name = |path: &str| Hint::at(path).map(Hint::name);
        assert_eq!(name("seed"), Some("seed"));
        assert_eq!(name("text.verbosity"), Some("verbosity"));
        assert_eq!(name("messages[2].content[0].cache_control"), Some("cache_control"));
        assert_eq!(name("messages[0].name"), Some("name"));
        // A field of the request, and one of an object in it.
        assert_eq!(name("name"), None);
        assert_eq!(name("tools[0].seed"), None);
        assert_eq!(name("n"), None);
    }

    #[test]
    fn openais_formats_take_each_others_hints_and_others_do_not() {
        let path = |path: &str, format| Hint::at(path).and_then(|hint| hint.path_in(format));
        assert_eq!(path("verbosity", Format::Responses), Some("text.verbosity"));
        assert_eq!(path("text.verbosity", Format::Chat), Some("verbosity"));
        assert_eq!(path("verbosity", Format::Messages), None);
        assert_eq!(path("seed", Format::Responses), None);
        assert_eq!(path("top_k", Format::Messages), Some("top_k"));
        assert_eq!(path("top_k", Format::Chat), None);
        assert_eq!(path("store", Format::Responses), None);
    }
}
