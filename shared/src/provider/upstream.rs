//! Builds the HTTP request of a call in the formats that vendors share. What differs between vendors is in their files.

use std::borrow::Cow;

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request,
    header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
};

use super::{Provider, unsupported};
use crate::{
    body::Body,
    error::{ErrorClass, ProviderError},
    secret::Secret,
    wire::{self, Format, Prompt, chat, messages},
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
    /// Whether to omit the thoughts of earlier turns.
    pub without_thoughts: bool,
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
}

/// The `user-agent` of requests.
const CLIENT: &str = concat!("outlive/", env!("CARGO_PKG_VERSION"));

impl UpstreamCall<'_> {
    /// Whether the prompt ends with the beginning of the answer.
    pub(super) fn has_prefill(&self) -> bool {
        self.prompt.is_some_and(Prompt::continues)
    }

    /// The body in one of OpenAI's formats.
    pub(super) fn body(&self, format: Format, dialect: chat::Dialect) -> Result<EncodedBody, ProviderError> {
        // Chat completions have several names for the limit, Responses only one.
        let limit = if format == Format::Responses { "max_output_tokens" } else { dialect.limit };
        if let Some(body) = self.pass_through(format, limit) {
            return Ok(body);
        }
        let prompt = self.prompt()?;
        let body = chat::write(&prompt, dialect, self.model, self.request.stream).map_err(unsupported)?;
        Ok(EncodedBody { bytes: body.to_string().into(), max_output: prompt.max_output })
    }

    /// The body in one of Anthropic's formats.
    pub(super) fn messages_body(
        &self,
        format: Format,
        dialect: messages::Dialect,
    ) -> Result<EncodedBody, ProviderError> {
        if let Some(body) = self.pass_through(format, "max_tokens") {
            let stripped = self.without_thoughts.then(|| messages::without_thoughts(&body.bytes)).flatten();
            return Ok(EncodedBody { bytes: stripped.map_or(body.bytes, Bytes::from), ..body });
        }
        let prompt = self.prompt()?;
        let (body, max_output) = messages::write(&prompt, dialect, self.model, self.request.stream, self.cap)
            .map_err(unsupported)?;
        Ok(EncodedBody { bytes: body.to_string().into(), max_output: Some(max_output) })
    }

    /// The client's own body with only the model and the limit replaced, if the provider takes the client's format.
    fn pass_through(&self, format: Format, limit: &str) -> Option<EncodedBody> {
        (self.prompt.is_none() && self.request.format == format).then(|| EncodedBody {
            bytes: self.request.encode(self.model, limit, self.cap),
            max_output: self.request.max_output_within(self.cap),
        })
    }

    /// The prompt to encode, with the cap applied and without thoughts that the candidate can't verify.
    fn prompt(&self) -> Result<Cow<'_, Prompt>, ProviderError> {
        let prompt = match self.prompt {
            Some(prompt) => prompt,
            None => self.request.prompt().map_err(|error| ProviderError::from(error.clone()))?,
        };
        if let Some(field) = prompt.untranslatable.first() {
            let why = format!("its format can't express the field '{field}'");
            return Err(unsupported(why));
        }
        let mut prompt = Cow::Borrowed(prompt);
        if let Some(cap) = self.cap.filter(|cap| prompt.max_output.is_none_or(|most| most > *cap)) {
            prompt = Cow::Owned(Prompt { max_output: Some(cap), ..prompt.into_owned() });
        }
        if prompt.has_bound_thoughts() {
            let own = (!self.without_thoughts).then(|| format!("{}/{}", self.provider.name, self.model));
            prompt = Cow::Owned(prompt.into_owned().without_foreign_thoughts(own.as_deref()));
        }
        Ok(prompt)
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
        Ok(UpstreamRequest { request, format, size })
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
