//! Reads a client's request as far as routing needs, and encodes it for a provider of the same format. Translation to
//! other formats goes through [`Prompt`].

use std::{borrow::Cow, cell::OnceCell, collections::BTreeSet, hash::Hasher, ops::Range};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    Extras, Format, Pace, Prompt, RequestError,
    fields::shorten,
    pace::at_once,
    prefix,
    prompt::ClientTools,
    raw::{RawField, RawFields, count, non_null, parse, parse_object, parse_text, required, wrong_type},
};
use crate::{
    body::BodyBuilder,
    json::{IsPresent, LossyStr},
    usage::estimate_tokens,
};

/// A request whose body is kept byte for byte, so that a field unknown to this code still reaches a provider of the
/// same format.
#[derive(Clone, Debug)]
pub struct Request {
    /// The wire format of the request and of its answer.
    pub format: Format,
    /// The model that the client requests.
    pub model: String,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Whether a stream ends with the usage. Only chat completions have a field for it.
    pub wants_usage: bool,
    /// Whether the model may call functions.
    pub has_tools: bool,
    /// Whether sequences in the answer end it. Only known of messages.
    pub has_stops: bool,
    /// Most tokens of the answer, if the client set a limit.
    pub max_output: Option<u64>,
    /// How many alternative answers are requested (`n`).
    pub choices: u64,
    /// Names of features that the client turns on by Anthropic's header `anthropic-beta`.
    pub betas: Vec<String>,
    /// Whether the client asks the model to think, or not to; `None` if it leaves that to the model.
    pub thinks: Option<bool>,
    body: Bytes,
    /// Bytes of the prompt that the body does not have.
    extra_prompt_bytes: usize,
    /// Every field of the body, in their order.
    fields: Vec<FieldSpan>,
    prompt: OnceCell<Result<Prompt, RequestError>>,
    extras: OnceCell<Extras>,
}

/// Where a field of the body is.
#[derive(Clone, Debug)]
struct FieldSpan {
    role: FieldRole,
    /// The name with its quotes.
    name: Range<usize>,
    value: Range<usize>,
}

/// What [`Request::encode`] does with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldRole {
    /// Replaces it by the candidate's name for the model.
    Model,
    /// Adds the request for usage to it.
    StreamOptions,
    /// Sets it to false.
    Store,
    /// Replaces it by the one limit of the answer, or leaves it out.
    Limit,
    /// Passes it on as it came.
    Other,
}

/// Every name by which a server known to us limits the tokens of an answer. `best_of` multiplies them instead: the
/// server writes several answers and returns the best. Of all of them a provider gets one, so that it can't obey
/// another limit than the one that was reserved.
pub(super) const LIMITS: [&str; 10] = [
    "max_completion_tokens",
    "max_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "max_tokens_to_sample",
    "max_gen_len",
    "maxOutputTokens",
    "n_predict",
    "num_predict",
    BEST_OF,
];

const BEST_OF: &str = "best_of";

impl FieldRole {
    fn of(name: &str, format: Format) -> Self {
        match name {
            "model" => Self::Model,
            "stream_options" if format == Format::Chat => Self::StreamOptions,
            "store" if format == Format::Responses => Self::Store,
            _ if LIMITS.contains(&name) => Self::Limit,
            _ => Self::Other,
        }
    }
}

#[derive(Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct MessageOutline<'a> {
    #[serde(borrow, default)]
    role: Option<&'a RawValue>,
}

impl Request {
    /// Reads a request's body.
    pub fn parse(format: Format, body: Bytes) -> Result<Self, RequestError> {
        at_once(Self::read(format, body))
    }

