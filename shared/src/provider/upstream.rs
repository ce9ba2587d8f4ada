//! Builds the HTTP request of a call in the formats that vendors share. What differs between vendors is in their files.

use std::{borrow::Cow, collections::BTreeSet};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request,
    header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
};

use super::{Provider, Quirks, unsupported};
use crate::{
    body::Body,
    error::{ErrorClass, ProviderError},
    model::Translation,
    price::Rates,
    secret::Secret,
    wire::{self, Format, Prompt, ToolNames, Written, chat, messages, prompt::ToolChoice, responses},
};

/// A call of a model, before it is encoded.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamCall<'a> {
    /// The provider to call.
    pub provider: &'a Provider,
    /// The key to send.
    pub key: Option<&'a Secret>,
    /// The model's name at the provider.
    pub model: &'a str,
    /// The client's request.
    pub request: &'a wire::Request,
    /// The prompt that replaces the client's own, to continue an answer that broke off.
    pub prompt: Option<&'a Prompt>,
    /// Most output tokens, thoughts included, if a budget or the model's own limit is below the client's.
    pub cap: Option<u64>,
    /// The model's own limit of output tokens, if it is known.
    pub most_output: Option<u64>,
    /// The rates that a budget has reserved the call at; `None` if no budget pays for it.
    pub max_price: Option<Rates>,
    /// Whether to omit the thoughts of earlier turns.
    pub without_thoughts: bool,
    /// What may be left out of a request that the provider can't take whole.
    pub translation: &'a Translation,
    /// Whether a budget pays for the call, so that hints without a price are left out.
    pub is_priced: bool,
    /// What the candidate's server is known to refuse.
    pub quirks: &'a Quirks,
}

/// An encoded call.
#[derive(Debug)]
pub struct UpstreamRequest {
    /// The HTTP request. It holds no header of the caller's.
    pub request: Request<Body>,
    /// The format in which the provider answers.
    pub format: Format,
    /// What the call can use at most, so that its cost can be reserved.
    pub size: CallSize,
    /// The fields of the client's request that were left out.
    pub dropped: Vec<String>,
    /// The names of functions in the answer.
    pub tool_names: ToolNames,
}

/// What bounds the tokens of a call, as it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallSize {
    /// Bytes of the body. A token has at least one byte.
    pub bytes: usize,
    /// The limit of each choice's tokens; `None` if the body has none.
    pub max_output: Option<u64>,
}

/// The body of a call.
pub(super) struct EncodedBody {
    bytes: Bytes,
    max_output: Option<u64>,
    dropped: Vec<String>,
    tool_names: ToolNames,
}

impl EncodedBody {
    /// Adds a field, whose value is JSON, at the front.
    pub(super) fn with_field(self, name: &str, value: &str) -> Self {
        let Some((start, rest)) = self
            .bytes
            .iter()
            .position(|byte| *byte == b'{')
            .and_then(|at| self.bytes.split_at_checked(at + 1))
        else {
            return self;
        };
        // The comma is right: every body has the field `model`.
        let bytes = [start, format!("{name:?}:{value},").as_bytes(), rest].concat().into();
        Self { bytes, ..self }
    }
}

/// The `user-agent` of requests.
const CLIENT: &str = concat!("outlive/", env!("CARGO_PKG_VERSION"));

