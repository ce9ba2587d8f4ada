//! Describes a request to a model in no vendor's format: what every format is translated to and from. The formats' own
//! modules translate.

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

/// A request to a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// The system texts.
    pub system: Vec<Text>,
    /// The conversation.
    pub messages: Vec<Message>,
    /// The functions that the model may call.
    pub tools: Vec<Tool>,
    /// Whether it must call one.
    pub tool_choice: Option<ToolChoice>,
    /// Whether it may make several calls in one answer.
    pub parallel_tool_calls: Option<bool>,
    /// Most tokens of the answer.
    pub max_output: Option<u64>,
    /// The sampling temperature.
    pub temperature: Option<Number>,
    /// The probability mass of nucleus sampling.
    pub top_p: Option<Number>,
    /// The stop sequences.
    pub stop: Vec<String>,
    /// The format that the answer's text must have.
    pub format: Option<OutputFormat>,
    /// How much the model reasons.
    pub effort: Option<Effort>,
    /// The end user's id, as the client chose to send it.
    pub user: Option<String>,
    /// Paths of fields that only the request's own format has. A request with any of them is not translated.
    pub untranslatable: Vec<String>,
}

/// A piece of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// Anthropic's `cache_control`, by which the vendor may cache the prompt up to here.
    pub cache: Option<Value>,
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self { text, cache: None }
    }
}

/// One message of the conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Whose message it is.
    pub role: Role,
    /// Its content, in order.
    pub parts: Vec<Part>,
}

/// Whose message it is. Outputs of tools are in the user's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The client.
    User,
    /// The model.
    Assistant,
}

/// One part of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Text.
    Text(Text),
    /// The text with which the model declined.
    Refusal(String),
    /// An image.
    Image(MediaSource),
    /// A document, usually a PDF.
    Document {
        /// Where it is.
        source: MediaSource,
        /// Its file name or title.
        name: Option<String>,
    },
    /// The model's reasoning, bound to the vendor that wrote it.
    Reasoning(Reasoning),
    /// A call of a function by the model.
    Call(ToolCall),
    /// The output of a function.
    Output {
        /// The id of its call.
        id: String,
        /// Texts, images and documents.
        parts: Vec<Part>,
        /// Whether the function failed.
        failed: bool,
    },
}

impl From<String> for Part {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

/// Where an image or a document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaSource {
    /// In the request itself.
    Base64 {
        /// Its media type, such as `image/png`.
        media_type: String,
        /// Its bytes, in base64.
        data: String,
    },
    /// At a URL from which the provider fetches it.
    Url(String),
}

/// A model's reasoning before its answer.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Reasoning {
    /// The text, if the vendor shows it.
    pub text: String,
    /// Anthropic's signature, which proves that the text is its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Reasoning that Anthropic encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redacted: Option<String>,
    /// The candidate that wrote it, if only that candidate may get it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

impl Reasoning {
    /// Bytes of all its parts.
    pub fn bytes(&self) -> usize {
        let part = |part: &Option<String>| part.as_ref().map_or(0, String::len);
        self.text.len() + part(&self.signature) + part(&self.redacted)
    }
}

/// A call of a function.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct ToolCall {
    /// The model's id of the call.
    pub id: String,
    /// The function.
    pub name: String,
    /// The arguments, as JSON text.
    pub arguments: String,
}

/// A function that the client runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// JSON Schema of its arguments.
    pub parameters: Option<Value>,
    /// Whether the arguments must fit the schema.
    pub strict: Option<bool>,
    /// As [`Text::cache`].
    pub cache: Option<Value>,
}

/// Whether the model must call a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    Auto,
    /// It must not call one.
    None,
    /// It must call at least one.
    Required,
    /// It must call this one.
    Named(String),
}

/// The format of the answer's text.
#[derive(Clone, Debug, PartialEq)]
pub enum OutputFormat {
    /// Any JSON object.
    JsonObject,
    /// JSON that fits a schema.
    JsonSchema {
        /// The schema's name, if the request's format has one.
        name: Option<String>,
        /// What it is for.
        description: Option<String>,
        /// The JSON Schema.
        schema: Value,
        /// Whether the text must fit it.
        strict: Option<bool>,
    },
}

/// How much a model reasons before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// Not at all.
    Off,
    /// As little as possible.
    Minimal,
    /// Little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
    /// More than high.
    Xhigh,
    /// Without a limit.
    Max,
}

impl Effort {
    /// The names of the efforts, the same in all formats that name them.
    pub const NAMES: [(&'static str, Self); 7] = [
        ("none", Self::Off),
        ("minimal", Self::Minimal),
        ("low", Self::Low),
        ("medium", Self::Medium),
        ("high", Self::High),
        ("xhigh", Self::Xhigh),
        ("max", Self::Max),
    ];

    /// The effort's name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, effort)| *effort == self).map_or("medium", |(name, _)| name)
    }

