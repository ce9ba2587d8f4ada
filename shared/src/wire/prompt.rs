//! Describes a request to a model in no vendor's format: what every format is translated to and from. The formats' own
//! modules translate.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use super::{
    RequestError,
    fields::{Fields, parsed},
    hint::Hint,
    raw::RawJson,
    tool_names::CallIds,
};
use crate::body::all_bytes;

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
    /// Fields that may be left out where the target has no place for them, each once.
    pub hints: Vec<(&'static Hint, Value)>,
    /// Tools that the vendor of the request's format runs.
    pub vendor_tools: Vec<VendorTool>,
    /// Paths of fields that only the request's own format has. A request with any of them is not translated.
    pub untranslatable: Vec<String>,
}

/// A tool that a vendor runs, such as its web search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VendorTool {
    /// Its path in the request.
    pub path: String,
    /// Its type, at Anthropic with a date: `web_search_20250305`.
    pub kind: String,
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
    /// The operator, in the middle of a conversation. What comes before it is in [`Prompt::system`].
    System,
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

impl Part {
    /// Whether it is a text of nothing but white space.
    pub(super) fn is_blank(&self) -> bool {
        match self {
            Self::Text(Text { text, .. }) | Self::Refusal(text) => text.trim().is_empty(),
            _ => false,
        }
    }
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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tool {
    /// Its name, which begins with the name of its group if it has one.
    pub name: String,
    /// How the client knows it, if not as a function of this name.
    pub client: Option<ClientTool>,
    /// What it is for.
    pub description: Option<String>,
    /// JSON Schema of its arguments.
    pub parameters: Option<RawJson>,
    /// Whether the arguments must fit the schema.
    pub strict: Option<bool>,
    /// As [`Text::cache`].
    pub cache: Option<Value>,
}

/// A tool as its client knows it, which the model gets as a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTool {
    /// Its name within its group.
    pub name: String,
    /// Its group: OpenAI's `namespace`.
    pub group: Option<String>,
    /// What it is to the client.
    pub kind: ClientToolKind,
}

/// Tools that are more than functions to the client, by the names of the functions that stand for them.
pub type ClientTools = std::collections::BTreeMap<String, ClientTool>;

/// What a tool is to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientToolKind {
    /// A function.
    Function,
    /// OpenAI's `custom` tool, which takes one text instead of arguments. The function has the text as its only
    /// argument, [`ClientTool::INPUT`].
    Custom,
    /// OpenAI's `tool_search` that the client runs: it adds tools in the middle of a conversation.
    Search,
}

impl ClientTool {
    /// The argument with a custom tool's text.
    pub const INPUT: &str = "input";

    /// The name of the function that stands for a tool of a group.
    pub(crate) fn flat_name(group: &str, name: &str) -> String {
        format!("{group}__{name}")
    }

    /// The arguments of a function that stands for a custom tool, as JSON text.
    pub(crate) fn arguments(input: &str) -> String {
        serde_json::json!({Self::INPUT: input}).to_string()
    }

    /// The text of a custom tool, from the arguments of the function that stands for it. Arguments of another form are
    /// the text themselves.
    pub(crate) fn input(arguments: &str) -> String {
        #[derive(Deserialize)]
        struct Arguments {
            input: String,
        }
        serde_json::from_str(arguments).map_or_else(|_| arguments.to_owned(), |Arguments { input }| input)
    }

    /// The description and the parameters of the function that stands for a custom tool. `format` is the grammar that
    /// its text must follow.
    pub(crate) fn function(
        description: Option<String>,
        format: Option<&Value>,
    ) -> (Option<String>, Option<RawJson>) {
        let grammar = format.and_then(|format| Some((format.get("syntax")?, format.get("definition")?)));
        let grammar = grammar.map(|(syntax, definition)| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            format!("The {} grammar of '{}':\n{}", text(syntax), Self::INPUT, text(definition))
        });
        let texts: Vec<String> = description.into_iter().chain(grammar).collect();
        let schema = serde_json::json!({
            "type": "object", "properties": {Self::INPUT: {"type": "string"}}, "required": [Self::INPUT],
            "additionalProperties": false,
        });
        ((!texts.is_empty()).then(|| texts.join("\n\n")), Some(schema.into()))
    }
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
        schema: RawJson,
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

