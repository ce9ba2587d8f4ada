//! Builds the HTTP request of a call in the formats that vendors share. What differs between vendors is in their files.

use std::{borrow::Cow, collections::BTreeSet};

use http::{
    HeaderName, HeaderValue, Method, Request,
    header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
};

use super::{Provider, Quirks, unsupported};
use crate::{
    body::{Body, BodyBuilder},
    error::{ErrorClass, ProviderError},
    model::Translation,
    price::Rates,
    secret::Secret,
    wire::{
        self, Format, Prompt, ToolNames, chat, messages,
        prompt::{Effort, ToolChoice},
        responses,
    },
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

/// A call as a vendor takes it, before its body is encoded.
#[derive(Debug)]
pub struct CallPlan {
    pub(super) request: Request<()>,
    format: Format,
    body: BodyPlan,
    /// What is left out beside the fields of the body.
    pub(super) dropped: Vec<String>,
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
    /// The effort that the node chose for the model.
    pub effort: Option<Effort>,
}

/// What bounds the tokens of a call, as it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallSize {
    /// Bytes of the body. A token has at least one byte.
    pub bytes: usize,
    /// The limit of each choice's tokens; `None` if the body has none.
    pub max_output: Option<u64>,
}

/// How the body of a call is encoded.
#[derive(Debug)]
pub(super) struct BodyPlan {
    target: Target,
    /// A field to add, with its value as JSON.
    field: Option<(&'static str, String)>,
}

impl BodyPlan {
    /// Adds a field, whose value is JSON.
    pub(super) fn with_field(self, name: &'static str, value: String) -> Self {
        Self { field: Some((name, value)), ..self }
    }
}

/// The format of a body, with the vendor's dialect.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// One of OpenAI's formats.
    OpenAi(Format, chat::Dialect),
    /// One of Anthropic's formats.
    Messages(Format, messages::Dialect),
}

/// The encoded body of a call.
struct EncodedBody {
    body: BodyBuilder,
    max_output: Option<u64>,
    dropped: Vec<String>,
    tool_names: ToolNames,
    effort: Option<Effort>,
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

    /// Plans a body in one of OpenAI's formats.
    pub(super) fn body(&self, format: Format, dialect: chat::Dialect) -> BodyPlan {
        BodyPlan { target: Target::OpenAi(format, self.quirks.fit(dialect)), field: None }
    }

    /// Plans a body in one of Anthropic's formats.
    pub(super) fn messages_body(&self, format: Format, dialect: messages::Dialect) -> BodyPlan {
        BodyPlan { target: Target::Messages(format, dialect), field: None }
    }

    /// Encodes the call for its vendor. Waits for nothing, but pauses within long work.
    pub async fn encode(&self) -> Result<UpstreamRequest, ProviderError> {
        let CallPlan { request, format, body, dropped: dropped_beside } = (self.provider.vendor.plan)(self)?;
        let EncodedBody { body, max_output, mut dropped, tool_names, effort } =
            self.encode_body(body).await?;
        dropped.extend(dropped_beside);
        let size = CallSize { bytes: body.bytes(), max_output };
        Ok(UpstreamRequest {
            request: request.map(|()| body.build()),
            format,
            size,
            dropped,
            tool_names,
            effort,
        })
    }

    async fn encode_body(&self, BodyPlan { target, field }: BodyPlan) -> Result<EncodedBody, ProviderError> {
        let (Target::OpenAi(format, _) | Target::Messages(format, _)) = target;
        if self.prompt.is_none() && self.request.format == format {
            if self.is_priced {
                self.request.find_extras().await;
            }
            return self.pass_through(target, field);
        }
        let (prompt, dropped) = self.prompt().await?;
        let stream = self.request.stream;
        let effort = match target {
            Target::OpenAi(_, dialect) => prompt.effort.and_then(|effort| dialect.efforts.fit(effort)),
            Target::Messages(..) => None,
        };
        let written = match target {
            Target::OpenAi(Format::Responses, dialect) => {
                responses::write(prompt, dialect.efforts, self.model, stream).await
            }
            Target::OpenAi(_, dialect) => chat::write(prompt, dialect, self.model, stream).await,
            Target::Messages(_, dialect) => {
                messages::write(prompt, dialect, self.model, stream, self.cap).await
            }
        };
        let mut written = written.map_err(unsupported)?;
        dropped.iter().for_each(|name| written.drop(name));
        for path in &self.quirks.refused {
            written.remove(path);
        }
        let (max_output, dropped) = (written.max_output, std::mem::take(&mut written.dropped));
        let tool_names = std::mem::take(&mut written.tool_names);
        Ok(EncodedBody { body: written.encode(field).await, max_output, dropped, tool_names, effort })
    }

    /// The client's own body with only the model and the limit replaced, and without fields that are not to be sent.
    fn pass_through(
        &self,
        target: Target,
        field: Option<(&str, String)>,
    ) -> Result<EncodedBody, ProviderError> {
        let mut omitted: BTreeSet<&str> = self.quirks.refused.iter().map(String::as_str).collect();
        if self.is_priced {
            for name in self.request.unpriced_hints() {
                omitted.insert(name);
            }
        }
        let limit = match target {
            // Chat completions have several names for the limit, the other formats only one.
            Target::OpenAi(Format::Responses, _) => "max_output_tokens",
            Target::OpenAi(_, dialect) => dialect.limit,
            Target::Messages(..) => "max_tokens",
        };
        // The vendor refuses to think in a round of calls that began without thoughts, as after another vendor's answer.
        if matches!(target, Target::Messages(..)) && messages::must_not_think(self.request) {
            omitted.insert("thinking");
        }
        let (mut body, dropped) = self.request.encode(self.model, limit, self.cap, &omitted, field);
        match target {
            Target::Messages(_, dialect) => {
                body = messages::adapt(self.request, body, self.without_thoughts, dialect.system_messages);
            }
            Target::OpenAi(Format::Chat, dialect) => {
                body = chat::adapt(self.request, body, dialect).map_err(unsupported)?;
            }
            Target::OpenAi(..) => {}
        }
        let max_output = self.request.max_output_within(self.cap);
        Ok(EncodedBody { body, max_output, dropped, tool_names: ToolNames::default(), effort: None })
    }

    /// The prompt to encode, with the cap applied and without thoughts that the candidate can't verify; also the names
    /// of the tools that the operator allows to leave out.
    async fn prompt(&self) -> Result<(Cow<'_, Prompt>, Vec<String>), ProviderError> {
        let prompt = match self.prompt {
            Some(prompt) => prompt,
            None => self.request.translate().await.map_err(|error| ProviderError::from(error.clone()))?,
        };
        let refused = prompt.vendor_tools.iter().find(|tool| !self.translation.drops(&tool.kind));
        if let Some(field) = prompt.untranslatable.first().or(refused.map(|tool| &tool.path)) {
            let why = format!("its format can't express the field '{field}'");
            return Err(ProviderError::unsupported_field(field, why));
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
        body: BodyPlan,
        key_in: KeyIn,
    ) -> Result<CallPlan, ProviderError> {
        let invalid_url = || ProviderError::new(ErrorClass::Server, "the provider's URL is not valid");
        let base_url = self.provider.base_url.as_ref().ok_or_else(invalid_url)?;
        let url = format!("{}{path}", base_url.to_string().trim_end_matches('/'));
        let accept = if self.request.stream { "text/event-stream" } else { "application/json" };
        let mut request = Request::new(());
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
        Ok(CallPlan { request, format, body, dropped: Vec::new() })
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
