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

/// One call that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamCall<'a> {
    /// Where.
    pub provider: &'a Provider,
    /// As whom.
    pub key: Option<&'a Secret>,
    /// The model, as the provider calls it.
    pub model: &'a str,
    /// What the client asks.
    pub request: &'a wire::Request,
    /// What is asked instead, where that is not what the client asks: the rest of an answer that broke off.
    pub prompt: Option<&'a Prompt>,
    /// Most tokens of the answer, where the budget allows no more.
    pub cap: Option<u64>,
    /// Whether the thoughts of earlier turns are left out.
    pub without_thoughts: bool,
}

/// A call, ready to be sent.
#[derive(Debug)]
pub struct UpstreamRequest {
    /// The request. Only what is listed here is in it: no header of the caller's.
    pub request: Request<Body>,
    /// The format of the answer.
    pub format: Format,
}

/// How we introduce ourselves to providers.
const AGENT: &str = concat!("outlive/", env!("CARGO_PKG_VERSION"));

impl UpstreamCall<'_> {
    /// Whether the provider is to write on from a beginning.
    pub(super) fn continues(&self) -> bool {
        self.prompt.is_some_and(Prompt::continues)
    }

    /// The body in one of OpenAI's formats.
    pub(super) fn body(&self, format: Format, dialect: chat::Dialect) -> Result<Bytes, ProviderError> {
        // Only chat completions have several names for it.
        let limit = if format == Format::Responses { "max_output_tokens" } else { dialect.limit };
        if let Some(body) = self.as_it_came(format, limit) {
            return Ok(body);
        }
        let prompt = self.prompt()?;
        chat::write(&prompt, dialect, self.model, self.request.stream).map(to_bytes).map_err(unsupported)
    }

    /// The body in Anthropic's format.
    pub(super) fn messages_body(
        &self,
        format: Format,
        dialect: messages::Dialect,
    ) -> Result<Bytes, ProviderError> {
        if let Some(body) = self.as_it_came(format, "max_tokens") {
            let stripped = self.without_thoughts.then(|| messages::without_thoughts(&body)).flatten();
            return Ok(stripped.map_or(body, Bytes::from));
        }
        let prompt = self.prompt()?;
        messages::write(&prompt, dialect, self.model, self.request.stream).map(to_bytes).map_err(unsupported)
    }

    /// The client's own body, if the provider speaks its format.
    fn as_it_came(&self, format: Format, limit: &str) -> Option<Bytes> {
        (self.prompt.is_none() && self.request.format == format)
            .then(|| self.request.encode(self.model, limit, self.cap))
    }

    /// What to ask, within the cap.
    fn prompt(&self) -> Result<Cow<'_, Prompt>, ProviderError> {
        let prompt = match self.prompt {
            Some(prompt) => prompt,
            None => self.request.prompt().map_err(|error| ProviderError::from(error.clone()))?,
        };
        if let Some(field) = prompt.untranslatable.first() {
            let why = format!("it speaks another format, which has no word for '{field}'");
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

    /// A call of `path` under the provider's base URL, with the key where the vendor wants it.
    pub(super) fn post(
        &self,
        format: Format,
        path: &str,
        body: Bytes,
        key_in: KeyIn,
    ) -> Result<UpstreamRequest, ProviderError> {
        let unusable = || ProviderError::new(ErrorClass::Server, "the provider's URL is not usable");
        let base_url = self.provider.base_url.as_ref().ok_or_else(unusable)?;
        let url = format!("{}{path}", base_url.to_string().trim_end_matches('/'));
        let accept = if self.request.stream { "text/event-stream" } else { "application/json" };
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.parse().map_err(|_| unusable())?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        // A compressed stream would sit in the compressor until a block is full.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if let Some(key) = self.key {
            match key_in {
                KeyIn::Authorization => headers.insert(AUTHORIZATION, key.bearer()),
                KeyIn::Header(name) => headers.insert(HeaderName::from_static(name), key.plain()),
            };
        }
        Ok(UpstreamRequest { request, format })
    }
}

/// Where a vendor wants its key.
#[derive(Clone, Copy, Debug)]
pub(super) enum KeyIn {
    /// `authorization: Bearer KEY`.
    Authorization,
    /// A header of its own, in lower case.
    Header(&'static str),
}

fn to_bytes(body: Value) -> Bytes {
    body.to_string().into()
}