    /// As [`parse`](Self::parse), in pieces.
    pub(crate) async fn read(format: Format, body: Bytes) -> Result<Self, RequestError> {
        let mut pace = Pace::default();
        // Each pass over a body of 32 MiB takes long enough.
        pace.advance(body.len()).await;
        let text = parse_text(&body)?;
        pace.advance(text.len()).await;
        let fields: RawFields<'_> = parse_object(text)?;
        pace.advance(text.len()).await;
        check_names(&fields)?;
        let model = required(fields.get("model"), "model")?;
        let name: Cow<'_, str> = parse(model, "model", "a string")?;
        match format {
            Format::Chat | Format::Messages | Format::TokenCount => check_messages(fields.get("messages"))?,
            Format::Responses | Format::Embeddings => drop(required(fields.get("input"), "input")?),
        }
        if format == Format::Responses {
            check_responses_fields(&fields)?;
        }
        let stream = match non_null(fields.get("stream")).filter(|_| format.can_stream()) {
            Some(raw) => parse(raw, "stream", "a boolean")?,
            None => false,
        };
        // An invalid `stream_options` is left for the provider to refuse.
        let options: StreamOptions = fields
            .get("stream_options")
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or_default();
        let at = |raw: &RawValue| {
            let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
            start..start + raw.get().len()
        };
        let span = |field: &RawField<'_>| FieldSpan {
            role: FieldRole::of(&field.name(), format),
            name: at(field.raw_name),
            value: at(field.value),
        };
        Ok(Self {
            format,
            model: name.into_owned(),
            stream,
            wants_usage: options.include_usage.unwrap_or_default(),
            has_tools: is_present(&fields, "tools"),
            has_stops: format == Format::Messages && is_present(&fields, "stop_sequences"),
            max_output: max_output(&fields, format)?,
            choices: non_null(fields.get("n")).map_or(Ok(1), |raw| count(raw, "n"))?,
            thinks: thinks(&fields),
            fields: fields.0.iter().map(span).collect(),
            betas: Vec::new(),
            body,
            extra_prompt_bytes: 0,
            prompt: OnceCell::new(),
            extras: OnceCell::new(),
        })
    }

    /// The request with the features that its headers turn on.
    #[must_use]
    pub(crate) fn with_betas(self, betas: Vec<String>) -> Self {
        Self { betas, ..self }
    }

    /// Estimates the tokens of the request and its answer.
    pub fn estimated_tokens(&self) -> u64 {
        estimate_tokens(self.bytes()).saturating_add(self.max_output.unwrap_or_default())
    }

    /// What the request costs beside the tokens of its bytes. The first call scans the whole body.
    pub fn extras(&self) -> &Extras {
        self.extras.get_or_init(|| at_once(Extras::of(&self.body)))
    }

    /// As [`extras`](Self::extras), in pieces.
    pub(crate) async fn find_extras(&self) -> &Extras {
        if self.extras.get().is_none() {
            // Ignored if another attempt has found them meanwhile.
            let _ = self.extras.set(Extras::of(&self.body).await);
        }
        self.extras()
    }

    /// The fields of the body that an answer of OpenAI's responses repeats: all but `input`.
    pub(crate) fn settings(&self) -> Value {
        let settings = self.fields.iter().filter_map(|field| {
            let name = self.field_name(field).filter(|name| name != "input")?;
            Some((name, serde_json::from_slice(self.body.get(field.value.clone())?).ok()?))
        });
        Value::Object(settings.collect())
    }

    /// Digests the beginning of the prompt, by which a vendor finds it in its cache. The requests of one session have
    /// one digest.
    pub fn digest_prefix(&self, hasher: &mut impl Hasher) {
        let text = |range: &Range<usize>| std::str::from_utf8(self.body.get(range.clone())?).ok();
        let is_named = |field: &FieldSpan, name: &str| {
            text(&field.name).is_some_and(|quoted| quoted.trim_matches('"') == name)
        };
        let field = |name: &str| text(&self.fields.iter().find(|field| is_named(field, name))?.value);
        prefix::digest(field, hasher);
    }

    /// The body as the client sent it.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The value of a top-level field, as the client sent it.
    pub(super) fn raw_field(&self, name: &str) -> Option<&[u8]> {
        let is_named = |field: &&FieldSpan| self.field_name(field).is_some_and(|found| found == name);
        self.body.get(self.fields.iter().find(is_named)?.value.clone())
    }

    /// Bytes of the body and of what only the prompt has.
    pub fn bytes(&self) -> usize {
        self.body.len().saturating_add(self.extra_prompt_bytes)
    }

    /// Replaces the prompt by one with `extra_bytes` bytes more than the body, for content that the format cannot
    /// express.
    #[must_use]
    pub fn with_prompt(self, prompt: Prompt, extra_bytes: usize) -> Self {
        Self { prompt: OnceCell::from(Ok(prompt)), extra_prompt_bytes: extra_bytes, ..self }
    }

    /// The request translated into no vendor's format. Done at the first call, so that a request that is passed on as
    /// it came is not parsed as a whole.
    pub fn prompt(&self) -> Result<&Prompt, &RequestError> {
        self.prompt.get_or_init(|| at_once(self.format.read(&self.body))).as_ref()
    }

    /// As [`prompt`](Self::prompt), in pieces.
    pub(crate) async fn translate(&self) -> Result<&Prompt, &RequestError> {
        if self.prompt.get().is_none() {
            // Ignored if another attempt has translated it meanwhile.
            let _ = self.prompt.set(self.format.read(&self.body).await);
        }
        self.prompt()
    }

    /// The tools that are more than functions to the client; none before the request was translated.
    pub(crate) fn client_tools(&self) -> ClientTools {
        let translated = self.prompt.get().and_then(|prompt| prompt.as_ref().ok());
        translated.map(Prompt::client_tools).unwrap_or_default()
    }

    /// The limit of the answer that is sent: the client's, at most `cap`. `None` if there is neither, or if the format
    /// has no limit.
    pub(crate) fn max_output_within(&self, cap: Option<u64>) -> Option<u64> {
        cap.into_iter().chain(self.max_output).min().filter(|_| self.format.has_limit())
    }

    /// The names of the hints without a price, which are not sent under a budget.
    pub(crate) fn unpriced_hints(&self) -> impl Iterator<Item = &'static str> {
        self.extras().unpriced_hints.iter().copied()
    }

    /// The body for a provider of the same format: with its name for the model, its name `limit` for the field that
    /// limits the answer, at most `cap` tokens of answer, without the fields of the names `omitted`, and with one more
    /// `field` whose value is JSON. Also returns which of the omitted ones the client had sent.
    ///
    /// Vendors ignore or refuse each other's names for the limit. Usage is always requested, since budgets need it, and
    /// no response is ever stored at the vendor.
    pub fn encode(
        &self,
        model: &str,
        limit: &str,
        cap: Option<u64>,
        omitted: &BTreeSet<&str>,
        field: Option<(&str, String)>,
    ) -> (BodyBuilder, Vec<String>) {
        let mut dropped = Vec::new();
        let has = |role| self.fields.iter().any(|field| field.role == role);
        let usage = self.format == Format::Chat
            && self.stream
            && !self.wants_usage
            && !omitted.contains("stream_options");
        let mut max_output = self.max_output_within(cap);
        let start = self.fields.first().map_or(0, |field| field.name.start);
        let mut out = BodyBuilder::with_capacity(self.body.len() + 64);
        out.add(&self.body, 0..start);
        // The comma is right: the field `model` always follows.
        let mut add =
            |name: &str, value: &str| out.text.extend_from_slice(format!("{name:?}:{value},").as_bytes());
        if let Some((name, value)) = &field {
            add(name, value);
        }
        if usage && !has(FieldRole::StreamOptions) {
            add("stream_options", &self.with_usage(None));
        }
        if self.format == Format::Responses && !has(FieldRole::Store) && !omitted.contains("store") {
            add("store", "false");
        }
        if let Some(most) = max_output.filter(|_| !has(FieldRole::Limit)) {
            add(limit, &most.to_string());
        }
        let (mut end, mut is_first) = (start, true);
        for field in &self.fields {
            let FieldSpan { role, name, value } = field;
            let separator = end..name.start;
            end = value.end;
            let (mut new_name, mut new_value) = (None, None);
            if let Some(omitted) = self.omitted_name(field, omitted) {
                dropped.push(omitted);
                continue;
            }
            match role {
                FieldRole::Model => new_value = Some(Value::from(model).to_string()),
                FieldRole::StreamOptions if usage => new_value = Some(self.with_usage(Some(value.clone()))),
                FieldRole::Store => new_value = Some("false".to_owned()),
                FieldRole::Limit => match max_output.take() {
                    Some(most) => {
                        (new_name, new_value) = (Some(format!("{limit:?}")), Some(most.to_string()))
                    }
                    None => continue,
                },
                FieldRole::StreamOptions | FieldRole::Other => {}
            }
            if !std::mem::take(&mut is_first) {
                out.add(&self.body, separator);
            }
            for (new, old) in
                [(new_name, name.clone()), (None, name.end..value.start), (new_value, value.clone())]
            {
                match new {
                    Some(new) => out.text.extend_from_slice(new.as_bytes()),
                    None => out.add(&self.body, old),
                }
            }
        }
        out.add(&self.body, end..self.body.len());
        (out, dropped)
    }

    /// The name of a field if it is one of `omitted` and may be left out.
    fn omitted_name(&self, field: &FieldSpan, omitted: &BTreeSet<&str>) -> Option<String> {
        let is_needed = matches!(field.role, FieldRole::Model | FieldRole::Limit);
        if omitted.is_empty() || is_needed {
            return None;
        }
        self.field_name(field).filter(|name| omitted.contains(name.as_str()))
    }

    /// The name of a field without quotes and escapes.
    fn field_name(&self, field: &FieldSpan) -> Option<String> {
        serde_json::from_slice(self.body.get(field.name.clone())?).ok()
    }

    /// The client's `stream_options`, which are at `value`, with `include_usage` set.
    fn with_usage(&self, value: Option<Range<usize>>) -> String {
        let raw = value.and_then(|value| self.body.get(value));
        let mut options: Map<String, Value> =
            raw.and_then(|raw| serde_json::from_slice(raw).ok()).unwrap_or_default();
        options.insert("include_usage".into(), true.into());
        Value::Object(options).to_string()
    }
}

