//! Reads the fields of a request that its answer depends on. Chooses the words of the answer, and nothing else of it.

use serde::Deserialize;

use super::{BROKEN_AFTER, Format, IMAGE_WORDS, JSON_WORDS, WORDS};

/// The fields of a request that its answer depends on. All other fields are ignored, however odd they are.
#[derive(Debug, Default, Deserialize)]
pub(in crate::upstream) struct Question {
    #[serde(default)]
    pub(in crate::upstream) model: String,
    #[serde(default)]
    pub(in crate::upstream) stream: Option<bool>,
    #[serde(default)]
    pub(in crate::upstream) stream_options: Option<StreamOptions>,
    /// The limit of the answer in tokens; a word is one.
    #[serde(default, alias = "max_completion_tokens", alias = "max_output_tokens")]
    max_tokens: Option<usize>,
    /// Given by the path.
    #[serde(skip)]
    pub(in crate::upstream) format: Format,
    /// Whether the request has a schema.
    #[serde(skip)]
    pub(in crate::upstream) schema: bool,
    /// Whether the request has an image.
    #[serde(skip)]
    pub(in crate::upstream) image: bool,
    /// Whether the request asks for thoughts.
    #[serde(skip)]
    pub(in crate::upstream) effort: bool,
}

impl Question {
    /// The pieces of a good answer.
    pub(super) fn words(&self) -> &'static [&'static str] {
        let words = match self {
            Self { schema: true, .. } => &JSON_WORDS,
            Self { image: true, .. } => &IMAGE_WORDS,
            _ => &WORDS,
        };
        self.max_tokens.and_then(|most| words.get(..most.max(BROKEN_AFTER))).unwrap_or(words)
    }

    /// Whether the limit truncates the answer.
    pub(super) fn is_truncated(&self) -> bool {
        self.words().len() < WORDS.len()
    }
}

#[derive(Debug, Deserialize)]
pub(in crate::upstream) struct StreamOptions {
    #[serde(default)]
    pub(super) include_usage: bool,
}
