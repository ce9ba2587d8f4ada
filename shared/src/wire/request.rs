//! A request as a client sent it, looked at as far as routing needs.

use std::{borrow::Cow, cell::OnceCell, ops::Range};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Extras, Format, Prompt, RequestError,
    raw::{count, non_null, parse, parse_object, parse_text, present, required, wrong_type},
};
use crate::{json::IsPresent, usage::estimate};

/// A request that is kept byte for byte: a field that is new tomorrow reaches a provider of the same format today.
#[derive(Clone, Debug)]
pub struct Request {
    /// The wire format that it is written in, and that its answer will be.
    pub format: Format,
    /// The model that the client asks for.
    pub model: String,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Whether the client wants the usage at the end of a stream. Only chat completions ask.
    pub wants_usage: bool,
    /// Whether the model may call functions.
    pub has_tools: bool,
    /// Most tokens of the answer, if the client said.
    pub max_output: Option<u64>,
    /// How many answers are asked for.
    pub choices: u64,
    body: Bytes,
    /// Bytes that only the prompt has.
    extra_prompt_bytes: usize,
    spans: EditSpans,
    prompt: OnceCell<Result<Prompt, RequestError>>,
    extras: OnceCell<Extras>,
}

/// Where the values lie that a provider gets otherwise than the client sent them.
#[derive(Clone, Debug, Default)]
struct EditSpans {
    /// Right after the brace that opens the body.
    inside: usize,
    model: Range<usize>,
    stream_options: Option<Range<usize>>,
    store: Option<Range<usize>>,
    limit: Option<Range<usize>>,
    /// What the limit is called, with its quotes.
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
    background: Option<serde_json::Value>,
    #[serde(default)]
    previous_response_id: IsPresent,
    #[serde(default)]
    conversation: IsPresent,
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
        if let (Format::Chat, Some(_), Some(_)) =
            (format, non_null(outline.max_tokens), non_null(outline.max_completion_tokens))
        {
            // Vendors differ in which one counts, and a budget must know.
            let why = "'max_completion_tokens' is there too; allowed: one of them".into();
            return Err(RequestError::Value { param: "max_tokens".into(), why });
        }
        let limit = match format {
            Format::Chat => non_null(outline.max_completion_tokens)
                .map(|raw| ("max_completion_tokens", raw))
                .or(non_null(outline.max_tokens).map(|raw| ("max_tokens", raw))),
            Format::Messages => Some(("max_tokens", required(non_null(outline.max_tokens), "max_tokens")?)),
            Format::Responses => non_null(outline.max_output_tokens).map(|raw| ("max_output_tokens", raw)),
            Format::Embeddings | Format::TokenCount => None,
        };
        // A null where our own limit would go.
        let unlimited = match format {
            Format::Chat => outline.max_completion_tokens,
            Format::Responses => outline.max_output_tokens,
            Format::Messages | Format::Embeddings | Format::TokenCount => None,
        };
        let max_output = limit.map(|(name, raw)| count(raw, name)).transpose()?;
        if format == Format::Responses {
            outline.check_stateless()?;
        }
        let stream = match non_null(outline.stream).filter(|_| format.can_stream()) {
            Some(raw) => parse(raw, "stream", "a boolean")?,
            None => false,
        };
        // A wrong `stream_options` is the provider's to refuse.
        let options: StreamOptions =
            outline.stream_options.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
        let at = |raw: &RawValue| {
            let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
            start..start + raw.get().len()
        };
        let limit_at = limit.map(|(_, raw)| raw).or(unlimited).map(at);
        let spans = EditSpans {
            inside: text.len() - text.trim_start().len() + 1,
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

    /// Tokens that it and its answer may use, roughly.
    pub fn estimated_tokens(&self) -> u64 {
        estimate(self.bytes()).saturating_add(self.max_output.unwrap_or_default())
    }

    /// What it costs beside the tokens of its bytes. Reading that takes a look at all of it.
    pub fn extras(&self) -> &Extras {
        self.extras.get_or_init(|| Extras::of(&self.body))
    }

    /// All of it, for the formats whose answers repeat it.
    pub(crate) fn to_json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// As it came.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// How large it is.
    pub fn bytes(&self) -> usize {
        self.body.len().saturating_add(self.extra_prompt_bytes)
    }

    /// The same request, with a prompt that says `unsaid` bytes more than the format has words for.
    #[must_use]
    pub fn with_prompt(self, prompt: Prompt, unsaid: usize) -> Self {
        Self { prompt: OnceCell::from(Ok(prompt)), extra_prompt_bytes: unsaid, ..self }
    }

    /// What is asked, in no vendor's words. Read when a provider of another format is first asked.
    pub fn prompt(&self) -> Result<&Prompt, &RequestError> {
        self.prompt.get_or_init(|| self.format.read(&self.body)).as_ref()
    }

    /// The body for a provider of the same format that calls the model `model` and a limit of the answer `limit`, with at most
    /// `cap` tokens of answer.
    ///
    /// Vendors ignore or refuse the names that others have for the limit. Usage is always asked for, since budgets need it, and nothing is ever stored at the vendor.
    pub fn encode(&self, model: &str, limit: &str, cap: Option<u64>) -> Bytes {
        // A model's name is visible ASCII, but it may hold quotes.
        let mut edits = vec![(self.spans.model.clone(), serde_json::Value::from(model).to_string())];
        if let Some(span) = &self.spans.limit_name {
            edits.push((span.clone(), format!("{limit:?}")));
        }
        let mut set = |name: &str, span: &Option<Range<usize>>, value: &str| match span {
            Some(span) => edits.push((span.clone(), value.to_owned())),
            None => edits.push((self.spans.inside..self.spans.inside, format!("{name:?}:{value},"))),
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
        let mut done = 0;
        for (span, value) in edits {
            out.extend_from_slice(part(done..span.start));
            out.extend_from_slice(value.as_bytes());
            done = span.end;
        }
        out.extend_from_slice(part(done..self.body.len()));
        out.into()
    }

    /// The client's `stream_options`, with usage.
    fn with_usage(&self) -> String {
        let raw = self.spans.stream_options.clone().and_then(|span| self.body.get(span));
        let mut options: serde_json::Map<String, serde_json::Value> =
            raw.and_then(|raw| serde_json::from_slice(raw).ok()).unwrap_or_default();
        options.insert("include_usage".into(), true.into());
        serde_json::Value::Object(options).to_string()
    }
}

/// Where the name of the field stands whose value begins at `value`. It holds no quote, since it is one that we know.
fn name_before(text: &str, value: usize) -> Option<Range<usize>> {
    let before = text.get(..value)?.trim_end().strip_suffix(':')?.trim_end();
    let start = before.strip_suffix('"')?.rfind('"')?;
    Some(start..before.len())
}

impl RequestOutline<'_> {
    /// Responses are not kept here yet, so what needs one that was kept is refused.
    fn check_stateless(&self) -> Result<(), RequestError> {
        let refuse =
            |param: &str, why: &str| Err(RequestError::Value { param: param.into(), why: why.into() });
        if non_null(self.store).is_some_and(|raw| raw.get() != "false") {
            return refuse("store", "responses are not stored here; allowed: false");
        }
        if self
            .background
            .as_ref()
            .is_some_and(|value| !matches!(value, serde_json::Value::Null | serde_json::Value::Bool(false)))
        {
            return refuse("background", "responses are not stored here; allowed: false");
        }
        for (param, filled) in [
            ("previous_response_id", self.previous_response_id),
            ("conversation", self.conversation),
            ("prompt", self.prompt),
        ] {
            if filled.0 {
                return refuse(param, "responses are not stored here; allowed: the whole input in 'input'");
            }
        }
        Ok(())
    }
}

fn check_messages(raw: Option<&RawValue>) -> Result<(), RequestError> {
    let raw = required(raw, "messages")?;
    let messages: Vec<&RawValue> = parse(raw, "messages", "an array of objects")?;
    if messages.is_empty() {
        return Err(RequestError::Value { param: "messages".into(), why: "it is empty".into() });
    }
    messages.iter().enumerate().try_for_each(|(at, message)| check_message(message, at))
}

fn check_message(raw: &RawValue, at: usize) -> Result<(), RequestError> {
    // Serde would also read a struct from an array.
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
    fn all_but_the_model_stays_byte_for_byte() {
        let text = r#" { "future" : {"model":"x","n":1e400},"model" : "fa\u0073t", "messages":[{"role":"user","content":"é"}] , "stream":true , "stream_options" : {"include_usage":true}}"#;
        let request = parse(text).unwrap();
        assert_eq!((request.model.as_str(), request.stream), ("fast", true));
        let sent = request.encode("a\"b", "max_completion_tokens", None);
        assert_eq!(std::str::from_utf8(&sent).unwrap(), text.replace(r#""fa\u0073t""#, r#""a\"b""#));
    }

    #[test]
    fn what_we_need_is_asked_for_too() {
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
    fn the_limit_has_the_name_that_the_vendor_knows() {
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
    fn what_is_wrong_is_named() {
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
            (r#"{"model":"m","messages":[]}"#.into(), "invalid value for 'messages': it is empty"),
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
}