/// Refuses a body with two fields of one name: parsers differ in which one they take, so a provider might obey another
/// value than the one that was read here.
fn check_names(fields: &RawFields<'_>) -> Result<(), RequestError> {
    let mut seen = BTreeSet::new();
    match fields.0.iter().map(RawField::name).find(|name| !seen.insert(name.clone())) {
        Some(name) => {
            Err(RequestError::Value { param: shorten(&name), why: "it is there twice; allowed: once".into() })
        }
        None => Ok(()),
    }
}

/// Whether a field has a value that is not empty.
fn is_present(fields: &RawFields<'_>, name: &str) -> bool {
    fields.get(name).is_some_and(|raw| serde_json::from_str(raw.get()).is_ok_and(|IsPresent(is)| is))
}

/// Whether the client asks the model to think, in any format's words; `None` if it says nothing about it. The provider
/// checks the values.
fn thinks(fields: &RawFields<'_>) -> Option<bool> {
    #[derive(Default, Deserialize)]
    struct Settings<'a> {
        #[serde(borrow, default)]
        effort: LossyStr<'a>,
        #[serde(borrow, default, rename = "type")]
        kind: LossyStr<'a>,
    }
    let effort =
        |raw: &RawValue| serde_json::from_str::<LossyStr<'_>>(raw.get()).unwrap_or_default().0.into_owned();
    let settings = |raw: &RawValue| {
        let Settings { effort, kind } = serde_json::from_str(raw.get()).unwrap_or_default();
        [effort.0.into_owned(), kind.0.into_owned()]
    };
    let mut words: Vec<String> = fields.get("reasoning_effort").map(effort).into_iter().collect();
    words
        .extend(["reasoning", "thinking"].into_iter().filter_map(|name| fields.get(name)).flat_map(settings));
    words.retain(|word| !word.is_empty());
    (!words.is_empty()).then(|| words.iter().any(|word| !matches!(word.as_str(), "none" | "disabled")))
}