/// The efforts that a model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Efforts(u8);

impl Efforts {
    /// No effort: the model does not reason.
    pub const NONE: Self = Self(0);

    /// Every effort.
    pub const ALL: Self = Self::between(Effort::Off, Effort::Max);

    /// The efforts from `least` to `most`.
    pub const fn between(least: Effort, most: Effort) -> Self {
        // One bit for each effort.
        Self((u8::MAX << least as u8) & (u8::MAX >> (7 - most as u8)))
    }

    /// These efforts and `other`.
    #[must_use]
    pub const fn with(self, other: Effort) -> Self {
        Self(self.0 | 1 << other as u8)
    }

    /// These efforts without those of `refused`.
    #[must_use]
    pub fn without(self, refused: Self) -> Self {
        Self(self.0 & !refused.0)
    }

    /// The least effort that is no less than the requested one, or else the greatest; `None` if there are none.
    pub fn fit(self, requested: Effort) -> Option<Effort> {
        let taken =
            || Effort::NAMES.iter().map(|(_, effort)| *effort).filter(|it| self.0 & 1 << *it as u8 != 0);
        taken().find(|effort| *effort >= requested).or_else(|| taken().next_back())
    }
}

impl Prompt {
    /// Takes note of the fields of an object that its reader has not read: of hints with their values, of others with
    /// their paths.
    pub(crate) fn leave(&mut self, fields: Fields<'_>) {
        for (path, value) in fields.rest() {
            match Hint::at(&path) {
                // What can't be read is no reason to refuse a request that can do without it.
                Some(hint) => self.note_hint(hint, parsed(value).unwrap_or_default()),
                None => self.untranslatable.push(path),
            }
        }
    }

    /// Takes note of one more hint.
    pub(crate) fn note_hint(&mut self, hint: &'static Hint, value: Value) {
        if !self.hints.iter().any(|(known, _)| *known == hint) {
            self.hints.push((hint, value));
        }
    }

    /// The tools that are more than functions to the client, by the names of their functions.
    pub fn client_tools(&self) -> ClientTools {
        let tools = self.tools.iter();
        tools.filter_map(|tool| Some((tool.name.clone(), tool.client.clone()?))).collect()
    }

    /// Reads the `cache_control` of a block or a tool.
    pub(crate) fn cache_mark(&mut self, fields: &mut Fields<'_>) -> Result<Option<Value>, RequestError> {
        let Some(mark) = fields.value("cache_control")? else { return Ok(None) };
        if let Some(hint) = Hint::at(".cache_control") {
            self.note_hint(hint, mark.clone());
        }
        Ok(Some(mark))
    }

    /// The prompt with all hints but those without a price. What is left out stays noted, so that it is reported.
    pub(crate) fn without_unpriced_hints(mut self) -> Self {
        for (hint, value) in &mut self.hints {
            if !hint.is_free(value) {
                *value = Value::Null;
            }
        }
        self
    }

    /// Adds a system text: in front of the conversation if that has not begun.
    pub(crate) fn push_system(&mut self, text: Text) {
        if self.messages.is_empty() {
            self.system.push(text);
        } else {
            self.push_part(Role::System, Part::Text(text));
        }
    }

    /// Whether a system text is in the middle of the conversation.
    pub(crate) fn has_system_messages(&self) -> bool {
        self.messages.iter().any(|message| message.role == Role::System)
    }

    /// The prompt with its system texts where Anthropic takes them: in front of the conversation, or `in_middle` at the
    /// end of a user's turn (<https://platform.claude.com/docs/en/build-with-claude/mid-conversation-system-messages>).
    /// What the model would have to answer next becomes a user's message if there is none, since the conversation must
    /// not end with the model's own.
    pub(crate) fn with_system_placed(mut self, in_middle: bool) -> Self {
        let mut texts = Vec::new();
        for Message { role, parts } in std::mem::take(&mut self.messages) {
            match role {
                Role::System => {
                    texts.extend(parts);
                    continue;
                }
                Role::User => {}
                Role::Assistant => self.place_system(&mut texts, in_middle),
            }
            parts.into_iter().filter(|part| !part.is_blank()).for_each(|part| self.push_part(role, part));
        }
        self.place_system(&mut texts, in_middle);
        self
    }