    /// The effort that corresponds to a budget of reasoning tokens.
    pub fn of_budget(tokens: u64) -> Self {
        match tokens {
            0..2_048 => Self::Low,
            2_048..16_384 => Self::Medium,
            _ => Self::High,
        }
    }

    /// The budget of reasoning tokens, for models that need a number.
    pub fn budget(self) -> u64 {
        match self {
            Self::Off => 0,
            Self::Minimal | Self::Low => 1_024,
            Self::Medium => 8_192,
            Self::High | Self::Xhigh | Self::Max => 16_384,
        }
    }
}

impl Prompt {
    /// Adds a part to the last message if its role is `role`, or to a new message.
    pub(crate) fn push_part(&mut self, role: Role, part: Part) {
        match self.messages.last_mut() {
            Some(last) if last.role == role => last.parts.push(part),
            _ => self.messages.push(Message { role, parts: vec![part] }),
        }
    }

    /// Removes reasoning that is bound to another candidate than `candidate`, and messages that are then empty.
    pub(crate) fn without_foreign_thoughts(mut self, candidate: Option<&str>) -> Self {
        for message in &mut self.messages {
            message.parts.retain(|part| match part {
                Part::Reasoning(Reasoning { by: Some(by), .. }) => Some(by.as_str()) == candidate,
                _ => true,
            });
        }
        self.messages.retain(|message| !message.parts.is_empty());
        self
    }

    /// Whether any reasoning is bound to a candidate.
    pub(crate) fn has_bound_thoughts(&self) -> bool {
        let mut parts = self.messages.iter().flat_map(|message| &message.parts);
        parts.any(|part| matches!(part, Part::Reasoning(Reasoning { by: Some(_), .. })))
    }

    /// Whether the last message is the assistant's, so that the model continues it.
    pub(crate) fn continues(&self) -> bool {
        self.messages.last().is_some_and(|message| message.role == Role::Assistant)
    }

    /// Whether any message holds an image.
    pub fn has_images(&self) -> bool {
        let parts = self.messages.iter().flat_map(|message| &message.parts);
        parts.into_iter().any(|part| match part {
            Part::Image(_) => true,
            Part::Output { parts, .. } => parts.iter().any(|part| matches!(part, Part::Image(_))),
            _ => false,
        })
    }

    /// The call id of the first output without a call before it; every vendor refuses such a request.
    pub(crate) fn unmatched_output(&self) -> Option<&str> {
        let mut calls = std::collections::BTreeSet::new();
        for part in self.messages.iter().flat_map(|message| &message.parts) {
            match part {
                Part::Call(call) => drop(calls.insert(call.id.as_str())),
                Part::Output { id, .. } if !calls.contains(id.as_str()) => return Some(id),
                _ => {}
            }
        }
        None
    }
}

/// Types of images that every vendor accepts.
const IMAGE_TYPES: [&str; 4] = ["image/png", "image/jpeg", "image/gif", "image/webp"];

impl MediaSource {
    /// Reads a `data:`, `https:` or `http:` URL. The error says what is wrong or allowed.
    pub(crate) fn of_url(url: &str) -> Result<Self, String> {
        let Some(rest) = url.strip_prefix("data:") else {
            let fetchable = url.starts_with("https://") || url.starts_with("http://");
            return if fetchable {
                Ok(Self::Url(url.to_owned()))
            } else {
                Err("allowed: a URL that begins with https://, or data:TYPE;base64,…".into())
            };
        };
        let (head, data) = rest.split_once(',').ok_or("the data URL has no comma")?;
        let media_type = head.strip_suffix(";base64").ok_or("the data URL is not in base64")?;
        Self::base64(media_type, data)
    }

    /// Checks base64 data of a known media type.
    pub(crate) fn base64(media_type: &str, data: &str) -> Result<Self, String> {
        let media_type = media_type.to_ascii_lowercase();
        let known = IMAGE_TYPES.contains(&media_type.as_str())
            || media_type == "application/pdf"
            || media_type == "text/plain";
        if !known {
            let shown: String = media_type.chars().take(64).collect();
            return Err(format!(
                "the type {shown:?}; allowed: {}, application/pdf, text/plain",
                IMAGE_TYPES.join(", ")
            ));
        }
        if data.is_empty()
            || !data.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
        {
            return Err("the data is empty or not base64".into());
        }
        Ok(Self::Base64 { media_type, data: data.to_owned() })
    }

    /// The source as one URL.
    pub(crate) fn to_url(&self) -> String {
        match self {
            Self::Base64 { media_type, data } => format!("data:{media_type};base64,{data}"),
            Self::Url(url) => url.clone(),
        }
    }

    /// Whether it may be an image. The media type behind a URL is unknown.
    pub(crate) fn can_be_image(&self) -> bool {
        match self {
            Self::Base64 { media_type, .. } => media_type.starts_with("image/"),
            Self::Url(_) => true,
        }
    }
}