/// Most tokens of the answer, if the client set a limit. Messages must have one.
///
/// A name that the format does not have counts too, unless one that it has is set: servers that know it would obey it.
fn max_output(fields: &RawFields<'_>, format: Format) -> Result<Option<u64>, RequestError> {
    let named = |name: &'static str| non_null(fields.get(name)).map(|raw| (name, raw));
    let own = match format {
        Format::Chat => {
            let (new, old) = (named("max_completion_tokens"), named("max_tokens"));
            if new.is_some() && old.is_some() {
                // Vendors differ in which one they obey, and the client means one of them.
                let why = "'max_completion_tokens' is set too; allowed: one of them".into();
                return Err(RequestError::Value { param: "max_tokens".into(), why });
            }
            new.or(old)
        }
        Format::Messages => Some(("max_tokens", required(non_null(fields.get("max_tokens")), "max_tokens")?)),
        Format::Responses => named("max_output_tokens"),
        Format::Embeddings | Format::TokenCount => return Ok(None),
    };
    if let Some((name, raw)) = own {
        return count(raw, name).map(Some);
    }
    let others = LIMITS.iter().filter(|name| **name != BEST_OF);
    // Some servers take -1 or 0 for "no limit".
    Ok(others.filter_map(|name| count(fields.get(name)?, name).ok()).min())
}

