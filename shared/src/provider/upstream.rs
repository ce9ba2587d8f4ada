//! Builds the HTTP request of a call in the formats that vendors share. What differs between vendors is in their files.

use std::borrow::Cow;

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request,
    header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
};
use serde_json::Value;

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
    /// Most output tokens, if a budget bounds them.
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
}

/// The `user-agent` of requests.
const CLIENT: &str = concat!("outlive/", env!("CARGO_PKG_VERSION"));

impl UpstreamCall<'_> {
    /// Whether the prompt ends with the beginning of the answer.
    pub(super) fn has_prefill(&self) -> bool {
        self.prompt.is_some_and(Prompt::continues)
    }

    /// The body in one of OpenAI's formats.
    pub(super) fn body(&self, format: Format, dialect: chat::Dialect) -> Result<Bytes, ProviderError> {
        // Chat completions have several names for the limit, Responses only one.
        let limit = if format == Format::Responses { "max_output_tokens" } else { dialect.limit };
        if let Some(body) = self.pass_through(format, limit) {
            return Ok(body);
        }
        let prompt = self.prompt()?;
        chat::write(&prompt, dialect, self.model, self.request.stream).map(to_bytes).map_err(unsupported)
    }

    /// The body in one of Anthropic's formats.
    pub(super) fn messages_body(
        &self,
        format: Format,
        dialect: messages::Dialect,
    ) -> Result<Bytes, ProviderError> {
        if let Some(body) = self.pass_through(format, "max_tokens") {
            let stripped = self.without_thoughts.then(|| messages::without_thoughts(&body)).flatten();
            return Ok(stripped.map_or(body, Bytes::from));
        }
        let prompt = self.prompt()?;
        messages::write(&prompt, dialect, self.model, self.request.stream).map(to_bytes).map_err(unsupported)
    }

    /// The client's own body with only the model and the limit replaced, if the provider takes the client's format.
    fn pass_through(&self, format: Format, limit: &str) -> Option<Bytes> {
        (self.prompt.is_none() && self.request.format == format)
            .then(|| self.request.encode(self.model, limit, self.cap))
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
        if self.cap.is_some() {
            prompt = Cow::Owned(Prompt { max_output: self.cap, ..prompt.into_owned() });
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
        body: Bytes,
        key_in: KeyIn,
    ) -> Result<UpstreamRequest, ProviderError> {
        let invalid_url = || ProviderError::new(ErrorClass::Server, "the provider's URL is not valid");
        let base_url = self.provider.base_url.as_ref().ok_or_else(invalid_url)?;
        let url = format!("{}{path}", base_url.to_string().trim_end_matches('/'));
        let accept = if self.request.stream { "text/event-stream" } else { "application/json" };
        let mut request = Request::new(Body::from(body));
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
        Ok(UpstreamRequest { request, format })
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

fn to_bytes(body: Value) -> Bytes {
    body.to_string().into()
}
