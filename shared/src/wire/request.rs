//! Reads a client's request as far as routing needs, and encodes it for a provider of the same format. Translation to
//! other formats goes through [`Prompt`].

use std::{borrow::Cow, cell::OnceCell, ops::Range};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    Extras, Format, Prompt, RequestError,
    fields::shorten,
    raw::{count, non_null, parse, parse_object, parse_text, present, required, wrong_type},
};
use crate::{json::IsPresent, usage::estimate_tokens};

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
    /// Most tokens of the answer, if the client set a limit.
    pub max_output: Option<u64>,
    /// How many alternative answers are requested (`n`).
    pub choices: u64,
    body: Bytes,
    /// Bytes of the prompt that the body does not have.
    extra_prompt_bytes: usize,
    spans: EditSpans,
    prompt: OnceCell<Result<Prompt, RequestError>>,
    extras: OnceCell<Extras>,
}

/// Byte ranges of the body that [`Request::encode`] replaces.
#[derive(Clone, Debug, Default)]
struct EditSpans {
    /// Offset right after the brace that opens the body.
    start: usize,
    model: Range<usize>,
    stream_options: Option<Range<usize>>,
    store: Option<Range<usize>>,
    limit: Option<Range<usize>>,
    /// The name of the limit's field, with its quotes.
    limit_name: Option<Range<usize>>,
}

#[derive(Deserialize)]
struct RequestOutline<'a> {
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    messages: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
    #[serde(borrow, default)]
    stream: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    stream_options: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    store: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    max_tokens: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    max_completion_tokens: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    max_output_tokens: Option<&'a RawValue>,
    #[serde(default)]
    tools: IsPresent,
    #[serde(borrow, default)]
    n: Option<&'a RawValue>,
    #[serde(default)]
    background: Option<Value>,
    #[serde(default)]
    prompt: IsPresent,
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
        let text = parse_text(&body)?;
        let outline: RequestOutline<'_> = parse_object(text)?;
        let model = required(outline.model, "model")?;
        let name: Cow<'_, str> = parse(model, "model", "a string")?;
        match format {
            Format::Chat | Format::Messages | Format::TokenCount => check_messages(outline.messages)?,
            Format::Responses | Format::Embeddings => drop(required(outline.input, "input")?),
        }
        let limit = outline.limit(format)?;
        // A limit of null is replaced in place, since a second field of the same name would be a duplicate.
        let null_limit = match format {
            Format::Chat => outline.max_completion_tokens,
            Format::Responses => outline.max_output_tokens,
            Format::Messages | Format::Embeddings | Format::TokenCount => None,
        };
        let max_output = limit.map(|(name, raw)| count(raw, name)).transpose()?;
        if format == Format::Responses {
            outline.check_responses_fields()?;
        }
        let stream = match non_null(outline.stream).filter(|_| format.can_stream()) {
            Some(raw) => parse(raw, "stream", "a boolean")?,
            None => false,
        };
        // An invalid `stream_options` is left for the provider to refuse.
        let options: StreamOptions =
            outline.stream_options.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
        let at = |raw: &RawValue| {
            let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
            start..start + raw.get().len()
        };
        let limit_at = limit.map(|(_, raw)| raw).or(null_limit).map(at);
        let spans = EditSpans {
            start: text.len() - text.trim_start().len() + 1,
            model: at(model),
            stream_options: outline.stream_options.map(at),
            store: outline.store.map(at),
            limit_name: limit_at.clone().and_then(|at| name_before(text, at.start)),
            limit: limit_at,
        };
        Ok(Self {
            format,
            model: name.into_owned(),
            stream,
            wants_usage: options.include_usage.unwrap_or_default(),
            has_tools: outline.tools.0,
            max_output,
            choices: non_null(outline.n).map_or(Ok(1), |raw| count(raw, "n"))?,
            spans,
            body,
            extra_prompt_bytes: 0,
            prompt: OnceCell::new(),
            extras: OnceCell::new(),
        })
    }

    /// Estimates the tokens of the request and its answer.
    pub fn estimated_tokens(&self) -> u64 {
        estimate_tokens(self.bytes()).saturating_add(self.max_output.unwrap_or_default())
    }

    /// What the request costs beside the tokens of its bytes. The first call scans the whole body.
    pub fn extras(&self) -> &Extras {
        self.extras.get_or_init(|| Extras::of(&self.body))
    }

    /// The body as a JSON value, for the formats whose answers repeat it.
    pub(crate) fn to_json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The body as the client sent it.
    pub fn body(&self) -> &Bytes {
        &self.body
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
        self.prompt.get_or_init(|| self.format.read(&self.body)).as_ref()
    }

    /// The body for a provider of the same format: with its name for the model, its name `limit` for the field that
    /// limits the answer, and at most `cap` tokens of answer.
    ///
    /// Vendors ignore or refuse each other's names for the limit. Usage is always requested, since budgets need it, and
    /// no response is ever stored at the vendor.
    pub fn encode(&self, model: &str, limit: &str, cap: Option<u64>) -> Bytes {
        // A model's name is visible ASCII, but it may hold quotes.
        let mut edits = vec![(self.spans.model.clone(), Value::from(model).to_string())];
        if let Some(span) = &self.spans.limit_name {
            edits.push((span.clone(), format!("{limit:?}")));
        }
        let mut set = |name: &str, span: &Option<Range<usize>>, value: &str| match span {
            Some(span) => edits.push((span.clone(), value.to_owned())),
            None => edits.push((self.spans.start..self.spans.start, format!("{name:?}:{value},"))),
        };
        if self.format == Format::Chat && self.stream && !self.wants_usage {
            set("stream_options", &self.spans.stream_options, &self.with_usage());
        }
        if self.format == Format::Responses {
            set("store", &self.spans.store, "false");
        }
        if let Some(cap) = cap.filter(|_| self.format.limit_name().is_some()) {
            set(limit, &self.spans.limit, &cap.to_string());
        }
        edits.sort_by_key(|(span, _)| span.start);
        let part = |range| self.body.get::<Range<usize>>(range).unwrap_or_default();
        let mut out = Vec::with_capacity(self.body.len() + 64);
        let mut copied = 0;
        for (span, value) in edits {
            out.extend_from_slice(part(copied..span.start));
            out.extend_from_slice(value.as_bytes());
            copied = span.end;
        }
        out.extend_from_slice(part(copied..self.body.len()));
        out.into()
    }

    /// The client's `stream_options` with `include_usage` set.
    fn with_usage(&self) -> String {
        let raw = self.spans.stream_options.clone().and_then(|span| self.body.get(span));
        let mut options: Map<String, Value> =
            raw.and_then(|raw| serde_json::from_slice(raw).ok()).unwrap_or_default();
        options.insert("include_usage".into(), true.into());
        Value::Object(options).to_string()
    }
}