/// Refuses what a response that is not stored cannot have.
///
/// `store`, `conversation` and `previous_response_id` are not checked: a request that is stored or continues another is
/// a turn of a session, whose model calls are built without these fields.
fn check_responses_fields(fields: &RawFields<'_>) -> Result<(), RequestError> {
    let refuse = |param: &str, why: String| Err(RequestError::Value { param: param.into(), why });
    match fields.get("background").map(RawValue::get) {
        None | Some("null" | "false") => {}
        Some("true") => {
            return refuse("background", "true with store false; allowed: with store true".into());
        }
        Some(other) => return refuse("background", format!("{}; allowed: true, false", shorten(other))),
    }
    if is_present(fields, "prompt") {
        return refuse("prompt", "there are no stored prompts here; allowed: 'instructions'".into());
    }
    Ok(())
}

fn check_messages(raw: Option<&RawValue>) -> Result<(), RequestError> {
    let raw = required(raw, "messages")?;
    let messages: Vec<&RawValue> = parse(raw, "messages", "an array of objects")?;
    if messages.is_empty() {
        return Err(RequestError::Value {
            param: "messages".into(),
            why: "it is empty; allowed: at least one message".into(),
        });
    }
    messages.iter().enumerate().try_for_each(|(at, message)| check_message(message, at))
}

