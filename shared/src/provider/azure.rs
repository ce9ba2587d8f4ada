//! Encodes calls for Azure OpenAI, which has OpenAI's formats under its own URLs and its own header for the key.
//!
//! A model is a deployment. With `api_version` the path names the deployment, as in the older API; without it the v1
//! API is used. Source: <https://learn.microsoft.com/en-us/azure/ai-foundry/openai/reference>.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{CallPlan, KeyIn, UpstreamCall, openai};
use crate::{
    error::ProviderError,
    provider::{Address, Environment, Vendor},
    wire::Format,
};

/// OpenAI's models at Azure.
pub const VENDOR: Vendor = Vendor {
    kind: "azure",
    address: Address::Configured("https://NAME.openai.azure.com"),
    needs_key: true,
    environment: Some(Environment {
        rank: 3,
        key: "AZURE_OPENAI_API_KEY",
        url: Some("AZURE_OPENAI_ENDPOINT"),
        model: "gpt-5-mini",
    }),
    options: &["api_version"],
    facts: openai::VENDOR.facts,
    reports_cost: false,
    plan,
    image_tokens: openai::VENDOR.image_tokens,
    takes_prefill: |_, _| false,
};

/// What RFC 3986 encodes in a segment of a path.
const RESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':').remove(b'@');

/// Plans a call of this vendor.
fn plan(call: &UpstreamCall<'_>) -> Result<CallPlan, ProviderError> {
    let version = call.provider.api_version.as_deref();
    let format = match openai::format(call)? {
        // The older API has no `/responses`.
        Format::Responses if version.is_some() => Format::Chat,
        format => format,
    };
    let body = call.body(format, openai::dialect(call.model));
    let path = openai::path(format);
    let path = match version {
        Some(version) => {
            // A client may have named the model, so it must not leave its segment of the path.
            let deployment = utf8_percent_encode(call.model, RESERVED);
            format!("/openai/deployments/{deployment}{path}?api-version={version}")
        }
        None => format!("/openai/v1{path}"),
    };
    call.post(format, &path, body, KeyIn::Header("api-key"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Translation,
        provider::{Provider, Quirks},
        wire::Request,
    };

    #[test]
    fn a_models_name_stays_in_its_segment_of_the_path() {
        let provider = Provider {
            base_url: Some("https://x.test".parse().unwrap()),
            api_version: Some("2024-10-21".into()),
            ..Provider::new("azure", &VENDOR)
        };
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
        let request = Request::parse(Format::Chat, body.into()).unwrap();
        let path = |model: &str| {
            let call = UpstreamCall {
                provider: &provider,
                key: None,
                model,
                request: &request,
                prompt: None,
                cap: None,
                most_output: None,
                max_price: None,
                without_thoughts: false,
                translation: &Translation::default(),
                is_priced: false,
                quirks: &Quirks::default(),
            };
            plan(&call).unwrap().request.uri().to_string()
        };
        let url = |name: &str| {
            format!("https://x.test/openai/deployments/{name}/chat/completions?api-version=2024-10-21")
        };
        assert_eq!(path("gpt-5.1_mini"), url("gpt-5.1_mini"));
        assert_eq!(path("a/b?c#d[e]:@"), url("a%2Fb%3Fc%23d%5Be%5D:@"));
    }
}