/// The range of the name of the field whose value begins at `value`. Only used for known names, which contain no
/// quotes.
fn name_before(text: &str, value: usize) -> Option<Range<usize>> {
    let before = text.get(..value)?.trim_end().strip_suffix(':')?.trim_end();
    let start = before.strip_suffix('"')?.rfind('"')?;
    Some(start..before.len())
}

impl<'a> RequestOutline<'a> {
    /// The name and the value of the field that limits the answer, if the client set it. Messages must have it.
    fn limit(&self, format: Format) -> Result<Option<(&'static str, &'a RawValue)>, RequestError> {
        let named = |name: &'static str, raw| non_null(raw).map(|raw| (name, raw));
        match format {
            Format::Chat => {
                let new = named("max_completion_tokens", self.max_completion_tokens);
                let old = named("max_tokens", self.max_tokens);
                if new.is_some() && old.is_some() {
                    // Vendors differ in which one they obey, and the budget must know the limit.
                    let why = "'max_completion_tokens' is set too; allowed: one of them".into();
                    return Err(RequestError::Value { param: "max_tokens".into(), why });
                }
                Ok(new.or(old))
            }
            Format::Messages => Ok(Some(("max_tokens", required(non_null(self.max_tokens), "max_tokens")?))),
            Format::Responses => Ok(named("max_output_tokens", self.max_output_tokens)),
            Format::Embeddings | Format::TokenCount => Ok(None),
        }
    }

    /// Refuses what a response that is not stored cannot have.
    ///
    /// `store`, `conversation` and `previous_response_id` are not checked: a request that is stored or continues
    /// another is a turn of a session, whose model calls are built without these fields.
    fn check_responses_fields(&self) -> Result<(), RequestError> {
        let refuse = |param: &str, why: String| Err(RequestError::Value { param: param.into(), why });
        match &self.background {
            None | Some(Value::Null | Value::Bool(false)) => {}
            Some(Value::Bool(true)) => {
                return refuse("background", "true with store false; allowed: with store true".into());
            }
            Some(other) => {
                let why = format!("{}; allowed: true, false", shorten(&other.to_string()));
                return refuse("background", why);
            }
        }
        if self.prompt.0 {
            return refuse("prompt", "there are no stored prompts here; allowed: 'instructions'".into());
        }
        Ok(())
    }
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
    use super::*;

    fn parse(text: &str) -> Result<Request, RequestError> {
        Request::parse(Format::Chat, Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn everything_but_the_model_is_passed_on_byte_for_byte() {
        let text = r#" { "future" : {"model":"x","n":1e400},"model" : "fa\u0073t", "messages":[{"role":"user","content":"é"}] , "stream":true , "stream_options" : {"include_usage":true}}"#;
        let request = parse(text).unwrap();
        assert_eq!((request.model.as_str(), request.stream), ("fast", true));
        let encoded = request.encode("a\"b", "max_completion_tokens", None);
        assert_eq!(std::str::from_utf8(&encoded).unwrap(), text.replace(r#""fa\u0073t""#, r#""a\"b""#));
    }

    #[test]
    fn encoding_requests_usage_and_sets_store_and_the_limit() {
        let check = |format, text: &str, cap, expected: &str| {
            let request = Request::parse(format, Bytes::copy_from_slice(text.as_bytes())).unwrap();
            let limit = format.limit_name().unwrap();
            assert_eq!(std::str::from_utf8(&request.encode("m", limit, cap)).unwrap(), expected);
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
            assert_eq!(std::str::from_utf8(&request.encode("m", limit, cap)).unwrap(), expected);
        };
        let messages = r#""messages":[{"role":"user"}]"#;
        let new = format!(r#"{{"model":"x","max_completion\u005ftokens" : 9,{messages}}}"#);
        let renamed = |limit: &str, most: u64| format!(r#"{{"model":"m","{limit}" : {most},{messages}}}"#);
        check(&new, "max_tokens", None, &renamed("max_tokens", 9));
        check(&new, "max_tokens", Some(5), &renamed("max_tokens", 5));
        let old = format!(r#"{{"model":"x","max_tokens" : 9,{messages}}}"#);
        check(&old, "max_completion_tokens", None, &renamed("max_completion_tokens", 9));
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
                "the body is not valid JSON: duplicate field `model` at line 1 column 20",
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