fn check_message(raw: &RawValue, at: usize) -> Result<(), RequestError> {
    // Serde would also deserialize the struct from an array.
    let message: Option<MessageOutline<'_>> =
        raw.get().starts_with('{').then(|| serde_json::from_str(raw.get()).ok()).flatten();
    let Some(message) = message else {
        return Err(wrong_type(raw, format!("messages[{at}]"), "an object"));
    };
    match message.role {
        Some(role) if role.get().starts_with('"') => Ok(()),
        Some(role) => Err(wrong_type(role, format!("messages[{at}].role"), "a string")),
        None => Err(RequestError::Missing(format!("messages[{at}].role"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Request, RequestError> {
        Request::parse(Format::Chat, Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn everything_but_the_model_is_passed_on_byte_for_byte() {
        let text = r#" { "future" : {"model":"x","n":1e400},"model" : "fa\u0073t", "messages":[{"role":"user","content":"é"}] , "stream":true , "stream_options" : {"include_usage":true}}"#;
        let request = parse(text).unwrap();
        assert_eq!((request.model.as_str(), request.stream), ("fast", true));
        let encoded = request
            .encode("a\"b", "max_completion_tokens", None, &BTreeSet::new(), None)
            .0
            .build()
            .into_bytes()
            .unwrap();
        assert_eq!(std::str::from_utf8(&encoded).unwrap(), text.replace(r#""fa\u0073t""#, r#""a\"b""#));
    }

    #[test]
    fn a_request_says_in_its_formats_words_whether_the_model_thinks() {
        let check = |field: &str, expected| {
            let text = format!(r#"{{"model":"m","messages":[{{"role":"user"}}]{field}}}"#);
            assert_eq!(parse(&text).unwrap().thinks, expected, "{field}");
        };
        check("", None);
        check(r#","reasoning_effort":null"#, None);
        check(r#","reasoning":{"summary":"auto"}"#, None);
        check(r#","reasoning_effort":"minimal""#, Some(true));
        check(r#","reasoning":{"effort":"high"}"#, Some(true));
        check(r#","thinking":{"type":"adaptive","display":"omitted"}"#, Some(true));
        check(r#","reasoning_effort":"none""#, Some(false));
        check(r#","reasoning":{"effort":"none"}"#, Some(false));
        check(r#","thinking":{"type":"disabled"}"#, Some(false));
        check(r#","thinking":7"#, None);
    }

    #[test]
    fn encoding_requests_usage_and_sets_store_and_the_limit() {
        let check = |format, text: &str, cap, expected: &str| {
            let request = Request::parse(format, Bytes::copy_from_slice(text.as_bytes())).unwrap();
            let limit = match format {
                Format::Chat => "max_completion_tokens",
                Format::Responses => "max_output_tokens",
                _ => "max_tokens",
            };
            assert_eq!(
                std::str::from_utf8(
                    &request.encode("m", limit, cap, &BTreeSet::new(), None).0.build().into_bytes().unwrap()
                )
                .unwrap(),
                expected
            );
        };
        let messages = r#""messages":[{"role":"user"}]"#;
        check(
            Format::Chat,
            &format!(r#" {{"model":"x",{messages},"stream":true}}"#),
            None,
            &format!(
                r#" {{"stream_options":{{"include_usage":true}},"model":"m",{messages},"stream":true}}"#
            ),
        );
        check(
            Format::Chat,
            &format!(
                r#"{{"stream":true,"stream_options":{{"a":1,"include_usage":false}},"model":"x",{messages}}}"#
            ),
            Some(5),
            &format!(
                r#"{{"max_completion_tokens":5,"stream":true,"stream_options":{{"a":1,"include_usage":true}},"model":"m",{messages}}}"#
            ),
        );
        check(
            Format::Responses,
            r#"{"model":"x","store":false,"max_output_tokens":null,"input":"hi"}"#,
            Some(5),
            r#"{"model":"m","store":false,"max_output_tokens":5,"input":"hi"}"#,
        );
        check(
            Format::Messages,
            &format!(r#"{{"max_tokens":9,"model":"x",{messages}}}"#),
            Some(5),
            &format!(r#"{{"max_tokens":5,"model":"m",{messages}}}"#),
        );
        check(
            Format::Chat,
            &format!(
                r#"{{"max_tokens":5 , "max_completion_tokens":null,"model":"x",{messages},"best_of":20 }}"#
            ),
            None,
            &format!(r#"{{"max_completion_tokens":5,"model":"m",{messages} }}"#),
        );
        check(
            Format::Responses,
            r#"{"model":"x","store":null,"input":"hi"}"#,
            None,
            r#"{"model":"m","store":false,"input":"hi"}"#,
        );
    }

    #[test]
    fn the_limit_gets_the_name_that_the_vendor_knows() {
        let check = |text: &str, limit, cap, expected: &str| {
            let request = parse(text).unwrap();
            assert_eq!(
                std::str::from_utf8(
                    &request.encode("m", limit, cap, &BTreeSet::new(), None).0.build().into_bytes().unwrap()
                )
                .unwrap(),
                expected
            );
        };
        let messages = r#""messages":[{"role":"user"}]"#;
        let new = format!(r#"{{"model":"x","max_completion\u005ftokens" : 9,{messages}}}"#);
        let renamed = |limit: &str, most: u64| format!(r#"{{"model":"m","{limit}" : {most},{messages}}}"#);
        check(&new, "max_tokens", None, &renamed("max_tokens", 9));
        check(&new, "max_tokens", Some(5), &renamed("max_tokens", 5));
        let old = format!(r#"{{"model":"x","max_tokens" : 9,{messages}}}"#);
        check(&old, "max_completion_tokens", None, &renamed("max_completion_tokens", 9));
    }

    proptest! {
        /// Whatever limits a body has, under every name, the provider gets one: the one that is reserved.
        #[test]
        fn a_provider_sees_only_the_limit_that_is_reserved(
            limits in prop::collection::vec((0..LIMITS.len(), 0_usize..6, any::<bool>()), 0..5),
            cap in prop::option::of(1_u64..50),
            place in 0_usize..6,
        ) {
            let values = ["null", "7", "30", "0", "-1", "\"many\""];
            let mut fields: Vec<String> = limits.iter().map(|(name, value, escaped)| {
                let name = LIMITS[*name];
                let name = if *escaped { format!("\\u{:04x}{}", name.as_bytes()[0], &name[1..]) } else { name.into() };
                format!("\"{name}\" :{}", values[*value])
            }).collect();
            fields.insert(place.min(fields.len()), r#""model":"x", "messages":[{"role":"user"}]"#.into());
            let Ok(request) = parse(&format!("{{ {} }}", fields.join(" , "))) else { return Ok(()) };
            let reserved = cap.into_iter().chain(request.max_output).min();
            let body = request.encode("m", "max_tokens", cap, &BTreeSet::new(), None).0.build().into_bytes().unwrap();
            let text = std::str::from_utf8(&body).unwrap();
            let sent: RawFields<'_> = parse_object(text).unwrap();
            let limits: Vec<_> = sent.0.iter().filter(|field| LIMITS.contains(&field.name().as_ref())).collect();
            let seen: Vec<_> = limits.iter().map(|limit| (limit.name(), limit.value.get().to_owned())).collect();
            let expected: Vec<_> = reserved.iter().map(|most| ("max_tokens".into(), most.to_string())).collect();
            prop_assert_eq!(seen, expected, "{}", text);
        }
    }

    #[test]
    fn errors_name_the_field() {
        let messages = r#""messages":[{"role":"user"}]"#;
        for (text, expected) in [
            ("{".to_owned(), "the body is not valid JSON: EOF while parsing an object at line 1 column 1"),
            ("[]".into(), "invalid type for 'body': expected an object, but got an array"),
            (format!("{{{messages}}}"), "missing required parameter: 'model'"),
            (
                format!(r#"{{"model":7,{messages}}}"#),
                "invalid type for 'model': expected a string, but got a number",
            ),
            (r#"{"model":"m"}"#.into(), "missing required parameter: 'messages'"),
            (
                r#"{"model":"m","messages":"x"}"#.into(),
                "invalid type for 'messages': expected an array of objects, but got a string",
            ),
            (
                r#"{"model":"m","messages":[]}"#.into(),
                "invalid value for 'messages': it is empty; allowed: at least one message",
            ),
            (
                r#"{"model":"m","messages":[[]]}"#.into(),
                "invalid type for 'messages[0]': expected an object, but got an array",
            ),
            (r#"{"model":"m","messages":[{}]}"#.into(), "missing required parameter: 'messages[0].role'"),
            (
                format!(r#"{{"model":"m",{messages},"stream":"yes"}}"#),
                "invalid type for 'stream': expected a boolean, but got a string",
            ),
            (
                format!(r#"{{"model":"m","model":"n",{messages}}}"#),
                "invalid value for 'model': it is there twice; allowed: once",
            ),
            (
                format!(r#"{{"model":"m",{messages},"x":1,"\u0078":2}}"#),
                "invalid value for 'x': it is there twice; allowed: once",
            ),
            (
                format!("{}{}", "[".repeat(20_000), "]".repeat(20_000)),
                "the body nests deeper than 112 levels",
            ),
        ] {
            assert_eq!(parse(&text).unwrap_err().to_string(), expected, "{}", &text[..text.len().min(80)]);
        }
    }

    #[test]
    fn a_response_that_is_not_stored_has_no_background_and_no_stored_prompt() {
        for (field, expected) in [
            (r#""background":true"#, Some("'background': true with store false; allowed: with store true")),
            (r#""background":"yes""#, Some("'background': \"yes\"; allowed: true, false")),
            (r#""background":false"#, None),
            (r#""background":null"#, None),
            (
                r#""prompt":{"id":"p"}"#,
                Some("'prompt': there are no stored prompts here; allowed: 'instructions'"),
            ),
            (r#""prompt":null"#, None),
        ] {
            let body = format!(r#"{{"model":"m","input":"hi","store":false,{field}}}"#);
            let error = Request::parse(Format::Responses, body.into()).err().map(|error| error.to_string());
            assert_eq!(error, expected.map(|why| format!("invalid value for {why}")), "{field}");
        }
    }
}
