//! A request to a model in no vendor's words: what all of them can be translated to and from.

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

/// What a model is asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// What the model is told before the conversation.
    pub system: Vec<Text>,
    /// The conversation.
    pub messages: Vec<Message>,
    /// The functions that the model may call.
    pub tools: Vec<Tool>,
    /// Whether it must.
    pub tool_choice: Option<ToolChoice>,
    /// Whether it may call several at once.
    pub parallel_tool_calls: Option<bool>,
    /// Most tokens of the answer.
    pub max_output: Option<u64>,
    /// How far the choice of words may wander.
    pub temperature: Option<Number>,
    /// The share of likely words that are looked at.
    pub top_p: Option<Number>,
    /// Texts at which the answer ends.
    pub stop: Vec<String>,
    /// The shape that the answer's text must have.
    pub format: Option<OutputFormat>,
    /// How long to think.
    pub effort: Option<Effort>,
    /// Whose request it is, as far as the provider may know.
    pub user: Option<String>,
    /// Fields that only the format they came in has a word for. A provider that speaks another can't be asked.
    pub untranslatable: Vec<String>,
}

/// A piece of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// The vendor may cache the prompt up to here, as Anthropic's `cache_control` asks.
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
    /// Who speaks.
    pub role: Role,
    /// What is said, in order.
    pub parts: Vec<Part>,
}

/// Who speaks. Results of tools come in the user's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The client.
    User,
    /// The model.
    Assistant,
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Words.
    Text(Text),
    /// The model's words when it declined.
    Refusal(String),
    /// An image.
    Image(MediaSource),
    /// A document, as a rule a PDF.
    Document {
        /// Where it is.
        source: MediaSource,
        /// Its file name or title.
        name: Option<String>,
    },
    /// What the model thought. Bound to the vendor that wrote it.
    Reasoning(Reasoning),
    /// The model calls a function.
    Call(ToolCall),
    /// What a function answered.
    Output {
        /// The call that it answers.
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
    /// Here.
    Base64 {
        /// Its media type, such as `image/png`.
        media_type: String,
        /// Its bytes, in base64.
        data: String,
    },
    /// Where the provider can fetch it.
    Url(String),
}

/// What a model thought before it spoke.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Reasoning {
    /// The words, where the vendor shows them.
    pub text: String,
    /// Anthropic's proof that the words are its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Anthropic's thoughts that nobody may read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redacted: Option<String>,
    /// The candidate that thought it, if it is bound to that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

impl Reasoning {
    /// How large it is.
    pub fn bytes(&self) -> usize {
        let part = |part: &Option<String>| part.as_ref().map_or(0, String::len);
        self.text.len() + part(&self.signature) + part(&self.redacted)
    }
}

/// A call of a function.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct ToolCall {
    /// The model's name for this call.
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
    /// As it likes.
    Auto,
    /// It must not.
    None,
    /// It must, any.
    Required,
    /// It must call this one.
    Named(String),
}

/// The shape of the answer's text.
#[derive(Clone, Debug, PartialEq)]
pub enum OutputFormat {
    /// Some JSON object.
    JsonObject,
    /// JSON of this schema.
    JsonSchema {
        /// The schema's name, where the format has one.
        name: Option<String>,
        /// What it is for.
        description: Option<String>,
        /// The JSON Schema.
        schema: Value,
        /// Whether the text must fit it.
        strict: Option<bool>,
    },
}

/// How long to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// Not at all.
    Off,
    /// Hardly.
    Minimal,
    /// Little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
    /// More.
    Xhigh,
    /// As long as it takes.
    Max,
}

impl Effort {
    /// The words of the formats that have words for it.
    pub const NAMES: [(&'static str, Self); 7] = [
        ("none", Self::Off),
        ("minimal", Self::Minimal),
        ("low", Self::Low),
        ("medium", Self::Medium),
        ("high", Self::High),
        ("xhigh", Self::Xhigh),
        ("max", Self::Max),
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, effort)| *effort == self).map_or("medium", |(name, _)| name)
    }

    /// The effort that a budget of so many tokens for thinking stands for.
    pub fn of_budget(tokens: u64) -> Self {
        match tokens {
            0..2_048 => Self::Low,
            2_048..16_384 => Self::Medium,
            _ => Self::High,
        }
    }

    /// Tokens for thinking, for models that want a number.
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
    /// Adds to the last message if it is of `role`, else begins a new one.
    pub(crate) fn push_part(&mut self, role: Role, part: Part) {
        match self.messages.last_mut() {
            Some(last) if last.role == role => last.parts.push(part),
            _ => self.messages.push(Message { role, parts: vec![part] }),
        }
    }

    /// Leaves out the thoughts that `candidate` did not think.
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

    /// Whether it holds thoughts that are bound to a candidate.
    pub(crate) fn has_bound_thoughts(&self) -> bool {
        let mut parts = self.messages.iter().flat_map(|message| &message.parts);
        parts.any(|part| matches!(part, Part::Reasoning(Reasoning { by: Some(_), .. })))
    }

    /// Whether the last message is the assistant's, so that the model is to write on.
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

    /// Every result needs a call before it, since every vendor refuses one without.
    ///
    /// Names the first result that has none.
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

/// Types of images that every vendor takes.
const IMAGE_TYPES: [&str; 4] = ["image/png", "image/jpeg", "image/gif", "image/webp"];

impl MediaSource {
    /// Reads a `data:` or an `https:` URL; says what is allowed of another.
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

    /// Bytes of a known type.
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
            return Err("the data is not base64".into());
        }
        Ok(Self::Base64 { media_type, data: data.to_owned() })
    }

    /// As one URL.
    pub(crate) fn to_url(&self) -> String {
        match self {
            Self::Base64 { media_type, data } => format!("data:{media_type};base64,{data}"),
            Self::Url(url) => url.clone(),
        }
    }

    /// Whether it is bytes of an image's type, or may be.
    pub(crate) fn can_be_image(&self) -> bool {
        match self {
            Self::Base64 { media_type, .. } => media_type.starts_with("image/"),
            Self::Url(_) => true,
        }
    }
}