    /// Places the system texts since the last message of the assistant.
    fn place_system(&mut self, texts: &mut Vec<Part>, in_middle: bool) {
        let follows_user = self.messages.last().is_some_and(|last| last.role == Role::User);
        for part in texts.drain(..) {
            match part {
                part if !follows_user => self.push_part(Role::User, part),
                part if in_middle => self.push_part(Role::System, part),
                Part::Text(text) => self.system.push(text),
                _ => {}
            }
        }
    }

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

    /// The ids of all calls and outputs, the calls with the names of their functions.
    pub(super) fn calls(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.messages.iter().flat_map(|message| &message.parts).filter_map(|part| match part {
            Part::Call(call) => Some((call.id.as_str(), Some(call.name.as_str()))),
            Part::Output { id, .. } => Some((id.as_str(), None)),
            _ => None,
        })
    }

    /// Changes the names of all called functions and the ids of all calls.
    pub(super) fn fit_calls(&mut self, fit_name: impl Fn(&mut String), ids: &mut CallIds) {
        let mut last = Role::User;
        for message in &mut self.messages {
            if message.role == Role::Assistant && last != Role::Assistant {
                ids.begin_round();
            }
            last = message.role;
            for part in &mut message.parts {
                match part {
                    Part::Call(call) => {
                        fit_name(&mut call.name);
                        ids.fit_call(&mut call.id);
                    }
                    Part::Output { id, .. } => ids.fit_output(id),
                    _ => {}
                }
            }
        }
        if let Some(ToolChoice::Named(name)) = &mut self.tool_choice {
            fit_name(name);
        }
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
    /// The media type of plain text.
    pub(crate) const PLAIN_TEXT: &str = "text/plain";

    /// The file name of a document without one, from which OpenAI may tell its type.
    pub(crate) fn default_name(&self) -> &'static str {
        match self {
            Self::Base64 { media_type, .. } if media_type == Self::PLAIN_TEXT => "document.txt",
            Self::Base64 { .. } | Self::Url(_) => "document.pdf",
        }
    }

    /// A document of plain text.
    pub(crate) fn plain_text(text: &str) -> Self {
        Self::Base64 { media_type: Self::PLAIN_TEXT.into(), data: BASE64.encode(text) }
    }

    /// Reads a `data:`, `https:` or `http:` URL. The error says what is wrong or allowed.
    pub(crate) fn of_url(mut url: String) -> Result<Self, String> {
        let Some(rest) = url.strip_prefix("data:") else {
            let fetchable = url.starts_with("https://") || url.starts_with("http://");
            return if fetchable {
                Ok(Self::Url(url))
            } else {
                Err("allowed: a URL that begins with https://, or data:TYPE;base64,…".into())
            };
        };
        let (head, data) = rest.split_once(',').ok_or("the data URL has no comma")?;
        let media_type = head.strip_suffix(";base64").ok_or("the data URL is not in base64")?.to_owned();
        // In place, since the data may be most of the request.
        let start = url.len() - data.len();
        url.drain(..start);
        Self::base64(&media_type, url)
    }

    /// Checks base64 data of a known media type.
    pub(crate) fn base64(media_type: &str, data: String) -> Result<Self, String> {
        let mut media_type = media_type.to_ascii_lowercase();
        // Not a registered type, but cameras and browsers write it.
        if media_type == "image/jpg" {
            media_type = "image/jpeg".into();
        }
        let known = IMAGE_TYPES.contains(&media_type.as_str())
            || media_type == "application/pdf"
            || media_type == Self::PLAIN_TEXT;
        if !known {
            let shown: String = media_type.chars().take(64).collect();
            return Err(format!(
                "the type {shown:?}; allowed: {}, application/pdf, text/plain",
                IMAGE_TYPES.join(", ")
            ));
        }
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
        if data.is_empty() || !all_bytes(&data, is_base64) {
            return Err("the data is empty or not base64".into());
        }
        Ok(Self::Base64 { media_type, data })
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