impl UpstreamCall<'_> {
    /// Whether the prompt ends with the beginning of the answer.
    pub(super) fn has_prefill(&self) -> bool {
        self.prompt.is_some_and(Prompt::continues)
    }

    /// The limit of the answer that the body will have, if it has one.
    pub(super) fn max_output(&self) -> Option<u64> {
        let own = self.prompt.map_or(self.request.max_output, |prompt| prompt.max_output);
        own.into_iter().chain(self.cap).min()
    }

    /// The body in one of OpenAI's formats.
    pub(super) fn body(&self, format: Format, dialect: chat::Dialect) -> Result<EncodedBody, ProviderError> {
        // Chat completions have several names for the limit, Responses only one.
        let limit = if format == Format::Responses { "max_output_tokens" } else { dialect.limit };
        if self.passes_through(format) {
            return Ok(self.pass_through(limit, &[]));
        }
        let (prompt, dropped) = self.prompt()?;
        let stream = self.request.stream;
        let written = match format {
            Format::Responses => responses::write(prompt, self.model, stream),
            _ => chat::write(prompt, dialect, self.model, stream),
        };
        Ok(self.written(written.map_err(unsupported)?, dropped))
    }

    /// The body in one of Anthropic's formats.
    pub(super) fn messages_body(
        &self,
        format: Format,
        dialect: messages::Dialect,
    ) -> Result<EncodedBody, ProviderError> {
        if self.passes_through(format) {
            // The vendor refuses to think in a round of calls that began without thoughts, as after another vendor's
            // answer.
            let omitted: &[&'static str] =
                if messages::must_not_think(self.request) { &["thinking"] } else { &[] };
            let mut body = self.pass_through("max_tokens", omitted);
            let edited = messages::adapt(&body.bytes, self.without_thoughts, dialect.system_messages);
            body.bytes = edited.map_or(body.bytes, Bytes::from);
            return Ok(body);
        }
        let (prompt, dropped) = self.prompt()?;
        let written = messages::write(prompt, dialect, self.model, self.request.stream, self.cap);
        Ok(self.written(written.map_err(unsupported)?, dropped))
    }

    /// Whether the provider takes the client's own body.
    fn passes_through(&self, format: Format) -> bool {
        self.prompt.is_none() && self.request.format == format
    }

    /// The client's own body with only the model and the limit replaced, and without fields that are not to be sent.
    fn pass_through(&self, limit: &str, omitted: &[&'static str]) -> EncodedBody {
        let mut omitted: BTreeSet<&str> = omitted.iter().copied().collect();
        omitted.extend(self.quirks.refused.iter().map(String::as_str));
        if self.is_priced {
            for name in self.request.unpriced_hints() {
                omitted.insert(name);
            }
        }
        let (bytes, dropped) = self.request.encode(self.model, limit, self.cap, &omitted);
        let max_output = self.request.max_output_within(self.cap);
        EncodedBody { bytes, max_output, dropped, tool_names: ToolNames::default() }
    }

    /// The translated body, without the fields that the candidate's server refuses. `dropped` is what the prompt was
    /// already without.
    fn written(&self, mut written: Written, dropped: Vec<String>) -> EncodedBody {
        dropped.iter().for_each(|name| written.drop(name));
        for path in &self.quirks.refused {
            written.remove(path);
        }
        let Written { body, max_output, dropped, tool_names } = written;
        let bytes = serde_json::Value::Object(body).to_string().into();
        EncodedBody { bytes, max_output, dropped, tool_names }
    }

    /// The prompt to encode, with the cap applied and without thoughts that the candidate can't verify; also the names
    /// of the tools that the operator allows to leave out.
    fn prompt(&self) -> Result<(Cow<'_, Prompt>, Vec<String>), ProviderError> {
        let prompt = match self.prompt {
            Some(prompt) => prompt,
            None => self.request.prompt().map_err(|error| ProviderError::from(error.clone()))?,
        };
        let refused = prompt.vendor_tools.iter().find(|tool| !self.translation.drops(&tool.kind));
        if let Some(field) = prompt.untranslatable.first().or(refused.map(|tool| &tool.path)) {
            let why = format!("its format can't express the field '{field}'");
            return Err(unsupported(why));
        }
        let dropped: Vec<String> = prompt.vendor_tools.iter().map(|tool| tool.kind.clone()).collect();
        let must_call = prompt.tool_choice == Some(ToolChoice::Required);
        if must_call && prompt.tools.is_empty() && !dropped.is_empty() {
            return Err(unsupported("'tool_choice' requires a call, and every tool would be left out"));
        }
        let mut prompt = Cow::Borrowed(prompt);
        if let Some(cap) = self.cap.filter(|cap| prompt.max_output.is_none_or(|most| most > *cap)) {
            prompt = Cow::Owned(Prompt { max_output: Some(cap), ..prompt.into_owned() });
        }
        if prompt.has_bound_thoughts() {
            let own = (!self.without_thoughts).then(|| format!("{}/{}", self.provider.name, self.model));
            prompt = Cow::Owned(prompt.into_owned().without_foreign_thoughts(own.as_deref()));
        }
        if self.is_priced && prompt.hints.iter().any(|(hint, value)| !hint.is_free(value)) {
            prompt = Cow::Owned(prompt.into_owned().without_unpriced_hints());
        }
        Ok((prompt, dropped))
    }

    /// A `POST` to `path` under the provider's base URL, with the key in the header that the vendor expects.
    pub(super) fn post(
        &self,
        format: Format,
        path: &str,
        body: EncodedBody,
        key_in: KeyIn,
    ) -> Result<UpstreamRequest, ProviderError> {
        let invalid_url = || ProviderError::new(ErrorClass::Server, "the provider's URL is not valid");
        let base_url = self.provider.base_url.as_ref().ok_or_else(invalid_url)?;
        let url = format!("{}{path}", base_url.to_string().trim_end_matches('/'));
        let accept = if self.request.stream { "text/event-stream" } else { "application/json" };
        let EncodedBody { dropped, tool_names, .. } = body;
        let size = CallSize { bytes: body.bytes.len(), max_output: body.max_output };
        let mut request = Request::new(Body::from(body.bytes));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.parse().map_err(|_| invalid_url())?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        // A compressor would hold a stream back until a block is full.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(USER_AGENT, HeaderValue::from_static(CLIENT));
        if let Some(key) = self.key {
            match key_in {
                KeyIn::Authorization => headers.insert(AUTHORIZATION, key.bearer()),
                KeyIn::Header(name) => headers.insert(HeaderName::from_static(name), key.plain()),
            };
        }
        Ok(UpstreamRequest { request, format, size, dropped, tool_names })
    }
}

/// The header in which a vendor expects the key.
#[derive(Clone, Copy, Debug)]
pub(super) enum KeyIn {
    /// `authorization: Bearer KEY`.
    Authorization,
    /// A header of the vendor's own, in lower case.
    Header(&'static str),
}
